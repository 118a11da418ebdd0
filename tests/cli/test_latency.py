"""Students for a latency: few are measured, the others follow, and the largest that fit come first."""

from __future__ import annotations

import json
import tomllib

import msgspec
import pytest
from msgspec.structs import replace

from libkd_sdk import latency
from libkd_sdk.latency import MOST_EXPORTS, Device, Shape, find, shapes, times_of
from sdk.benchmark import Measurement, Speed
from sdk.errors import UsageError
from sdk.images import Preprocessing
from trainer.recipe import StudentRecipe

CANDIDATES = [
    Shape(StudentRecipe(width=48 * number, depth=2), 1000 * number, 1e6 * 1.3**number) for number in range(1, 31)
]
ONNX = Device("onnx", "fp32", 1)


class Machine:
    """A device that takes 0.2 ms for any student, and more for work."""

    def __init__(self) -> None:
        self.measured = 0

    def ms(self, shape: Shape) -> float:
        return 0.2 + shape.operations / 50e6

    def __call__(self, shape: Shape) -> float:
        self.measured += 1
        return self.ms(shape)


@pytest.mark.parametrize("latency_ms", [0.3, 1.0, 5.0, 20.0, 100.0])
def test_the_largest_that_fits_comes_first_after_few_measurements(latency_ms):
    machine = Machine()
    found = find(CANDIDATES, latency_ms, machine, {})
    assert machine.measured <= MOST_EXPORTS
    assert [it.operations for it in found] == sorted((it.operations for it in found), reverse=True)
    assert all(it.ms <= latency_ms for it in found)
    really = [it for it in CANDIDATES if machine.ms(it) <= latency_ms]
    assert abs(len(found) - len(really)) <= 1
    assert any(it.is_measured for it in found[:2])


def test_without_one_that_fits_the_fastest_is_given():
    (only,) = find(CANDIDATES, 0.01, Machine(), {})
    assert only.operations == CANDIDATES[0].operations
    assert only.is_measured
    assert only.ms > 0.2


def test_the_times_of_another_device_count_instead_of_measurements():
    known = {it.operations: 10 * Machine().ms(it) for it in (CANDIDATES[5], CANDIDATES[20])}
    found = find(CANDIDATES, 50.0, None, known)
    assert not any(it.is_measured for it in found)
    really = [it for it in CANDIDATES if 10 * Machine().ms(it) <= 50.0]
    assert abs(len(found) - len(really)) <= 1


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(latency, "WIDTHS", (64, 96))
    monkeypatch.setattr(latency, "DEPTHS", (1, 2))
    monkeypatch.setattr(latency, "MOST_SIDE", 8)


@pytest.fixture
def file(tmp_path):
    speed = Speed(calls=60, p25_ms=7, p50_ms=8, p75_ms=9, p95_ms=9, p99_ms=9, per_second=9, load_ms=1, peak_bytes=None)
    row = Measurement(
        bundle="/there/run/bundles/onnx",
        name="onnx",
        target="onnx",
        precision="fp32",
        threads=1,
        arch="vit-conv8-64x2",
        input_size=32,
        size_bytes=1,
        speed=speed,
        bare=None,
        top1=None,
    )
    path = tmp_path / "there.json"
    path.write_bytes(msgspec.json.encode([row, replace(row, precision="int8"), replace(row, arch="resnet18")]))
    return path


def test_a_file_from_another_device_is_read(few, file, tmp_path):
    candidates = shapes(StudentRecipe(), 2, 3, Preprocessing.square(32))
    (work,) = {it.operations for it in candidates if it.name == "64 wide, 2 deep, patch 8"}
    assert times_of(file, candidates, 32, ONNX) == {work: 8.0}
    with pytest.raises(UsageError, match="no student of 64x64 pixels for onnx fp32 in it"):
        times_of(file, candidates, 64, ONNX)
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(UsageError, match="not what `libkd-sdk benchmark --json` writes"):
        times_of(tmp_path / "other.json", candidates, 32, ONNX)


def test_the_command_takes_a_file_from_another_device(few, file, shell):
    arguments = ["plan", "--size", 32, "--classes", 3, "--measured", file]
    found = json.loads(shell.succeeded(*arguments, "--latency-ms", 8.5, "--json"))
    assert found[0]["ms"] <= 8.5
    assert found[0]["student"]["depth"] in (1, 2)
    done = shell.run(*arguments, "--latency-ms", 0.001)
    assert "no student takes 0.001 ms or less as onnx fp32; this one is nearest" in done.err
    assert "--measured goes with --latency-ms" in shell.run(*arguments).err


@pytest.mark.slow
def test_students_are_measured_as_bundles_and_one_can_be_pasted_into_a_recipe(few, shell):
    out = shell.succeeded("plan", "--size", 32, "--classes", 3, "--latency-ms", 10_000, "--threads", 1)
    table = tomllib.loads(out[out.index("[student]") :])["student"]
    assert table == {"patch": 4, "width": 96, "depth": 2, "heads": 3}
    assert msgspec.convert(table, StudentRecipe)
