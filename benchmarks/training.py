"""Measure a training step with stored teachers, without teachers and with timm's online teacher; and filling a store.

    python benchmarks/training.py [--device cuda] [--threads 2] [--recipe small] [--size 32] [--batch 128] [--json]

One process, one student, the same images. In each round every kind of step is done once, so that other work on the
machine affects all of them alike. The ratios are ratios of medians. Expected:

    stored / plain          at most 1.05: for reading the answers of two teachers, and their losses
    views / plain           at most 0.10 on a GPU: for augmentation and data, as a share of a step
    stored / timm           below 1: two stored teachers against timm's `TokenDistillationTask` with one online
    fill / teachers alone   at least 0.90: images per second, answered and stored, against forward passes alone
    share of peak           of the rate that the device reaches in large matrix products, in the same precision
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from msgspec.structs import replace
from timm.task import TokenDistillationTask
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from sdk.images import Input, Preprocessing, Resize
from trainer.arms import own_arm
from trainer.data import MemoryImages, Split, to_input
from trainer.device import autocast
from trainer.learner import Learner
from trainer.logits import Header, LogitStore, fill_batch, fill_missing
from trainer.loop import Batch, batches
from trainer.losses import distillation, labels_alone, soft_cross_entropy
from trainer.models import Teacher, create_student, create_teacher
from trainer.progress import Silent
from trainer.recipe import Recipe, read_recipe

CLASSES = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="number of CPU threads")
    parser.add_argument("--recipe", default="small")
    parser.add_argument("--size", type=int, default=32, help="width and height of the images, in pixels")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    bench = Bench(read_recipe(arguments.recipe), arguments.size, arguments.batch, arguments.device)
    figures = {**bench.steps(arguments.rounds), **bench.filling(max(3, arguments.rounds // 3))}
    print(json.dumps(figures, indent=2) if arguments.json else _table(figures, bench))


class Bench:
    """The recipe's nets, untrained, on random images. What they have learned does not change the time."""

    def __init__(self, recipe: Recipe, size: int, batch: int, device: torch.device) -> None:
        training = replace(recipe.student.training, batch=batch)
        self.recipe = replace(recipe, student=replace(recipe.student, training=training))
        self.batch, self.device = batch, device
        self.fill_batch = fill_batch(size, size, device)
        input = Input(height=size, width=size, resize=Resize(mode="cover", size=(size, size)))
        self.preprocessing = Preprocessing(input=input, mean=recipe.data.mean, std=recipe.data.std)
        count = 4 * max(batch, self.fill_batch)
        self.split = Split(
            MemoryImages(torch.randint(256, (count, size, size, 3), dtype=torch.uint8)),
            torch.randint(CLASSES, (count,)),
            torch.arange(count),
            [str(index) for index in range(count)],
        ).to(device)
        self.teachers = {name: self._teacher(name) for name in recipe.teachers}
        self.arm = own_arm(self.recipe)

    def _teacher(self, name: str) -> Teacher:
        bare = replace(self.recipe.teachers[name], pretrained=False, weights=None)
        teacher = create_teacher(bare, CLASSES, self.preprocessing).to(self.device)
        teacher.net.eval()
        return teacher

    def _store(self, folder: str, shard: int) -> LogitStore:
        header = Header(
            spec=self.arm.spec,
            spec_hash=self.arm.spec.hash(),
            data=self.split.hash(),
            seed=0,
            samples=len(self.split),
            classes=CLASSES,
            shard=shard,
            teachers={name: teacher.hash() for name, teacher in self.teachers.items()},
        )
        return LogitStore(Path(folder), header, 1)

    def _batches(self) -> list[Batch]:
        spec = self.arm.spec
        return list(batches(self.split, seed=0, view=0, epoch=0, size=self.batch, spec=spec))

    def _learner(self, bias_tokens: int) -> Learner:
        student = create_student(self.recipe.student, bias_tokens, CLASSES, self.preprocessing)
        return Learner(student, self.recipe.student.training, 1000, self.device)

    def steps(self, rounds: int) -> dict[str, float]:
        """Return the milliseconds of each kind of step, and their ratios."""
        tokens = len(self.teachers)
        plain, stored = self._learner(tokens), self._learner(tokens)
        teaching = self.arm.teaching()
        kept = torch.randn(len(self.split), tokens, CLASSES, dtype=torch.float16)
        with tempfile.TemporaryDirectory() as folder:
            store = self._store(folder, len(self.split))
            store.write(0, 0, {name: kept[:, k] for k, name in enumerate(self.teachers)})
            answers = store.read(0, self.device)
        timm = self._timm(next(iter(self.teachers.values())))
        given = self._batches()

        def prepared(number: int) -> tuple[Batch, Tensor, Tensor]:
            batch = given[number % len(given)]
            targets = batch.view.targets(self.split.labels[batch.rows.indices], CLASSES, 0.1)
            return batch, to_input(batch.view.pixels, self.preprocessing), targets

        def plain_step(number: int) -> None:
            _, inputs, targets = prepared(number)
            plain.step(number, inputs, lambda output: _total(labels_alone(output, targets)))

        def stored_step(number: int) -> None:
            batch, inputs, targets = prepared(number)
            stored.step(
                number,
                inputs,
                lambda output: _total(distillation(output, targets, answers.at(batch.rows.places), teaching)),
            )

        def timm_step(number: int) -> None:
            _, inputs, targets = prepared(number)
            timm(number, inputs, targets)

        def views(number: int) -> None:
            next(batches(self.split, seed=0, view=number, epoch=0, size=self.batch, spec=self.arm.spec))

        kinds: dict[str, Callable[[int], None]] = {
            "plain": plain_step,
            "stored": stored_step,
            "timm": timm_step,
            "views": views,
        }
        medians = self._medians(kinds, rounds)
        return {
            **{f"{name}_ms": 1000 * seconds for name, seconds in medians.items()},
            "samples_per_s": self.batch / (medians["stored"] + medians["views"]),
            "share of peak": self._flops(given[0]) / medians["stored"] / self._peak(),
            "stored / plain": medians["stored"] / medians["plain"],
            "views / plain": medians["views"] / medians["plain"],
            "stored / timm": medians["stored"] / medians["timm"],
        }

    def _flops(self, batch: Batch) -> float:
        """Return the floating-point operations of the student's forward and backward pass over a batch."""
        student = create_student(self.recipe.student, len(self.teachers), CLASSES, self.preprocessing).to(self.device)
        with FlopCounterMode(display=False) as counter:
            student(to_input(batch.view.pixels, self.preprocessing)).sum().backward()
        return counter.get_total_flops()

    def _peak(self, size: int = 2048, rounds: int = 5) -> float:
        """Return the floating-point operations per second of a large matrix product, in the fastest of some rounds."""
        one, other = (torch.randn(size, size, device=self.device) for _ in range(2))
        times = []
        for _ in range(1 + rounds):
            self._wait()
            started = time.perf_counter()
            with autocast(self.recipe.student.training.precision, self.device):
                one @ other
            self._wait()
            times.append(time.perf_counter() - started)
        return 2 * size**3 / min(times[1:])

    def _timm(self, teacher: Teacher) -> Callable[[int, Tensor, Tensor], None]:
        """Return a step of timm's task, with the same student, one bias token and one online teacher."""
        learner, answered = self._learner(1), _Answered(self.preprocessing)
        task = TokenDistillationTask(answered, teacher.net, criterion=_SoftLabels(), device=self.device, verbose=False)
        precision = self.recipe.student.training.precision

        def step(number: int, inputs: Tensor, targets: Tensor) -> None:
            def loss_of(output: Tensor) -> Tensor:
                answered.heads = output.unbind(1)
                with autocast(precision, self.device):
                    return task(inputs, targets)["loss"].float()

            learner.step(number, inputs, loss_of)

        return step

    def filling(self, rounds: int) -> dict[str, float]:
        """Return the images per second of the teachers alone, on prepared pixels, and of `fill_missing`."""
        pixels = torch.rand(self.fill_batch, 3, *self.split.images.size, device=self.device)
        inputs = [to_input(pixels, teacher.preprocessing) for teacher in self.teachers.values()]
        parts = len(self.split) // self.fill_batch

        @torch.inference_mode()
        def alone(number: int) -> None:
            for _ in range(parts):
                for teacher, ready in zip(self.teachers.values(), inputs, strict=True):
                    with autocast(teacher.arithmetic(self.device), self.device):
                        teacher.net(ready)

        def filled(number: int) -> None:
            with tempfile.TemporaryDirectory() as folder:
                fill_missing(self._store(folder, len(self.split)), self.teachers, self.split, Silent())

        medians = self._medians({"alone": alone, "fill": filled}, rounds)
        rates = {name: len(self.split) / seconds for name, seconds in medians.items()}
        return {
            "teachers_alone_per_s": rates["alone"],
            "fill_per_s": rates["fill"],
            "fill / teachers alone": rates["fill"] / rates["alone"],
        }

    def _medians(self, kinds: dict[str, Callable[[int], None]], rounds: int) -> dict[str, float]:
        times: dict[str, list[float]] = {name: [] for name in kinds}
        for number in range(2 + rounds):
            for name, run in kinds.items():
                self._wait()
                started = time.perf_counter()
                run(number)
                self._wait()
                times[name].append(time.perf_counter() - started)
        return {name: statistics.median(values[2:]) for name, values in times.items()}

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _total(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(losses.values())).sum()


class _SoftLabels(nn.Module):
    forward = staticmethod(soft_cross_entropy)


class _Answered(nn.Module):
    """A student for timm's task that has answered already in the same step, with two heads."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.num_classes, self.in_chans = CLASSES, 3
        self.heads = tuple[Tensor, ...]()
        self.pretrained_cfg = {"mean": preprocessing.mean, "std": preprocessing.std}

    def set_distilled_training(self, enable: bool) -> None:
        """Do nothing: the student has its two heads in any case."""

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        return self.heads


def _table(figures: dict[str, float], bench: Bench) -> str:
    shape = bench.recipe.student
    where = (
        torch.cuda.get_device_name(bench.device)
        if bench.device.type == "cuda"
        else f"{torch.get_num_threads()} CPU threads"
    )
    title = f"student {shape.width} x {shape.depth}, batch {bench.batch}, {', '.join(bench.teachers)}; {where}"
    return "\n".join([title, *(f"{name:24} {value:12.3f}" for name, value in figures.items())])


if __name__ == "__main__":
    main()
