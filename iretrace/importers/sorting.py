"""An external merge sort: events in any order become a sorted trace, in bounded memory.

Rows are held until there are many; then they are sorted and spilled, as a run, to a temporary file beside the trace.
At the end the runs are merged. Where a file is nearly sorted, as recorders write it, and can be read again, nothing is
spilled: of the rows that are held the earlier half is written, and only if a row then comes too late
(:class:`TooLate`) all is done again with runs.

A run is opened only when the merge comes to where it begins, so that nearly sorted input has one or two open at a time,
and so has a table in reverse.
"""

from __future__ import annotations

import queue
import tempfile
import threading
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Final, Self

import numpy as np

from iretrace import _native
from iretrace.importers.mapping import HOOKS
from iretrace.importers.rows import ROW, Memory, to_batch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import pyarrow as pa
    from numpy.typing import NDArray

    from iretrace.trace import TraceWriter

HELD_ROWS: Final = 1 << 19
"""Rows held before they are spilled: 24 MiB, and as much again while they are sorted."""

_MERGED_ROWS: Final = 1 << 18
"""Rows in memory while merging, over all runs that are open."""


class TooLate(Exception):  # noqa: N818 - reads as the finding it is
    """A row belongs before one that has been written."""


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


class Sorter:
    """Takes rows in any order and writes them, sorted by TSC (equal ones in the order of their coming), to a trace.

    Args:
        writer: where to.
        directory: where the temporary file goes: beside the trace, where there must be room anyway.
        nearly_sorted: write without runs, and raise :class:`TooLate` where that proves wrong.
        progress: called with the number of events written so far.
    """

    def __init__(
        self,
        writer: TraceWriter,
        directory: Path,
        *,
        nearly_sorted: bool = False,
        progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.hooks: list[str] = list(HOOKS)
        """Names of the numbers in ``hook``; an importer may have its own."""
        self.n_rows = 0
        self._nearly_sorted = nearly_sorted
        self._written_to = 0
        self._writer = _Behind(writer)
        self._directory = directory
        self._progress = progress
        # Memory that is used again costs less than fresh memory: a page fault takes longer than to copy a page.
        self._held, self._spare = np.empty(HELD_ROWS, ROW), np.empty(HELD_ROWS, ROW)
        self._memory = Memory()
        self._tsc = np.empty(HELD_ROWS, np.uint64)
        self._as_they_come = np.arange(HELD_ROWS)
        self._n_held = 0
        self._spill: IO[bytes] | None = None
        self._runs: list[_Run] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.stop()
        if self._spill is not None:
            self._spill.close()

    def add(self, rows: NDArray[np.void]) -> None:
        """Take rows; they are copied.

        Raises:
            TooLate: one of them belongs before what has been written.
        """
        self.n_rows += len(rows)
        checked = 0
        while len(rows):
            if self._written_to > checked:  # also where half was written between two parts of these rows
                if int(rows["tsc"].min()) < self._written_to:
                    raise TooLate
                checked = self._written_to
            n = min(len(rows), len(self._held) - self._n_held)
            self._held[self._n_held : self._n_held + n] = rows[:n]
            self._tsc[self._n_held : self._n_held + n] = rows["tsc"][:n]
            self._n_held += n
            rows = rows[n:]
            self._make_room()

    def room(self) -> NDArray[np.void]:
        """Where rows can be written that :meth:`took` then takes: that spares a copy."""
        return self._held[self._n_held :]

    def took(self, n: int, lowest: int) -> None:
        """Take the first ``n`` rows of :meth:`room`.

        Args:
            n: how many; room is used up by it.
            lowest: the smallest TSC among them.

        Raises:
            TooLate: one of them belongs before what has been written.
        """
        if lowest < self._written_to:
            raise TooLate
        self.n_rows += n
        # Now, while they are in the cache.
        self._tsc[self._n_held : self._n_held + n] = self._held["tsc"][self._n_held : self._n_held + n]
        self._n_held += n
        self._make_room()

    def _make_room(self) -> None:
        if self._n_held == len(self._held):
            if self._nearly_sorted:
                self._write_half()
            else:
                self._spill_held()

    def finish(self) -> None:
        """Write everything."""
        if not self._runs:
            rows = self._held[: self._n_held]
            order = self._order(self._tsc[: self._n_held])
            for start in range(0, len(order), _MERGED_ROWS):
                self._write(rows, order[start : start + _MERGED_ROWS], alone=len(order) <= _MERGED_ROWS)
        else:
            if self._n_held:
                self._spill_held()
            for rows in self._merged():
                self._write(rows, self._order(np.ascontiguousarray(rows["tsc"])))
        self._writer.finish()

    def _write(self, rows: NDArray[np.void], order: NDArray[np.int64], *, alone: bool = False) -> None:
        """Write rows; ``alone``: there are no others."""
        batch = to_batch(rows, order, self.hooks, self._memory)
        self._progress(self._writer.write_here(batch) if alone else self._writer.write(batch))

    def _write_half(self) -> None:
        """Write the earlier half of what is held."""
        order = self._order(self._tsc)
        half = (len(order) + 1) // 2
        earlier, later = order[:half], order[half:]
        self._written_to = int(self._tsc[earlier[-1]])
        self._write(self._held, earlier)
        _native.rows_gather(self._held, later, self._spare)
        self._tsc[: len(later)] = self._tsc[later]
        self._held, self._spare = self._spare, self._held
        self._n_held = len(later)

    def _spill_held(self) -> None:
        rows = self._held[: self._n_held]
        tsc = self._tsc[: len(rows)]
        if not _rises(tsc):
            _native.rows_gather(rows, self._order(tsc), self._spare)
            rows = self._spare[: len(rows)]
        if self._spill is None:
            self._spill = tempfile.TemporaryFile(dir=self._directory)  # noqa: SIM115 - closed by __exit__
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
        self._n_held = 0

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

    def _order(self, tsc: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Which rows follow each other."""
        if _rises(tsc):
            return self._as_they_come[: len(tsc)] if len(tsc) <= HELD_ROWS else np.arange(len(tsc))
        return np.argsort(tsc, kind="stable")

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
    """Writes in a thread of its own: Parquet's encoding does not need the interpreter's lock."""

    def __init__(self, writer: TraceWriter) -> None:
        self._writer = writer
        self._queue: queue.Queue[pa.RecordBatch | None] = queue.Queue(maxsize=1)
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._written = 0

    def write(self, batch: pa.RecordBatch) -> int:
        """Hand events over; the number of events handed over so far."""
        self._written += batch.num_rows
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()
        self._raise()
        self._queue.put(batch)
        return self._written

    def write_here(self, batch: pa.RecordBatch) -> int:
        """Write events that are the last: where they are the first too, without a thread."""
        if self._thread is not None:
            return self.write(batch)
        self._written += batch.num_rows
        self._writer.write(batch)
        return self._written

    def finish(self) -> None:
        """Wait until all is written."""
        self.stop()
        self._raise()

    def stop(self) -> None:
        """End the thread."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while (batch := self._queue.get()) is not None:
            if self._error is None:
                try:
                    self._writer.write(batch)
                except BaseException as error:  # noqa: BLE001 - it is raised where the importer waits
                    self._error = error
