"""Bundles are timed in processes of their own, in turns, and what fails there is told here."""

from __future__ import annotations

import pytest

from sdk import BundleError, EngineError, UsageError
from sdk.benchmark import measure


def test_bundles_side_by_side(bundles):
    found = measure(
        [bundles["onnx"], bundles["openvino"].path, str(bundles["executorch"].path)], rounds=2, calls=5, threads=1
    )
    assert [measured.target for measured in found] == ["onnx", "openvino", "executorch"]
    for measured in found:
        assert measured.calls == 10
        assert measured.threads == 1
        assert 0 < measured.p50_ms <= measured.p95_ms
        assert measured.load_ms > 0
        assert measured.size_bytes == bundles[measured.target].size_bytes
        assert measured.name == measured.target


def test_the_same_bundle_may_run_twice(bundles):
    assert len(measure([bundles["onnx"]] * 2, rounds=1, calls=1)) == 2


def test_what_cannot_be_meant(bundles):
    for bundles_, options in (([], {}), ([bundles["onnx"]], {"rounds": 0}), ([bundles["onnx"]], {"calls": 0})):
        with pytest.raises(UsageError, match="a benchmark needs a bundle, and at least one round of one call"):
            measure(bundles_, **options)
    with pytest.raises(UsageError, match="threads=0: at least 1"):
        measure([bundles["onnx"]], threads=0)


def test_a_bundle_that_is_damaged_before_or_after_it_was_opened(bundles, own_copy):
    from sdk import Bundle

    folder = own_copy("onnx")
    opened = Bundle.open(folder)
    (folder / "model.onnx").write_bytes(b"\x08")
    for bundle in (folder, opened):
        with pytest.raises(BundleError, match=r"model\.onnx has 1 bytes"):
            measure([bundles["onnx"], bundle], rounds=1, calls=1)


def test_a_process_that_dies_is_told(bundles, monkeypatch):
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(EngineError, match="its process ended with status 1"):
        measure([bundles["onnx"]], rounds=1, calls=1)
