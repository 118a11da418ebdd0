"""What a run measures while it trains: one JSON object a line, and the same as TensorBoard curves."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType

from torch.utils.tensorboard import SummaryWriter

from .checkpoint import write_text


class Metrics:
    """The rows of one stage, in the run's `metrics.jsonl` and under `tensorboard/STAGE`.

    Rows of epochs from `epoch` on, left by a run that was cut off, are dropped first.
    """

    def __init__(self, run: Path, stage: str, epoch: int) -> None:
        self.path, self.stage = run / "metrics.jsonl", stage
        if self.path.exists():
            rows = [json.loads(line) for line in self.path.read_text().splitlines()]
            kept = [row for row in rows if row["stage"] != stage or row["epoch"] < epoch]
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
