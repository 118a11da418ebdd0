"""The bundles of a run, for commands that take a bundle and are given the run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple, get_args

from runtimes.engines import ENGINES, check_runs_here, load_runtime
from sdk.bundle.manifest import MANIFEST, Manifest, Precision
from sdk.bundle.reading import opened_folder, read_manifest
from sdk.errors import BundleError, EngineMissing

from .output import remark

ABOUT = "data.json"
"""The file that every run has. It is `trainer.run.ABOUT`, which can't be imported without torch."""

PRECISIONS = get_args(Precision)


class _Found(NamedTuple):
    path: Path
    manifest: Manifest

    @property
    def order(self) -> tuple[bool, int, int, str]:
        """The student comes before its teachers, who have none; then engines as in the list of them, and fp32 first."""
        engine, precision = list(ENGINES).index(self.manifest.target), PRECISIONS.index(self.manifest.precision)
        return not self.manifest.model.teachers, engine, precision, self.path.name


def bundle_of(folder: Path) -> Path:
    """Return the bundle that a user means: `folder` itself or, if that is a run, its first bundle that works here.

    Raises:
        BundleError: the run has no bundle, or they are damaged.
        EngineMissing: the engine of none of them is installed.
    """
    if not is_run(folder):
        return folder
    found, missing = _bundles_in(folder), list[EngineMissing]()
    for path, manifest in found:
        try:
            load_runtime(manifest.target, manifest.backend)
        except EngineMissing as fault:
            missing.append(fault)
            continue
        if len(found) > 1:
            remark(f"{folder}: took {path}, one of {len(found)} bundles")
        return path
    raise missing[0]


def bundles_of(folder: Path) -> list[Path]:
    """Return `folder` itself or, if that is a run, all of its bundles that do not only run elsewhere.

    Raises:
        BundleError: the run has no bundle, or they are damaged.
        EngineMissing: all of them only run elsewhere.
    """
    if not is_run(folder):
        return [folder]
    kept, missing = list[Path](), list[EngineMissing]()
    for path, manifest in _bundles_in(folder):
        try:
            check_runs_here(manifest.target, manifest.backend, str(path))
            kept.append(path)
        except EngineMissing as fault:
            missing.append(fault)
    if not kept:
        raise missing[0]
    for error in missing:
        remark(f"left out: {error}")
    return kept


def is_run(folder: Path) -> bool:
    """Tell whether a folder is a run and no bundle."""
    about, manifest = folder / ABOUT, folder / MANIFEST
    return os.path.exists(about) and not os.path.exists(manifest)  # noqa: PTH110  # Path raises for a name too long


def _bundles_in(run: Path) -> list[_Found]:
    found, damaged = list[_Found](), list[BundleError]()
    for place in sorted(run.glob(f"bundles/*/{MANIFEST}")):
        try:
            with opened_folder(place.parent) as opened:
                found.append(_Found(place.parent, read_manifest(opened)[0]))
        except BundleError as fault:
            damaged.append(fault)
    if not found and damaged:
        raise damaged[0]
    if not found:
        raise BundleError(f"{run}: this run has no bundle yet; `libkd-sdk export {run} --target onnx` makes one")
    for error in damaged:
        remark(f"left out: {error}")
    return sorted(found, key=lambda it: it.order)
