"""Bundles are timed in processes of their own, in turns, and what fails there is told here."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from programs import needs_compiler
from runtimes.engines import RUNNABLE
from sdk import BundleError, Classifier, EngineError, UsageError
from sdk.benchmark import measure, top1

pytestmark = pytest.mark.slow


def test_bundles_side_by_side(bundles):
    found = measure(
        [bundles["onnx"], bundles["openvino"].path, str(bundles["executorch"].path)], rounds=2, calls=5, threads=1
    )
    assert [measured.target for measured in found] == ["onnx", "openvino", "executorch"]
    for measured in found:
        assert measured.threads == 1
        for speed in (measured.speed, measured.bare):
            assert speed.calls == 10
            assert 0 < speed.p50_ms <= speed.p95_ms <= speed.p99_ms
            assert speed.load_ms > 0
            assert speed.per_second > 0
            assert speed.peak_bytes > 10e6
        assert measured.top1 == bundles[measured.target].manifest.proof.top1
        assert measured.size_bytes == bundles[measured.target].size_bytes
        assert measured.name == measured.target


def test_the_same_bundle_may_run_twice(bundles):
    found = measure([bundles["onnx"]] * 2, rounds=1, calls=1, bare=False)
    assert [measured.bare for measured in found] == [None, None]


@needs_compiler
def test_an_engine_whose_own_call_needs_torch_is_measured_without_that_call(bundles, tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError('No module named torch', name='torch')")
    monkeypatch.syspath_prepend(tmp_path)  # which the processes get as well
    one, other = measure([bundles["executorch"], bundles["onnx"]], rounds=1, calls=2, threads=1)
    assert one.bare is None
    assert one.speed.calls == 2
    assert other.bare.calls == 2


@pytest.mark.parametrize("target", RUNNABLE)
def test_the_engine_alone_answers_the_same(target, bundles, validation, tmp_path):
    """Each runs in a process of its own, as `open_bare` demands."""
    images, bundle = validation[0][:5], bundles[target]
    np.save(tmp_path / "images.npy", images)
    code = (
        "import sys, numpy; from pathlib import Path; from runtimes.engines import open_bare; "
        "target, bundle, folder = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]); "
        "answers = open_bare(target, bundle, 1, 'fp32')(numpy.load(folder / 'images.npy')); "
        "numpy.save(folder / 'answers.npy', answers)"
    )
    subprocess.run([sys.executable, "-c", code, target, bundle.path, tmp_path], capture_output=True, check=True)
    with Classifier(bundle.path) as classifier:
        expected = [answer.probabilities for answer in classifier.predict_batch(images)]
    np.testing.assert_allclose(np.load(tmp_path / "answers.npy"), expected, atol=1e-5)


def test_top1_is_of_the_images_that_are_given(bundles, validation):
    images, labels = validation
    assert top1(bundles["onnx"], images, labels) == bundles["onnx"].manifest.proof.top1
    assert top1(bundles["onnx"], images[:2], [9, 9]) == 0


def test_peak_memory_counts_what_was_had_and_given_back():
    """It runs in a process of its own, whose peak is not that of earlier tests."""
    code = (
        "import numpy; from sdk.benchmark import peak_bytes; before = peak_bytes(); "
        "held = numpy.ones(64 * 2**20, numpy.uint8); del held; print(peak_bytes() - before)"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert 32 * 2**20 < int(process.stdout) < 96 * 2**20


def test_what_cannot_be_meant(bundles, capfd):
    for bundles_, options in (([], {}), ([bundles["onnx"]], {"rounds": 0}), ([bundles["onnx"]], {"calls": 0})):
        with pytest.raises(UsageError, match="a benchmark needs a bundle, and at least one round of one call"):
            measure(bundles_, **options)
    with pytest.raises(UsageError, match="threads=0: at least 1"):
        measure([bundles["onnx"]], threads=0)
    assert "Traceback" not in capfd.readouterr().err


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
