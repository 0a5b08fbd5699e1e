"""The compiled counting against its numpy twin, whatever the events and wherever batches end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iretrace import _native
from iretrace.analysis.accumulate import Accumulator
from iretrace.analysis.count_twin import Twin
from iretrace.replay.engine import MAX_DEPTH, Engine, Pairing
from iretrace.replay.policies import FRED, IRET, RFC2014, RFC2014_REVIEWED
from iretrace.replay.run import Decisions, Returns
from iretrace.replay.tables import enumerate_policy
from tests import strategies
from tests.strategies import DB, NMI, TIMER
from tests.test_engine import batches
from tests.traces import event

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from iretrace.replay.policies import Policy

ARRAYS = ("depths", "latency", "self_time", "ret_latency", "ret_projected", "cpus")

any_events = st.one_of(strategies.nested_events(), strategies.truncated_events(), strategies.loose_events(max_size=200))


def judged(
    events: Sequence[dict[str, Any]], pairing: Pairing, cuts: Iterable[int], policy: Policy
) -> Iterator[Returns]:
    """Batches of returns under a policy."""
    table = enumerate_policy(policy, frozenset())
    engine = Engine(pairing, [policy.counter])
    for rows in (*(engine.feed(batch, rows=True) for batch in batches(events, cuts)), engine.finish(rows=True)):
        assert rows is not None
        nest = rows.nest[:, 0]
        context = rows.returns["context"] | (nest != 0).astype(np.uint32)
        yield Returns(rows=rows.returns, decisions=(Decisions(table=table, nest=nest, context=context),))


def agree(returns: Iterable[Returns], *, saving: float | None, origin: int | None) -> None:
    """Both count the same of the same batches."""
    ours, twin = (kind(saving_cycles=saving, origin=origin) for kind in (Accumulator, Twin))
    for batch in returns:
        ours.add(batch)
        twin.add(batch)
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(ours, name), getattr(twin, name), err_msg=name)
    assert (ours.bins is None) == (twin.bins is None)
    if ours.bins is not None and twin.bins is not None:
        assert (ours.bins.origin, ours.bins.width, ours.bins.last) == (
            twin.bins.origin,
            twin.bins.width,
            twin.bins.last,
        )
        np.testing.assert_array_equal(ours.bins.counts, twin.bins.counts)


@settings(max_examples=60, deadline=None)
@given(
    events=any_events,
    pairing=strategies.pairings,
    cuts=st.sets(st.integers(1, 200), max_size=5),
    policy=st.sampled_from((RFC2014, RFC2014_REVIEWED, IRET, FRED)),
    saving=st.sampled_from((None, 0.0, 3.25, 250.0, -12.5)),
    origin=st.sampled_from((None, 0, 1010)),
)
@pytest.mark.slow
def test_counts_agree(  # noqa: PLR0917 - a case is all of these
    events: list[dict[str, Any]],
    pairing: Pairing,
    cuts: set[int],
    policy: Policy,
    saving: float | None,
    origin: int | None,
) -> None:
    """Every histogram, every bin, every CPU."""
    agree(judged(events, pairing, cuts, policy), saving=saving, origin=origin)


@pytest.mark.parametrize("every", [1, 50, 10_000])
@pytest.mark.slow
def test_counts_agree_where_stacks_overflow(every: int) -> None:
    """The oldest traps leave from below, and what the others hold moves down with them."""
    kernel = {"cs": 0x10, "ip": 1, "flags": 0x246, "sp": 0xFFFF_C900_0000_3F58}
    events: list[dict[str, Any]] = []
    for tsc in range(0, 3 * MAX_DEPTH * 1000, 1000):
        events += [event(tsc, "entry", TIMER, **kernel), event(tsc + 1, "entry", DB, **kernel)]
        events += [event(tsc + 2, "entry", NMI, **kernel), event(tsc + 900, "exit", NMI), event(tsc + 950, "exit", DB)]
    events += [event(3 * MAX_DEPTH * 1000 + tsc, "exit", TIMER) for tsc in range(MAX_DEPTH)]
    agree(
        judged(events, Pairing(kernel_cs=0x10), range(0, len(events), every), RFC2014),
        saving=99.5,
        origin=None,
    )


def test_what_would_not_fit_is_refused() -> None:
    """Arrays of the wrong size, and rows outside of them, raise instead of being written past the end."""
    counts = Accumulator()
    batch = next(iter(judged([event(1000, "entry", TIMER), event(5000, "exit", TIMER)], Pairing(), [], RFC2014)))
    bins = counts.cover(*_native.returns_span(batch.rows))

    def count(rows: Any, slots: Any, shift: int) -> None:
        judge = batch.decisions[0]
        _native.count_returns(
            rows, judge.context, judge.table.choice, counts.depths, counts.latency, counts.self_time,
            counts.ret_latency, counts.ret_projected, counts.cpus, slots, counts._inner, 0, shift, 0, 0.0,
        )  # fmt: skip

    wild = batch.rows.copy()
    wild["slot"] = 999
    with pytest.raises(ValueError, match="out of range"):
        count(wild, bins.counts, 40)
    with pytest.raises(ValueError, match="out of range"):
        count(batch.rows, bins.counts, 0)
    with pytest.raises(ValueError, match="buffer holds"):
        count(batch.rows, bins.counts[:1, :5].copy(), 40)
