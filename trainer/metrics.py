"""The measurements of a run while it trains: one JSON object in each line, and the same as TensorBoard curves."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import BinaryIO

import msgspec

from sdk.files import disk_failures, held, write_whole

from .curves import Curves
from .errors import RunError
from .records import EpochRow, Row, StoreRow, read_limited, to_json

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
        content = read_limited(path) if path.exists() else b""
    except (OSError, ValueError) as fault:
        raise RunError(f"{path}: damaged ({fault}); remove it, it is written anew") from fault
    *lines, _ = content.split(b"\n")
    return [_row(path, number, line) for number, line in enumerate(lines, 1)]


def _row(path: Path, number: int, line: bytes) -> Row:
    try:
        found = json.loads(line.decode())
        if isinstance(found, dict) and "epoch" in found:
            return msgspec.convert(found, EpochRow)
        return msgspec.convert(found, StoreRow)
    except (ValueError, RecursionError, msgspec.MsgspecError) as fault:
        raise RunError(f"{path}: damaged (line {number}: {fault}); remove the damaged lines") from fault


def add_row(run: Path, row: Row) -> None:
    """Append a row. What a crash has left of a row is removed first.

    Raises:
        FileError: the disk is full, or the folder can't be written.
    """
    path = run / FILE
    with held(path, wait=True), disk_failures(path), path.open("r+b") as file:  # others may fill the same store
        file.seek(_end_of_rows(file))
        file.truncate()
        file.write(to_json(row, indent=None).encode())
        file.flush()
        os.fsync(file.fileno())


def _end_of_rows(file: BinaryIO) -> int:
    """Return the position after the last complete row."""
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - 4096)
        file.seek(start)
        if (found := file.read(end - start).rfind(b"\n")) >= 0:
            return start + found + 1
        end = start
    return 0


class Metrics:
    """The rows of one stage, in the run's `metrics.jsonl` and as curves under `tensorboard/STAGE`.

    An interrupted run may have left rows of the epochs from `epoch` on. They are removed first.

    Raises:
        RunError: a row is damaged.
        FileError: the disk is full, or the folder can't be written.
    """

    def __init__(self, run: Path, stage: str, epoch: int) -> None:
        self._run = run
        with held(run / FILE, wait=True):  # stages may be trained side by side
            kept = [
                row
                for row in rows(run)
                if not (isinstance(row, EpochRow) and row.stage == stage and row.epoch >= epoch)
            ]
            write_whole(run / FILE, "".join(to_json(row, indent=None) for row in kept))
        self._curves = Curves(run / "tensorboard" / stage.replace("/", "-"), epoch)

    def add(self, row: EpochRow) -> None:
        """Append the row of an epoch, and a point to each curve.

        Raises:
            FileError: the disk is full, or the folder can't be written.
        """
        add_row(self._run, row)
        figures = msgspec.structs.asdict(row)
        self._curves.add({name: figures[name] for name in figures if name not in ("stage", "epoch")}, row.epoch)
