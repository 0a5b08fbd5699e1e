"""Stacks of examples: the engine's rows against what the twin's stack holds at the same return."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings

from iretrace.replay.contexts import Target
from iretrace.replay.engine import MAX_DEPTH, End, Engine, Pairing
from iretrace.replay.examples import Moment, Open, Stack, stacks_at, stacks_in
from iretrace.replay.policies import DEVICE, NestCounter
from iretrace.replay.run import Returns
from iretrace.replay.twin import Trap, Twin
from iretrace.trace import open_trace
from tests import strategies
from tests.test_engine import any_events, batches
from tests.traces import KERNEL_CS, USER_CS, event, write_trace

if TYPE_CHECKING:
    from pathlib import Path


class Watching(Twin):
    """A twin that notes the stack at the first return of every moment."""

    def __init__(self, pairing: Pairing) -> None:
        super().__init__(pairing, [NestCounter()])
        self.stacks: dict[Moment, tuple[tuple[int, int | None], ...]] = {}

    def _give_back(self, number: int, trap: Trap, **how: Any) -> None:
        below = [] if how["end"] is End.OVERFLOW else self._cpus[number].stack
        tsc = trap.tsc if how["exit_tsc"] is None else how["exit_tsc"]
        stack = tuple((opened.slot, opened.irq) for opened in [*below, trap])
        self.stacks.setdefault(Moment(tsc=tsc, cpu=number, slot=trap.slot), stack)
        super()._give_back(number, trap, **how)


def engine_returns(events: list[dict[str, Any]], pairing: Pairing, cut: int) -> list[Returns]:
    """What the engine gives for events that come in two batches."""
    engine = Engine(pairing, [NestCounter()])
    fed = [engine.feed(batch, rows=True) for batch in batches(events, [cut])]
    return [Returns(rows=rows.returns, decisions=()) for rows in [*fed, engine.finish(rows=True)] if rows is not None]


def slots(stack: Stack) -> tuple[tuple[int, int | None], ...]:
    """A stack as the twin is asked for it: slots and IRQ numbers."""
    return tuple((DEVICE if trap.vector is None else trap.vector, trap.irq) for trap in stack)


@settings(max_examples=150, deadline=None)
@given(events=any_events, pairing=strategies.pairings)
@pytest.mark.slow
def test_stacks_are_the_twins(events: list[dict[str, Any]], pairing: Pairing) -> None:
    """Whatever was lost, whatever ended without an exit: the stack is what pairing had on it."""
    twin = Watching(pairing)
    twin.feed(events)
    twin.finish()
    found = stacks_in(engine_returns(events, pairing, len(events) // 2), twin.stacks)
    assert {moment: slots(stack) for moment, stack in found.items()} == twin.stacks


def test_stacks_are_the_twins_when_a_stack_overflows() -> None:
    """The oldest traps end first, and everything above them lies less deep from there on."""
    n = MAX_DEPTH + 9
    events = [event(i + 1, "entry", i % 200) for i in range(100)]
    events += [event(200, "entry", 250), event(201, "exit", 250)]
    events += [event(300 + i, "entry", i % 200) for i in range(100, n)]
    events += [event(1000 + i, "exit", (n - 1 - i) % 200) for i in range(n)]
    twin = Watching(Pairing())
    twin.feed(events)
    twin.finish()
    found = stacks_in(engine_returns(events, Pairing(), 120), twin.stacks)
    assert {moment: slots(stack) for moment, stack in found.items()} == twin.stacks
    assert len(found[Moment(tsc=201, cpu=0, slot=250)]) == 101


def test_a_stack_is_told_from_the_oldest(tmp_path: Path) -> None:
    """Names, IRQ numbers and where each returns to; another CPU's traps are not on it."""
    events = [
        event(10, "entry", 0xEC, cs=USER_CS),
        event(11, "entry", 0xFD, cs=KERNEL_CS, cpu=1),
        event(20, "entry", None, irq=16, cs=KERNEL_CS),
        event(30, "entry", 2),
        event(40, "exit", 2),
        event(50, "exit", None, irq=16),
        event(60, "exit", 0xEC),
    ]
    trace = open_trace(write_trace(tmp_path / "t.parquet", events))
    wanted = Moment(tsc=40, cpu=0, slot=2)
    (stack,) = stacks_at(trace, [wanted, wanted, Moment(tsc=40, cpu=1, slot=2)]).values()
    assert stack == (
        Open(vector=0xEC, irq=None, target=Target.OTHER),
        Open(vector=None, irq=16, target=Target.KERNEL),
        Open(vector=2, irq=None, target=Target.UNKNOWN),
    )
    assert [trap.name for trap in stack] == ["timer", "device 16", "NMI"]
    assert stack[1].to_json() == {"vector": None, "irq": 16, "name": "device 16", "returns_to": "kernel"}


def test_no_more_is_read_than_needed() -> None:
    """The pass ends with the last trap of the last stack."""
    events = [event(10, "entry", 14), event(20, "exit", 14), event(30, "entry", 14), event(40, "exit", 14)]
    first, *rest = engine_returns(events, Pairing(), 2)
    assert rest

    def until_it_is_too_much() -> Any:
        yield first
        raise AssertionError

    (stack,) = stacks_in(until_it_is_too_much(), [Moment(tsc=20, cpu=0, slot=14)]).values()
    assert slots(stack) == ((14, None),)


def test_without_moments_nothing_is_read(tmp_path: Path) -> None:
    """A trace without hazards is not gone through again."""
    path = write_trace(tmp_path / "t.parquet", [event(10, "entry", 14)])
    trace = open_trace(path)
    path.unlink()
    assert stacks_at(trace, []) == {}
