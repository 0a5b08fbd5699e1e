"""Events in any order become a sorted trace, in bounded memory: an importer fills blocks, a thread sorts and writes.

A file that is nearly sorted, as recorders write it, and can be read again is sorted by :class:`_NearlySorted`: of the
rows that are held the earlier half is written, and only if a row then comes too late (:class:`TooLate`) all is done
again. Others are sorted by an external merge sort, :class:`_ExternalSort`: each block is spilled, as a sorted run, to a
temporary file beside the trace, and at the end the runs are merged. A run is opened only when the merge comes to where
it begins, so that nearly sorted input has one or two open at a time, and so has a table in reverse.
"""

from __future__ import annotations

import queue
import tempfile
import threading
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Final, Protocol, Self

import numpy as np

from iretrace import _native
from iretrace.importers.mapping import HOOKS
from iretrace.importers.rows import ROW, Memory, to_batch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from iretrace.trace_writer import TraceWriter

HELD_ROWS: Final = 1 << 19
"""Rows of a block, 24 MiB; there are two blocks, one that is filled and one that is sorted."""

_MERGED_ROWS: Final = 1 << 18
"""Rows in memory while merging, over all runs that are open."""

_LATEST: Final = (1 << 64) - 1


class TooLate(Exception):  # noqa: N818 - reads as the finding it is
    """A row belongs before one that has been written."""


class _Block:
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

    def carry(self, source: _Block, order: NDArray[np.int64]) -> None:
        """Put rows of another block, which ``order`` names, before the first one."""
        begin = self.start - len(order)
        _native.rows_gather(source.rows, order, self.rows[begin : self.start])
        source.tsc.take(order, out=self.tsc[begin : self.start], mode="clip")
        self.start = begin

    def order(self) -> NDArray[np.int64]:
        """Which rows follow each other: indices into ``rows``; equal ones in the order of their coming."""
        tsc = self.tsc[self.start : self.end]
        if _rises(tsc):
            return np.arange(self.start, self.end)
        order = tsc.argsort(kind="stable")
        order += self.start
        return order


class _Way(Protocol):
    """How blocks become a trace."""

    start: int
    """Where the importer begins to fill a block: the room before it is for rows that are carried over."""

    def take(self, block: _Block) -> None:
        """Take a full block; it is given back when it is not needed any more."""

    def finish(self, block: _Block) -> None:
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
        self._columns = _Columns(writer, list(HOOKS))
        free: queue.SimpleQueue[_Block] = queue.SimpleQueue()
        self._way: _Way = (
            _NearlySorted(self._columns, free) if nearly_sorted else _ExternalSort(self._columns, free, directory)
        )
        self._behind = _Behind(self._way, free)
        self._block = _Block(HELD_ROWS)
        self._block.empty(self._way.start)
        free.put(_Block(HELD_ROWS))

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


class _Columns:
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
        for start in range(0, len(order), _MERGED_ROWS):
            self._writer.write(to_batch(rows, order[start : start + _MERGED_ROWS], self.hooks, self._memory))


class _NearlySorted:
    """Writes the earlier half of two blocks, and carries the later one over to the next."""

    def __init__(self, columns: _Columns, free: queue.SimpleQueue[_Block]) -> None:
        self.start = HELD_ROWS // 2
        self._columns = columns
        self._free = free
        self._held: tuple[_Block, NDArray[np.int64]] | None = None
        self._written_to = 0

    def take(self, block: _Block) -> None:
        """Write what cannot wait for a third block.

        Raises:
            TooLate: a row belongs before what has been written.
        """
        self._put_before(block)
        order = block.order()
        n = max(0, len(order) - self.start)
        if n:
            self._written_to = int(block.tsc[order[n - 1]])
            self._columns.write(block.rows, order[:n])
        self._held = block, order[n:]

    def finish(self, block: _Block) -> None:
        """Write all.

        Raises:
            TooLate: a row belongs before what has been written.
        """
        self._put_before(block)
        self._columns.write(block.rows, block.order())

    def _put_before(self, block: _Block) -> None:
        if block.lowest < self._written_to:
            raise TooLate
        if self._held is not None:
            source, order = self._held
            block.carry(source, order)
            self._held = None
            self._free.put(source)

    def close(self) -> None:
        """There is nothing outside of memory."""


@dataclass(kw_only=True)
class _Run:
    """A sorted run in the spill file, and what of it is in memory."""

    index: int
    start: int
    n_rows: int
    first_tsc: int
    last_tsc: int
    read: int = 0
    chunk: NDArray[np.void] | None = None

    @property
    def more(self) -> bool:
        """Whether rows of it have not been read yet."""
        return self.read < self.n_rows


class _ExternalSort:
    """Spills each block as a sorted run, and merges the runs."""

    def __init__(self, columns: _Columns, free: queue.SimpleQueue[_Block], directory: Path) -> None:
        self.start = 0
        self._columns = columns
        self._free = free
        self._directory = directory
        self._spare = np.empty(HELD_ROWS, ROW)
        self._spill: IO[bytes] | None = None
        self._runs: list[_Run] = []

    def take(self, block: _Block) -> None:
        """Sort and spill a block."""
        rows = block.rows[: block.end]
        if not _rises(block.tsc[: block.end]):
            _native.rows_gather(rows, block.order(), self._spare)
            rows = self._spare[: block.end]
        if self._spill is None:
            self._spill = tempfile.TemporaryFile(dir=self._directory)  # noqa: SIM115 - closed by close
        start = self._runs[-1].start + self._runs[-1].n_rows if self._runs else 0
        self._runs.append(
            _Run(
                index=len(self._runs),
                start=start,
                n_rows=len(rows),
                first_tsc=int(rows["tsc"][0]),
                last_tsc=int(rows["tsc"][-1]),
            )
        )
        self._spill.write(rows.data)
        self._free.put(block)

    def finish(self, block: _Block) -> None:
        """Merge all runs; what is one block only needs none."""
        if not self._runs:
            self._columns.write(block.rows, block.order())
            return
        if block.end:
            self.take(block)
        for rows in self._merged():
            self._columns.write(rows, np.argsort(rows["tsc"], kind="stable"))

    def close(self) -> None:
        """Remove the temporary file."""
        if self._spill is not None:
            self._spill.close()

    def _merged(self) -> Iterator[NDArray[np.void]]:
        """Stretches of rows that follow each other: each holds all rows up to some (TSC, run), in no order within."""
        waiting = sorted(self._runs, key=lambda run: (run.first_tsc, run.index), reverse=True)
        opened: list[_Run] = []
        share = max(_MERGED_ROWS // _most_at_once(self._runs), 256)
        while waiting or opened:
            for run in opened:
                if run.chunk is None:
                    self._read(run, share)
            while True:
                ends = [(int(run.chunk["tsc"][-1]), run.index) for run in opened if run.more and run.chunk is not None]
                limit = min(ends, default=None)
                if not waiting or (opened and limit is not None and (waiting[-1].first_tsc, waiting[-1].index) > limit):
                    break
                if opened and limit is None and waiting[-1].first_tsc > max(run.last_tsc for run in opened):
                    break
                opened.append(waiting.pop())
                self._read(opened[-1], share)
            opened.sort(key=lambda run: run.index)
            yield np.concatenate([_cut(run, limit) for run in opened])
            opened = [run for run in opened if run.more or run.chunk is not None]

    def _read(self, run: _Run, rows: int) -> None:
        assert self._spill is not None  # noqa: S101 - there are runs
        n = min(rows, run.n_rows - run.read)
        self._spill.seek((run.start + run.read) * ROW.itemsize)
        run.chunk = np.frombuffer(self._spill.read(n * ROW.itemsize), ROW)
        run.read += n


def _most_at_once(runs: list[_Run]) -> int:
    """How many runs overlap in time, at most."""
    begins = np.sort(np.array([run.first_tsc for run in runs], np.uint64))
    ends = np.sort(np.array([run.last_tsc for run in runs], np.uint64))
    begun = np.arange(1, len(runs) + 1)
    return int((begun - np.searchsorted(ends, begins, side="left")).max())


def _cut(run: _Run, limit: tuple[int, int] | None) -> NDArray[np.void]:
    """Take from a run's chunk what lies up to the limit; without one, all of it."""
    chunk = run.chunk
    assert chunk is not None  # noqa: S101 - every open run has one here
    if limit is None:
        n = len(chunk)
    else:
        n = int(np.searchsorted(chunk["tsc"], limit[0], side="right" if run.index <= limit[1] else "left"))
    run.chunk = chunk[n:] if n < len(chunk) else None
    return chunk[:n]


def _rises(values: NDArray[np.uint64]) -> bool:
    return bool((values[1:] >= values[:-1]).all())


class _Behind:
    """A thread that takes blocks: neither sorting nor encoding needs the interpreter's lock.

    Args:
        way: what it does with them.
        free: where blocks come back.
    """

    def __init__(self, way: _Way, free: queue.SimpleQueue[_Block]) -> None:
        self._way = way
        self._free = free
        self._queue: queue.SimpleQueue[_Block | None] = queue.SimpleQueue()
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def hand_over(self, block: _Block) -> _Block:
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
