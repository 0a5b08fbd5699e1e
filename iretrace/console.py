"""What verbs share on a terminal: numbers for people, and a progress bar that a pipe never sees."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import Console

_PIPE_WIDTH = 160

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
    return f"{pct:.1f} %" if pct in (0, 100) or 0.05 <= pct < 99.95 else f"{pct:.3g} %"


def wide_console() -> Console:
    """A console on stdout that, where it is no terminal, cuts nothing to a width that nobody asked for."""
    from rich.console import Console  # noqa: PLC0415 - only a terminal needs it

    return Console(highlight=False, width=None if sys.stdout.isatty() else _PIPE_WIDTH)


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
