"""What a run measures while it trains: one JSON object a line, and the same as TensorBoard curves."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType

from torch.utils.tensorboard import SummaryWriter

from .checkpoint import write_text

FILE = "metrics.jsonl"


def training_seconds(run: Path, stage: str) -> float:
    """How long a stage took, all its epochs and sittings together."""
    return sum(row["seconds"] for row in rows(run) if row["stage"] == stage)


def first_loss(run: Path, stage: str) -> float | None:
    """The mean loss of a stage's first epoch, if it is done."""
    return next((row["loss"] for row in rows(run) if row["stage"] == stage and row["epoch"] == 0), None)


def rows(run: Path) -> list[dict]:
    """All whole rows of a run; a last one that was cut off is of an epoch that is done again."""
    path = run / FILE
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def add_row(run: Path, stage: str, **figures: float) -> None:
    """A row of a stage that has no epochs."""
    with (run / FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps({"stage": stage, **figures}) + "\n")


class Metrics:
    """The rows of one stage, in the run's `metrics.jsonl` and under `tensorboard/STAGE`.

    Rows of epochs from `epoch` on, left by a run that was cut off, are dropped first.
    """

    def __init__(self, run: Path, stage: str, epoch: int) -> None:
        self.path, self.stage = run / FILE, stage
        kept = [row for row in rows(run) if row["stage"] != stage or row["epoch"] < epoch]
        write_text(self.path, "".join(json.dumps(row) + "\n" for row in kept))
        self._curves = SummaryWriter(str(run / "tensorboard" / stage.replace("/", "-")), purge_step=epoch)

    def row(self, epoch: int, **figures: float) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"stage": self.stage, "epoch": epoch, **figures}) + "\n")
        for name, figure in figures.items():
            self._curves.add_scalar(name, figure, epoch)

    def __enter__(self) -> Metrics:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._curves.close()
