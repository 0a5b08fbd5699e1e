"""Every trap of a few blocks of a trace, by replaying these blocks alone.

A block's replay begins with the stacks that the index holds: for every trap that was open at its beginning an entry
is fed to the engine first. Traps that begin or end elsewhere are taken from the index as they were judged in the
replay of the whole. What is not restored is a nest counter that does not follow from the open traps (under the built-in
policies: a #MC around an NMI, open across the beginning of the block, whose NMI has returned and cleared the counter).
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa

from iretrace.analysis.timeline_index import READ, Judge, as_traps
from iretrace.replay.engine import End
from iretrace.replay.policies import DEVICE
from iretrace.schema import EVENT_SCHEMA

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from iretrace.analysis.timeline_index import Index
    from iretrace.replay.policies import Policy
    from iretrace.replay.run import Returns
    from iretrace.trace import Trace

MAX_HELD: Final = 6
"""Blocks kept ready: who looks at a place looks around it."""

_THREADS: Final = 2


class Detail:
    """Traps of a trace's blocks, replayed when they are asked for."""

    def __init__(self, trace: Trace, policy: Policy, index: Index) -> None:
        self._trace, self._policy, self._index = trace, policy, index
        self._held: dict[int, list[_Part]] = {}
        self._lock = threading.Lock()

    def traps(self, start: int, stop: int) -> NDArray[Any]:
        """Traps that overlap a stretch of time.

        Args:
            start: first TSC.
            stop: one past the last TSC.

        Returns:
            :data:`~iretrace.analysis.timeline_index.TRAP_DTYPE`, by entry.

        Raises:
            Damaged: the trace cannot be read any more.
        """
        edges = np.array([start, max(stop - 1, start)], dtype=np.uint64)
        first, last = self._index.block_of(edges).tolist()
        spanning = self._index.spanning
        found = [spanning[(spanning["entry_tsc"] < np.uint64(stop)) & (spanning["end_tsc"] >= np.uint64(start))]]
        for block, parts in self._blocks(range(first, last + 1)).items():
            found += [part.traps(start, stop, self._until(block)) for part in parts]
        traps = np.concatenate(found)
        return traps[np.argsort(traps["entry_tsc"], kind="stable")]

    def _until(self, block: int) -> int | None:
        """When traps end that the end of a block found open: with the trace; elsewhere they are the index's."""
        return int(self._index.first[-1]) - 1 if block == len(self._index.events) - 1 else None

    def _blocks(self, blocks: range) -> dict[int, list[_Part]]:
        """Traps that were entered and returned in each block; what is not at hand is replayed, several at a time."""
        with self._lock:
            held = {block: self._held[block] for block in blocks if block in self._held}
        missing = [block for block in blocks if block not in held]
        if missing:
            with ThreadPoolExecutor(min(len(missing), _THREADS)) as pool:
                held.update(zip(missing, pool.map(self._replay, missing), strict=True))
        with self._lock:
            for block in blocks:
                self._held.pop(block, None)
                self._held[block] = held[block]
            while len(self._held) > max(MAX_HELD, len(blocks)):
                self._held.pop(next(iter(self._held)))
        return {block: held[block] for block in blocks}

    def _replay(self, block: int) -> list[_Part]:
        index = self._index
        begin = index.first[block]
        open_ = index.spanning[(index.spanning["entry_tsc"] < begin) & (index.spanning["end_tsc"] >= begin)]
        judge = Judge(self._trace.footer, self._policy)
        judge.feed(entries(open_))
        groups = range(int(index.groups[block]), int(index.groups[block + 1]))
        returns = [judge.feed(batch) for batch in self._trace.batches(READ, groups=groups)]
        # What ends now was open at the end of the block: in the index, unless the trace ends here.
        if block == len(index.events) - 1:
            returns.append(judge.finish())
        return [_Part(batch, begin) for batch in returns]


class _Part:
    """Returns of a batch whose traps were entered in its block, and when; made into traps where they are asked for."""

    def __init__(self, batch: Returns, begin: np.uint64) -> None:
        rows = batch.rows
        orphan = rows["end"] == End.ORPHAN
        self._batch, self._mine = batch, (rows["entry_tsc"] >= begin) | orphan
        self._entry = np.where(orphan, rows["exit_tsc"], rows["entry_tsc"])
        self._end = np.maximum(rows["exit_tsc"], self._entry)

    def traps(self, start: int, stop: int, until: int | None) -> NDArray[Any]:
        """Those that overlap a stretch; those still open last ``until`` then."""
        over = self._end
        still = self._batch.rows["end"] == End.OPEN
        if until is not None and still.any():
            over = np.where(still, np.uint64(until), over)
        index = np.flatnonzero(self._mine & (self._entry < np.uint64(stop)) & (over >= np.uint64(start)))
        traps = as_traps(self._batch, index)
        if until is not None:
            traps["end_tsc"][traps["end"] == End.OPEN] = np.uint64(until)
        return traps


def entries(traps: NDArray[Any]) -> pa.RecordBatch:
    """Entry events of traps that are open, without frames: from the bottom of each CPU's stack to its top."""
    traps = traps[np.lexsort((traps["depth"], traps["entry_tsc"]))]
    n, device = len(traps), traps["slot"] == DEVICE
    columns: dict[str, pa.Array] = {
        "tsc": pa.array(traps["entry_tsc"]),
        "cpu": pa.array(traps["cpu"]),
        "phase": pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int8)), pa.array(["entry", "exit"])),
        "vector": pa.array(traps["slot"].astype(np.uint8), mask=device),
        "irq": pa.array(traps["irq"], mask=~traps["irq_known"]),
        "pid": pa.array(traps["pid"]),
    }
    for name in READ:
        columns.setdefault(name, pa.nulls(n, EVENT_SCHEMA.field(name).type))
    return pa.RecordBatch.from_arrays([columns[name] for name in READ], names=list(READ))
