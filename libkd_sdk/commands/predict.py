"""The command `libkd-sdk predict`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from sdk.classifier import Classifier
from sdk.errors import ImageError, UsageError
from sdk.folders import described, images_in

from ..options import ThreadsOption
from ..output import JsonOption, QuietOption, remark, show_json, show_table


def predict(
    bundle: Annotated[Path, typer.Argument(help="The folder of a bundle.")],
    images: Annotated[
        list[str], typer.Argument(help="Images, folders of images, or - for an image on standard input.")
    ],
    top_k: Annotated[int, typer.Option("--top-k", help="List at most so many labels for each image.")] = 3,
    threshold: Annotated[float, typer.Option("--threshold", help="Do not list labels with a lower score.")] = 0.0,
    threads: ThreadsOption = None,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> int:
    """Predict what images show.

    With --json, each line is a JSON object for one image. If an image can't be read, the object has an "error" and its
    "code" instead of a label, and the exit code is 2 after all images.

    Example: libkd-sdk predict run/bundles/onnx photo.jpg holiday/
    """
    rows, failed = [], 0
    names = list(_expand(images))
    with Classifier(bundle, threads=threads, top_k=top_k, score_threshold=threshold) as classifier:
        sources = (_standard_input() if name == "-" else name for name in names)
        for name, outcome in zip(names, classifier.stream(sources, errors="return"), strict=True):
            if isinstance(outcome, ImageError):
                failed += 1
                if json:
                    show_json({"source": name, "error": str(outcome), "code": outcome.code})
                else:
                    remark(f"libkd-sdk: {outcome} [{outcome.code}]")
            elif json:
                show_json({**outcome.to_dict(), "source": name})
            else:
                first, *others = [*outcome.top] or [("-", 0.0)]
                rest = ", ".join(f"{label} {score:.1%}" for label, score in others)
                rows.append([name, first[0], f"{first[1]:.1%}", rest])
    if rows:
        show_table("", ["image", "label", "score", "then"], rows)
    return 2 if failed else 0


def _standard_input() -> BinaryIO:
    if sys.stdin is None:
        raise UsageError("standard input is closed; give the path of an image")
    return sys.stdin.buffer


def _expand(names: list[str]) -> Iterator[str]:
    """Give each name, and in the place of a folder the images in it. A file that is named is tried, whatever it is."""
    for name in names:
        if not os.path.isdir(name):  # noqa: PTH112  # Path.is_dir raises an error for a name that is too long
            yield name
            continue
        try:
            found = images_in(Path(name))
        except OSError as fault:
            raise UsageError(f"{fault.filename}: {fault.strerror}; repair or remove this folder") from fault
        others = described(found.others)
        if not found.images:
            raise UsageError(f"{name}: no images in this folder{f' ({others})' if others else ''}")
        if others:
            remark(f"left out: {name}: {others}")
        yield from map(os.fspath, sorted(Path(name) / image for image in found.images))
