"""Every trap of a few blocks of a trace, by replaying these blocks alone.

A block's replay begins with the stacks that the index holds: for every trap that was open at its beginning an entry
is fed to the engine first. Traps that begin or end elsewhere are taken from the index as they were judged in the
replay of the whole. What is not restored is a nest counter that does not follow from the open traps (under the built-in
policies: a #MC around an NMI, open across the beginning of the block, whose NMI has returned and cleared the counter).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa

from iretrace.analysis.timeline_index import READ, TRAP_DTYPE, Judge, as_traps
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


class Detail:
    """Traps of a trace's blocks, replayed when they are asked for."""

    def __init__(self, trace: Trace, policy: Policy, index: Index) -> None:
        self._trace, self._policy, self._index = trace, policy, index
        self._held: dict[int, NDArray[Any]] = {}

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
        parts = [spanning, *(self._block(block) for block in range(first, last + 1))]
        found = np.concatenate([part[_overlaps(part, start, stop)] for part in parts])
        return found[np.argsort(found["entry_tsc"], kind="stable")]

    def _block(self, block: int) -> NDArray[Any]:
        """Traps that were entered and returned in a block."""
        held = self._held.pop(block, None)
        if held is None:
            held = self._replay(block)
            while len(self._held) >= MAX_HELD:
                self._held.pop(next(iter(self._held)))
        self._held[block] = held
        return held

    def _replay(self, block: int) -> NDArray[Any]:
        index = self._index
        begin, end = index.first[block], index.first[block + 1]
        open_ = index.spanning[(index.spanning["entry_tsc"] < begin) & (index.spanning["end_tsc"] >= begin)]
        judge = Judge(self._trace.footer, self._policy)
        judge.feed(entries(open_))
        groups = range(int(index.groups[block]), int(index.groups[block + 1]))
        returns = [judge.feed(batch) for batch in self._trace.batches(READ, groups=groups)]
        # What ends now was open at the end of the block: in the index, unless the trace ends here.
        if block == len(index.events) - 1:
            returns.append(judge.finish())
        found = np.concatenate([np.zeros(0, TRAP_DTYPE), *(_inside(batch, begin) for batch in returns)])
        left = (found["end"] == End.OPEN) & (block == len(index.events) - 1)
        found["end_tsc"][left] = end - np.uint64(1)
        return found


def _inside(batch: Returns, begin: np.uint64) -> NDArray[Any]:
    rows = batch.rows
    kept = (rows["entry_tsc"] >= begin) | (rows["end"] == End.ORPHAN)
    return as_traps(batch, np.flatnonzero(kept))


def _overlaps(traps: NDArray[Any], start: int, stop: int) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = (traps["entry_tsc"] < np.uint64(stop)) & (traps["end_tsc"] >= np.uint64(start))
    return found


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
