"""Shared by many tests: images with structure in them, a small transformer, and its three bundles, lowered once."""

from __future__ import annotations

import gc
import json
import os
import shutil
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

import sdk
from clothes import TINY_RECIPE, unpack_clothes
from patterns import LABELS, SIZE, patterns
from published import write_weights
from runtimes.engines import RUNNABLE
from shell import libkd, succeeded


def pytest_configure() -> None:
    gc.set_threshold(100_000, 50, 50)  # as the command line does


def pytest_runtest_setup() -> None:
    """Let torch parse its operators for ONNX once in this process, and not again in every export: 1.5 s each time."""
    registration = sys.modules.get("torch.onnx._internal.exporter._registration")
    if registration is not None and not hasattr(registration.onnxscript_apis.get_torchlib_ops, "cache_info"):
        registration.onnxscript_apis.get_torchlib_ops = cache(registration.onnxscript_apis.get_torchlib_ops)


@pytest.fixture(scope="session")
def preprocessing() -> sdk.Preprocessing:
    return sdk.Preprocessing.square(SIZE, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))


@pytest.fixture(scope="session")
def vit():
    """A timm transformer of two blocks and two register tokens that does not answer the same to every image."""
    timm, torch = pytest.importorskip("timm"), pytest.importorskip("torch")  # `make floor` has an environment without

    torch.manual_seed(3)
    module = timm.create_model(
        "vit_tiny_patch16_224",
        img_size=SIZE,
        patch_size=8,
        embed_dim=48,
        depth=2,
        num_heads=3,
        reg_tokens=2,
        num_classes=len(LABELS),
    )
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim > 1 and "token" not in name:
                parameter += 0.1 * torch.randn_like(parameter)
        module.head.weight *= 4
    return module.eval()


@pytest.fixture(scope="session")
def validation(vit, preprocessing) -> tuple[np.ndarray, np.ndarray]:
    """96 patterns and the class that `vit` sees in each, every eighth one mislabelled."""
    import torch

    pixels = patterns(96, seed=1)
    with torch.no_grad():
        scaled = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
        mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (preprocessing.mean, preprocessing.std))
        labels = vit((scaled - mean) / std).argmax(1).numpy()
    labels[::8] = (labels[::8] + 1) % len(LABELS)
    return pixels, labels


@pytest.fixture(scope="session")
def made_once(tmp_path_factory) -> Callable[[str, Callable[[Path], None]], Path]:
    """Makes a folder that all test processes share: the first one to ask fills it, the others wait for it.

    With `LIBKD_TEST_SHARED`, the folder stays there for the next session. `make floor` does so, because an environment
    without torch can't make bundles.
    """
    base = tmp_path_factory.getbasetemp()
    common = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    common = Path(os.environ.get("LIBKD_TEST_SHARED", common))

    def folder_of(name: str, fill: Callable[[Path], None]) -> Path:
        folder, done = common / f"shared-{name}", common / f"shared-{name}.done"
        with FileLock(f"{folder}.lock"):
            if not done.exists():
                folder.mkdir()
                fill(folder)
                done.touch()
        return folder

    return folder_of


@pytest.fixture(scope="session")
def bundles(request, preprocessing, made_once) -> dict[str, sdk.Bundle]:
    """The transformer, exported for every engine. Shared: change a copy, see `own_copy`."""

    def fill(folder: Path) -> None:
        vit, validation = (request.getfixturevalue(name) for name in ("vit", "validation"))
        for target in RUNNABLE:
            sdk.export(
                vit,
                target=target,
                out=folder / target,
                labels=LABELS,
                preprocessing=preprocessing,
                validation=validation,
                model={"arch": "vit", "teachers": ["conv", "involution"], "trained_on": "patterns"},
            )

    folder = made_once("bundles", fill)
    return {target: sdk.Bundle.open(folder / target) for target in RUNNABLE}


@pytest.fixture
def own_copy(bundles, tmp_path) -> Callable[[str], Path]:
    """Copies the bundle for an engine to where a test may damage it."""

    def copy(target: str) -> Path:
        return Path(shutil.copytree(bundles[target].path, tmp_path / f"{target}-copy"))

    return copy


@pytest.fixture(scope="session")
def clothes(tmp_path_factory) -> Path:
    """A folder of real images, `{train,test}/CLASS/NUMBER.png`. Shared: change a copy."""
    return unpack_clothes(tmp_path_factory.mktemp("clothes"))


@pytest.fixture(scope="session")
def tiny_recipe_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    path.write_text(TINY_RECIPE)
    return path


@pytest.fixture(scope="session")
def distilled(clothes, tiny_recipe_file, made_once) -> Path:
    """Return a run's folder with a bundle for ONNX Runtime. It is shared: change a copy."""

    def fill(folder: Path) -> None:
        run = folder / "run"
        process = libkd("distill", "--data", clothes, "--out", run, "--recipe", tiny_recipe_file, "--json")
        stages = json.loads(succeeded(process))["stages"]
        assert list(stages) == ["teachers/conv", "teachers/involution", "student"]
        assert b"Traceback" not in process.stderr
        succeeded(libkd("export", run, "--target", "onnx"))

    return made_once("distilled", fill) / "run"


@pytest.fixture(scope="session")
def published(tmp_path_factory) -> Path:
    """A file of weights that know ImageNet."""
    return write_weights(tmp_path_factory.mktemp("weights") / "lite0.safetensors")
