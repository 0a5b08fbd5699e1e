"""The engine in C against its twin in Python, event for event and bit for bit."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iretrace import _native
from iretrace.replay.contexts import N_CONTEXTS
from iretrace.replay.engine import COLUMNS, MAX_DEPTH, RETURN_DTYPE, End, Engine, Pairing, Rows, disjoint
from iretrace.replay.policies import DEVICE, NestCounter
from iretrace.replay.twin import Return, Twin
from tests import strategies
from tests.traces import KERNEL_CS, USER_CS, event, table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

ALL_COLUMNS = [*COLUMNS, "pid"]


def batches(events: Sequence[dict[str, Any]], cuts: Iterable[int] = ()) -> list[pa.RecordBatch]:
    """Events as record batches cut at ``cuts``: slices, so that their bitmaps begin anywhere in a byte."""
    whole = table(events).combine_chunks().select(ALL_COLUMNS).to_batches()
    if not whole:
        return []
    edges = sorted({0, *(cut for cut in cuts if cut < len(events)), len(events)})
    return [whole[0].slice(a, b - a) for a, b in itertools.pairwise(edges)]


def as_returns(rows: Rows | None) -> list[Return]:
    """Rows of the engine in the twin's words."""
    assert rows is not None
    found = []
    for row, nest in zip(rows.returns, rows.nest, strict=True):
        end = End(int(row["end"]))
        found.append(
            Return(
                entry_tsc=None if end is End.ORPHAN else int(row["entry_tsc"]),
                exit_tsc=int(row["exit_tsc"]) if end in (End.EXIT, End.ORPHAN) else None,
                self_cycles=int(row["self_cycles"]) if row["self_known"] else None,
                context=int(row["context"]),
                pid=int(row["pid"]),
                cpu=int(row["cpu"]),
                slot=int(row["slot"]),
                irq=int(row["irq"]) if row["irq_known"] else None,
                depth=int(row["depth"]),
                end=end,
                nest=tuple(int(n) for n in nest),
            )
        )
    return found


def run(
    events: Sequence[dict[str, Any]], pairing: Pairing, counters: Sequence[NestCounter], cuts: Iterable[int] = ()
) -> tuple[Engine, list[Return]]:
    """An engine that took all events, and its returns."""
    engine = Engine(pairing, counters)
    found: list[Return] = []
    for batch in batches(events, cuts):
        found += as_returns(engine.feed(batch, rows=True))
    return engine, found + as_returns(engine.finish(rows=True))


any_events = st.one_of(strategies.loose_events(), strategies.truncated_events(), strategies.loose_events(max_size=700))


@settings(max_examples=150, deadline=None)
@given(
    events=any_events,
    pairing=strategies.pairings,
    counters=st.lists(strategies.counters, min_size=1, max_size=3),
    cuts=st.sets(st.integers(1, 700), max_size=5),
)
@pytest.mark.slow
def test_engine_is_its_twin(
    events: list[dict[str, Any]], pairing: Pairing, counters: list[NestCounter], cuts: set[int]
) -> None:
    """Whatever the events, whatever the counters, wherever the batches are cut."""
    twin = Twin(pairing, counters)
    twin.feed(events)
    twin.finish()
    engine, returns = run(events, pairing, counters, cuts)
    assert returns == twin.returns
    assert engine.repairs == twin.repairs
    for k in range(len(counters)):
        found = {int(i): int(engine.counts[k, i]) for i in engine.counts[k].nonzero()[0]}
        assert found == twin.counts[k]
        first = {i: (int(engine.first_tsc[k, i]), int(engine.first_cpu[k, i])) for i in found}
        assert first == twin.first[k]


@settings(max_examples=300, deadline=None)
@given(
    events=any_events,
    pairing=strategies.pairings,
    counters=st.lists(strategies.counters, min_size=1, max_size=3),
    cuts=st.sets(st.integers(1, 700), max_size=5),
)
@pytest.mark.slow
def test_counting_alone_counts_the_same(
    events: list[dict[str, Any]], pairing: Pairing, counters: list[NestCounter], cuts: set[int]
) -> None:
    """Where no rows are wanted the engine takes plain events a shorter way: to the same counts after every batch."""
    quick, thorough = Engine(pairing, counters), Engine(pairing, counters)
    for batch in [*batches(events, cuts), None]:
        if batch is None:
            quick.finish()
            thorough.finish(rows=True)
        else:
            quick.feed(batch)
            thorough.feed(batch, rows=True)
        for name in ("counts", "first_tsc", "first_cpu"):
            np.testing.assert_array_equal(getattr(quick, name), getattr(thorough, name), name)
        assert quick.repairs == thorough.repairs


def test_rows_of_some_batches_only_are_refused() -> None:
    """An engine that was to count alone keeps too little of a trap for its row."""
    batch = batches([event(1, "entry", 14)])[0]
    engine = Engine(Pairing(), [NestCounter()])
    engine.feed(batch)
    with pytest.raises(ValueError, match="rows of some batches only"):
        engine.feed(batch, rows=True)


@settings(max_examples=40, deadline=None)
@given(events=any_events, pairing=strategies.pairings)
def test_every_entry_and_every_orphan_exit_gives_one_return(events: list[dict[str, Any]], pairing: Pairing) -> None:
    """Rows are neither lost nor made up by any repair."""
    engine, returns = run(events, pairing, [NestCounter()])
    entries = sum(row["phase"] == "entry" for row in events)
    assert len(returns) == entries + engine.repairs["orphan_exit"] == engine.counts.sum()


def test_stack_overflow_ends_the_oldest() -> None:
    """A trap 129 deep ends the one at the bottom, which then has no exit of its own."""
    n = MAX_DEPTH + 3
    events = [event(i, "entry", 14 + i % 3) for i in range(n)]
    events += [event(n + i, "exit", 14 + (n - 1 - i) % 3) for i in range(n)]
    engine, returns = run(events, Pairing(), [NestCounter()], cuts=(5, 130))
    assert engine.repairs["stack_overflow"] == 3
    assert engine.repairs["orphan_exit"] == 3
    assert [row.end for row in returns[:4]] == [End.OVERFLOW] * 3 + [End.EXIT]
    assert [row.entry_tsc for row in returns[:3]] == [0, 1, 2]
    assert returns[3].depth == MAX_DEPTH - 1
    twin = Twin(Pairing(), [NestCounter()])
    twin.feed(events)
    twin.finish()
    assert returns == twin.returns


def test_counter_saturates() -> None:
    """A counter that only goes up stays at 65535."""
    batch = batches([event(i, "entry", 14) for i in range(1000)])[0]
    engine = Engine(Pairing(exitless=frozenset({14})), [NestCounter(up=frozenset({14}))])
    rows = None
    for _ in range(66):
        rows = engine.feed(batch, rows=True)
    assert rows is not None
    assert rows.nest.max() == rows.nest[-1, 0] == 0xFFFF


def test_every_cpu_number_has_a_stack_of_its_own() -> None:
    """CPU numbers are a file's word: the largest works, and costs no more than the rest."""
    events = [event(i, "entry", 14, cpu=cpu) for i, cpu in enumerate((0, 65535, 40000))]
    _, returns = run(events, Pairing(), [NestCounter()])
    assert [(row.cpu, row.depth) for row in returns] == [(0, 0), (40000, 0), (65535, 0)]


@pytest.mark.parametrize("index_type", [pa.int8(), pa.int16(), pa.int32(), pa.uint8()])
@pytest.mark.parametrize("values", [["entry", "exit"], ["exit", "entry"], ["exit", "entry", "exit"]])
def test_phase_dictionaries_differ_by_file(index_type: pa.DataType, values: list[str]) -> None:
    """Index width and order of the phase dictionary are the writer's; a value may even be there twice."""
    batch = batches([event(1, "entry", 14), event(2, "exit", 14)])[0]
    indices = pa.array([values.index("entry"), len(values) - 1 - values[::-1].index("exit")], index_type)
    phase = pa.DictionaryArray.from_arrays(indices, values)
    batch = batch.set_column(ALL_COLUMNS.index("phase"), "phase", phase)
    engine = Engine(Pairing(), [NestCounter()])
    assert [row.end for row in as_returns(engine.feed(batch, rows=True))] == [End.EXIT]


def test_other_columns_are_refused() -> None:
    """The engine reads memory by the columns' types, so it takes no other."""
    batch = batches([event(1, "entry", 14)])[0]
    engine = Engine(Pairing(), [NestCounter()])
    with pytest.raises(TypeError, match="columns"):
        engine.feed(batch.select(["tsc", "cpu"]))
    wide = batch.set_column(ALL_COLUMNS.index("cs"), "cs", pa.array([16], pa.uint64()))
    with pytest.raises(TypeError, match="column cs is uint64, not uint16"):
        engine.feed(wide)
    text = batch.set_column(ALL_COLUMNS.index("phase"), "phase", pa.array(["entry"]))
    with pytest.raises(TypeError, match="column phase"):
        engine.feed(text)


def test_native_refuses_buffers_that_are_too_small() -> None:
    """No buffer that Python lends is trusted to be large enough."""
    batch = batches([event(1, "entry", 14), event(2, "exit", 14)])[0]
    cells = np.zeros((1, N_CONTEXTS), [("a", "u8"), ("b", "u8"), ("c", "u8")])
    engine = _native.engine_new(-1, False, bytes(257), b"", bytes(257), cells)  # noqa: FBT003 - native
    _, array = batch.__arrow_c_array__()
    one = np.empty(1, RETURN_DTYPE)
    with pytest.raises(ValueError, match="a buffer holds 48 bytes"):
        _native.engine_feed(engine, array, 1, b"\0\1", one, np.empty((2, 1), np.uint16))
    with pytest.raises(ValueError, match="a buffer holds 2 bytes"):
        _native.engine_feed(engine, array, 1, b"\0\1", np.empty(2, RETURN_DTYPE), np.empty(1, np.uint16))
    with pytest.raises(ValueError, match="rows of 8 bytes"):
        _native.engine_feed(engine, array, 1, b"\0\1", np.empty(99, np.uint64), np.empty(9, np.uint16))
    with pytest.raises(ValueError, match="3 bytes"):
        _native.engine_feed(engine, array, 3, b"\0\1", None, None)
    with pytest.raises(ValueError, match="a buffer holds 8 bytes"):
        _native.engine_new(-1, False, bytes(257), b"", bytes(257), np.zeros(1, np.uint64))  # noqa: FBT003
    with pytest.raises(ValueError, match="tables of the wrong size"):
        _native.engine_new(-1, False, bytes(256), b"", bytes(257), cells)  # noqa: FBT003
    assert _native.engine_feed(engine, array, 1, b"\0\1", None, None) == 0


def test_self_time_leaves_nested_traps_out() -> None:
    """The timer ran 100 cycles, 30 of them in an IPI and that one 10 of them in a page fault."""
    events = [
        event(1000, "entry", 0xEC),
        event(1010, "entry", 0xFD),
        event(1020, "entry", 14),
        event(1030, "exit", 14),
        event(1040, "exit", 0xFD),
        event(1100, "exit", 0xEC),
    ]
    _, returns = run(events, Pairing(), [NestCounter()])
    assert [(row.slot, row.self_cycles) for row in returns] == [(14, 10), (0xFD, 20), (0xEC, 70)]


def test_self_time_is_unknown_around_a_trap_without_an_end() -> None:
    """A nested page fault whose exit no hook sees may have taken any part of the timer's time."""
    events = [event(10, "entry", 0xEC), event(20, "entry", 14), event(90, "exit", 0xEC)]
    _, returns = run(events, Pairing(exitless=frozenset({14})), [NestCounter()])
    assert [(row.end, row.self_cycles) for row in returns] == [(End.NO_HOOK, None), (End.EXIT, None)]


def test_losses_let_an_entry_from_user_mode_end_what_is_open() -> None:
    """User code cannot run inside a trap: with losses, the exits are among what was lost."""
    events = [
        event(10, "entry", 0xEC, cs=KERNEL_CS),
        event(20, "entry", 2, cs=KERNEL_CS),
        event(30, "entry", 14, cs=USER_CS),
        event(40, "exit", 14),
    ]
    _, whole = run(events, Pairing(kernel_cs=KERNEL_CS), [NestCounter()])
    assert [row.depth for row in whole] == [2, 1, 0]
    engine, lossy = run(events, Pairing(kernel_cs=KERNEL_CS, lossy=True), [NestCounter()])
    assert [(row.slot, row.depth, row.end) for row in lossy] == [
        (2, 1, End.IMPLIED),
        (0xEC, 0, End.IMPLIED),
        (14, 0, End.EXIT),
    ]
    assert engine.repairs["implied_exit"] == 2


def test_devices_are_paired_by_irq() -> None:
    """An exit of IRQ 16 does not end IRQ 17; two interrupts without any number are told apart by nothing."""
    events = [
        event(10, "entry", None, irq=16),
        event(20, "entry", None, irq=17),
        event(30, "entry", None),
        event(40, "exit", None),
        event(50, "exit", None, irq=17),
        event(60, "exit", None, irq=16),
    ]
    engine, returns = run(events, Pairing(), [NestCounter()])
    assert [(row.irq, row.end, row.slot) for row in returns] == [
        (None, End.EXIT, DEVICE),
        (17, End.EXIT, DEVICE),
        (16, End.EXIT, DEVICE),
    ]
    assert not any(count for name, count in engine.repairs.items() if name != "unknown_target")


def test_ranges_are_merged() -> None:
    """The engine searches NMI text by halves, so it is given sorted, disjoint ranges."""
    assert disjoint([(5, 9), (1, 3), (2, 4), (4, 5), (20, 21)]) == [(1, 9), (20, 21)]
