"""The measurements of a run while it trains: one JSON object in each line, and the same as TensorBoard curves."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType

import msgspec
from torch.utils.tensorboard import SummaryWriter

from sdk.files import write_whole

from .errors import RunError
from .records import EpochRow, Row, StoreRow, to_json

FILE = "metrics.jsonl"


def training_seconds(run: Path, stage: str) -> float:
    """Return how long a stage took, with all its epochs, also of earlier sessions."""
    return sum(row.seconds for row in rows(run) if row.stage == stage)


def first_loss(run: Path, stage: str) -> float | None:
    """Return the mean loss of a stage's first epoch, or None if that epoch is not finished."""
    return next((row.loss for row in epoch_rows(run, stage) if row.epoch == 0), None)


def epoch_rows(run: Path, stage: str | None = None) -> list[EpochRow]:
    """Return the rows of all epochs, or of the epochs of one stage."""
    return [row for row in rows(run) if isinstance(row, EpochRow) and stage in (None, row.stage)]


def rows(run: Path) -> list[Row]:
    """Return all complete rows. An incomplete last line belongs to an epoch that will be repeated.

    Raises:
        RunError: the file can't be read, or one of its lines is not such a row.
    """
    path = run / FILE
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
        return [_row(line) for line in lines if line.endswith("\n")]
    except (OSError, ValueError, RecursionError, msgspec.MsgspecError) as fault:
        raise RunError(f"{path}: damaged ({fault}); remove the damaged lines") from fault


def _row(line: str) -> Row:
    found = json.loads(line)
    if isinstance(found, dict) and "epoch" in found:
        return msgspec.convert(found, EpochRow)
    return msgspec.convert(found, StoreRow)


def add_row(run: Path, row: Row) -> None:
    """Append a row."""
    with (run / FILE).open("a", encoding="utf-8") as file:
        file.write(to_json(row, indent=None))


def _is_repeated(row: Row, stage: str, epoch: int) -> bool:
    return isinstance(row, EpochRow) and row.stage == stage and row.epoch >= epoch


class Metrics:
    """The rows of one stage, in the run's `metrics.jsonl` and under `tensorboard/STAGE`.

    An interrupted run may have left rows of the epochs from `epoch` on. They are removed first.
    """

    def __init__(self, run: Path, stage: str, epoch: int) -> None:
        self.run, self.stage = run, stage
        kept = [
            row for row in rows(run) if not (isinstance(row, EpochRow) and row.stage == stage and row.epoch >= epoch)
        ]
        write_whole(run / FILE, "".join(to_json(row, indent=None) for row in kept))
        self._curves = SummaryWriter(str(run / "tensorboard" / stage.replace("/", "-")), purge_step=epoch)

    def add(self, row: EpochRow) -> None:
        """Append the row of an epoch, and a point to each curve."""
        add_row(self.run, row)
        for name, figure in msgspec.structs.asdict(row).items():
            if name not in ("stage", "epoch"):
                self._curves.add_scalar(name, figure, row.epoch)

    def __enter__(self) -> Metrics:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._curves.close()
