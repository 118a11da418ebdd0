"""Make spec/vectors/bundles: a small net for each engine, at fp32 and int8, with its answers to the test images.

    python tools/make_vector_bundles.py spec/vectors run/

The net is trained on the clothes of the demo for some minutes, in the folder `run/`. Its input is the one that the
vectors call `cover`. The answers in `probabilities.safetensors` are those that the engines gave on this machine to the
pixels of the vectors.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import msgspec
import numpy as np
from make_vectors import INPUTS
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

import trainer
from runtimes.engines import RUNNABLE
from sdk import Classifier, export
from trainer.data import load_labelled

RECIPE = """
[data]
size = 32

[views]
count = 3

[teachers.conv]
model = "resnet18_small"
args = { layers = [1, 1, 1, 1], channels = [16, 32, 64, 64], stem_stride = 2 }
training = { epochs = 3, batch = 64, lr = 3e-3, warmup = 1.0, ema = 0.9 }

[student]
patch = 8
width = 48
depth = 2
heads = 2
training = { epochs = 6, batch = 64, lr = 3e-3, warmup = 1.0, ema = 0.9, precision = "fp32" }
"""
DATA = "fashion-mnist-mini"
PRECISIONS = ("fp32", "int8")


def main(folder: Path, run: Path) -> None:
    run.mkdir(parents=True, exist_ok=True)
    recipe = run.with_suffix(".toml")
    recipe.write_text(RECIPE, encoding="utf-8")
    trainer.distill(DATA, run, recipe=recipe)
    shutil.rmtree(folder / "bundles", ignore_errors=True)
    export_all(run, folder / "bundles")
    save_file(answers(folder), folder / "probabilities.safetensors")


def export_all(run: Path, out: Path) -> None:
    student, labels, preprocessing = trainer.load_student(run)
    clothes = load_labelled([DATA], labels, preprocessing.input)
    images = clothes.pixels().numpy()
    for target in RUNNABLE:
        for precision in PRECISIONS:
            export(
                student,
                target=target,
                precision=precision,
                out=out / f"{target}-{precision}",
                labels=labels,
                preprocessing=msgspec.structs.replace(preprocessing, input=INPUTS["cover"]),
                calibration=images if precision == "int8" else None,
                validation=(images, clothes.labels.numpy()),
                name="clothes",
                model={"teachers": ["conv"], "trained_on": DATA},
            )


def answers(folder: Path) -> dict[str, NDArray[np.float32]]:
    """Return the probabilities that each bundle answers to each image, by BUNDLE/IMAGE."""
    expected, found = load_file(folder / "pixels.safetensors"), {}
    for bundle in sorted((folder / "bundles").iterdir()):
        with Classifier(bundle) as classifier:
            for image in sorted((folder / "images").iterdir()):
                prediction = classifier.predict(expected[f"cover/{image.name}"])
                found[f"{bundle.name}/{image.name}"] = prediction.probabilities
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
