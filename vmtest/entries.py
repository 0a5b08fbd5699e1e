"""Traps taken, against entries in the trace: per CPU, in order, by (vector, ip, sp)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from iretrace.vectors import NMI
from vmtest.align import align, shifted
from vmtest.report import Difference, Tally

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable, Sequence

    from vmtest.log import Taken
    from vmtest.nesting import Nesting
    from vmtest.seen import Entry

ANY_DEVICE: Final = -1
"""Stands for the vector of a device interrupt where the trace has none of it."""
MACHINE_CHECK: Final = 18
_NEAR: Final = 24
"""How many matched pairs away the other half of a swapped pair is looked for."""


@dataclass(frozen=True, kw_only=True)
class Keys:
    """What is compared of an entry, by what the trace can show.

    Attributes:
        devices: vectors of devices; the trace has none of them. Empty: it has them.
        without_stack: vectors whose entries have no stack pointer in the trace.
    """

    devices: frozenset[int] = frozenset()
    without_stack: frozenset[int] = frozenset()

    def of_taken(self, trap: Taken) -> Hashable:
        """Of a trap that the emulator took."""
        return self._key(self.vector(trap.vector), trap.ip, trap.sp)

    def of_entry(self, entry: Entry) -> Hashable:
        """Of an entry in the trace."""
        return self._key(self.vector(entry.vector), entry.ip, entry.sp)

    def vector(self, vector: int | None) -> int:
        """A vector, or what stands for it."""
        return ANY_DEVICE if vector is None or vector in self.devices else vector

    def _key(self, vector: int, ip: int | None, sp: int | None) -> Hashable:
        return (vector, ip) if vector in self.without_stack else (vector, ip, sp)


@dataclass
class MatchedEntries:
    """One CPU's entries.

    Attributes:
        pairs: the emulator's trap and the trace's entry, in order or not.
        left: traps that no entry was found for.
        skipped: places of the traps that the kernel ran no probe for, since it would have run inside itself.
        tally: the numbers, and what differs.
    """

    pairs: list[tuple[Taken, Entry]] = field(default_factory=list)
    left: list[Taken] = field(default_factory=list)
    skipped: list[int] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)


def match(cpu: int, taken: Sequence[Taken], entries: Sequence[Entry], keys: Keys, nesting: Nesting) -> MatchedEntries:
    """Match one CPU's entries; machine checks left are for :func:`explain_bystanders`."""
    alignment = align(taken, entries, keys.of_taken, keys.of_entry)
    found = MatchedEntries(pairs=list(alignment.pairs))
    found.tally.total = len(taken)
    found.tally.in_order = len(alignment.pairs)
    spare = list(alignment.only_b)
    rest: list[tuple[int, Taken]] = []
    for place, trap in alignment.only_a:
        swapped = [
            item for item in spare if keys.of_entry(item[1]) == keys.of_taken(trap) and abs(item[0] - place) <= _NEAR
        ]
        if not swapped:
            rest.append((place, trap))
            continue
        nearest = min(swapped, key=lambda item: abs(item[0] - place))
        spare.remove(nearest)
        found.pairs.append((trap, nearest[1]))
        found.tally.otherwise += 1
        between = [pair[0] for pair in alignment.pairs[min(place, nearest[0]) : max(place, nearest[0])]]
        moves = shifted(trap, between, keys.of_taken, back=nearest[0] < place)
        nested = all(_nested(mover, other, nesting) for mover, crossed in moves for other in crossed)
        found.tally.differences.append(
            Difference(
                cpu=cpu,
                what="order",
                cause=_before_hook([trap, *between]) if nested else None,
                emulator=show_taken(trap),
                trace=f"{show_entry(nearest[1])} {nearest[0] - place:+} places",
            )
        )
    for place, trap in rest:
        same_vector = [item for item in spare if item[1].vector == trap.vector and item[0] == place]
        if same_vector:
            spare.remove(same_vector[0])
            found.tally.differences.append(
                Difference(
                    cpu=cpu, what="frame", cause=None, emulator=show_taken(trap), trace=show_entry(same_vector[0][1])
                )
            )
        elif trap.vector == MACHINE_CHECK:
            found.left.append(trap)
        else:
            skipped = _is_skipped(trap, nesting)
            found.skipped += [trap.at] * skipped
            cause = "skipped" if skipped else None
            found.tally.differences.append(
                Difference(cpu=cpu, what="only there", cause=cause, emulator=show_taken(trap), trace="")
            )
    found.tally.differences += [
        Difference(cpu=cpu, what="only here", cause=None, emulator="", trace=show_entry(entry)) for _, entry in spare
    ]
    return found


def _before_hook(traps: Sequence[Taken]) -> str:
    """Which of the two causes: the recorder knows about NMIs and machine checks."""
    return "nmi-before-hook" if any(trap.vector in (NMI, MACHINE_CHECK) for trap in traps) else "nested-before-hook"


def _is_skipped(trap: Taken, nesting: Nesting) -> bool:
    """Whether a trap came in an NMI that interrupted another of its class."""
    below = nesting.below.get(nesting.returned_at.get(trap.at, -1), ())
    return NMI in below and trap.vector in below[: len(below) - 1 - below[::-1].index(NMI)]


def explain_bystanders(
    by_cpu: dict[int, MatchedEntries], all_taken: dict[int, Sequence[Taken]]
) -> list[tuple[int, int]]:
    """Machine checks that only the emulator has: every CPU takes a broadcast, one finds the error and logs it.

    Returns:
        CPU and place of those that are explained.
    """
    explained = []
    checks = {cpu: [trap for trap in taken if trap.vector == MACHINE_CHECK] for cpu, taken in all_taken.items()}
    for cpu, found in by_cpu.items():
        left: Collection[int] = {trap.at for trap in found.left}
        for number, trap in enumerate(checks[cpu]):
            if trap.at not in left:
                continue
            others = [
                other
                for other, mine in checks.items()
                if other != cpu
                and len(mine) == len(checks[cpu])
                and any(pair[0] is mine[number] for pair in by_cpu[other].pairs)
            ]
            found.tally.differences.append(
                Difference(
                    cpu=cpu,
                    what="only there",
                    cause="bystander" if others else None,
                    emulator=f"{show_taken(trap)}, broadcast number {number + 1}",
                    trace=f"on CPU {others[0]}" if others else "",
                )
            )
            if others:
                explained.append((cpu, trap.at))
    return explained


def _nested(one: Taken, other: Taken, nesting: Nesting) -> bool:
    """Whether the later of two interrupted the kernel while the earlier one was open."""
    outer, inner = (one, other) if one.at < other.at else (other, one)
    end = nesting.returned_at.get(outer.at)
    return inner.cpl == 0 and (end is None or inner.at < end)


def show_taken(trap: Taken) -> str:
    """A trap in one line."""
    return f"#{trap.at} v={trap.vector:#04x} e={trap.error_code:#x} cpl={trap.cpl} ip={trap.ip:#x} sp={trap.sp:#x}"


def show_entry(entry: Entry) -> str:
    """An entry in one line."""
    vector = "any" if entry.vector is None else f"{entry.vector:#04x}"
    ip, sp = ("-" if value is None else f"{value:#x}" for value in (entry.ip, entry.sp))
    return f"#{entry.at} v={vector} ip={ip} sp={sp} {entry.hook} tsc={entry.tsc}"
