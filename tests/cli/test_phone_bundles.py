"""The student of a run, exported for devices that are not here."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest

import sdk


@pytest.fixture
def run(distilled, tmp_path) -> Path:
    copy: Path = shutil.copytree(distilled, tmp_path / "run", ignore=shutil.ignore_patterns("bundles"))
    return copy


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "folder", "title"),
    [
        (("coreml", "--precision", "fp16"), "coreml-fp16", "Core ML"),
        pytest.param(
            ("executorch", "--backend", "coreml"),
            "executorch-coreml",
            "ExecuTorch with coreml",
            marks=pytest.mark.long,
        ),
        pytest.param(
            ("executorch", "--backend", "vulkan", "--precision", "fp16"),
            "executorch-vulkan-fp16",
            "ExecuTorch with vulkan",
            marks=pytest.mark.long,
        ),
    ],
)
def test_a_student_is_exported_and_marked_as_unverified_on_device(run, shell, options, folder, title):
    pytest.importorskip("executorch")
    pytest.importorskip("coremltools", reason="coremltools is not installed; pip install 'libkd-sdk[coreml]'")
    before = logging.getLogger().level, logging.getLogger().handlers[:]
    done = shell.run("export", run, "--target", *options)
    assert done.code == 0, done.err
    assert "unverified on device" in " ".join(done.out.split())
    assert done.err.endswith(f"next: libkd-sdk verify {run}/bundles/{folder}\n")
    assert (logging.getLogger().level, logging.getLogger().handlers) == before
    bundle = sdk.Bundle.open(run / "bundles" / folder)
    assert not bundle.proved
    if title != "Core ML":
        lowered = bundle.manifest.lowered
        assert lowered is not None
        assert (lowered.delegates, lowered.outside) == (1, {"dim_order_ops__to_dim_order_copy": 1})
    with pytest.raises(sdk.EngineMissing, match=f"{title} runs on .*, and not here"):
        bundle.session()
    shown = json.loads(shell.succeeded("info", bundle.path, "--json"))
    assert (shown["backend"], shown["proof"]) == (options[2] if options[1] == "--backend" else None, None)
    assert shown["unverified_on_device"]
