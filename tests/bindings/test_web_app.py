"""The app that `libkd-sdk web` writes works in a real browser."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from javascript import CHROMIUM, RUNTIME, VECTORS, needs_browser, needs_packages, passes
from shell import libkd, succeeded

pytestmark = [pytest.mark.slow, needs_packages, needs_browser, pytest.mark.usefixtures("package")]


def app(name: str, out: Path) -> Path:
    succeeded(libkd("web", VECTORS / "bundles" / name, "--out", out, "--runtime", RUNTIME))
    return out


def test_the_app_in_chromium(tmp_path):
    fp32, int8 = app("onnx-fp32", tmp_path / "fp32"), app("onnx-int8", tmp_path / "int8")
    damaged = Path(shutil.copytree(fp32, tmp_path / "damaged", ignore=shutil.ignore_patterns("*.wasm")))
    model = damaged / "bundle" / "model.onnx"
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    folders = {"APP_FP32": str(fp32), "APP_INT8": str(int8), "APP_DAMAGED": str(damaged)}
    passes("app.test.mjs", CHROMIUM=str(CHROMIUM), **folders)
