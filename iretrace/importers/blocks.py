"""Blocks of rows on their way to the trace, and the way from rows to its columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from iretrace.importers.rows import NOTHING_BEFORE, ROW, Before, Memory, to_batch
from iretrace.schema import ROW_GROUP_EVENTS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from iretrace.trace_writer import TraceWriter

_LATEST: Final = (1 << 64) - 1


class Block:
    """Memory for rows; those from ``start`` to ``end`` are there.

    Memory that is used again costs less than fresh memory: a page fault takes longer than to copy a page.
    """

    def __init__(self, n_rows: int) -> None:
        self.rows = np.empty(n_rows, ROW)
        self.tsc = np.empty(n_rows, np.uint64)
        """Of the rows, once more: sorting asks for nothing else."""
        self.empty(0)

    def empty(self, start: int) -> None:
        """Begin anew, at ``start``."""
        self.start = self.end = start
        self.lowest = _LATEST
        self.before = NOTHING_BEFORE

    @property
    def full(self) -> bool:
        """Whether there is no room."""
        return self.end == len(self.rows)

    def took(self, n: int, lowest: int) -> None:
        """Take the next ``n`` rows, which were written in place, and the smallest TSC among them."""
        span = slice(self.end, self.end + n)
        self.tsc[span] = self.rows["tsc"][span]  # now, while they are in the cache
        self.end += n
        self.lowest = min(self.lowest, lowest)

    def put_before(self, source: Block, order: NDArray[np.int64]) -> None:
        """Let rows of another block, which ``order`` names, stand before the first one. They stay where they are."""
        self.before = Before(rows=source.rows, order=order, first=self.start)
        begin = self.start - len(order)
        source.tsc.take(order, out=self.tsc[begin : self.start], mode="clip")
        self.start = begin

    def keep(self, order: NDArray[np.int64]) -> None:
        """Copy those rows of the other block that are still wanted: it is needed no more."""
        wanted = order[order < self.before.first]
        self.rows[wanted] = self.before.rows[self.before.order[wanted - self.start]]
        self.before = NOTHING_BEFORE

    def order(self) -> NDArray[np.int64]:
        """Which rows follow each other: indices into ``rows``; equal ones in the order of their coming."""
        tsc = self.tsc[self.start : self.end]
        if rises(tsc):
            return np.arange(self.start, self.end)
        order = tsc.argsort(kind="stable")
        order += self.start
        return order


class Columns:
    """Rows to the columns of the trace.

    Args:
        writer: of the trace.
        hooks: names of the numbers in ``hook``.
    """

    def __init__(self, writer: TraceWriter, hooks: list[str]) -> None:
        self._writer = writer
        self.hooks = hooks
        self._memory = Memory()

    def write(self, rows: NDArray[np.void], order: NDArray[np.int64], before: Before = NOTHING_BEFORE) -> None:
        """Write rows in an order; ``before``: those that stand before them."""
        for start in range(0, len(order), ROW_GROUP_EVENTS):
            part = order[start : start + ROW_GROUP_EVENTS]
            self._writer.write(to_batch(rows, part, self.hooks, self._memory, before))


def rises(values: NDArray[np.uint64]) -> bool:
    """Whether no value is smaller than the one before it."""
    return bool((values[1:] >= values[:-1]).all())
