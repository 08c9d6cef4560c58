"""What goes to a terminal: plain lines, and progress bars where someone watches."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

T = TypeVar("T")


def printable(text: str) -> str:
    """``text`` without anything that could steer a terminal."""
    return "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text
    )


def say(console: Console, text: str) -> None:
    """Print `printable` lines: no markup, no colors, no line breaks of rich's own."""
    shown = "\n".join(map(printable, text.split("\n")))
    console.print(shown, markup=False, highlight=False, emoji=False, soft_wrap=True)


def plain_table(
    words: Sequence[str], numbers: Sequence[str] = (), title: str | None = None
) -> Table:
    """A table without lines; these are its headings, those of words, which fold, first."""
    table = Table(title=title, title_justify="left", box=None, header_style="bold", pad_edge=False)
    for heading in words:
        table.add_column(heading, overflow="fold")
    for heading in numbers:
        table.add_column(heading, justify="right")
    return table


def watched(console: Console) -> bool:
    """Whether someone would see a bar: on a terminal or in a notebook, not in a pipe or a log."""
    return console.is_jupyter or console.is_terminal


@dataclass
class Bar:
    """A progress bar; see `progress_bar`."""

    shown: Progress
    task: TaskID

    def update(self, count: int = 1) -> None:
        """So many more are done."""
        self.shown.update(self.task, advance=count)

    def note(self, text: str) -> None:
        """Show ``text`` after the numbers."""
        self.shown.update(self.task, note=text)


@contextmanager
def progress_bar(
    title: str, total: int | None, unit: str, *, done: int = 0, hide: bool = False
) -> Iterator[Bar]:
    """A bar on stderr, which is gone on exit; hidden where it is not `watched`.

    ``total`` is ``None`` where it is not known.
    """
    console = Console(stderr=True, force_terminal=sys.stderr.isatty())
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit),
        TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
    )  # fmt: skip
    hidden = hide or not watched(console)
    with Progress(*columns, console=console, transient=True, disable=hidden) as shown:
        yield Bar(shown, shown.add_task(title, total=total, completed=done, note=""))


def progress(items: Sequence[T], title: str, unit: str, *, hide: bool = False) -> Iterator[T]:
    """Go through ``items`` with a `progress_bar`."""
    with progress_bar(title, len(items), unit, hide=hide) as bar:
        for item in items:
            yield item
            bar.update()
