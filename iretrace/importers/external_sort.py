"""An external merge sort: each block is spilled as a sorted run to a temporary file; at the end the runs are merged.

A run is opened only when the merge comes to where it begins, so that nearly sorted input has one or two open at a time,
and so has a table in reverse.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Final

import numpy as np

from iretrace import _native
from iretrace.importers.blocks import rises
from iretrace.importers.rows import ROW

if TYPE_CHECKING:
    import queue
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from iretrace.importers.blocks import Block, Columns

_MERGED_ROWS: Final = 1 << 18
"""Rows in memory while merging, over all runs that are open."""


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


class ExternalSort:
    """Spills each block as a sorted run, and merges the runs.

    Args:
        columns: writes rows.
        free: where blocks are given back.
        n_rows: of a block.
        directory: where the temporary file goes.
    """

    def __init__(self, columns: Columns, free: queue.SimpleQueue[Block], n_rows: int, directory: Path) -> None:
        self.start = 0
        self._columns = columns
        self._free = free
        self._directory = directory
        self._spare = np.empty(n_rows, ROW)
        self._spill: IO[bytes] | None = None
        self._runs: list[_Run] = []

    def take(self, block: Block) -> None:
        """Sort and spill a block."""
        rows = block.rows[: block.end]
        if not rises(block.tsc[: block.end]):
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

    def finish(self, block: Block) -> None:
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
