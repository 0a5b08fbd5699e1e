"""Pairing and counting: record batches of events in, a histogram of contexts and rows of returns out.

The loop itself is ``replay/engine.c``; :mod:`iretrace.replay.twin` is the same in plain Python, its oracle.

Semantics. Per CPU a stack: entries push, exits pop. Pairs are found by vector, or by IRQ number where the vector
is null. An exit that is not on top ends the traps above its match without an exit of their own; an exit without
a match is a return all the same. Vectors whose exits no hook sees return at their
entry; so do those of whose exits hooks see the ones to user mode alone, where they come from the kernel. With losses,
an entry from user mode ends everything open on its CPU. A stack deeper than :data:`MAX_DEPTH` ends its oldest trap.
Every entry and every orphan exit gives exactly one return.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from iretrace import _native
from iretrace.replay import contexts
from iretrace.replay.policies import DEVICE, NestCounter
from iretrace.schema import EVENT_SCHEMA

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pyarrow as pa
    from numpy.typing import NDArray

    from iretrace.footer import Footer

COLUMNS: Final = ("tsc", "cpu", "phase", "vector", "irq", "cs", "ip", "flags", "sp", "to_kernel")
"""What a replay reads; rows of returns also read ``pid``."""

MAX_DEPTH: Final = 128

REPAIRS: Final = (
    "entry_without_exit_hook",
    "implied_exit",
    "orphan_exit",
    "open_at_end",
    "stack_overflow",
    "unknown_target",
)
"""Names of what pairing had to make up for, in the engine's order."""


class End(IntEnum):
    """How the end of a trap was found."""

    EXIT = 0
    """Its exit was seen."""
    NO_HOOK = 1
    """No hook sees exits of its class: it returns at its entry."""
    IMPLIED = 2
    """Something that lay below it ended first."""
    ORPHAN = 3
    """Only its exit was seen."""
    OPEN = 4
    """The trace ended inside it."""
    OVERFLOW = 5
    """It was the oldest of more than :data:`MAX_DEPTH` open traps."""


RETURN_DTYPE: Final = np.dtype(
    [
        ("entry_tsc", np.uint64),
        ("exit_tsc", np.uint64),
        ("self_cycles", np.uint64),
        ("context", np.uint32),
        ("pid", np.uint32),
        ("cpu", np.uint16),
        ("slot", np.uint16),
        ("irq", np.uint16),
        ("depth", np.uint8),
        ("end", np.uint8),
        ("self_known", np.bool_),
        ("irq_known", np.bool_),
    ],
    align=True,
)
"""One return, as the engine writes it (``struct row``); ``context`` has its nested bit clear."""

CELL_DTYPE: Final = np.dtype([("count", np.uint64), ("first_tsc", np.uint64), ("first_cpu", np.uint16)], align=True)
"""What the engine keeps of one context (``struct cell``)."""

_UP, _DOWN, _CLEAR, _NOT_SELF = 1, 2, 4, 8


@dataclass(frozen=True, kw_only=True)
class Pairing:
    """How events become traps.

    Attributes:
        kernel_cs: the kernel's code segment; ``None``: not known.
        nmi_text: half-open ranges of the NMI entry and exit code.
        exitless: slots (vectors, or :data:`~iretrace.replay.policies.DEVICE`) whose exits no hook sees.
        kernel_exitless: slots of whose exits hooks see those to user mode alone.
        lossy: events are missing, so that an entry from user mode ends all that is open on its CPU.
    """

    kernel_cs: int | None = None
    nmi_text: tuple[tuple[int, int], ...] = ()
    exitless: frozenset[int] = frozenset()
    kernel_exitless: frozenset[int] = frozenset()
    lossy: bool = False

    @classmethod
    def from_footer(cls, footer: Footer) -> Pairing:
        """What a trace's footer says of pairing it."""
        with_exit: set[int] = set()
        to_user: set[int] = set()
        without: set[int] = set()
        for trap_class in footer.classes:
            slots = trap_class.vectors or ([DEVICE] if trap_class.name == "device" else [])
            if trap_class.exit is not None:
                (to_user if trap_class.exits_to == "user" else with_exit).update(slots)
            elif trap_class.entry is not None:
                without.update(slots)
        return cls(
            kernel_cs=footer.kernel_cs,
            nmi_text=tuple((low, high) for low, high in footer.nmi_text),
            exitless=frozenset(without - with_exit - to_user),
            kernel_exitless=frozenset(to_user - with_exit),
            lossy=footer.is_lossy(),
        )


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Returns of one batch.

    Attributes:
        returns: :data:`RETURN_DTYPE`, shape ``(n,)``.
        nest: uint16, shape ``(n, counters)``: each nest counter as the return was judged by it.
    """

    returns: NDArray[Any]
    nest: NDArray[np.uint16]


def _exitless_targets(pairing: Pairing, slot: int) -> int:
    """A bit for each :class:`~iretrace.replay.contexts.Target` that returns go to unseen."""
    if slot in pairing.exitless:
        return sum(1 << target for target in contexts.Target)
    return 1 << contexts.Target.KERNEL if slot in pairing.kernel_exitless else 0


class Engine:
    """Takes a trace batch by batch.

    Args:
        pairing: how events become traps.
        counters: nest counters; everything below is per counter, in this order.

    Attributes:
        counts: uint64, shape ``(counters, N_CONTEXTS)``: returns by context.
        first_tsc: uint64, same shape: TSC of the first return of a context (of its exit, or of its entry where
            no exit was seen); 0 where there is none.
        first_cpu: uint16, same shape: the CPU of that return.
    """

    def __init__(self, pairing: Pairing, counters: Sequence[NestCounter]) -> None:
        self._n = len(counters)
        cells = np.zeros((self._n, contexts.N_CONTEXTS), CELL_DTYPE)
        self.counts: NDArray[np.uint64] = cells["count"]
        self.first_tsc: NDArray[np.uint64] = cells["first_tsc"]
        self.first_cpu: NDArray[np.uint16] = cells["first_cpu"]
        self._rows: bool | None = None
        self._native = _native.engine_new(
            -1 if pairing.kernel_cs is None else pairing.kernel_cs,
            pairing.lossy,
            bytes(_exitless_targets(pairing, slot) for slot in range(contexts.N_SLOTS)),
            np.array(disjoint(pairing.nmi_text), np.uint64).tobytes(),
            b"".join(_effects(counter) for counter in counters),
            cells,
        )

    def feed(self, batch: pa.RecordBatch, *, rows: bool = False) -> Rows | None:
        """Take the next events; with ``rows``, give the returns they brought, in the order they were found.

        Args:
            batch: columns :data:`COLUMNS` in this order (and ``pid`` after them, or it is 0 in every row), typed
                as :data:`iretrace.schema.EVENT_SCHEMA`.
            rows: whether rows are wanted; the same for all batches of a trace.

        Raises:
            TypeError: the columns are others.
            ValueError: rows were wanted before and are not now, or the other way round.
        """
        phase = _check(batch)
        _, array = batch.__arrow_c_array__()
        out, nest = self._room(batch.num_rows + _native.engine_open(self._native), wanted=rows)
        width = phase.type.index_type.bit_width // 8
        is_exit = bytes(value == "exit" for value in phase.dictionary.to_pylist())
        return _taken(out, nest, _native.engine_feed(self._native, array, width, is_exit, out, nest))

    def finish(self, *, rows: bool = False) -> Rows | None:
        """End the trace: what is still open returns, with no exit seen."""
        out, nest = self._room(_native.engine_open(self._native), wanted=rows)
        return _taken(out, nest, _native.engine_finish(self._native, out, nest))

    @property
    def repairs(self) -> dict[str, int]:
        """What pairing had to make up for so far, by the names of :data:`REPAIRS`."""
        return dict(zip(REPAIRS, _native.engine_repairs(self._native), strict=True))

    def _room(self, n: int, *, wanted: bool) -> tuple[NDArray[Any] | None, NDArray[np.uint16] | None]:
        # Where no rows are wanted, the engine keeps less of an open trap than a row says.
        if self._rows not in (None, wanted):
            raise ValueError(f"rows of some batches only: {'now' if wanted else 'before'}")
        self._rows = wanted
        if not wanted:
            return None, None
        return np.empty(n, RETURN_DTYPE), np.empty((n, self._n), np.uint16)


def disjoint(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Half-open ranges, sorted and merged where they touch."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return merged


def _taken(out: NDArray[Any] | None, nest: NDArray[np.uint16] | None, n: int) -> Rows | None:
    return None if out is None or nest is None else Rows(returns=out[:n], nest=nest[:n])


def _effects(counter: NestCounter) -> bytes:
    return bytes(
        (slot in counter.up) * (_UP | (not counter.count_self) * _NOT_SELF)
        | (slot in counter.down) * _DOWN
        | (slot in counter.clear) * _CLEAR
        for slot in range(contexts.N_SLOTS)
    )


def _check(batch: pa.RecordBatch) -> pa.DictionaryArray:
    """The engine reads memory by these types: refuse any other. Gives the phase column."""
    names = tuple(batch.schema.names)
    if names not in (COLUMNS, (*COLUMNS, "pid")):
        raise TypeError(f"columns {names}, not {COLUMNS}")
    for name in names:
        found, expected = batch.schema.field(name).type, EVENT_SCHEMA.field(name).type
        if name == "phase":
            wrong = getattr(found, "index_type", None) is None or found.index_type.bit_width > 32
        else:
            wrong = found != expected
        if wrong:
            raise TypeError(f"column {name} is {found}, not {expected}")
    return batch.column("phase")
