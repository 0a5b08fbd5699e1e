"""The comparison with /proc/interrupts: only what is missing whichever way the edges fell is called missing."""

from __future__ import annotations

import numpy as np
import pytest

from iretrace.collect.crosscheck import CrossCheck, Reading, parse_interrupts
from iretrace.collect.wire import SEEN_VECTOR, TRAP_EVENT
from iretrace.footer import TrapClass
from iretrace.schema import PHASES

TIMER = TrapClass(name="timer", vectors=[0xEC], entry="e", exit="x")
TEXT = """\
            CPU0       CPU2
  24:          1          0  IO-APIC   5-edge      ACPI:Ged
 LOC:       6401       7281   Local timer interrupts
 RES:         10         20   Rescheduling interrupts
 ERR:          0
"""


def crosscheck(known: int, events: list[tuple[int, str]], *, first: int = 1000) -> list[tuple[str, int | None, int]]:
    """Run the comparison: the kernel counted ``known`` on CPU 0 between TSC 100-110 and 900-910."""
    begin = Reading(before=100, after=110, counts={"LOC": {0: first}})
    check = CrossCheck(begin, [TIMER], [0])
    array = np.zeros(len(events), TRAP_EVENT)
    array["tsc"] = [tsc for tsc, _ in events]
    array["phase"] = [PHASES.index(phase) for _, phase in events]
    array["seen"] = SEEN_VECTOR
    array["vector"] = 0xEC
    check.add(array[: len(array) // 2])
    check.end(Reading(before=900, after=910, counts={"LOC": {0: (first + known) % 2**32}}))
    check.add(array[len(array) // 2 :])
    return [(loss.cause, loss.cpu, loss.count) for loss in check.missing()]


def test_proc_interrupts_is_read_by_its_header() -> None:
    """Columns belong to the CPUs that the first line names, which need not be consecutive."""
    assert parse_interrupts(TEXT) == {"LOC": {0: 6401, 2: 7281}, "RES": {0: 10, 2: 20}}
    assert parse_interrupts("") == {}


TWO = [(200, "entry"), (210, "exit"), (300, "entry"), (310, "exit")]


@pytest.mark.parametrize(
    ("known", "events", "missing"),
    [
        (2, TWO, 0),
        (3, TWO, 1),
        (1, TWO, 0),
        # One that was inside its trap when the first reading was taken may have been counted after it.
        (3, [(90, "entry"), (105, "exit"), *TWO], 0),
        (3, [(90, "entry"), (99, "exit"), *TWO], 1),
        # One that was entered before the second reading ended may have been counted in it.
        (3, [*TWO, (905, "entry"), (950, "exit")], 0),
        (3, [*TWO, (920, "entry"), (950, "exit")], 1),
    ],
)
def test_edges_are_given_the_benefit_of_the_doubt(known: int, events: list[tuple[int, str]], missing: int) -> None:
    """An interrupt at an edge counts as possibly there; one in the middle that is not there is missing."""
    assert crosscheck(known, events) == ([("not-traced", 0, missing)] if missing else [])


def test_a_count_that_wraps_is_a_difference_all_the_same() -> None:
    """The kernel counts in 32 bits."""
    assert crosscheck(3, TWO, first=2**32 - 2) == [("not-traced", 0, 1)]
    assert crosscheck(2, TWO, first=2**32 - 2) == []


def test_a_class_without_hooks_is_not_compared() -> None:
    """Where a vector of a row is not shown, the row says nothing."""
    begin = Reading(before=1, after=2, counts={"LOC": {0: 0}})
    check = CrossCheck(begin, [TrapClass(name="timer", vectors=[0xEC], entry="e")], [0])
    check.end(Reading(before=3, after=4, counts={"LOC": {0: 50}}))
    assert check.missing() == []
