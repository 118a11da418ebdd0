"""A disk that takes no more is one line with the file's name, and no refusal of the model."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import sdk
from patterns import LABELS
from runtimes.engines import RUNNABLE
from sdk.errors import FileError


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Let this process write no larger files inside the block. It is how a test without rights gets a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.slow
@pytest.mark.parametrize(
    "target", [pytest.param(target, marks=pytest.mark.long if target == "executorch" else ()) for target in RUNNABLE]
)
def test_an_export_onto_a_full_disk_leaves_nothing(target, vit, preprocessing, tmp_path):
    with files_of_at_most(50_000), pytest.raises(FileError, match=r"bundle.*: can't be written \(.*\); "):
        sdk.export(vit, target=target, out=tmp_path / "bundle", labels=LABELS, preprocessing=preprocessing)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_full_disk_leaves_the_bundle_that_was_there(own_copy, vit, preprocessing):
    path = own_copy("onnx")
    before = sdk.Bundle.open(path).manifest
    with files_of_at_most(50_000), pytest.raises(FileError, match="can't be written"):
        sdk.export(vit, target="onnx", out=path, labels=LABELS, preprocessing=preprocessing)
    assert sdk.Bundle.open(path).manifest == before
