"""Compare the readers in C++ and JavaScript with Python: their answers, and the time from a file to its answer.

    python benchmarks/languages.py --cpp build/cpp/libkd --node examples/node/predict.mjs [--targets onnx,openvino]
                                   [--rounds 7] [--json]

The answers are those to the 40 images of the vectors, by the bundles there. The times are those of the student of the
recipe `small` with random weights, on one PNG of 320 x 240. A reader gets the same image many times in one process,
and one time in another: the difference is the time of the images alone. The processes take turns, and medians count.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lowering import NETS
from PIL import Image
from safetensors.numpy import load_file

import sdk
from runtimes.engines import RUNNABLE

VECTORS = Path(__file__).parents[1] / "spec" / "vectors"
COUNT = 200
PRECISIONS = ("fp32", "int8")
PYTHON = """
import json, sys
from sdk import Classifier
with Classifier(sys.argv[1]) as classifier:
    for image in sys.argv[2:]:
        print(json.dumps(classifier.predict(image).to_dict()))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cpp", help="the built program libkd")
    parser.add_argument("--node", help="predict.mjs in a folder where its packages are installed")
    parser.add_argument("--targets", default=",".join(RUNNABLE))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    arguments = parser.parse_args()
    readers = {"Python": [sys.executable, "-c", PYTHON]}
    if arguments.cpp:
        readers["C++"] = [arguments.cpp]
    if arguments.node:
        readers["Node"] = ["node", arguments.node]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        image = _photograph(Path(folder, "photograph.png"))
        for target in arguments.targets.split(","):
            for precision in PRECISIONS:
                able = {name: reader for name, reader in readers.items() if name != "Node" or target == "onnx"}
                student = _student(target, precision, Path(folder, f"{target}-{precision}"))
                times = _times(able, student, image, arguments.rounds)
                for name, reader in able.items():
                    same, difference = _answers(reader, f"{target}-{precision}")
                    rows.append(
                        {
                            "language": name,
                            "target": target,
                            "precision": precision,
                            "same_top1": same,
                            "largest_difference": difference,
                            "ms": times[name],
                            "times_python": times[name] / times["Python"],
                        }
                    )
    print(json.dumps(rows, indent=2) if arguments.json else _table(rows))


def _table(rows: list[dict[str, Any]]) -> str:
    return "\n".join(
        [
            "| language | bundle | same top-1 | largest difference | ms | compared with Python |",
            "|---|---|---|---|---|---|",
            *map(_line, rows),
        ]
    )


def _line(row: dict[str, Any]) -> str:
    answers = f"{row['same_top1']:.0%} | {row['largest_difference']:.1e}"
    bundle, times = f"{row['target']} {row['precision']}", f"{row['ms']:.2f} | {row['times_python']:.2f}"
    return f"| {row['language']} | {bundle} | {answers} | {times} |"


def _photograph(path: Path) -> Path:
    y, x = np.mgrid[0:240, 0:320]
    image = np.stack([127 + 100 * np.sin(x / 30 + y / 40 + phase) for phase in range(3)], -1)
    Image.fromarray((image + np.random.default_rng(0).normal(0, 4, image.shape)).clip(0, 255).astype(np.uint8)).save(
        path
    )
    return path


def _student(target: str, precision: str, out: Path) -> Path:
    torch.manual_seed(0)
    net, draw = NETS["32"], np.random.default_rng(0)
    return sdk.export(
        net.make().eval(),
        target=target,
        precision=precision,
        out=out,
        labels=[str(label) for label in range(net.classes)],
        preprocessing=sdk.Preprocessing.square(net.size),
        calibration=draw.integers(0, 256, (32, net.size, net.size, 3), np.uint8) if precision == "int8" else None,
        golden="none",
    ).path


def _lines(reader: list[str], bundle: Path, images: list[Path]) -> list[dict[str, Any]]:
    done = subprocess.run([*reader, str(bundle), *map(str, images)], capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def _times(readers: dict[str, list[str]], bundle: Path, image: Path, rounds: int) -> dict[str, float]:
    """Return the milliseconds of an image by each reader: medians of all rounds."""
    taken: dict[str, list[float]] = {name: [] for name in readers}
    for _ in range(rounds):
        for name, reader in readers.items():
            seconds = []
            for count in (1, 1 + COUNT):
                started = time.perf_counter()
                _lines(reader, bundle, [image] * count)
                seconds.append(time.perf_counter() - started)
            taken[name].append(1000 * (seconds[1] - seconds[0]) / COUNT)
    return {name: statistics.median(times) for name, times in taken.items()}


def _answers(reader: list[str], bundle: str) -> tuple[float, float]:
    """Return the share of images with the expected top-1, and the largest difference of the listed scores."""
    images = sorted((VECTORS / "images").iterdir())
    expected, labels = (
        load_file(VECTORS / "probabilities.safetensors"),
        sdk.Bundle.open(VECTORS / "bundles" / bundle).labels,
    )
    lines = _lines(reader, VECTORS / "bundles" / bundle, images)
    wanted = [dict(zip(labels, expected[f"{bundle}/{image.name}"].tolist(), strict=True)) for image in images]
    same = [line["label"] == max(row, key=row.__getitem__) for line, row in zip(lines, wanted, strict=True)]
    listed = [(row[it["label"]], it["score"]) for line, row in zip(lines, wanted, strict=True) for it in line["top"]]
    return float(np.mean(same)), max(abs(one - other) for one, other in listed)


if __name__ == "__main__":
    main()
