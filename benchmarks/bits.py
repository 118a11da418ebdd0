"""Measure what 16 and 8 bits change in the stored answers of a run's teachers.

    python benchmarks/bits.py RUN [--json]

Each teacher of the run answers for one view of all training images. Its logits are stored and read in both forms, and
their softmax is compared with that of the logits in float32, at temperatures 1 and 4. The program prints the largest
and the mean difference of a probability, over all images and classes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from trainer.arms import own_arm
from trainer.data import Split
from trainer.lessons import open_store
from trainer.logits import Answers, Form
from trainer.logits.fill import FILL_BATCH, answers_of
from trainer.logits.form import DType
from trainer.pipeline import load_teachers
from trainer.progress import Silent
from trainer.start import RunRequest, prepare
from trainer.views import order

FORMS: tuple[DType, ...] = ("float16", "int8")
TEMPERATURES = (1, 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    arguments = parser.parse_args()
    figures = {
        f"{name}, {dtype}, T = {temperature}": differences(logits, dtype, temperature)
        for name, logits in answers(arguments.run).items()
        for dtype in FORMS
        for temperature in TEMPERATURES
    }
    if arguments.json:
        print(json.dumps(figures, indent=2))
        return
    for name, (largest, mean) in figures.items():
        print(f"{name:<32} largest {largest:.1e}   mean {mean:.1e}")


@torch.inference_mode()
def answers(folder: Path) -> dict[str, Tensor]:
    """Return each teacher's logits for view 0 of all training images, float32 [images, classes]."""
    job = prepare(RunRequest(out=folder, device="cpu"), Silent())
    teachers, arm = load_teachers(job), own_arm(job.run.recipe)
    store, split = open_store(job.run, job.data, arm, teachers), cast(Split, arm.split(job.data))
    found: dict[str, list[Tensor]] = {name: [] for name in teachers}
    chunks = order(store.header.seed, split.ids, 0).split(FILL_BATCH)
    for indices, images in zip(chunks, split.images.feed(chunks, job.device), strict=True):
        for name, logits in answers_of(store, teachers, images, split.ids[indices], 0).items():
            found[name].append(logits)
    return {name: torch.cat(logits) for name, logits in found.items()}


def differences(logits: Tensor, dtype: DType, temperature: float) -> tuple[float, float]:
    """Return the largest and the mean difference of a probability that storing makes."""
    form = Form(logits.shape[1], 0, dtype)
    parts = {name: part[:, None] for name, part in form.unpack(form.pack(logits)).items()}
    stored = Answers(form, parts).at(torch.arange(len(logits)))[:, 0]
    apart = ((stored / temperature).softmax(-1) - (logits / temperature).softmax(-1)).abs()
    return apart.max().item(), apart.mean().item()


if __name__ == "__main__":
    main()
