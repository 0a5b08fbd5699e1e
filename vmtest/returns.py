"""IRETQs executed, against the returns that the replay finds: each has exactly one with the same target."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from iretrace.vectors import PF
from vmtest.nesting import FLAGS_ALWAYS_SET, SYSCALL
from vmtest.report import Difference, Tally

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vmtest.log import Executed, Taken
    from vmtest.nesting import Nesting
    from vmtest.seen import Entry, Return

One = TypeVar("One")

FIRST_EXTERNAL: Final = 0x20
USER: Final = 3
NEW_PROGRAM_FLAGS: Final = 0x202
"""IF, and bit 1 where ``start_thread`` sets it (arch/x86/kernel/process_64.c)."""
LARGEST_SIGNAL_FRAME: Final = 8192
"""A signal's frame lies below the red zone under the interrupted stack pointer: ``struct rt_sigframe``
and the FPU state (``get_sigframe``, arch/x86/kernel/signal.c); at most 3.3 KiB on the emulated CPU."""
FETCH_FROM_USER: Final = 0x14
"""A #PF's error code: instruction fetch, user mode, page not present (SDM vol. 3A, 4.7)."""


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


@dataclass(frozen=True)
class _Item(Generic[One]):
    """What is left of one side: whose it is, and itself."""

    cpu: CpuReturns
    one: One


def match(cpus: Sequence[CpuReturns]) -> MatchedReturns:
    """Match all CPUs' returns: by their trap and the same target; then by target alone; then by cause.

    An IRETQ's trap is known from the emulator's story, the trap's entry in the trace from matching entries, and the
    entry's return from the replay: so each IRETQ has one return that must be its, and the targets must agree. Where a
    signal changed the target the story does not tell the trap, and the target decides.
    """
    found = MatchedReturns()
    executed = [_Item(cpu, one) for cpu in cpus for one in cpu.executed[slice(*cpu.window)]]
    inside = [_Item(cpu, one) for cpu in cpus for one in cpu.returns if _in_window(cpu, one)]
    outside = [_Item(cpu, one) for cpu in cpus for one in cpu.returns if not _in_window(cpu, one)]
    before_or_after = [
        _Item(cpu, one) for cpu in cpus for one in (*cpu.executed[: cpu.window[0]], *cpu.executed[cpu.window[1] :])
    ]
    traps = _Traps(cpus)
    for mine, theirs in _by_trap(traps, executed, inside):
        _add(found, mine, theirs, traps)
    _mended(found, executed, inside, traps)
    for mine, theirs in _by_latest(traps, executed, inside):
        _add(found, mine, theirs, traps)
    for mine, theirs in _by_target(executed, inside):
        _add(found, mine, theirs, traps)
    _order(found)
    for mine, theirs in _across_edge(traps, executed, outside):
        _edge(found, mine, theirs, count=True)
    for mine, theirs in _across_edge(traps, before_or_after, inside):
        _edge(found, mine, theirs, count=False)
    _leave(found, cpus, executed, inside, traps)
    return found


def _in_window(cpu: CpuReturns, one: Return) -> bool:
    return cpu.tsc_window[0] <= one.tsc < cpu.tsc_window[1]


def _target(one: Executed | Return) -> tuple[bool, int | None, int | None]:
    return (one.to_kernel, one.ip, one.sp)


class _Traps:
    """From an IRETQ to its trap, from the trap to its entry in the trace, and back."""

    def __init__(self, cpus: Sequence[CpuReturns]) -> None:
        self._entry = {(cpu.cpu, trap.at): entry for cpu in cpus for trap, entry in cpu.entries}
        self._trap = {(cpu.cpu, entry.tsc): trap for cpu in cpus for trap, entry in cpu.entries}

    def entry_of(self, item: _Item[Executed]) -> tuple[int, int] | None:
        """CPU and TSC of the entry of an IRETQ's trap."""
        trap = item.cpu.nesting.trap.get(item.one.at)
        if trap is None:
            return None
        began = item.cpu.nesting.adopted.get(item.one.at, item.cpu.cpu)
        entry = self._entry.get((began, trap.at))
        return None if entry is None else (began, entry.tsc)

    def trap_of(self, item: _Item[Return]) -> Taken | None:
        """The trap, in the emulator's story, that a return is of."""
        return None if item.one.entry_tsc is None else self._trap.get((item.cpu.cpu, item.one.entry_tsc))


def _by_trap(
    traps: _Traps, executed: list[_Item[Executed]], returns: list[_Item[Return]]
) -> list[tuple[_Item[Executed], _Item[Return]]]:
    """Match what is of the same trap and has the same target; what was matched leaves both lists."""
    by_entry = {(item.cpu.cpu, item.one.entry_tsc): item for item in returns if item.one.entry_tsc is not None}
    pairs = []
    for mine in executed:
        entry = traps.entry_of(mine)
        theirs = None if entry is None else by_entry.get(entry)
        if entry is not None and theirs is not None and _target(mine.one) == _target(theirs.one):
            del by_entry[entry]
            pairs.append((mine, theirs))
    _remove(pairs, executed, returns)
    return pairs


def _by_latest(
    traps: _Traps, executed: list[_Item[Executed]], returns: list[_Item[Return]]
) -> list[tuple[_Item[Executed], _Item[Return]]]:
    """Match IRETQs whose trap the story does not tell: with the latest before that returned to their target."""
    pairs = []
    waiting: dict[tuple[int, bool, int | None, int | None], list[tuple[int, _Item[Return]]]] = {}
    for item in returns:
        trap = traps.trap_of(item)
        if trap is not None:
            waiting.setdefault((item.cpu.cpu, *_target(item.one)), []).append((trap.at, item))
    for mine in executed:
        fitting = waiting.get((mine.cpu.cpu, *_target(mine.one)), [])
        earlier = [entry for entry in fitting if entry[0] < mine.one.at]
        if earlier:
            latest = max(earlier, key=lambda entry: entry[0])
            fitting.remove(latest)
            pairs.append((mine, latest[1]))
    _remove(pairs, executed, returns)
    return pairs


def _by_target(
    executed: list[_Item[Executed]], returns: list[_Item[Return]]
) -> list[tuple[_Item[Executed], _Item[Return]]]:
    """Match what has the same target, on any CPU, one to one, in order; what was matched leaves both lists."""
    by_target: dict[tuple[bool, int | None, int | None], list[_Item[Return]]] = {}
    for item in returns:
        by_target.setdefault(_target(item.one), []).append(item)
    pairs = []
    for mine in executed:
        fitting = by_target.get(_target(mine.one), [])
        if fitting:
            pairs.append((mine, fitting.pop(0)))
    _remove(pairs, executed, returns)
    return pairs


def _across_edge(
    traps: _Traps, executed: list[_Item[Executed]], returns: list[_Item[Return]]
) -> list[tuple[_Item[Executed], _Item[Return]]]:
    """Match what an edge of the window cuts in two, so that only one of IRETQ and return is inside.

    Either both are of a trap inside the window, which ended after it; or of one that was open when it began: on both
    sides taken before and with the same target, the return in the trace before the window, its IRETQ behind.
    """
    by_entry = {(item.cpu.cpu, item.one.entry_tsc): item for item in returns if item.one.entry_tsc is not None}
    before: dict[tuple[int, bool, int | None, int | None], list[_Item[Return]]] = {}
    for item in returns:
        if item.one.tsc < item.cpu.tsc_window[0]:
            before.setdefault((item.cpu.cpu, *_target(item.one)), []).append(item)
    pairs = []
    for mine in executed:
        entry = traps.entry_of(mine)
        trap = mine.cpu.nesting.trap.get(mine.one.at)
        theirs = None if entry is None else by_entry.get(entry)
        if theirs is None and trap is not None and trap.at < mine.cpu.begins_at <= mine.one.at:
            waiting = before.get((mine.cpu.cpu, *_target(mine.one)), [])
            theirs = waiting.pop() if waiting else None  # the latest
        if theirs is not None and _target(mine.one) == _target(theirs.one):
            pairs.append((mine, theirs))
    _remove(pairs, executed, returns)
    return pairs


def _edge(found: MatchedReturns, mine: _Item[Executed], theirs: _Item[Return], *, count: bool) -> None:
    pair = Pair(cpu=mine.cpu, executed=mine.one, returned=theirs.one, trap=None, moved=True)
    found.pairs.append(pair)
    _otherwise(found, pair, "edge", count=count)


def _remove(
    pairs: list[tuple[_Item[Executed], _Item[Return]]], executed: list[_Item[Executed]], returns: list[_Item[Return]]
) -> None:
    done = {id(item) for pair in pairs for item in pair}
    executed[:] = [item for item in executed if id(item) not in done]
    returns[:] = [item for item in returns if id(item) not in done]


def _add(found: MatchedReturns, mine: _Item[Executed], theirs: _Item[Return], traps: _Traps) -> None:
    moved = mine.cpu is not theirs.cpu
    pair = Pair(cpu=mine.cpu, executed=mine.one, returned=theirs.one, trap=traps.trap_of(theirs), moved=moved)
    found.pairs.append(pair)
    if moved:
        _otherwise(found, pair, "moved")  # the others are counted by _order()


def _otherwise(found: MatchedReturns, pair: Pair, cause: str | None, *, count: bool = True) -> None:
    tally = found.tally(to_kernel=pair.executed.to_kernel)
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


def _order(found: MatchedReturns) -> None:
    """How many of the pairs on one CPU are in one order on both sides, and why the others are not."""
    by_cpu: dict[int, list[Pair]] = {}
    for pair in found.pairs:
        if not pair.moved:
            by_cpu.setdefault(pair.cpu.cpu, []).append(pair)
    for pairs in by_cpu.values():
        pairs.sort(key=lambda pair: pair.executed.at)
        kept = longest_rising([pair.returned.tsc for pair in pairs])
        for index, pair in enumerate(pairs):
            if index in kept:
                found.tally(to_kernel=pair.executed.to_kernel).in_order += 1
            else:
                _otherwise(found, pair, _order_cause(pair, pairs))


def longest_rising(values: Sequence[int]) -> frozenset[int]:
    """Indices of a longest strictly rising part of a sequence (patience sorting)."""
    tails: list[int] = []
    heads: list[int] = []
    before: list[int] = []
    for index, value in enumerate(values):
        place = bisect_left(tails, value)
        before.append(heads[place - 1] if place else -1)
        tails[place : place + 1] = [value]
        heads[place : place + 1] = [index]
    kept = set()
    index = heads[-1] if heads else -1
    while index >= 0:
        kept.add(index)
        index = before[index]
    return frozenset(kept)


def _order_cause(pair: Pair, pairs: Sequence[Pair]) -> str | None:
    """Why a return is elsewhere in the trace's order than its IRETQ is in the emulator's."""
    if pair.returned.end != "exit":
        return "order-unseen"
    crossed = [
        other
        for other in pairs
        if other is not pair and (other.executed.at < pair.executed.at) != (other.returned.tsc < pair.returned.tsc)
    ]
    return "nested-after-hook" if all(_overlap(pair, other) for other in crossed) else None


def _overlap(one: Pair, other: Pair) -> bool:
    """Whether the trap of one of two returns was open when the other's IRETQ was executed."""
    (begin, end), (other_begin, other_end) = _span(one), _span(other)
    return begin < other_end < end or other_begin < end < other_end


def _span(pair: Pair) -> tuple[int, int]:
    """From where in its CPU's story the trap was open, to its IRETQ."""
    return (-1 if pair.trap is None else pair.trap.at), pair.executed.at


def _signalled(found: MatchedReturns, mine: _Item[Executed], returns: list[_Item[Return]], traps: _Traps) -> bool:
    """Whether this IRETQ went to a signal handler, from a trap whose way out the trace did not see.

    The trap is an exception of user mode on whose stack, right below, the signal's frame was laid. Its return in the
    trace is left over; or is matched with the IRETQ by which ``rt_sigreturn`` went back to the trap's frame later.
    """
    if mine.one.to_kernel:
        return False
    left = [
        (trap, item)
        for item in returns
        if item.cpu is mine.cpu
        and item.one.hook != "exit_to_user"
        and (trap := traps.trap_of(item)) is not None
        and trap.at < mine.one.at
        and _lays_frame(trap, mine.one)
    ]
    went_back = [
        (pair.trap, pair)
        for pair in found.pairs
        if pair.cpu is mine.cpu
        and pair.returned.hook != "exit_to_user"
        and pair.returned.entry_tsc not in found.signalled
        and pair.trap is not None
        and (pair.moved or pair.trap.at < mine.one.at)
        and mine.one.at < pair.executed.at
        and _lays_frame(pair.trap, mine.one)
    ]
    if left:
        trap, item = max(left, key=lambda one: one[0].at)
        returns.remove(item)
        returned = item.one
    elif went_back:
        trap, pair = min(went_back, key=lambda one: one[1].executed.at)
        returned = pair.returned
    else:
        return False
    found.signalled.add(returned.entry_tsc)
    found.to_user.differences.append(
        Difference(
            cpu=mine.cpu.cpu,
            what="frame",
            cause="signal-unseen",
            emulator=show_executed(mine.one, mine.cpu),
            trace=f"entry at tsc={returned.entry_tsc}, vector {trap.vector:#04x}, and no frame of its way out",
        )
    )
    return True


def _lays_frame(trap: Taken, executed: Executed) -> bool:
    """Whether an IRETQ's stack pointer is where a signal that a trap of user mode raised has its frame."""
    return trap.cpl == USER and trap.vector < FIRST_EXTERNAL and 0 < trap.sp - executed.sp <= LARGEST_SIGNAL_FRAME


def _leave(
    found: MatchedReturns,
    cpus: Sequence[CpuReturns],
    left_executed: list[_Item[Executed]],
    left_returns: list[_Item[Return]],
    traps: _Traps,
) -> None:
    """What no return was found for is a system call's, or unexplained; and the numbers are summed up."""
    calls = _SystemCalls(cpus)
    for item in left_executed:
        call = calls.cause(item)
        if call is not None:
            found.system_calls[call] = found.system_calls.get(call, 0) + 1
            continue
        if _signalled(found, item, left_returns, traps):
            continue
        trap = item.cpu.nesting.trap.get(item.one.at)
        found.tally(to_kernel=item.one.to_kernel).differences.append(
            Difference(
                cpu=item.cpu.cpu,
                what="only there",
                cause=None if trap is None else item.cpu.unseen.get(trap.at),
                emulator=show_executed(item.one, item.cpu),
                trace="",
            )
        )
    for left in left_returns:
        found.unmatched_returns.append((left.cpu.cpu, left.one))
        found.tally(to_kernel=left.one.to_kernel).differences.append(
            Difference(cpu=left.cpu.cpu, what="only here", cause=None, emulator="", trace=show_return(left.one))
        )
    for to_kernel in (False, True):
        tally = found.tally(to_kernel=to_kernel)
        tally.unseen = sum(1 for one in tally.differences if one.cause == "signal-unseen")
        only_there = sum(1 for one in tally.differences if one.what in ("only there", "frame"))
        tally.total = tally.matched + only_there - tally.unseen


def _mended(
    found: MatchedReturns, executed: list[_Item[Executed]], returns: list[_Item[Return]], traps: _Traps
) -> None:
    """Faults whose frame the kernel changed where no hook sees it: the same trap, by the emulator's story."""
    by_entry = {(item.cpu.cpu, item.one.entry_tsc): item for item in returns if item.one.entry_tsc is not None}
    for mine in list(executed):
        entry = traps.entry_of(mine)
        theirs = None if entry is None else by_entry.get(entry)
        if theirs is None or not mine.one.to_kernel or not theirs.one.to_kernel:
            continue
        if theirs.one.end == "exit" or theirs.one.sp != mine.one.sp:
            continue
        executed.remove(mine)
        returns.remove(theirs)
        found.pairs.append(
            Pair(cpu=mine.cpu, executed=mine.one, returned=theirs.one, trap=traps.trap_of(theirs), moved=True)
        )
        found.to_kernel.differences.append(
            Difference(
                cpu=mine.cpu.cpu,
                what="frame",
                cause="fixup-unseen",
                emulator=show_executed(mine.one, mine.cpu),
                trace=show_return(theirs.one),
            )
        )


class _SystemCalls:
    """IRETQs to user mode that no trap is left for: each by what only a system call's return can have."""

    def __init__(self, cpus: Sequence[CpuReturns]) -> None:
        executed = [one for cpu in cpus for one in cpu.executed if not one.to_kernel]
        user = [(one.ip, one.sp) for one in executed]
        # A new process faults on the page it returns to: its bytes cannot be read then, but its parent's could.
        self._behind_syscall = {one.ip for one in executed if one.before == SYSCALL}
        self._more_than_traps = Counter(user)
        self._more_than_traps.subtract((trap.ip, trap.sp) for cpu in cpus for trap in cpu.taken if trap.cpl == 3)
        self._left_by_signal = Counter(
            one.came_from
            for cpu in cpus
            for one in cpu.returns
            if not one.to_kernel and one.came_from is not None and one.came_from != (one.ip, one.sp)
        )

    def cause(self, item: _Item[Executed]) -> str | None:
        """Which system call this is the return of; ``None`` where it is none for certain."""
        executed = item.one
        target = (executed.ip, executed.sp)
        if executed.to_kernel:
            return None
        if not executed.flags & FLAGS_ALWAYS_SET or self._is_first(item):
            return "exec"
        behind = executed.before == SYSCALL or (not executed.before and executed.ip in self._behind_syscall)
        if behind and self._more_than_traps[target] > 0:
            self._more_than_traps[target] -= 1
            return "system-call"
        if self._left_by_signal[target] > 0:
            self._left_by_signal[target] -= 1
            return "signal-return"
        return None

    def _is_first(self, item: _Item[Executed]) -> bool:
        """Whether a new program begins: with the flags of one, and its first fetch faults."""
        following = next((trap for trap in item.cpu.taken if trap.at > item.one.at and trap.cpl == 3), None)
        return (
            item.one.flags == NEW_PROGRAM_FLAGS
            and item.one.at not in item.cpu.nesting.trap
            and following is not None
            and following.vector == PF
            and following.error_code == FETCH_FROM_USER
            and (following.ip, following.sp) == (item.one.ip, item.one.sp)
        )


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
