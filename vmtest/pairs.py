"""IRETQs executed, the returns that the replay finds, and what is known of both."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from vmtest.report import Difference, Tally

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vmtest.log import Executed, Taken
    from vmtest.nesting import Nesting
    from vmtest.seen import Entry, Return

One = TypeVar("One")

WAY_TO_USER: Final = "exit_to_user"
"""Hook of the returns that were seen on the way to user mode, with no way to be switched out any more."""


SWITCHED_OUT: Final = "sched_switch"
"""Hook of the returns of user mode's traps whose task left the CPU inside them."""


@dataclass
class CpuReturns:
    """One CPU's part of the matching.

    Attributes:
        cpu: which.
        executed: its IRETQs of traps and system calls, all of the log.
        returns: its returns, all of the trace.
        window: [first, last) index of the window in ``executed``.
        begins_at: place in the CPU's story where the window begins.
        tsc_window: (first, last) TSC of the window.
        nesting: which trap each IRETQ is of.
        taken: its traps, all of the log.
        entries: its traps that were matched with an entry in the trace.
        unseen: by the place of a trap that the trace rightly does not have, the cause.
    """

    cpu: int
    executed: Sequence[Executed]
    returns: Sequence[Return]
    window: tuple[int, int]
    begins_at: int
    tsc_window: tuple[int, int]
    nesting: Nesting
    taken: Sequence[Taken]
    entries: Sequence[tuple[Taken, Entry]]
    unseen: Mapping[int, str]

    @cached_property
    def left_at(self) -> Mapping[int, int]:
        """By the place of a trap of user mode, the TSC at which its task left this CPU inside it, if it did."""
        left = {one.entry_tsc: one.tsc for one in self.returns if one.hook == SWITCHED_OUT}
        return {trap.at: left[entry.tsc] for trap, entry in self.entries if entry.tsc in left}


def still_counted(cpu: CpuReturns, traps: Sequence[Taken], tsc: int) -> tuple[int, ...]:
    """Vectors of the traps that a nest count has, at a time, of those that lay open below a return.

    A trap of user mode whose task left the CPU inside it is over there, for the trace and for a count: what runs next
    is not inside it. The emulator does not tell of tasks, so that the trace's own word is taken for it.
    """
    return tuple(trap.vector for trap in traps if tsc <= cpu.left_at.get(trap.at, tsc))


@dataclass(frozen=True, kw_only=True)
class Pair:
    """An IRETQ and the return that is its.

    Attributes:
        cpu: where the IRETQ was executed.
        executed: the IRETQ.
        returned: the return that the replay found.
        trap: the trap, in the emulator's story; ``None``: taken outside the window.
        moved: the return is another CPU's.
    """

    cpu: CpuReturns
    executed: Executed
    returned: Return
    trap: Taken | None
    moved: bool = False


@dataclass
class MatchedReturns:
    """What came of it.

    Attributes:
        pairs: what belongs together.
        to_user, to_kernel: the numbers, and what differs.
        system_calls: IRETQs that return from system calls, by which.
        unmatched_returns: returns in the window for which no IRETQ was found: CPU, return.
        signalled: TSC of the entries whose IRETQ to a signal handler was found without a return.
    """

    pairs: list[Pair] = field(default_factory=list)
    to_user: Tally = field(default_factory=Tally)
    to_kernel: Tally = field(default_factory=Tally)
    system_calls: dict[str, int] = field(default_factory=dict)
    unmatched_returns: list[tuple[int, Return]] = field(default_factory=list)
    signalled: set[int | None] = field(default_factory=set)

    def tally(self, *, to_kernel: bool) -> Tally:
        """Of returns to the kernel, or to user mode."""
        return self.to_kernel if to_kernel else self.to_user

    def differs(self, pair: Pair, cause: str | None, *, count: bool = True) -> None:
        """Note a pair that is matched in another order or place, and count it unless it is outside the window."""
        tally = self.tally(to_kernel=pair.executed.to_kernel)
        tally.otherwise += count
        tally.differences.append(
            Difference(
                cpu=pair.cpu.cpu,
                what="order",
                cause=cause,
                emulator=show_executed(pair.executed, pair.cpu),
                trace=show_return(pair.returned),
            )
        )


@dataclass(frozen=True)
class Item(Generic[One]):
    """What is left of one side: whose it is, and itself."""

    cpu: CpuReturns
    one: One


class Traps:
    """From an IRETQ to its trap, from the trap to its entry in the trace, and back."""

    def __init__(self, cpus: Sequence[CpuReturns]) -> None:
        self._entry = {(cpu.cpu, trap.at): entry for cpu in cpus for trap, entry in cpu.entries}
        self._trap = {(cpu.cpu, entry.tsc): trap for cpu in cpus for trap, entry in cpu.entries}

    def entry_of(self, item: Item[Executed]) -> tuple[int, int] | None:
        """CPU and TSC of the entry of an IRETQ's trap."""
        trap = item.cpu.nesting.trap.get(item.one.at)
        if trap is None:
            return None
        began = item.cpu.nesting.adopted.get(item.one.at, item.cpu.cpu)
        entry = self._entry.get((began, trap.at))
        return None if entry is None else (began, entry.tsc)

    def trap_of(self, item: Item[Return]) -> Taken | None:
        """The trap, in the emulator's story, that a return is of."""
        return None if item.one.entry_tsc is None else self._trap.get((item.cpu.cpu, item.one.entry_tsc))


def target(one: Executed | Return) -> tuple[bool, int | None, int | None]:
    """What an IRETQ and its return have in common: whether to the kernel, ip and sp."""
    return (one.to_kernel, one.ip, one.sp)


def remove(
    pairs: list[tuple[Item[Executed], Item[Return]]], executed: list[Item[Executed]], returns: list[Item[Return]]
) -> None:
    """Take what was matched from both lists."""
    done = {id(item) for pair in pairs for item in pair}
    executed[:] = [item for item in executed if id(item) not in done]
    returns[:] = [item for item in returns if id(item) not in done]


def show_executed(executed: Executed, cpu: CpuReturns) -> str:
    """An IRETQ in one line."""
    trap = cpu.nesting.trap.get(executed.at)
    of = f"of v={trap.vector:#04x} taken at ip={trap.ip:#x}" if trap else "of no trap that is open"
    return (
        f"#{executed.at} iretq at {executed.site:#x} to cs={executed.cs:#x} ip={executed.ip:#x} sp={executed.sp:#x} "
        f"flags={executed.flags:#x} before={executed.before or '-'} {of}"
    )


def show_return(one: Return) -> str:
    """A return in one line."""
    vector = "any" if one.vector is None else f"{one.vector:#04x}"
    ip, sp = ("-" if value is None else f"{value:#x}" for value in (one.ip, one.sp))
    decided = ", ".join(f"{policy} {choice} by {rule}" for policy, (choice, rule) in list(one.decisions.items())[:2])
    return f"v={vector} cs={one.cs or 0:#x} ip={ip} sp={sp} {one.hook} end={one.end} tsc={one.tsc} ({decided})"
