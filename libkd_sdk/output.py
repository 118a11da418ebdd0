"""The output of the commands: tables for people or JSON for programs on stdout, bars and remarks on stderr."""

from __future__ import annotations

import codecs
import json
import re
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from sdk.errors import LibkdError
from trainer.units import duration

# A pipe or a file has no width, so that nothing may be cut there.
_is_terminal = sys.stdout is not None and sys.stdout.isatty()
stdout = Console(highlight=False, soft_wrap=True, width=None if _is_terminal else 200)
stderr = Console(stderr=True, highlight=False, soft_wrap=True)

_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def _set_quiet(wanted: bool) -> None:
    stderr.quiet = wanted


QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", callback=_set_quiet, help="Print neither progress nor remarks, only errors.")
]


def show_json(value: Any) -> None:
    """Print a JSON value on one line, see `json_line`."""
    is_utf8 = codecs.lookup(getattr(sys.stdout, "encoding", None) or "utf-8").name == "utf-8"
    print(json_line(value, ensure_ascii=not is_utf8), flush=True)


def json_line(value: Any, *, ensure_ascii: bool = False) -> str:
    """Return a JSON value on one line that can be stored as UTF-8, without the end of the line.

    The name of a file may hold bytes that are not UTF-8. They are escaped as the halves of a character, so that a
    program in Python gets a name that opens the file. What some programs take for the end of a line is escaped too.
    """
    value = json.loads(json.dumps(value), parse_constant=lambda not_finite: None)  # JSON has no NaN
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(value, ensure_ascii=ensure_ascii))


def printable(text: str) -> str:
    """Return text for people, with a mark in the place of each character that a terminal would obey or can't show."""
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def remark(text: str) -> None:
    """Print a line for people on stderr, beside the result."""
    stderr.print(escape(printable(text)))


def show_error(error: LibkdError) -> None:
    """Print the line of an error that does not end the command, also with --quiet."""
    if sys.stderr is not None:
        print(f"libkd-sdk: {printable(str(error))} [{error.code}]", file=sys.stderr)


def show_text(text: str) -> None:
    """Print the text of a file, whose lines stay as they are."""
    for line in text.splitlines():
        print(printable(line.expandtabs(4)))


def show_line(text: str) -> None:
    """Print one line of a result that goes on."""
    stdout.print(escape(printable(text)))


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table whose first column is aligned left and whose other columns are aligned right."""
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right")
    for row in rows:
        table.add_row(*(escape(printable(cell)) for cell in row))
    stdout.print(table)


def show_facts(title: str, facts: Sequence[tuple[str, str]]) -> None:
    """Print names and values, one pair on each line, under a title unless that is empty."""
    if title:
        stdout.print(f"[bold]{escape(printable(title))}[/bold]")
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        stdout.print(f"  {name:<{width}}  {escape(printable(value))}")


def percent(share: float | None) -> str:
    """Return a share of 1 in percent, `-` for None."""
    return "-" if share is None else f"{share:.1%}"


class _Clock:
    """The time of a stage of `total` steps. The first call of `step` may tell steps of an earlier run."""

    def __init__(self, total: int) -> None:
        self._total, self._done, self._started = total, 0, time.perf_counter()
        self._first: tuple[float, int] | None = None

    def step(self, steps: int) -> None:
        self._done += steps
        self._first = self._first or (self.seconds(), self._done)

    def seconds(self) -> float:
        return time.perf_counter() - self._started

    def left(self) -> str:
        """Return the time that is left, as the end of a sentence; empty at the end, or before it can be told."""
        since, done = self._first or (0.0, 0)
        if not done < self._done < self._total:
            return ""
        return f", {duration((self.seconds() - since) / (self._done - done) * (self._total - self._done))} left"


class _Bar:
    """A `trainer.progress.Progress` that draws a bar and the remaining time for each stage, one after another.

    Without a bar it prints a line after each epoch, and one when a stage is finished.

    Args:
        bars: where the bars are drawn; None prints lines.
    """

    def __init__(self, bars: Progress | None) -> None:
        self._bars = bars
        self._task = TaskID(0)
        self._clock = _Clock(0)
        self._stage, self._note = "", ""

    def beside(self) -> _Bar:
        return _Bar(self._bars)

    def begin(self, stage: str, steps: int) -> None:
        self._stage, self._note, self._clock = stage, "", _Clock(steps)
        if self._bars:
            self._task = self._bars.add_task(escape(stage), total=max(1, steps), note="")

    def step(self, steps: int = 1, note: str = "") -> None:
        self._clock.step(steps)
        if self._bars:
            self._note = escape(note) if note else self._note
            self._bars.update(self._task, advance=steps, note=self._note)
        elif note and not steps:
            remark(f"{self._stage}: {note}{self._clock.left()}")

    def advance_to(self, done: int) -> None:
        """Tell that `done` steps of the stage are done in all."""
        if self._bars:
            self._bars.update(self._task, completed=done)

    def end(self, summary: str = "") -> None:
        if self._bars:
            total = self._bars.tasks[self._task].total
            self._bars.update(self._task, completed=total, note=escape(summary) if summary else self._note)
        else:
            remark(f"{self._stage:<28} {self._clock.seconds():6.1f} s  {summary}".rstrip())

    def tell(self, text: str) -> None:
        """Print a line above the bars."""
        remark(text)


class Bars(_Bar):
    """The bars of a command, on stderr, while this context manager is open; lines if stderr is not a terminal."""

    def __init__(self) -> None:
        drawn = Progress(
            TextColumn("{task.description:<28}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>4.0f} %"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=stderr,
        )
        super().__init__(drawn if stderr.is_terminal else None)

    def __enter__(self) -> Bars:
        if self._bars:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars:
            self._bars.stop()
