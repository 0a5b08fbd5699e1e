"""What verbs share on a terminal: numbers for people, and a progress bar that a pipe never sees."""

from __future__ import annotations

import io
import math
import shutil
import sys
import textwrap
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.table import Table

TEXT_WIDTH: Final = 100
"""Columns of text in a pipe, and at most on a terminal."""

_PIPE_WIDTH = 160
_LEAST_WIDTH = 80
_NO_LIMIT = 100_000

_SCALES = ((1e9, "s"), (1e6, "ms"), (1e3, "µs"), (1.0, "ns"))


def duration(ns: float) -> str:
    """Nanoseconds in the unit that reads best: ``1.25 s``, ``830 µs``."""
    scale, unit = next(((scale, unit) for scale, unit in _SCALES if abs(ns) >= scale), _SCALES[-1])
    return f"{ns / scale:.3g} {unit}"


def cycles(value: float) -> str:
    """TSC cycles with separators, or in millions and more: ``12,345``, ``1.23 G``."""
    for scale, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if abs(value) >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value:,.0f}"


def share(part: float, whole: float) -> str:
    """``part`` in percent of ``whole``; a dash where there is nothing."""
    if not whole:
        return "-"
    pct = part / whole * 100
    return f"{pct:.1f} %" if pct in (0, 100) or 0.05 <= pct < 99.95 else f"{three(pct)} %"


def plural(number: int, one: str) -> str:
    """``1 event``, ``12,345 events``."""
    return f"{number:,} {one}" if number == 1 else f"{number:,} {one}s"


def three(value: float) -> str:
    """Three significant digits, never with an exponent: ``0.0000917``, ``12.3``, ``20,800``."""
    if not value or not math.isfinite(value):
        return f"{value:.0f}"
    places = 2 - math.floor(math.log10(abs(value)))
    if places <= 0:
        return f"{round(value, places):,.0f}"
    return f"{value:.{places}f}".rstrip("0").rstrip(".")


def size(n_bytes: float) -> str:
    """Bytes in the unit that reads best: ``5.0 MB``, ``830 bytes``."""
    for scale, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if n_bytes >= scale:
            return f"{n_bytes / scale:.1f} {unit}"
    return f"{n_bytes:.0f} bytes"


def text_width() -> int:
    """Columns for text: the terminal's, but no more than can be read; in a pipe always as many."""
    return min(TEXT_WIDTH, shutil.get_terminal_size().columns) if sys.stdout.isatty() else TEXT_WIDTH


def say(text: str, indent: str = "  ") -> None:
    """Print a sentence: wrapped on a terminal, further lines indented; one line in a pipe."""
    if not sys.stdout.isatty():
        click.echo(text)
        return
    for line in textwrap.wrap(
        text,
        max(text_width(), 2 * len(indent) + 1),
        subsequent_indent=indent,
        drop_whitespace=True,
        break_long_words=False,
        break_on_hyphens=False,
    ):
        click.echo(line)


def print_table(table: Table, *, wraps: bool = False) -> None:
    """Print a table on stdout, cutting nothing: where a terminal is narrower, its lines go on in the next.

    Args:
        table: the table.
        wraps: its longest column is wrapped rather than its lines, down to 80 columns.
    """
    from rich.console import Console  # noqa: PLC0415 - only a table needs it
    from rich.measure import Measurement  # noqa: PLC0415

    console = Console(highlight=False)
    unlimited = Console(file=io.StringIO(), width=_NO_LIMIT)
    natural = max(1, Measurement.get(unlimited, unlimited.options, table).maximum)
    if console.is_terminal:
        console.width = max(console.width, min(natural, _LEAST_WIDTH) if wraps else natural)
        console.print(table)
        return
    console.width = min(natural, _PIPE_WIDTH) if wraps else natural
    with console.capture() as captured:
        console.print(table)
    click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


@contextmanager
def progress(label: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal's stderr; elsewhere nothing. Gives a function that takes the number of units done.

    A ``total`` of ``None`` is not known: the bar only moves.
    """
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console  # noqa: PLC0415 - only a terminal needs it
    from rich.progress import Progress  # noqa: PLC0415

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total)
        yield lambda done: bar.advance(task, done)
