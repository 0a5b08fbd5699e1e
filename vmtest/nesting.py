"""Which trap each IRETQ returns from, by the emulator's story alone, and what lay open below it then.

A trap's IRETQ goes to the stack pointer that the trap saved; to another address where the kernel mended the fault.
Where it delivers a signal the target says nothing of the trap, and only the trace can (``unmatched.py``). Traps of user
mode may end on another CPU, where their task went, or behind those of other tasks; so what is open is looked up by its
frame, not taken from the top of a stack. NMIs, and machine checks in the kernel, end before anything else goes on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from iretrace.vectors import MC, NMI
from vmtest.log import Taken

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from vmtest.log import CpuStory, Executed

SYSCALL: Final = "0f05"
FLAGS_ALWAYS_SET: Final = 2
"""Bit 1 of RFLAGS reads as 1, always (SDM vol. 1, 3.4.3); a new program's flags have IF alone (``start_thread``,
arch/x86/kernel/process_64.c)."""

_FORGET: Final = 256
"""Open traps kept a CPU: those whose task went elsewhere are never closed."""


@dataclass
class Nesting:
    """What is known of one CPU's IRETQs.

    Attributes:
        trap: by the IRETQ's place in the story, the trap it returns from; missing where none is open for it.
        below: by the IRETQ's place, vectors of the traps that were open below, the outermost first.
        counted: by the IRETQ's place, those of them that a nest count still has: in which no NMI came and ended, since
            the mail's goes to zero at an NMI's end, whatever else is open; and, of traps of user mode, those behind
            which user mode has not run.
        returned_at: by the trap's place in the story, the place of its IRETQ.
        adopted: by the place of an IRETQ whose trap began on another CPU, that CPU.
    """

    trap: dict[int, Taken] = field(default_factory=dict)
    below: dict[int, tuple[int, ...]] = field(default_factory=dict)
    counted: dict[int, tuple[Taken, ...]] = field(default_factory=dict)
    returned_at: dict[int, int] = field(default_factory=dict)
    adopted: dict[int, int] = field(default_factory=dict)


def nestings(stories: Mapping[int, CpuStory]) -> dict[int, Nesting]:
    """Follow every CPU through its story."""
    elsewhere = _elsewhere(stories, {cpu: _follow(story) for cpu, story in stories.items()})
    found = {}
    for cpu, story in stories.items():
        adopted = {at: began for (other, at), began in elsewhere.items() if other == cpu}
        gone = frozenset(trap.at for began, trap in elsewhere.values() if began == cpu)
        found[cpu] = _follow(story, adopted, gone)
    return found


def _elsewhere(
    stories: Mapping[int, CpuStory], nests: Mapping[int, Nesting]
) -> dict[tuple[int, int], tuple[int, Taken]]:
    """Traps that ended on another CPU than they began on: by (CPU, place) of the IRETQ, the CPU and the trap."""
    still_open: dict[tuple[bool, int, int], list[tuple[int, Taken]]] = {}
    for cpu, story in stories.items():
        for trap in story.taken():
            if trap.at not in nests[cpu].returned_at and not _ends_first(trap):
                still_open.setdefault((trap.cpl == 0, trap.ip, trap.sp), []).append((cpu, trap))
    found = {}
    for cpu, story in stories.items():
        for event in story.executed():
            candidates = still_open.get((event.to_kernel, event.ip, event.sp), [])
            chosen = next((item for item in candidates if item[0] != cpu), None)
            if event.at not in nests[cpu].trap and chosen is not None:
                candidates.remove(chosen)
                found[cpu, event.at] = chosen
    return found


def _follow(
    story: CpuStory, adopted: Mapping[int, tuple[int, Taken]] | None = None, gone: Collection[int] = frozenset()
) -> Nesting:
    """Follow one CPU.

    Args:
        story: what it did.
        adopted: by the place of an IRETQ, the trap that began on another CPU, and that CPU.
        gone: places of the traps that end on another CPU.
    """
    adopted = adopted or {}
    found = Nesting(adopted={at: cpu for at, (cpu, _) in adopted.items()})
    still_open: list[Taken] = []
    cleared: set[int] = set()
    for event in story.events:
        if isinstance(event, Taken):
            if event.cpl == 3:
                # User mode ran: an NMI or machine check whose end was missed is over.
                still_open = [trap for trap in still_open if not _ends_first(trap)]
                cleared |= _of_user_mode(still_open)
            if event.at not in gone:
                still_open.append(event)
                del still_open[:-_FORGET]
            continue
        if event.at in adopted:
            found.trap[event.at] = adopted[event.at][1]
            found.below[event.at] = ()
            found.counted[event.at] = ()
            continue
        index = _origin(still_open, event)
        if index is not None:
            found.trap[event.at] = still_open[index]
            found.returned_at[still_open[index].at] = event.at
            found.below[event.at] = tuple(trap.vector for trap in still_open[:index])
            found.counted[event.at] = tuple(trap for trap in still_open[:index] if trap.at not in cleared)
            if still_open[index].vector == NMI:
                cleared |= {trap.at for trap in still_open[:index]}
            del still_open[index]
        if not event.to_kernel:
            cleared |= _of_user_mode(still_open)
    return found


def _of_user_mode(still_open: list[Taken]) -> set[int]:
    """Places of those that are over, or gone with their task, once user mode runs: none lies below what follows.

    Their IRETQ may have been one that no trap is known of, to a signal's handler; or is still to come.
    """
    return {trap.at for trap in still_open if trap.cpl == 3}


def _ends_first(trap: Taken) -> bool:
    """Whether a trap ends before its CPU does anything else.

    A machine check of user mode may be switched out on its way back, by ``irqentry_exit_to_user_mode``
    (kernel/entry/common.c).
    """
    return trap.vector == NMI or (trap.vector == MC and trap.cpl == 0)


def _origin(still_open: list[Taken], event: Executed) -> int | None:
    """Index of the trap that this IRETQ returns from."""
    candidates = range(len(still_open) - 1, -1, -1)
    same_mode = [index for index in candidates if (still_open[index].cpl == 0) == event.to_kernel]
    for index in same_mode:
        if still_open[index].sp == event.sp and still_open[index].ip == event.ip:
            return index
    if event.to_kernel:
        return next((index for index in same_mode if still_open[index].sp == event.sp), None)
    return None
