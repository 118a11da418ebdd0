"""The progress of a command in a pipe: a line for each epoch and each stage, with the time that is left."""

from __future__ import annotations

import pytest

from libkd_sdk import output
from libkd_sdk.output import Bars
from trainer import progress
from trainer.progress import EpochNotes


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    for module in (output, progress):
        monkeypatch.setattr(module, "time", clock)
    return clock


def test_each_epoch_is_a_line_with_all_that_one_asks_for(clock, capsys):
    notes = EpochNotes(3, "cpu")
    with Bars() as bars:
        bars.begin("training student", 30)
        bars.step(10)  # an epoch of an earlier run
        for epoch, accuracy in ((1, 0.5), (2, 0.75)):
            notes.begin(epoch)
            for _ in range(10):
                clock.now += 2.0
                note = notes.step(64)
                bars.step(1, note)
            bars.step(0, notes.end(1.0 / epoch, accuracy))
        bars.end("validation 75.0%")
    assert note == "epoch 3/3, 32 images/s, loss 1.000, validation 50.0%, cpu"
    assert capsys.readouterr().err.splitlines() == [
        "training student: epoch 2/3, 32 images/s, loss 1.000, validation 50.0%, cpu, 20 s left",
        "training student: epoch 3/3, 32 images/s, loss 0.500, validation 75.0%, cpu",
        "training student               40.0 s  validation 75.0%",
    ]


def test_stages_side_by_side_have_lines_and_clocks_of_their_own(clock, capsys):
    with Bars() as bars:
        one, other = bars.beside(), bars.beside()
        one.begin("training teachers/conv", 20)
        clock.now += 5.0
        other.begin("training teachers/involution", 10)
        for bar, steps in ((one, 0), (other, 0), (one, 10), (other, 5)):
            clock.now += 10.0
            bar.step(steps)
        one.step(0, "epoch 1/2")
        other.step(0, "epoch 1/2")
        other.end("validation 50.0%")
    assert capsys.readouterr().err.splitlines() == [
        "training teachers/conv: epoch 1/2, 30 s left",
        "training teachers/involution: epoch 1/2, 20 s left",
        "training teachers/involution   40.0 s  validation 50.0%",
    ]


def test_a_note_of_a_step_is_no_line(clock, capsys):
    with Bars() as bars:
        bars.begin("storing logits", 2)
        bars.step(1, "view 1 of 2")
        bars.end("1 MB")
    assert capsys.readouterr().err.splitlines() == ["storing logits                  0.0 s  1 MB"]
