"""What the timelines of other tools need of a replay: nanoseconds, whole nests of traps, and each trap's facts once.

A trap whose entry and exit were both seen is a slice, one that was open when the trace ended a slice without an end;
any other is a point, at its entry, or at its exit where only that was seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from iretrace import traps
from iretrace.replay.engine import End
from iretrace.replay.run import Decisions, Returns
from iretrace.traps import DECISION_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from iretrace.replay.costs import Saving
    from iretrace.trace import Trace

SLICE, OPEN, POINT = 0, 1, 2
MAX_HELD: Final = 1 << 20
"""Traps held until the one around them ends; past that their order at one nanosecond is not looked after."""

MAX_FACTS: Final = 1 << 17
"""Different things said of traps that are kept; past that an exporter begins anew."""

_FACTS: Final = ("vector", "name", "irq", "pid", "to_kernel", "end")
_MAX_NS: Final = 2**62


@dataclass(frozen=True, kw_only=True)
class Clock:
    """TSC → nanoseconds.

    Attributes:
        base_tsc: a TSC.
        base_ns: its nanoseconds: CLOCK_MONOTONIC's where the trace has an anchor to it, else 0 where the trace begins.
        khz: the TSC's frequency; where that is not known 10^6, so that a cycle counts as a nanosecond.
        known: whether the frequency is known.
        realtime_ns: CLOCK_REALTIME at ``base_ns``, where the trace has an anchor.
    """

    base_tsc: int
    base_ns: int
    khz: float
    known: bool
    realtime_ns: int | None = None

    def ns(self, tsc: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Nanoseconds; never falling where the TSC does not fall."""
        cycles = (tsc - np.uint64(self.base_tsc)).view(np.int64)
        values = self.base_ns + np.floor(cycles * (1e6 / self.khz))
        stamps: NDArray[np.int64] = np.clip(values, 0, _MAX_NS).astype(np.int64)
        return stamps


def clock_of(trace: Trace) -> Clock:
    """The clock of a trace."""
    khz = trace.footer.clock.tsc_khz
    start = int(next(iter(trace.batches(("tsc",)))).column("tsc")[0].as_py())
    relative = Clock(base_tsc=start, base_ns=0, khz=khz or 1e6, known=khz is not None)
    anchors = trace.footer.clock.anchors
    if khz is None or not anchors or anchors[0].tsc >= 2**63:
        return relative
    first = anchors[0]
    begins_ns = first.monotonic_ns + (start - first.tsc) / khz * 1e6
    if not 0 <= begins_ns < _MAX_NS // 2 or not 0 <= first.realtime_ns < _MAX_NS or first.monotonic_ns < 0:
        return relative  # a strange footer
    return Clock(base_tsc=first.tsc, base_ns=first.monotonic_ns, khz=khz, known=True, realtime_ns=first.realtime_ns)


def kinds(rows: NDArray[Any]) -> NDArray[np.uint8]:
    """:data:`SLICE`, :data:`OPEN` or :data:`POINT` a trap."""
    end = rows["end"]
    return np.where(end == End.EXIT, SLICE, np.where(end == End.OPEN, OPEN, POINT)).astype(np.uint8)


def begins(rows: NDArray[Any]) -> NDArray[np.uint64]:
    """TSC at which each trap is drawn: of its entry, or of its exit where only that was seen."""
    found: NDArray[np.uint64] = np.where(rows["end"] == End.ORPHAN, rows["exit_tsc"], rows["entry_tsc"])
    return found


class Facts:
    """What is said of traps beside their times; traps of which the same is said share it.

    Args:
        saving: what a RET saves; ``None``: not known.

    Attributes:
        said: facts by number, each a dictionary without what is not known, with one more for each policy under its
            name; the list grows with the batches.
    """

    def __init__(self, saving: Saving | None) -> None:
        self._saving = saving
        self._numbers: dict[tuple[Any, ...], int] = {}
        self.said: list[dict[str, Any]] = []

    def number(self, batch: Returns) -> NDArray[np.intp]:
        """The number of each trap's facts, shape ``(n,)``."""
        rows = batch.rows
        columns: list[NDArray[Any]] = [rows[name] for name in ("slot", "irq", "irq_known", "pid", "end", "context")]
        for decisions in batch.decisions:
            columns += [decisions.context, decisions.nest]
        first, which = distinct(columns)
        table = traps.return_table(take(batch, first), self._saving)
        of_policies = [
            f"{column.name}.{decisions.table.policy.name}"
            for decisions in batch.decisions
            for column in DECISION_COLUMNS
        ]
        wanted = [*_FACTS, *of_policies]
        lookup = np.empty(len(first), np.intp)
        for index, row in enumerate(table.select(wanted).to_pylist()):
            key = tuple(row.values())
            found = self._numbers.get(key)
            if found is None:
                found = self._numbers[key] = len(self.said)
                self.said.append(_nested(row))
            lookup[index] = found
        return lookup[which]


def _nested(row: dict[str, Any]) -> dict[str, Any]:
    said: dict[str, Any] = {}
    for column, value in row.items():
        name, dot, policy = column.partition(".")
        if value is not None:
            (said.setdefault(policy, {}) if dot else said)[name] = value
    return said


class Nests:
    """Gives traps in whole nests: a nested trap waits until the outermost around it has ended."""

    def __init__(self) -> None:
        self._held: Returns | None = None

    def feed(self, batch: Returns) -> Returns:
        """Take a batch; give what is whole by now."""
        both = batch if self._held is None else _join(self._held, batch)
        rows = both.rows
        if len(rows) > MAX_HELD + len(batch.rows):
            self._held = None
            return both
        last = np.full(1 << 16, -1, np.intp)
        outer = np.flatnonzero(rows["depth"] == 0)
        last[rows["cpu"][outer]] = outer  # of several the last one stays
        whole = np.arange(len(rows)) <= last[rows["cpu"]]
        self._held = take(both, np.flatnonzero(~whole))
        return take(both, np.flatnonzero(whole))

    def rest(self) -> Returns | None:
        """What is left at the end of the trace."""
        held, self._held = self._held, None
        return held if held is not None and len(held.rows) else None


def distinct(columns: Sequence[NDArray[Any]]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Distinct rows of columns of equal length.

    Returns:
        The first row of each, and for every row which of them it is.
    """
    code = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        values, which = np.unique(column, return_inverse=True)
        _, code = np.unique(code * len(values) + which, return_inverse=True)
    _, first, which = np.unique(code, return_index=True, return_inverse=True)
    return first, which


def take(batch: Returns, index: NDArray[np.intp]) -> Returns:
    """Some rows of a batch."""
    return Returns(
        rows=batch.rows[index],
        decisions=tuple(
            Decisions(table=one.table, nest=one.nest[index], context=one.context[index]) for one in batch.decisions
        ),
    )


def _join(first: Returns, second: Returns) -> Returns:
    return Returns(
        rows=np.concatenate([first.rows, second.rows]),
        decisions=tuple(
            Decisions(
                table=one.table,
                nest=np.concatenate([one.nest, other.nest]),
                context=np.concatenate([one.context, other.context]),
            )
            for one, other in zip(first.decisions, second.decisions, strict=True)
        ),
    )


class Rate:
    """Counts by time in a fixed number of bins, whose width doubles when time outgrows them.

    Args:
        start_ns: where time begins.

    Attributes:
        width_ns: of a bin.
        counts: int64, shape ``(BINS,)``.
    """

    BINS: Final = 1 << 14

    def __init__(self, start_ns: int) -> None:
        self.start_ns = start_ns
        self.width_ns = 1_000_000
        self.counts = np.zeros(self.BINS, np.int64)

    def add(self, ns: NDArray[np.int64]) -> None:
        """Count one at each time."""
        if not len(ns):
            return
        since = np.maximum(ns - self.start_ns, 0)
        while int(since.max()) >= self.width_ns * self.BINS:
            half = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts = np.concatenate([half, np.zeros(self.BINS // 2, np.int64)])
            self.width_ns *= 2
        self.counts += np.bincount(since // self.width_ns, minlength=self.BINS)

    def per_second(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """When each bin begins, and its rate; from the first to one after the last that is not empty."""
        filled = np.flatnonzero(self.counts)
        if not len(filled):
            return np.empty(0, np.int64), np.empty(0)
        used = np.arange(filled[0], min(filled[-1] + 2, self.BINS), dtype=np.int64)
        rate: NDArray[np.float64] = self.counts[used] * np.float64(1e9 / self.width_ns)
        return self.start_ns + used * np.int64(self.width_ns), rate
