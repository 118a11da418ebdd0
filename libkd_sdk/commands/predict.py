"""`libkd-sdk predict`"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from sdk.classifier import Classifier
from sdk.errors import ImageError, UsageError
from sdk.images import SUFFIXES

from ..output import JsonOption, remark, show_json, show_table


def predict(
    bundle: Annotated[Path, typer.Argument(help="A bundle's folder.")],
    pictures: Annotated[list[str], typer.Argument(help="Pictures, folders of them, or - for one on standard input.")],
    top_k: Annotated[int, typer.Option("--top-k", help="Labels listed for each picture at most.")] = 3,
    threshold: Annotated[float, typer.Option("--threshold", help="What scores less is not listed.")] = 0.0,
    threads: Annotated[int | None, typer.Option("--threads", help="Of the engine; default: all cores.")] = None,
    json: JsonOption = False,
) -> int:
    """What pictures show. With --json, one JSON object a line; a picture that can't be read has an "error" in it.

    Example: libkd-sdk predict run/bundles/onnx photo.jpg holiday/
    """
    rows, failed = [], 0
    names = list(_expand(pictures))
    with Classifier(bundle, threads=threads, top_k=top_k, score_threshold=threshold) as classifier:
        sources = (sys.stdin.buffer.read() if name == "-" else name for name in names)
        for name, outcome in zip(names, classifier.stream(sources, errors="return"), strict=True):
            if isinstance(outcome, ImageError):
                failed += 1
                if json:
                    show_json({"source": name, "error": str(outcome)})
                else:
                    remark(f"libkd-sdk: {outcome}")
            elif json:
                top = [{"label": label, "score": score} for label, score in outcome.top]
                show_json({"source": name, "label": outcome.label, "score": outcome.score, "top": top})
            else:
                first, *others = [*outcome.top] or [("-", 0.0)]
                rest = ", ".join(f"{label} {score:.1%}" for label, score in others)
                rows.append([name, first[0], f"{first[1]:.1%}", rest])
    if rows:
        show_table("", ["picture", "label", "score", "then"], rows)
    return 2 if failed else 0


def _expand(names: list[str]) -> Iterator[str]:
    for name in names:
        if not Path(name).is_dir():
            yield name
            continue
        found = sorted(path for path in Path(name).rglob("*") if path.suffix.lower() in SUFFIXES)
        if not found:
            raise UsageError(f"{name}: no pictures in this folder")
        yield from map(os.fspath, found)
