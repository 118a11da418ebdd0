"""Predict the images of a folder with Ray Data: two actors, each of which holds a classifier.

    pip install "ray[data]"
    python examples/ray_predict.py BUNDLE IMAGES ANSWERS.jsonl

Each line is the JSON that `libkd-sdk predict --json` prints, and the lines are in any order. On a cluster, all nodes
need this package, and see the bundle and the images under the same paths. Ray reports its use to its makers unless
RAY_USAGE_STATS_ENABLED is 0.
"""

import json
import sys
from pathlib import Path

import ray

from sdk import Classifier, ImageError, Prediction

ACTORS = 2
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}


class Predict:
    """An actor. Ray makes it once, and gives it many batches."""

    def __init__(self, bundle: str) -> None:
        self.classifier = Classifier(bundle, threads=1, top_k=3)

    def __call__(self, batch: dict) -> dict:
        images = batch["image"].tolist()
        answers = self.classifier.stream(images, errors="return")
        return {"line": [line_of(image, answer) for image, answer in zip(images, answers, strict=True)]}


def line_of(image: str, answer: Prediction | ImageError) -> str:
    if isinstance(answer, ImageError):
        return json.dumps({"source": image, "error": str(answer), "code": answer.code})
    return json.dumps(answer.to_dict())


def main(bundle: str, images: str, answers: str) -> None:
    files = sorted(str(file.absolute()) for file in Path(images).rglob("*") if file.suffix.lower() in SUFFIXES)
    lines = ray.data.from_items([{"image": file} for file in files]).map_batches(
        Predict,
        fn_constructor_args=[str(Path(bundle).absolute())],
        compute=ray.data.ActorPoolStrategy(size=ACTORS),
        batch_size=256,
    )
    with Path(answers).open("w") as file:
        file.writelines(f"{row['line']}\n" for row in lines.iter_rows())


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: python examples/ray_predict.py BUNDLE IMAGES ANSWERS.jsonl")
    main(*sys.argv[1:])
