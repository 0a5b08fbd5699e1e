"""The stack of traps at a moment: what lay under a return that is worth showing.

A second pass over the trace, by the engine, so that pairing is the replay's own. It ends as soon as every stack is
known. Of the returns of one CPU a nested trap comes before the one it is in, so the trap under a return at depth
``d`` is the next return at depth ``d - 1``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from iretrace.replay import contexts
from iretrace.replay.contexts import Target
from iretrace.replay.engine import End
from iretrace.replay.policies import DEVICE, IRET
from iretrace.replay.run import returns
from iretrace.vectors import vector_name

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from iretrace.replay.run import Returns
    from iretrace.trace import Trace

TARGETS: Final = {Target.KERNEL: "kernel", Target.OTHER: "other CS", Target.UNKNOWN: "unknown code"}


class Moment(NamedTuple):
    """A return, by what a replay's counts and rows say of it.

    Attributes:
        tsc: of its exit, or of its entry where no exit was seen.
        cpu: logical CPU.
        slot: vector, or :data:`~iretrace.replay.policies.DEVICE`.
    """

    tsc: int
    cpu: int
    slot: int


class Open(NamedTuple):
    """A trap on the stack.

    Attributes:
        vector: x86 vector; ``None`` for a device interrupt whose vector the hook could not see.
        irq: Linux IRQ number, ``None`` where not known.
        target: where it returns to.
    """

    vector: int | None
    irq: int | None
    target: Target

    @property
    def name(self) -> str:
        """As people write it: ``#PF``, ``device 16``."""
        name = vector_name(self.vector)
        return name if self.vector is not None or self.irq is None else f"{name} {self.irq}"

    def to_json(self) -> dict[str, Any]:
        """The trap as ``iretrace check --json`` prints it."""
        return {"vector": self.vector, "irq": self.irq, "name": self.name, "returns_to": TARGETS[self.target]}


Stack = tuple[Open, ...]
"""The oldest trap first, the one that returns last."""


def stacks_at(trace: Trace, moments: Iterable[Moment]) -> dict[Moment, Stack]:
    """The stacks of a few moments.

    Where several returns have the same TSC, CPU and slot, the first is meant. A moment at which nothing returned is not
    in the answer. Memory is bounded by a row group; the trace is read up to the end of the oldest trap wanted.

    Raises:
        Damaged: the trace holds what it must not.
    """
    return stacks_in(returns(trace, [IRET]), moments)


def stacks_in(batches: Iterable[Returns], moments: Iterable[Moment]) -> dict[Moment, Stack]:
    """:func:`stacks_at` on returns that are at hand."""
    wanted = [_Search(moment) for moment in dict.fromkeys(moments)]
    if wanted:
        for batch in batches:
            tsc = batch.tsc
            for search in wanted:
                search.take(batch.rows, tsc)
            if all(search.below < 0 for search in wanted if search.found) and all(search.found for search in wanted):
                break
    return {search.moment: search.stack for search in wanted if search.found}


@dataclass
class _Search:
    moment: Moment
    found: bool = False
    below: int = 0
    """Depth of the next trap to find; negative: the stack is known."""
    inner: list[Open] = field(default_factory=list)
    """Inside out."""
    outer: list[Open] = field(default_factory=list)
    """Those that an overflow ended, oldest first."""

    @property
    def stack(self) -> Stack:
        return (*self.outer, *reversed(self.inner))

    def take(self, rows: NDArray[Any], tsc: NDArray[np.uint64]) -> None:
        """Look through the next returns."""
        if self.found and self.below < 0:
            return
        mine = np.flatnonzero(rows["cpu"] == self.moment.cpu)
        if not self.found:
            hits = np.flatnonzero((tsc[mine] == self.moment.tsc) & (rows["slot"][mine] == self.moment.slot))
            if not hits.size:
                return
            row = rows[mine[hits[0]]]
            self.found, self.below = True, int(row["depth"]) - 1
            self.inner.append(_open(row))
            mine = mine[hits[0] + 1 :]
        while self.below >= 0:
            # An overflow takes the oldest trap away, and all the others lie one less deep from there on.
            oldest = rows["end"][mine] == End.OVERFLOW
            hits = np.flatnonzero(oldest | (rows["depth"][mine] == self.below))
            if not hits.size:
                return
            (self.outer if oldest[hits[0]] else self.inner).append(_open(rows[mine[hits[0]]]))
            self.below -= 1
            mine = mine[hits[0] + 1 :]


def _open(row: np.void) -> Open:
    slot = int(row["slot"])
    target = (int(row["context"]) >> contexts.SHIFT) % len(Target)
    return Open(
        vector=None if slot == DEVICE else slot,
        irq=int(row["irq"]) if row["irq_known"] else None,
        target=Target(target),
    )
