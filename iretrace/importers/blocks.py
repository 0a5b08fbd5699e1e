"""Blocks of rows on their way to the trace, and the way from rows to its columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from iretrace import _native
from iretrace.importers.rows import ROW, Memory, to_batch
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

    def carry(self, source: Block, order: NDArray[np.int64]) -> None:
        """Put rows of another block, which ``order`` names, before the first one."""
        begin = self.start - len(order)
        _native.rows_gather(source.rows, order, self.rows[begin : self.start])
        source.tsc.take(order, out=self.tsc[begin : self.start], mode="clip")
        self.start = begin

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

    def write(self, rows: NDArray[np.void], order: NDArray[np.int64]) -> None:
        """Write rows in an order."""
        for start in range(0, len(order), ROW_GROUP_EVENTS):
            self._writer.write(to_batch(rows, order[start : start + ROW_GROUP_EVENTS], self.hooks, self._memory))


def rises(values: NDArray[np.uint64]) -> bool:
    """Whether no value is smaller than the one before it."""
    return bool((values[1:] >= values[:-1]).all())
