"""A bounded index of a trace's returns over time, for looking at any stretch of it at once.

The trace is cut into *blocks* (one row group or a few), a block into equal *cells* of time: where much happens, cells
are short. Kept are the returns by cell, CPU and decision, without the empty ones, and the *spanning* traps, which
return in another block than they were entered in: with them a block can be replayed alone (:mod:`.timeline_detail`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from iretrace.errors import Damaged
from iretrace.replay import contexts
from iretrace.replay.ahead import reading
from iretrace.replay.engine import COLUMNS, End, Engine, Pairing
from iretrace.replay.policies import Choice
from iretrace.replay.run import Decisions, Returns
from iretrace.replay.tables import enumerate_policy, ist_vectors

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa
    from numpy.typing import NDArray

    from iretrace.footer import Footer
    from iretrace.replay.engine import Rows
    from iretrace.replay.policies import Policy
    from iretrace.trace import Trace

BLOCK_EVENTS: Final = 1 << 17
"""Row groups are taken together until a block has this many events."""

READ: Final = (*COLUMNS, "pid")

MAX_BLOCKS: Final = 1 << 16
CELLS: Final = 256
"""Cells of a block, at first."""

MAX_COUNTS: Final = 2_000_000
"""Counts held: cells are merged two by two until no more are left, which bounds index and memory."""

MAX_SPANNING: Final = 500_000
N_CHOICES: Final = len(Choice)

TRAP_DTYPE: Final = np.dtype(
    [
        ("entry_tsc", np.uint64),
        ("end_tsc", np.uint64),
        ("self_cycles", np.uint64),
        ("context", np.uint32),
        ("pid", np.uint32),
        ("cpu", np.uint16),
        ("slot", np.uint16),
        ("irq", np.uint16),
        ("nest", np.uint16),
        ("hazard", np.uint16),
        ("depth", np.uint8),
        ("end", np.uint8),
        ("choice", np.uint8),
        ("rule", np.uint8),
        ("self_known", np.bool_),
        ("irq_known", np.bool_),
    ]
)
"""A trap as it is shown. ``end_tsc`` is its exit; where that was not seen, its entry, and of an orphan the reverse;
of a spanning trap whose exit was not seen, when its end was found out."""


@dataclass(frozen=True, kw_only=True)
class Index:
    """Returns over time; immutable.

    Attributes:
        first: uint64, shape ``(n_blocks + 1,)``: TSC at which each block begins, and at the end one past the last.
        groups: int64, shape ``(n_blocks + 1,)``: first row group of each block, and the number of row groups.
        events: int64, shape ``(n_blocks,)``: events of each block.
        cells: cells of a block.
        key: int64, ascending, shape ``(m,)``: ``cell of the trace << 16 | cpu``.
        counts: uint32, shape ``(m, N_CHOICES)``: returns in that cell on that CPU, by choice.
        spanning: :data:`TRAP_DTYPE`, by entry: traps that returned in another block than they were entered in.
        rules: names of the policy's rules.
    """

    first: NDArray[np.uint64]
    groups: NDArray[np.int64]
    events: NDArray[np.int64]
    cells: int
    key: NDArray[np.int64]
    counts: NDArray[np.uint32]
    spanning: NDArray[Any]
    rules: tuple[str, ...]

    @property
    def cpus(self) -> NDArray[np.int64]:
        """CPUs that something returned on, ascending."""
        return np.unique(self.key & 0xFFFF)

    @property
    def nbytes(self) -> int:
        """Memory of its arrays."""
        arrays = (self.first, self.groups, self.events, self.key, self.counts, self.spanning)
        return sum(array.nbytes for array in arrays)

    def block_of(self, tsc: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Block in which each TSC lies; what lies outside of all is put into the first or the last."""
        return _block_of(self.first, tsc)


def build(
    trace: Trace, policy: Policy, *, progress: Callable[[int], None] | None = None, block_events: int = BLOCK_EVENTS
) -> Index:
    """Make a trace's index in one replay.

    Args:
        trace: an opened trace.
        policy: how to choose the return instruction.
        progress: called after every batch with the number of its events.
        block_events: least number of events of a block.

    Raises:
        Damaged: the trace holds what it must not, or has no statistics of its ``tsc``.
    """
    first, groups, events = _blocks(trace, block_events)
    builder = _Builder(first)
    seen, until = 0, np.cumsum(events)
    judge = Judge(trace.footer, policy)
    with reading(trace, READ) as batches:
        for batch in batches:
            block = min(int(np.searchsorted(until, seen, side="right")), len(events) - 1)
            low, high = (batch.column("tsc")[i].as_py() for i in (0, batch.num_rows - 1))
            if not first[block] <= low <= high < first[block + 1]:
                raise Damaged(trace.path, "a row group's statistics of tsc are not those of its events")
            builder.add(judge.feed(batch), block)
            seen += batch.num_rows
            if progress is not None:
                progress(batch.num_rows)
    builder.add(judge.finish(), len(events) - 1)
    return builder.finish(groups, events, judge.table.rules)


class Judge:
    """Pairs events and judges the returns by one policy, a batch at a time, from any point of a trace on."""

    def __init__(self, footer: Footer, policy: Policy) -> None:
        self.table = enumerate_policy(policy, ist_vectors(footer))
        self._engine = Engine(Pairing.from_footer(footer), [policy.counter])

    def feed(self, batch: pa.RecordBatch) -> Returns:
        """The returns that the next events brought."""
        return self._judged(self._engine.feed(batch.select(READ), rows=True))

    def finish(self) -> Returns:
        """What is open returns."""
        return self._judged(self._engine.finish(rows=True))

    def _judged(self, rows: Rows | None) -> Returns:
        if rows is None:
            raise TypeError("the engine gave no rows")
        nest = rows.nest[:, 0]
        context: NDArray[np.uint32] = rows.returns["context"] | (nest != 0).astype(np.uint32) * contexts.NESTED
        return Returns(rows=rows.returns, decisions=(Decisions(table=self.table, nest=nest, context=context),))


def _blocks(trace: Trace, least: int) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int64]]:
    """TSC at which each block begins (and one past the last), first row group (and their number), number of events.

    A block begins at a TSC that no event before it has, so that a TSC tells the block.
    """
    events, first, last = trace.row_groups()
    least = max(least, -(-int(events.sum()) // MAX_BLOCKS))
    before = np.cumsum(events) - events
    apart = np.append(np.True_, first[1:] > last[:-1])
    candidates = np.flatnonzero(apart)
    starts = candidates[np.diff(before[candidates] // least, prepend=-1) > 0]
    edges = np.append(first[starts], last[-1] + np.uint64(1) if last[-1] < _TOP else _TOP)
    return edges, np.append(starts, len(events)), np.add.reduceat(events, starts)


_TOP: Final = np.uint64(2**64 - 1)


class _Builder:
    def __init__(self, first: NDArray[np.uint64]) -> None:
        self._first = first
        self._width = np.maximum(first[1:] - first[:-1], np.uint64(1)).astype(np.float64)
        self._cells = CELLS
        self._keys: list[NDArray[np.int64]] = []
        self._counts: list[NDArray[np.int64]] = []
        self._held = 0
        self._spanning: list[NDArray[Any]] = []
        self._n_spanning = 0

    def add(self, batch: Returns, now: int) -> None:
        """Count returns that were found in the block ``now``."""
        rows = batch.rows
        if not rows.size:
            return
        tsc = batch.tsc
        begin = self._first[now]
        crossed = rows["entry_tsc"] < begin
        crossed &= rows["end"] != End.ORPHAN
        block: NDArray[np.int64] | int = now
        if crossed.any():
            self._span(as_traps(batch, np.flatnonzero(crossed)), now)
            block = _block_of(self._first, tsc)  # a trap whose exit was not seen counts where it was entered
            begin = self._first[block]
        offset = (tsc - begin).astype(np.float64)
        cell = np.minimum((offset * (self._cells / self._width[block])).astype(np.int64), self._cells - 1)
        cell += block * self._cells
        key, counts = _counted(cell, rows["cpu"].astype(np.int64), batch.decisions[0].choice.astype(np.int64))
        self._keys.append(key)
        self._counts.append(counts)
        self._held += len(key)
        if self._held > 2 * MAX_COUNTS:
            self._compact()

    def finish(self, groups: NDArray[np.int64], events: NDArray[np.int64], rules: tuple[str, ...]) -> Index:
        self._compact()
        spanning = np.concatenate([np.zeros(0, TRAP_DTYPE), *self._spanning])
        return Index(
            first=self._first,
            groups=groups,
            events=events,
            cells=self._cells,
            key=self._keys[0],
            counts=np.minimum(self._counts[0], np.iinfo(np.uint32).max).astype(np.uint32),
            spanning=spanning[np.argsort(spanning["entry_tsc"], kind="stable")],
            rules=rules,
        )

    def _compact(self) -> None:
        """Sum what has the same key; halve the cells while there is too much."""
        key = np.concatenate([np.zeros(0, np.int64), *self._keys])
        counts = np.concatenate([np.zeros((0, N_CHOICES), np.int64), *self._counts])
        key, counts = _summed(key, counts)
        while len(key) > MAX_COUNTS and self._cells > 1:
            self._cells //= 2
            key, counts = _summed((key >> 17 << 16) | (key & 0xFFFF), counts)
        self._keys, self._counts, self._held = [key], [counts], len(key)

    def _span(self, traps: NDArray[Any], now: int) -> None:
        """Keep traps that were entered in an earlier block than ``now``, where their end was found."""
        unseen = traps["end"] != End.EXIT
        traps["end_tsc"][unseen] = self._first[now]
        traps["end_tsc"][traps["end"] == End.OPEN] = self._first[-1] - np.uint64(1)
        room = MAX_SPANNING - self._n_spanning
        self._spanning.append(traps[:room])
        self._n_spanning += len(traps[:room])


def _block_of(first: NDArray[np.uint64], tsc: NDArray[np.uint64]) -> NDArray[np.int64]:
    return np.searchsorted(first[1:-1], tsc, side="right").astype(np.int64)


def as_traps(batch: Returns, index: NDArray[np.int64]) -> NDArray[Any]:
    """Rows of a batch as :data:`TRAP_DTYPE`."""
    rows, judged = batch.rows[index], batch.decisions[0]
    context = judged.context[index]
    traps = np.zeros(len(index), TRAP_DTYPE)
    for name in ("self_cycles", "pid", "cpu", "slot", "irq", "depth", "end", "self_known", "irq_known"):
        traps[name] = rows[name]
    orphan = rows["end"] == End.ORPHAN
    traps["entry_tsc"] = np.where(orphan, rows["exit_tsc"], rows["entry_tsc"])
    traps["end_tsc"] = np.where(orphan | (rows["end"] == End.EXIT), rows["exit_tsc"], rows["entry_tsc"])
    traps["context"], traps["nest"] = context, judged.nest[index]
    traps["choice"], traps["rule"] = judged.table.choice[context], judged.table.rule[context]
    traps["hazard"] = judged.table.hazard[context]
    return traps


_DENSE: Final = 1 << 22


def _counted(
    cell: NDArray[np.int64], cpu: NDArray[np.int64], choice: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Keys, ascending, and counts by choice of a batch: by an array where it is small, or by sorting."""
    met = np.flatnonzero(np.bincount(cpu))
    low = int(cell.min())
    span = int(cell.max()) - low + 1
    if span * len(met) * N_CHOICES <= _DENSE:
        place = np.zeros(int(met[-1]) + 1, np.int64)
        place[met] = np.arange(len(met))
        flat = np.bincount(
            ((cell - low) * len(met) + place[cpu]) * N_CHOICES + choice, minlength=span * len(met) * N_CHOICES
        )
        table = flat.reshape(-1, N_CHOICES)
        found = np.flatnonzero(table.any(axis=1))
        return ((found // len(met) + low) << 16) | met[found % len(met)], table[found]
    key, inverse = np.unique(cell << 16 | cpu, return_inverse=True)
    flat = np.bincount(inverse * N_CHOICES + choice, minlength=len(key) * N_CHOICES)
    return key, flat.reshape(-1, N_CHOICES)


def _summed(key: NDArray[np.int64], counts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    if not key.size:
        return key, counts
    order = np.argsort(key, kind="stable")
    key = key[order]
    heads = np.flatnonzero(np.diff(key, prepend=-1))
    return key[heads], np.add.reduceat(counts[order], heads, axis=0)
