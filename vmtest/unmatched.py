"""What the order and the targets of returns leave over, each by a cause that the emulator's story shows."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from iretrace.vectors import PF
from vmtest.nesting import FLAGS_ALWAYS_SET, SYSCALL
from vmtest.pairs import WAY_TO_USER, CpuReturns, Item, MatchedReturns, Pair, Traps, show_executed, show_return
from vmtest.report import Difference

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmtest.log import Executed, Taken
    from vmtest.seen import Return

FIRST_EXTERNAL: Final = 0x20
USER: Final = 3
NEW_PROGRAM_FLAGS: Final = 0x202
"""IF, and bit 1 where ``start_thread`` sets it (arch/x86/kernel/process_64.c)."""
LARGEST_SIGNAL_FRAME: Final = 8192
"""A signal's frame lies below the red zone under the interrupted stack pointer: ``struct rt_sigframe``
and the FPU state (``get_sigframe``, arch/x86/kernel/signal.c); at most 3.3 KiB on the emulated CPU."""
FETCH_FROM_USER: Final = 0x14
"""A #PF's error code: instruction fetch, user mode, page not present (SDM vol. 3A, 4.7)."""


def match_mended(
    found: MatchedReturns, executed: list[Item[Executed]], returns: list[Item[Return]], traps: Traps
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
        found.to_kernel.differences.append(_other_frame(mine, "fixup-unseen", show_return(theirs.one)))


def explain(
    found: MatchedReturns,
    cpus: Sequence[CpuReturns],
    left_executed: list[Item[Executed]],
    left_returns: list[Item[Return]],
    traps: Traps,
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


def _signalled(found: MatchedReturns, mine: Item[Executed], returns: list[Item[Return]], traps: Traps) -> bool:
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
        and item.one.hook != WAY_TO_USER
        and (trap := traps.trap_of(item)) is not None
        and trap.at < mine.one.at
        and _lays_frame(trap, mine.one)
    ]
    went_back = [
        (pair.trap, pair)
        for pair in found.pairs
        if pair.cpu is mine.cpu
        and pair.returned.hook != WAY_TO_USER
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
    shown = f"entry at tsc={returned.entry_tsc}, vector {trap.vector:#04x}, and no frame of its way out"
    found.to_user.differences.append(_other_frame(mine, "signal-unseen", shown))
    return True


def _other_frame(mine: Item[Executed], cause: str, trace: str) -> Difference:
    """An IRETQ whose trap the trace has, with another frame."""
    return Difference(
        cpu=mine.cpu.cpu, what="frame", cause=cause, emulator=show_executed(mine.one, mine.cpu), trace=trace
    )


def _lays_frame(trap: Taken, executed: Executed) -> bool:
    """Whether an IRETQ's stack pointer is where a signal that a trap of user mode raised has its frame."""
    return trap.cpl == USER and trap.vector < FIRST_EXTERNAL and 0 < trap.sp - executed.sp <= LARGEST_SIGNAL_FRAME


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

    def cause(self, item: Item[Executed]) -> str | None:
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

    def _is_first(self, item: Item[Executed]) -> bool:
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
