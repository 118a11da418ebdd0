"""Measure what data in shards costs: memory as the samples grow, the speed of streaming, the speed of the store.

    python benchmarks/shards.py memory [--samples 1000000] [--per-shard 2048] [--size 8] [--into FOLDER]
    python benchmarks/shards.py speed [--samples 20000] [--size 64] [--rounds 5]

`memory` packs synthetic images, plans, trains a tiny teacher, fills a view and trains a tiny student for an epoch, with
a tenth of the samples and with all of them. The same number is held out of both, which stays in memory. Each command is
a process of its own; its memory, with that of its workers, is looked at four times a second. Expected: the peaks of the
commands that train differ by less than 10 %.

`speed` compares the processor time of an epoch of views that is streamed with that of the same images in memory, to
which their decoding is added, all in one process; expected: 0.9. And it reads a view from a store whose files are in
the page cache; expected: 1 GB/s.
"""

from __future__ import annotations

import argparse
import io
import resource
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from functools import partialmethod
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image

from trainer.data import ImageFile, Input

RECIPE = """
[views]
count = 1
spec = { flip = 0.5 }

[teachers.conv]
model = "resnet18_small"
args = { layers = [1, 1, 1, 1], channels = [8, 8, 8, 8], stem_stride = 1 }
training = { epochs = 1, batch = 512 }

[student]
patch = 4
width = 32
depth = 2
heads = 2
training = { epochs = 1, batch = 512 }
"""

CLASSES, HELD_OUT = 10, 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["memory", "speed"])
    parser.add_argument("--samples", type=int)
    parser.add_argument("--per-shard", type=int, default=2048)
    parser.add_argument("--size", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--into", type=Path, help="a folder for the images and the runs")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.into) as folder:
        if arguments.what == "memory":
            memory(Path(folder), arguments.samples or 1_000_000, arguments.per_shard, arguments.size or 8)
        else:
            speed(Path(folder), arguments.samples or 20_000, arguments.size or 64, arguments.rounds)


def memory(folder: Path, samples: int, per_shard: int, size: int) -> None:
    recipe = folder / "recipe.toml"
    recipe.write_text(RECIPE)
    peaks = [measured(folder / str(count), count, per_shard, size, recipe) for count in (samples // 10, samples)]
    for command, large in peaks[1].items():
        print(f"{command:12}{large:8,.0f} MB, {large / peaks[0][command]:.2f} of that with a tenth of the samples")


def measured(folder: Path, samples: int, per_shard: int, size: int, recipe: Path) -> dict[str, float]:
    """Return the most memory of each command in MB, and print its curve."""
    folder.mkdir()
    write_images(folder / "images.tar", samples, size)
    shards, run = folder / "shards", folder / "run"
    train = ["--out", run, "--threads", 1]
    commands = {
        "pack": ["--data", folder / "images.tar", "--out", shards, "--per-shard", per_shard],
        "plan": ["--data", shards, "--recipe", recipe, "--threads", 1],
        "teach": ["conv", "--data", shards, "--recipe", recipe, *train],
        "precompute": train,
        "distill": train,
    }
    peaks = {}
    for command, options in commands.items():
        started = time.perf_counter()
        curve = memory_of([sys.executable, "-m", "libkd_sdk", command, *map(str, options), "--quiet"])
        peaks[command] = max(curve)
        steps = max(1, len(curve) // 12)
        shown = " ".join(f"{max(curve[at : at + steps]):,.0f}" for at in range(0, len(curve), steps))
        print(f"{samples:,} samples, {command}: {time.perf_counter() - started:,.0f} s; MB: {shown}", flush=True)
    return peaks


def write_images(path: Path, samples: int, size: int) -> None:
    draw = np.random.default_rng(0)
    with tarfile.open(path, "w") as archive:
        for number in range(samples):
            content = io.BytesIO()
            Image.fromarray(draw.integers(0, 256, (size, size, 3), np.uint8)).save(content, "PNG", compress_level=1)
            split = "val" if number < HELD_OUT else "test" if number < 2 * HELD_OUT else "train"
            member = tarfile.TarInfo(f"{split}/{number % CLASSES}/{number:09d}.png")
            member.size = content.tell()
            content.seek(0)
            archive.addfile(member, content)
            archive.members.clear()  # type: ignore[attr-defined]  # or it keeps a kilobyte for each


def memory_of(command: list[str]) -> list[float]:
    """Return the memory of a process and of its children while it runs, in MB."""
    curve = []
    with subprocess.Popen(command) as process:
        while process.poll() is None:
            curve.append(sum(map(own_memory, [process.pid, *children_of(process.pid)])) / 1000)
            time.sleep(0.25)
    if process.returncode:
        raise SystemExit(process.returncode)
    return curve


def children_of(pid: int) -> list[int]:
    try:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [one for child in map(int, found) for one in (child, *children_of(child))]


def own_memory(pid: int) -> int:
    """Return the memory of a process in kB; of pages that it shares, its part."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def speed(folder: Path, samples: int, size: int, rounds: int) -> None:
    from trainer.data import Form, load, pack, wanted
    from trainer.data.shards import ShardSamples
    from trainer.progress import Silent
    from trainer.recipe import DataRecipe

    monkey: Any = ShardSamples
    monkey.feed = partialmethod(ShardSamples.feed, workers=0)  # cores slow each other where they share a unit
    write_photos(folder / "images.tar", samples, size)
    images = wanted([folder / "images.tar"])
    pack(images, folder / "shards", DataRecipe(), Form(), per_shard=8192, skip_bad=False, progress=Silent())
    streamed, resident = cast(ShardSamples, load([folder / "shards"]).train), load([folder / "images.tar"]).train
    ratios = []
    for number in range(rounds):
        decoding, in_memory, streaming = (
            seconds(decode_all, images.files[: len(resident)], streamed.input),
            seconds(epoch, resident, number),
            seconds(epoch, streamed, number),
        )
        ratios.append((decoding + in_memory) / streaming)
        print(f"decoding {decoding:.1f} s, in memory {in_memory:.1f} s, streaming {streaming:.1f} s: {ratios[-1]:.2f}")
    print(f"streaming reaches {statistics.median(ratios):.2f} of the speed in memory, decoding added")
    print(f"a view is read from the store at {store_speed(folder / 'store'):.2f} GB/s")


def write_photos(path: Path, samples: int, size: int) -> None:
    """Write JPEG files that take as long to decode as photos do: smooth colours and some noise."""
    draw = np.random.default_rng(0)
    with tarfile.open(path, "w") as archive:
        for number in range(samples):
            smooth = Image.fromarray(draw.integers(0, 256, (6, 6, 3), np.uint8)).resize(
                (size, size), Image.Resampling.BICUBIC
            )
            noisy = np.clip(np.asarray(smooth, np.int16) + draw.normal(0, 8, (size, size, 3)), 0, 255).astype(np.uint8)
            content = io.BytesIO()
            Image.fromarray(noisy).save(content, "JPEG", quality=90)
            member = tarfile.TarInfo(f"{number % CLASSES}/{number:09d}.jpg")
            member.size = content.tell()
            content.seek(0)
            archive.addfile(member, content)
            archive.members.clear()  # type: ignore[attr-defined]  # or it keeps a kilobyte for each


def seconds(work, *arguments) -> float:
    """Return the processor time that some work takes, here and in processes that it starts and ends."""

    def used() -> float:
        return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))

    before = used()
    work(*arguments)
    return used() - before


def decode_all(files: list[ImageFile], input: Input) -> None:
    from trainer.data.files import pixels_of

    for file in files:
        pixels_of(file, input)


def epoch(samples, number: int) -> None:
    from trainer.lanes import Lanes
    from trainer.loop import batches
    from trainer.recipe import recipe_for

    spec = recipe_for(32).views.spec
    for _ in batches(samples, seed=0, view=number, epoch=number, size=128, spec=spec, lanes=Lanes(8)):
        pass


def store_speed(folder: Path) -> float:
    """Return the GB/s at which a view of 50,000 images, two teachers and 100 classes is read."""
    import torch

    from trainer.logits import Header, LogitStore
    from trainer.views import ViewSpec

    spec, names = ViewSpec(), ("conv", "involution")
    header = Header(
        spec=spec,
        spec_hash=spec.hash(),
        data="",
        seed=0,
        samples=50_000,
        classes=100,
        teachers={name: name for name in names},
    )
    store = LogitStore(folder, header, 1)
    for view, shard in store.units():
        store.write(view, shard, {name: torch.randn(len(store.shards()[shard]), 100) for name in names})
    times = []
    for _ in range(5):
        started = time.perf_counter()
        store.read(0)
        times.append(time.perf_counter() - started)
    return header.view_bytes / statistics.median(times) / 1e9


if __name__ == "__main__":
    main()
