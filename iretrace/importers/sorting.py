"""Events in any order become a sorted trace, in bounded memory: an importer fills blocks, a thread sorts and writes.

A file that is nearly sorted, as recorders write it, and can be read again is sorted by :class:`_NearlySorted`: of the
rows that are held the earlier half is written, and only if a row then comes too late (:class:`TooLate`) all is done
again. Others are sorted by an external merge sort (:mod:`iretrace.importers.external_sort`).
"""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, Final, Protocol, Self

from iretrace.importers.blocks import Block, Columns
from iretrace.importers.external_sort import ExternalSort
from iretrace.importers.mapping import HOOKS

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from iretrace.trace_writer import TraceWriter

HELD_ROWS: Final = 1 << 19
"""Rows of a block, 24 MiB, of which a file that is nearly sorted uses half; there are three of them."""


class TooLate(Exception):  # noqa: N818 - reads as the finding it is
    """A row belongs before one that has been written."""


class _Way(Protocol):
    """How blocks become a trace."""

    start: int
    """Where the importer begins to fill a block: the room before it is for rows that are carried over."""

    def take(self, block: Block) -> None:
        """Take a full block; it is given back when it is not needed any more."""

    def finish(self, block: Block) -> None:
        """Take the last block, which may be empty, and write everything."""

    def close(self) -> None:
        """Give up what is held outside of memory."""


class Sorter:
    """Takes rows in any order and writes them, sorted by TSC (equal ones in the order of their coming), to a trace.

    Args:
        writer: where to.
        directory: where the temporary file goes: beside the trace, where there must be room anyway.
        nearly_sorted: write without runs, and raise :class:`TooLate` where that proves wrong.
    """

    def __init__(self, writer: TraceWriter, directory: Path, *, nearly_sorted: bool = False) -> None:
        self.n_rows = 0
        self._columns = Columns(writer, list(HOOKS))
        free: queue.SimpleQueue[Block] = queue.SimpleQueue()
        self._way: _Way = (
            _NearlySorted(self._columns, free, HELD_ROWS)
            if nearly_sorted
            else ExternalSort(self._columns, free, HELD_ROWS, directory)
        )
        self._behind = _Behind(self._way, free)
        self._block = Block(HELD_ROWS)
        self._block.empty(self._way.start)
        for _ in range(2):  # one that is sorted, one that holds the rows before it; memory that is not used is none
            free.put(Block(HELD_ROWS))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._behind.stop()
        self._way.close()

    @property
    def hooks(self) -> list[str]:
        """Names of the numbers in ``hook``; an importer may set its own, and add to them as it goes."""
        return self._columns.hooks

    @hooks.setter
    def hooks(self, names: list[str]) -> None:
        self._columns.hooks = names

    def add(self, rows: NDArray[np.void]) -> None:
        """Take rows; they are copied.

        Raises:
            TooLate: one that was taken belongs before what has been written.
        """
        while len(rows):
            room = self.room()
            n = min(len(rows), len(room))
            room[:n] = rows[:n]
            self.took(n, int(rows["tsc"][:n].min()))
            rows = rows[n:]

    def room(self) -> NDArray[np.void]:
        """Where rows can be written that :meth:`took` then takes: that spares a copy."""
        return self._block.rows[self._block.end :]

    def took(self, n: int, lowest: int) -> None:
        """Take the first ``n`` rows of :meth:`room`.

        Args:
            n: how many; room is used up by it.
            lowest: the smallest TSC among them.

        Raises:
            TooLate: one that was taken belongs before what has been written.
        """
        self.n_rows += n
        self._block.took(n, lowest)
        if self._block.full:
            self._block = self._behind.hand_over(self._block)
            self._block.empty(self._way.start)

    def finish(self) -> None:
        """Write everything.

        Raises:
            TooLate: one that was taken belongs before what has been written.
        """
        self._behind.finish()
        self._way.finish(self._block)


class _NearlySorted:
    """Writes the earlier half of the rows in a block, and carries the later half over to the next.

    Args:
        columns: writes rows.
        free: where blocks are given back.
        n_rows: of a block.
    """

    def __init__(self, columns: Columns, free: queue.SimpleQueue[Block], n_rows: int) -> None:
        self.start = n_rows // 2
        self._columns = columns
        self._free = free
        self._held: tuple[Block, NDArray[np.int64]] | None = None
        self._written_to = 0

    def take(self, block: Block) -> None:
        """Write the earlier half, and hold the later one.

        Raises:
            TooLate: a row belongs before what has been written.
        """
        source = self._put_before(block)
        order = block.order()
        n = max(0, len(order) - self.start)
        if n:
            self._written_to = int(block.tsc[order[n - 1]])
            self._columns.write(block.rows, order[:n], block.before)
        self._held = block, order[n:]
        if source is not None:
            block.keep(order[n:])
            self._free.put(source)

    def finish(self, block: Block) -> None:
        """Write all.

        Raises:
            TooLate: a row belongs before what has been written.
        """
        self._put_before(block)
        self._columns.write(block.rows, block.order(), block.before)

    def _put_before(self, block: Block) -> Block | None:
        """Let what is held stand before a block; whose rows they are."""
        if block.lowest < self._written_to:
            raise TooLate
        if self._held is None:
            return None
        source, order = self._held
        block.put_before(source, order)
        return source

    def close(self) -> None:
        """There is nothing outside of memory."""


class _Behind:
    """A thread that takes blocks: neither sorting nor encoding needs the interpreter's lock.

    Args:
        way: what it does with them.
        free: where blocks come back.
    """

    def __init__(self, way: _Way, free: queue.SimpleQueue[Block]) -> None:
        self._way = way
        self._free = free
        self._queue: queue.SimpleQueue[Block | None] = queue.SimpleQueue()
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def hand_over(self, block: Block) -> Block:
        """Hand over a full block, for one that is free."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()
        self._queue.put(block)
        block = self._free.get()
        self._raise()
        return block

    def finish(self) -> None:
        """Wait until all that was handed over is done."""
        self.stop()
        self._raise()

    def stop(self) -> None:
        """End the thread."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None

    def _raise(self) -> None:
        error, self._error = self._error, None  # an error that was kept would keep, by its frames, all of this
        if error is not None:
            raise error

    def _run(self) -> None:
        failed = False
        while (block := self._queue.get()) is not None:
            if not failed:
                try:
                    self._way.take(block)
                    continue
                except BaseException as error:  # noqa: BLE001 - it is raised where the importer waits
                    self._error, failed = error, True
            self._free.put(block)
