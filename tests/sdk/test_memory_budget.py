"""Threads share a budget of memory: nobody gets more than there is, is overtaken, or waits for one who is gone."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from sdk.decoding.memory import MemoryBudget


def test_no_more_is_held_than_there_is():
    budget, lock = MemoryBudget(100), threading.Lock()
    held, most = 0, 0

    def work(amount: int) -> None:
        nonlocal held, most
        with budget.held(amount):
            with lock:
                held += amount
                most = max(most, held)
            time.sleep(0.001)
            with lock:
                held -= amount

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, [30, 60, 10, 45, 99, 1] * 20))
    assert held == 0
    assert 60 < most <= 100


def test_more_than_the_total_is_held_alone():
    budget, order = MemoryBudget(100), list[str]()
    inside, go = threading.Event(), threading.Event()

    def large() -> None:
        with budget.held(10_000):
            order.append("large")
            inside.set()
            go.wait()
            order.append("large ends")

    def small() -> None:
        inside.wait()
        with budget.held(1):
            order.append("small")

    threads = [threading.Thread(target=work) for work in (large, small)]
    for thread in threads:
        thread.start()
    inside.wait()
    time.sleep(0.05)
    go.set()
    for thread in threads:
        thread.join()
    assert order == ["large", "large ends", "small"]


def test_a_large_request_is_not_overtaken():
    budget, order = MemoryBudget(100), list[int]()
    with budget.held(50), ThreadPoolExecutor(3) as pool:
        futures = []
        for amount in (80, 10, 20):

            def work(amount: int = amount) -> None:
                with budget.held(amount):
                    order.append(amount)

            futures.append(pool.submit(work))
            while len(budget._waiting) < len(futures):
                time.sleep(0.001)
        assert order == []
        budget._changed.acquire()
        budget._used -= 50
        budget._changed.notify_all()
        budget._changed.release()
        for future in futures:
            future.result()
        budget._used += 50
    assert order[0] == 80


def test_an_error_inside_gives_the_memory_back():
    budget = MemoryBudget(100)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), budget.held(100):
            raise ZeroDivisionError
    with budget.held(100):
        pass


def test_a_forked_child_does_not_wait_for_threads_that_it_does_not_have():
    code = """
import os, threading, time
from sdk.decoding import sources
from sdk.images import Preprocessing, pixels
from PIL import Image
inside, go = threading.Event(), threading.Event()
def hold():
    with sources._budget.held(sources.DECODE_BYTES):
        inside.set()
        go.wait()
thread = threading.Thread(target=hold)
thread.start()
inside.wait()
child = os.fork()
if child == 0:
    print(pixels(Image.new("RGB", (9, 9)), Preprocessing.square(4).input).shape, flush=True)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
go.set()
thread.join()
with sources._budget.held(sources.DECODE_BYTES):
    print("free again")
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert process.stdout == "(4, 4, 3)\nfree again\n", process.stderr
