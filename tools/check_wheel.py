"""Install a wheel alone into a bare environment and predict with it there.

    python tools/check_wheel.py dist/*.whl

The bundle is made here, where torch is installed. The new environment gets the wheel and its base dependencies from
the package index that pip is configured for. The program fails if torch can be imported there, if the bundle does not
verify, or if the prediction differs from the one that is made here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

import sdk

SIZE = 24
LABELS = ("dark", "medium", "bright")

PREDICT = """
import importlib.util, json, sys
from pathlib import Path

for package in ("torch", "openvino", "executorch", "timm", "matplotlib", "cv2"):
    assert importlib.util.find_spec(package) is None, f"{package} is installed"

import libkd_sdk, sdk, runtimes, trainer

for package in (libkd_sdk, sdk, runtimes, trainer):
    folder = Path(package.__file__).parent
    assert folder.is_relative_to(sys.prefix), f"{folder}: this is not the wheel"
    assert (folder / "py.typed").is_file(), f"{folder}: py.typed is missing"
assert Path(runtimes.__file__).with_name("executorch").joinpath("native.cpp").is_file(), "native.cpp is missing"
assert Path(libkd_sdk.__file__).with_name("pages").joinpath("web", "worker.js").is_file(), "worker.js is missing"

with libkd_sdk.Classifier(sys.argv[1], self_test=True) as classifier:
    prediction = classifier.predict(sys.argv[2])
    print(json.dumps({"label": prediction.label, "score": prediction.score}))
"""


def make_bundle(folder: Path) -> sdk.Bundle:
    """Return the bundle of a small untrained net, lowered for ONNX Runtime."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    return sdk.export(
        module.eval(), target="onnx", out=folder, labels=LABELS, preprocessing=sdk.Preprocessing.square(SIZE)
    )


def run(*command: object, cwd: Path) -> str:
    """Return the standard output of a command that sees nothing of this environment's packages."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    words = [*map(str, command)]
    done = subprocess.run(words, cwd=cwd, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{Path(words[0]).name} {words[1]}: exit code {done.returncode}")
    return done.stdout


def main(wheel: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        bundle = make_bundle(place / "bundle").path
        image = place / "image.png"
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)).save(image)

        venv.create(place / "bare", with_pip=True)
        scripts = place / "bare" / ("Scripts" if os.name == "nt" else "bin")
        run(scripts / "python", "-m", "pip", "install", "--quiet", wheel, cwd=place)
        run(scripts / "python", "-m", "pip", "check", cwd=place)

        (place / "predict.py").write_text(PREDICT, encoding="utf-8")
        found = json.loads(run(scripts / "python", "predict.py", bundle, image, cwd=place))
        here = sdk.Classifier(bundle).predict(image)
        assert found["label"] == here.label, (found, here)
        assert abs(found["score"] - here.score) < 1e-5, (found, here)

        listed = json.loads(run(scripts / "libkd-sdk", "predict", bundle, image, "--json", cwd=place))
        assert listed["label"] == here.label, (listed, here)
        assert json.loads(run(scripts / "libkd-sdk", "verify", bundle, "--json", cwd=place))["ok"]
        version = run(scripts / "libkd-sdk", "--version", cwd=place).split()[-1]
    assert wheel.name.startswith(f"libkd_sdk-{version}-"), (wheel.name, version)
    print(f"{wheel}: version {version} installs alone and predicts {here.label!r} ({here.score:.1%}) without torch")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python tools/check_wheel.py WHEEL (exactly one; empty dist/ before you build)")
    main(Path(sys.argv[1]).resolve())
