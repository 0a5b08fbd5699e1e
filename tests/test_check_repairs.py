"""Repairs that must be, and repairs that mean that something is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from iretrace.footer import Clock, Footer, TrapClass, Window
from iretrace.replay.engine import MAX_DEPTH
from iretrace.replay.observe import observe
from iretrace.trace import open_trace
from tests.traces import KERNEL_CS, USER_CS, event, write_trace

if TYPE_CHECKING:
    from pathlib import Path

TIMER, IPI, PF = 0xEC, 0xFD, 14
SECOND = 2_000_000_000
FOOTER = Footer(kernel_cs=KERNEL_CS, clock=Clock(tsc_khz=SECOND / 1e3), window=Window(start_tsc=0, stop_tsc=5 * SECOND))


def kernel(tsc: int, phase: str, vector: int, **fields: Any) -> dict[str, Any]:
    """An event of a trap that struck kernel code."""
    return event(tsc, phase, vector, **{"cs": KERNEL_CS, **fields})


def user(tsc: int, phase: str, vector: int, **fields: Any) -> dict[str, Any]:
    """An event of a trap that struck user code."""
    return event(tsc, phase, vector, cs=USER_CS, **fields)


def repaired(path: Path, events: list[dict[str, Any]], footer: Footer = FOOTER) -> dict[str, tuple[int, int]]:
    """By name: how many, and how many of them unexplained."""
    found = observe(open_trace(write_trace(path / "t.parquet", events, footer))).repairs
    return {repair.name: (repair.count, repair.unexplained) for repair in found if repair.count}


WHOLE = [user(100, "entry", TIMER), user(200, "exit", TIMER)]

CASES = {
    "a whole trace": (WHOLE, {}),
    "begins inside a trap": ([kernel(50, "exit", IPI), *WHOLE], {"orphan_exit": (1, 0)}),
    "an exit alone, and user mode before it": ([*WHOLE, kernel(300, "exit", IPI)], {"orphan_exit": (1, 1)}),
    "user mode on another CPU says nothing": ([*WHOLE, kernel(300, "exit", IPI, cpu=1)], {"orphan_exit": (1, 0)}),
    "an exit alone, with a trap open above it": (
        [kernel(100, "entry", TIMER), kernel(150, "exit", IPI), kernel(200, "exit", TIMER)],
        {"orphan_exit": (1, 1)},
    ),
    "an exit alone, long after the beginning": ([kernel(SECOND + 1, "exit", IPI)], {"orphan_exit": (1, 1)}),
    "ends inside a trap": ([*WHOLE, user(5 * SECOND - 9, "entry", IPI)], {"open_at_end": (1, 0)}),
    "open at the end, and user mode since": (
        [kernel(4 * SECOND + 1, "entry", IPI), user(5 * SECOND - 9, "entry", PF)],
        {"open_at_end": (2, 1)},
    ),
    "open for more than a second": ([kernel(4 * SECOND - 1, "entry", IPI)], {"open_at_end": (1, 1)}),
    "an exit is missing": (
        [kernel(100, "entry", TIMER), kernel(150, "entry", IPI), kernel(200, "exit", TIMER)],
        {"implied_exit": (1, 1)},
    ),
    "more open than a kernel stack holds": (
        [kernel(5 * SECOND - 500 + i, "entry", IPI) for i in range(MAX_DEPTH + 1)],
        {"stack_overflow": (1, 1), "open_at_end": (MAX_DEPTH, 0)},
    ),
    "a target that nothing tells": ([event(100, "entry", IPI), event(200, "exit", IPI)], {"unknown_target": (1, 1)}),
}


@pytest.mark.parametrize("case", CASES)
def test_repairs_are_told_apart(tmp_path: Path, case: str) -> None:
    """At the edges of a trace they must be; elsewhere an event is missing."""
    events, expected = CASES[case]
    assert repaired(tmp_path, events) == expected


def test_without_a_clock_user_mode_alone_tells(tmp_path: Path) -> None:
    """Where the TSC's frequency is not known, no time is long."""
    events = [*WHOLE, kernel(SECOND + 1, "exit", IPI, cpu=1), kernel(2 * SECOND, "entry", IPI, cpu=1)]
    events.append(kernel(9 * SECOND, "entry", PF, cpu=2))
    assert repaired(tmp_path, events, Footer(kernel_cs=KERNEL_CS)) == {"orphan_exit": (1, 0), "open_at_end": (2, 0)}


def test_what_a_class_lacks_explains_its_repairs(tmp_path: Path) -> None:
    """An NMI without frame and exit on this kernel is as it must be; a timer without frame is not."""
    classes = [
        TrapClass(name="NMI", vectors=[2], entry="nmi_handler", lacks="the exit and the frame"),
        TrapClass(name="device", entry="irq_handler_entry", exit="irq_handler_exit"),
        TrapClass(name="timer", vectors=[TIMER], entry="a", exit="b", frame="stack"),
    ]
    events = [event(100, "entry", 2), event(110, "entry", None, irq=4), event(120, "exit", None, irq=4)]
    footer = Footer(kernel_cs=KERNEL_CS, classes=classes)
    assert repaired(tmp_path, events, footer) == {"entry_without_exit_hook": (1, 0), "unknown_target": (2, 0)}
    events += [event(200, "entry", TIMER), event(210, "exit", TIMER)]
    assert repaired(tmp_path, events, footer)["unknown_target"] == (3, 1)
