"""Sums over nested traps against a stack walked in plain Python, whatever the events and wherever batches end."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iretrace.analysis.nesting import NestedSums
from iretrace.replay.engine import MAX_DEPTH, End, Engine, Pairing
from iretrace.replay.policies import NestCounter
from iretrace.replay.twin import Twin
from tests import strategies
from tests.strategies import DB, PF, TIMER
from tests.test_engine import batches
from tests.traces import event

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from iretrace.replay.twin import Trap

COUNTERS = (NestCounter(),)


def weights(slot: int) -> tuple[int, int]:
    """Two weights of a trap; no two vectors of the strategies share the first."""
    return slot + 1, slot * slot % 97


class Walker(Twin):
    """The twin, where every trap that returns adds its weights and what it held to the trap it lies on."""

    def __init__(self, pairing: Pairing) -> None:
        super().__init__(pairing, COUNTERS)
        self.sums: list[tuple[int, ...]] = []
        # What the traps of each CPU's stack hold, from the oldest on; those above the last hold nothing yet.
        self._held: defaultdict[int, list[tuple[int, ...]]] = defaultdict(list)

    def _give_back(
        self, number: int, trap: Trap, *, depth: int, nmi_below: bool, exit_tsc: int | None, end: End
    ) -> None:
        held = self._held[number]
        if end is End.OVERFLOW:
            del held[:1]
            self.sums.append((0, 0))
        else:
            inner = held.pop() if len(held) > depth else (0, 0)
            self.sums.append(inner)
            if depth:
                held += [(0, 0)] * (depth - len(held))
                held[-1] = tuple(a + b + c for a, b, c in zip(held[-1], inner, weights(trap.slot), strict=True))
        super()._give_back(number, trap, depth=depth, nmi_below=nmi_below, exit_tsc=exit_tsc, end=end)


def summed(events: Sequence[dict[str, Any]], pairing: Pairing, cuts: Iterable[int]) -> list[tuple[int, ...]]:
    """What the vectorised pass finds, cut into batches."""
    engine, sums = Engine(pairing, COUNTERS), NestedSums(2)
    found: list[tuple[int, ...]] = []
    for rows in (*(engine.feed(batch, rows=True) for batch in batches(events, cuts)), engine.finish(rows=True)):
        assert rows is not None
        weight = np.array([weights(int(slot)) for slot in rows.returns["slot"]], np.int64).reshape(-1, 2)
        found += [tuple(row) for row in sums.add(rows.returns, weight).tolist()]
    return found


def walked(events: Iterable[dict[str, Any]], pairing: Pairing) -> list[tuple[int, ...]]:
    """What walking the stack finds."""
    walker = Walker(pairing)
    walker.feed(events)
    walker.finish()
    return walker.sums


any_events = st.one_of(strategies.nested_events(), strategies.truncated_events(), strategies.loose_events(max_size=400))


@settings(max_examples=100, deadline=None)
@given(events=any_events, pairing=strategies.pairings, cuts=st.sets(st.integers(1, 400), max_size=6))
@pytest.mark.slow
def test_sums_agree_with_a_walk(events: list[dict[str, Any]], pairing: Pairing, cuts: set[int]) -> None:
    """Whole nests, torn nests, and events in any order."""
    assert summed(events, pairing, cuts) == walked(events, pairing)


@pytest.mark.parametrize("every", [1, 7, 1000])
def test_savings_climb_out_of_deep_nests(every: int) -> None:
    """A trap at the bottom holds all that happened above it, however many batches that took."""
    deep = MAX_DEPTH - 1
    events = [event(tsc, "entry", TIMER) for tsc in range(deep)]
    events += [event(200, "entry", PF), event(201, "exit", PF)]
    events += [event(300 + tsc, "exit", TIMER) for tsc in range(deep)]
    found = summed(events, Pairing(), range(0, len(events), every))
    assert [first for first, _ in found] == [0, *(weights(PF)[0] + i * weights(TIMER)[0] for i in range(deep))]


@pytest.mark.parametrize("every", [1, 50, 10_000])
def test_a_stack_that_overflows(every: int) -> None:
    """The oldest traps leave from below; those left keep what they hold."""
    events: list[dict[str, Any]] = []
    for tsc in range(0, 3 * MAX_DEPTH * 10, 10):
        events += [event(tsc, "entry", TIMER), event(tsc + 1, "entry", DB), event(tsc + 2, "exit", DB)]
    events += [event(10_000 + tsc, "exit", TIMER) for tsc in range(MAX_DEPTH)]
    found = summed(events, Pairing(), range(0, len(events), every))
    assert found == walked(events, Pairing())
    assert max(first for first, _ in found) > MAX_DEPTH
