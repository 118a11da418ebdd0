"""Curves for TensorBoard. Its own writer works in a thread, which prints a traceback when the disk is full."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from sdk.files import disk_failures


class Curves:
    """The curves in a folder. Each session adds a file to it.

    Args:
        epoch: the first epoch of this session. Points of earlier sessions from there on do not count.

    Raises:
        FileError: the disk is full, or the folder can't be written.
    """

    def __init__(self, folder: Path, epoch: int) -> None:
        self.path = folder / f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        with disk_failures(folder):
            folder.mkdir(parents=True, exist_ok=True)
        start = SessionLog(status=SessionLog.START)
        self._write(Event(step=epoch, file_version="brain.Event:2"), Event(step=epoch, session_log=start))

    def add(self, figures: Mapping[str, float], epoch: int) -> None:
        """Add a point to the curve of each figure.

        Raises:
            FileError: the disk is full, or the folder can't be written.
        """
        values = [Summary.Value(tag=name, simple_value=figure) for name, figure in figures.items()]
        self._write(Event(step=epoch, summary=Summary(value=values)))

    def _write(self, *events: Event) -> None:
        with disk_failures(self.path), self.path.open("ab") as file:
            for event in events:
                event.wall_time = time.time()
                RecordWriter(file).write(event.SerializeToString())
