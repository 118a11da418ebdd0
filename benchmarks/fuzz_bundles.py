"""Damage bundles at random, and count what becomes of them: refused, right, wrong, crashed, hung.

    python benchmarks/fuzz_bundles.py [--count 20000] [--seed 0] [--engines onnx,openvino,executorch] [--json]

Each damaged bundle is opened as an app does, and predicts images if it opens. `refused` is one of our errors in one
line, `right` is the answers of the bundle before the damage, within 1e-4, and `wrong` is anything else. The app is a
process of its own, so that a crash and a hang can be counted.

Bundles whose hashes the attacker made right go through `sdk.verify` first, as SECURITY.md asks. `contained` counts
those that crashed or hung the child of `verify`, and not the app. Some of them are `wrong`: a weight that no golden
image needs was changed. Only a signature protects from that. The exit code is 1 for anything else that is wrong, and
for every crash and hang.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
from bundle_mutations import KINDS, Kind, Material
from PIL import Image

import sdk
from runtimes.engines import RUNNABLE
from sdk.bundle.keys import new_key, read_private

OUTCOMES = ("refused", "right", "wrong", "crashed", "hung")
SIZE, LABELS = 24, ("dark", "medium", "bright", "none", "all")
TOLERANCE = 1e-4
START_S, CHILD_S, CASE_S = 600, 60, 200
"""Seconds that an app may take to start, the child of `verify`, and a whole case. A busy machine needs most of them."""


class Place(NamedTuple):
    """The folder that a run works in: `one/ENGINE`, `other/ENGINE`, and the keys `ours` and `theirs`."""

    folder: Path

    def prepare(self, engines: list[str]) -> None:
        for seed, name in enumerate(("one", "other")):
            for engine in engines:
                _export(engine, seed, self.folder / name / engine)
        for name in ("ours", "theirs"):
            new_key(self.folder / name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engines", default=",".join(RUNNABLE))
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    arguments = parser.parse_args()
    engines = arguments.engines.split(",")
    with tempfile.TemporaryDirectory() as name:
        place = Place(Path(name))
        place.prepare(engines)
        rows = list[dict[str, Any]]()
        for kind in KINDS:
            row = Counter[str]()
            for engine in engines:
                count = -(-arguments.count * kind.share // (sum(kind.share for kind in KINDS) * len(engines)))
                row += _run(place, kind, engine, arguments.seed, count)
            rows.append({"of": kind.name, "tried": row.total() - row["contained"], **_counts(row)})
            if not arguments.json:
                print(_line(rows[-1]), flush=True)
    total = Counter[str]()
    for counted in rows:
        total.update({name: value for name, value in counted.items() if name != "of"})
    rows.append({"of": "all", **total})
    print(json.dumps(rows, indent=2) if arguments.json else _line(rows[-1]))
    unsafe = sum(row["wrong"] for row, kind in zip(rows, KINDS, strict=False) if not kind.hashed_again)
    if unsafe or rows[-1]["crashed"] or rows[-1]["hung"]:
        sys.exit(1)


def _counts(row: Counter[str]) -> dict[str, int]:
    return {name: row[name] for name in (*OUTCOMES, "contained")}


def _line(row: dict[str, Any]) -> str:
    return f"{row['of']:<32} " + "  ".join(f"{name} {value:6}" for name, value in row.items() if name != "of")


def _run(place: Place, kind: Kind, engine: str, seed: int, count: int) -> Counter[str]:
    """Try `count` bundles, in an app that is started again after a crash or a hang."""
    found: Counter[str] = Counter()
    done = 0
    while done < count:
        for outcome, contained in _outcomes(place, kind, engine, seed, range(done, count)):
            done += 1
            found[outcome] += 1
            found["contained"] += contained
            if outcome in ("wrong", "crashed", "hung"):
                print(f"{outcome}: {kind.name}, {engine}, seed {seed}, number {done - 1}", file=sys.stderr, flush=True)
    return found


def _outcomes(place: Place, kind: Kind, engine: str, seed: int, numbers: range) -> Iterator[tuple[str, bool]]:
    """Yield the outcomes of one app until it is through with all numbers, or ends."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    app = context.Process(target=_app, args=(theirs, place, KINDS.index(kind), engine, seed, numbers))
    app.start()
    theirs.close()
    try:
        if not ours.poll(START_S) or not ours.recv():
            raise RuntimeError("the app does not start")
        for _ in numbers:
            if not ours.poll(CASE_S):
                yield "hung", False
                return
            try:
                yield ours.recv()
            except EOFError:
                yield "crashed", False
                return
    finally:
        app.kill()
        app.join()


def _app(answers: Connection, place: Place, kind: int, engine: str, seed: int, numbers: range) -> None:
    """Be the app: open each damaged bundle, and tell what became of it."""
    os.chdir(place.folder)
    original = place.folder / "one" / engine
    images = _images()
    with sdk.Classifier(original, threads=1) as classifier:
        expected = classifier.labels, _answers(classifier, images)
    keys = (read_private(place.folder / name) for name in ("ours", "theirs"))
    material = Material(place.folder / "other" / engine, *keys)
    answers.send(True)
    for number in numbers:
        damaged = place.folder / f"damaged-{os.getpid()}"
        shutil.copytree(original, damaged)
        try:
            KINDS[kind].damage(damaged, Random(f"{seed}/{kind}/{engine}/{number}"), material)
            answers.send(_outcome(damaged, KINDS[kind], images, expected))
        finally:
            shutil.rmtree(damaged)
            damaged.with_name(f"{damaged.name}-outside").unlink(missing_ok=True)


def _outcome(damaged: Path, kind: Kind, images: list[Any], expected: tuple[Any, Any]) -> tuple[str, bool]:
    """Return what became of a bundle, and whether it crashed or hung the child."""
    try:
        if kind.hashed_again:
            sdk.verify(damaged, threads=1, timeout_s=CHILD_S)
        with sdk.Classifier(damaged, threads=1, trusted="ours.pub" if kind.signed else None) as classifier:
            labels, answers = classifier.labels, _answers(classifier, images)
    except sdk.LibkdError as fault:
        contained = "in a child process" in str(fault) or "did not answer within" in str(fault)
        return ("wrong" if "\n" in str(fault) else "refused"), contained
    except Exception as fault:
        print(f"{type(fault).__name__}: {fault}", file=sys.stderr)
        return "wrong", False
    return ("right" if labels == expected[0] and np.abs(answers - expected[1]).max() <= TOLERANCE else "wrong"), False


def _answers(classifier: sdk.Classifier, images: list[Any]) -> np.ndarray:
    return np.stack([prediction.probabilities for prediction in classifier.predict_batch(images)])


def _images() -> list[Any]:
    """Return arrays that need no preprocessing, and images of other sizes, which do."""
    draw = np.random.default_rng(0)
    arrays = [_waves(draw, SIZE, SIZE) for _ in range(12)]
    return [*arrays, *(Image.fromarray(_waves(draw, *size)) for size in ((40, 31), (25, 90), (24, 30), (11, 7)))]


def _waves(draw: np.random.Generator, height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width] / max(height, width)
    across, down, phase = (draw.uniform(-20, 20, 3) for _ in range(3))
    return (127 + 127 * np.sin(across * x[..., None] + down * y[..., None] + phase)).astype(np.uint8)


def _export(engine: str, seed: int, folder: Path) -> None:
    """Export a small net whose answers depend on the image, on the order of its channels, and on its size."""
    import torch
    from torch import nn

    torch.manual_seed(seed)
    module = nn.Sequential(
        *(nn.Conv2d(3, 12, 3, 2, 1), nn.ReLU(), nn.Conv2d(12, 16, 3, 2, 1), nn.ReLU(), nn.Flatten()),
        nn.Linear(16 * (SIZE // 4) ** 2, len(LABELS)),
    )
    with torch.no_grad():
        module.get_parameter(f"{len(module) - 1}.weight").mul_(6)
    draw = np.random.default_rng(seed)
    pixels = np.stack([_waves(draw, SIZE, SIZE) for _ in range(64)])
    sdk.export(
        module.eval(),
        target=engine,
        out=folder,
        labels=LABELS,
        preprocessing=sdk.Preprocessing.square(SIZE, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3)),
        validation=(pixels, np.zeros(64, int)),
        name="damaged",
    )


if __name__ == "__main__":
    started = time.monotonic()
    main()
    print(f"{time.monotonic() - started:.0f} s", file=sys.stderr)
