"""Train teachers and students of a recipe within a deadline, and keep every result as soon as it is there.

    python benchmarks/gpu/job.py --recipe RECIPE --seconds 510 --run DIR --out OUT ARCHIVE...

The order is: teachers, store, distilled student, student without teachers, and other arms if there is time.
TEACHER_EPOCHS, STUDENT_EPOCHS and VIEWS in the environment replace the values of the recipe. DIR/seed-N is a run of
`libkd-sdk compare --out DIR --seeds N`, which continues from it. OUT gets run.tar.gz (recipe, records, metrics and
figures.json) and the main nets in float16.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import tarfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
import torch
from msgspec.structs import replace
from safetensors.torch import load_file, save_file

from trainer.arms import OWN_ARM, PLAIN_ARM, list_arms
from trainer.data import Dataset, load
from trainer.device import pick_device
from trainer.evaluate import Scores, judge
from trainer.metrics import epoch_rows
from trainer.models import create_student, create_teacher
from trainer.pipeline import train_arm
from trainer.recipe import Recipe, TeacherRecipe, Training, read_recipe
from trainer.records import NetRecord
from trainer.run import WEIGHTS, Job, Run, Source, start_run, teacher_stage
from trainer.train import train_teacher

START = time.perf_counter()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--seconds", type=float, default=510)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("data", nargs="+")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.backends.cuda.matmul.allow_tf32 = True  # float32 products need not be exact

    device, progress = pick_device(options.device), TimedProgress(options.seconds)
    say("torch", torch.__version__, "on", _name_of(device))
    recipe = _shortened(replace(read_recipe(options.recipe), seed=options.seed))
    epochs = {name: it.training.epochs for name, it in recipe.teachers.items()}
    say("epochs:", epochs, recipe.student.training.epochs, "views:", recipe.views.count)
    data = load(options.data, recipe.data, progress=progress)
    say(f"{len(data.train):,} + {len(data.validation):,} + {len(data.test):,} images, {len(data.labels)} classes")
    run = start_run(options.run / f"seed-{options.seed}", recipe, data, Source(tuple(options.data)))

    job = Job(run, data, device, progress)
    found = list_arms(run.recipe, data, {})
    main_arms = [found.pop(OWN_ARM), found.pop(PLAIN_ARM)]
    work: list[tuple[str, Callable[[], object]]] = [
        *((teacher_stage(name), partial(train_teacher, job, name)) for name in recipe.teachers),
        *((arm.stage, partial(train_arm, job, arm)) for arm in (*main_arms, *found.values())),
    ]
    kept = Kept(run, options.out, {*map(teacher_stage, recipe.teachers), *(arm.stage for arm in main_arms)})
    optional = {arm.stage for arm in found.values()}
    try:
        for stage, train in work:
            took = 1.25 * kept.seconds(main_arms[0].stage) + 5
            if stage in optional and _now() + took > options.seconds:
                say(f"{stage}: left out, it would take {took:.0f} s")
                continue
            train()
            kept.keep(stage, device)
    except TimeUp as up:
        say(f"time is up in {up}")
        _judge_unfinished(run, str(up).removeprefix("training "), data, device)
    finally:
        kept.pack(device)
        _show(run.folder)
    return 0


class TimeUp(Exception):
    """The time is up."""


class TimedProgress:
    """A `trainer.progress.Progress` that prints a line now and then, and ends the work when the time is up."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def beside(self) -> TimedProgress:
        return self

    def begin(self, stage: str, steps: int) -> None:
        self.stage, self.steps, self.done, self.note = stage, steps, 0, ""
        self.began = self.shown = _now()
        say(f"{stage}: {steps} steps")

    def step(self, steps: int = 1, note: str = "") -> None:
        self.done += steps
        self.note = note or self.note
        if _now() - self.shown > 10:
            self.shown = _now()
            say(f"{self.stage}: {self.done}/{self.steps} after {_now() - self.began:.1f} s, {self.note}")
        if _now() > self.seconds:
            raise TimeUp(self.stage)

    def end(self, summary: str = "") -> None:
        say(f"{self.stage}: done in {_now() - self.began:.1f} s, {summary or self.note}")

    def tell(self, text: str) -> None:
        say(text)


class Kept:
    """Keeps the figures of every finished net in `out`, and the `main` nets in float16."""

    def __init__(self, run: Run, out: Path, main: set[str]) -> None:
        self.run, self.out, self.main = run, out, main
        self.figures: dict[str, NetRecord] = {}

    def seconds(self, stage: str) -> float:
        return self.figures[stage].seconds if stage in self.figures else 0.0

    def keep(self, stage: str, device: torch.device) -> None:
        record = self.figures[stage] = self.run.net_record(stage)
        say(f"RESULT {stage}: {_tops(record.results)}, {record.parameters:,} parameters, {record.seconds:.0f} s")
        if stage in self.main:
            tensors = load_file(self.run.folder / stage / WEIGHTS)
            half = {name: value.half() if value.is_floating_point() else value for name, value in tensors.items()}
            save_file(half, self.out / f"{stage.replace('/', '-')}.safetensors")
        if device.type == "cuda":
            say(f"GPU memory at most {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")
        self.pack(device)

    def pack(self, device: torch.device) -> None:
        """Write run.tar.gz, whole."""
        figures = msgspec.to_builtins(self.figures)
        about = {"seconds": _now(), "device": _name_of(device), "torch": torch.__version__, "figures": figures}
        content = json.dumps(about, indent=1).encode()
        partial_file = self.out / ".run.tar.gz"
        with tarfile.open(partial_file, "w:gz") as packed:
            for path in sorted(self.run.folder.rglob("*")):
                if path.suffix in {".toml", ".json", ".jsonl"}:
                    packed.add(path, path.relative_to(self.run.folder.parent).as_posix())
            member = tarfile.TarInfo("figures.json")
            member.size = len(content)
            packed.addfile(member, io.BytesIO(content))
        partial_file.rename(self.out / "run.tar.gz")


def _shortened(recipe: Recipe) -> Recipe:
    """Return the recipe with the epochs and views that the environment names."""

    def trained(training: Training, variable: str) -> Training:
        return replace(training, epochs=int(os.environ.get(variable) or training.epochs))

    teachers: dict[str, TeacherRecipe] = {
        name: replace(it, training=trained(it.training, "TEACHER_EPOCHS")) for name, it in recipe.teachers.items()
    }
    return replace(
        recipe,
        teachers=teachers,
        student=replace(recipe.student, training=trained(recipe.student.training, "STUDENT_EPOCHS")),
        views=replace(recipe.views, count=int(os.environ.get("VIEWS") or recipe.views.count)),
    )


def _judge_unfinished(run: Run, stage: str, data: Dataset, device: torch.device) -> None:
    """Print how good the averaged weights in the last checkpoint of an unfinished stage are."""
    checkpoint = run.checkpoint(stage)
    if not checkpoint.path.exists():
        return
    tensors, about = checkpoint.read()
    if stage.startswith(teacher_stage("")):
        bare = replace(run.recipe.teachers[stage.removeprefix(teacher_stage(""))], pretrained=False, weights=None)
        net, preprocessing, _ = create_teacher(bare, len(data.labels), data.preprocessing)
    else:
        preprocessing = data.preprocessing
        net = create_student(run.recipe.student, len(run.recipe.teachers), len(data.labels), preprocessing)
    net.load_state_dict({n.removeprefix("average."): t for n, t in tensors.items() if n.startswith("average.")})
    figures = judge(net.to(device).eval(), data, preprocessing)
    say(f"UNFINISHED {stage} after epoch {about['epoch']}: {_tops(figures)}")


def _show(folder: Path) -> None:
    last = {row.stage: row for row in epoch_rows(folder)}
    for stage, row in last.items():
        say(
            f"{stage}: epoch {row.epoch + 1}, loss {row.loss:.3f}, validation {row.validation_top1:.2%}, "
            f"{row.seconds:.2f} s an epoch"
        )


def _tops(results: Scores) -> str:
    return ", ".join(f"{split} {100 * results[split].top1:.2f} %" for split in ("validation", "test"))


def _name_of(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _now() -> float:
    return time.perf_counter() - START


def say(*text: object) -> None:
    print(f"[{_now():6.1f} s]", *text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
