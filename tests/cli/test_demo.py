"""The demo: the whole job in one command, and its result as a typed record."""

from __future__ import annotations

import json
import shutil

import msgspec
import pytest

import sdk
from clothes import CLASSES
from libkd_sdk.commands.demo import BundleFigures, DemoResult, run_demo, show
from runtimes.engines import RUNNABLE


@pytest.mark.slow
def test_the_demo_does_the_whole_job(distilled, clothes, tiny_recipe_file, tmp_path, capfd):
    """It goes on where an interrupted demo has trained the teachers and one of the students."""
    shutil.copytree(distilled, tmp_path / "run", ignore=shutil.ignore_patterns("bundles"))
    found = run_demo(tmp_path, str(clothes), str(tiny_recipe_file))
    result = json.loads((tmp_path / "demo.json").read_text())
    assert result == msgspec.to_builtins(found, builtin_types=())
    assert msgspec.convert(result, DemoResult) == found
    assert list(result) == ["data", "images", "seed", "accuracy", "bundles", "predictions", "seconds"]
    assert result["images"] == {"train": 66, "validation": 6, "test": 24}
    assert list(result["accuracy"]) == [
        "teacher conv",
        "teacher involution",
        "student, without teachers",
        "student, distilled",
    ]
    for net in result["accuracy"].values():
        assert list(net) == ["parameters", "seconds", "images", "top1", "nll", "ece"]
    assert list(result["bundles"]) == ["onnx", "openvino", "executorch"] == list(RUNNABLE)
    for bundle in result["bundles"].values():
        assert sdk.Bundle.open(bundle["path"]).proved
        assert bundle["proof"]["images"] == 24
        assert bundle["proof"]["max_abs_difference"] <= 1e-4
        assert bundle["proof"]["top1"] == bundle["proof"]["reference_top1"]
        assert 0 < bundle["p50_ms"] <= bundle["p95_ms"]
    by_engine = list(result["predictions"].values())
    assert by_engine[0].keys() == {path.stem for path in (tmp_path / "images").iterdir()} == set(CLASSES)
    for answers in by_engine[1:]:
        assert {name: answer["label"] for name, answer in answers.items()} == {
            name: answer["label"] for name, answer in by_engine[0].items()
        }
    show(found, tmp_path)
    shown = capfd.readouterr().out
    for word in ("teacher involution", "student, distilled", "executorch fp32", "latency p50", *CLASSES):
        assert word in shown

    fourth = BundleFigures(
        path="x", precision="fp16", size_bytes=1_000_000, proof=None, threads=1, p50_ms=1.0, p95_ms=2.0
    )
    more = {"bundles": {**found.bundles, "fake": fourth}, "predictions": {**found.predictions, "fake": by_first(found)}}
    show(msgspec.structs.replace(found, **more), tmp_path)
    assert "fake fp16" in capfd.readouterr().out


def by_first(found: DemoResult):
    return next(iter(found.predictions.values()))
