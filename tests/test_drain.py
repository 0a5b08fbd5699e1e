"""Emptying the rings: order, bounded buffers, counters that stand still. The rings are memory of our own."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iretrace.collect import syscalls
from iretrace.collect.drain import Buffers, Drain
from iretrace.collect.ring import Ring, as_events
from iretrace.collect.wire import TRAP_EVENT, WORDS

if TYPE_CHECKING:
    from numpy.typing import NDArray


class FakeRing:
    """A ring without a kernel."""

    def __init__(self, cpu: int, tsc: list[int], n_slots: int) -> None:
        self.n_slots = n_slots
        events = np.zeros(len(tsc), TRAP_EVENT)
        events["tsc"], events["cpu"], events["vector"], events["pid"] = tsc, cpu, 14, range(len(tsc))
        self._words = events.view(np.uint64).reshape(-1, WORDS)

    def fill_pct(self) -> float:
        """Full by so much."""
        return 100.0 * len(self._words) / self.n_slots

    def drain_into(self, out: NDArray[np.uint64]) -> int:
        """As :meth:`iretrace.collect.ring.Ring.drain_into`."""
        n = min(len(out), len(self._words))
        out[:n] = self._words[:n]
        self._words = self._words[n:]
        return n


class Kept:
    """A writer that keeps."""

    def __init__(self) -> None:
        self.batches: list[NDArray[np.void]] = []

    def write(self, events: NDArray[np.void], _status: object) -> None:
        """Keep a copy: the buffer is used again."""
        self.batches.append(events.copy())

    def all(self) -> NDArray[np.void]:
        """Every event written."""
        return np.concatenate(self.batches) if self.batches else np.empty(0, TRAP_EVENT)


def drain_of(
    tscs: list[list[int]],
    *,
    start: int = 0,
    rises: bool = True,
    n_slots: int = 256,
    held: NDArray[np.void] | None = None,
) -> tuple[Drain, Kept]:
    """A drain over one ring a CPU; ``held``: exits that the probes hold back at the end."""
    rings = {cpu: FakeRing(cpu, tsc, n_slots) for cpu, tsc in enumerate(tscs)}
    names: Any = SimpleNamespace(met=lambda _: None, fresh=list)
    probes: Any = SimpleNamespace(
        rings=rings,
        nmi_rings={},
        drain_names=lambda _: None,
        processes=names,
        held_exits=lambda: np.empty(0, TRAP_EVENT) if held is None else held,
    )
    clock: Any = SimpleNamespace(rises=rises, to_tsc=lambda _: None)
    kept: Any = Kept()
    crosscheck: Any = SimpleNamespace(add=lambda _: None)
    drain = Drain(
        probes=probes, buffers=Buffers(probes), clock=clock, writer=kept, crosscheck=crosscheck, start_tsc=start
    )
    return drain, kept


RISING = st.lists(st.integers(1, 1 << 40), max_size=60, unique=True).map(sorted)


@given(st.lists(RISING, min_size=1, max_size=3), st.integers(0, 1 << 40), st.integers(0, 1 << 40))
def test_what_lies_in_the_window_comes_out_in_order(tscs: list[list[int]], start: int, stop: int) -> None:
    """Every event of the window once, sorted by TSC, with its own CPU; nothing else; all are counted as drained."""
    drain, kept = drain_of(tscs, start=start)
    drain.rest(stop)
    expected = sorted((tsc, cpu) for cpu, ring in enumerate(tscs) for tsc in ring if start <= tsc <= stop)
    written = kept.all()
    assert sorted(zip(written["tsc"].tolist(), written["cpu"].tolist(), strict=True)) == expected
    assert (np.diff(written["tsc"].astype(np.int64)) >= 0).all()
    assert drain.progress.events == len(expected)
    assert drain.progress.drained == sum(map(len, tscs))
    assert drain.frozen() == []


@given(RISING.filter(bool), st.integers(2, 20), st.integers(1, 3))
def test_a_counter_that_stands_still_gives_no_event(rising: list[int], still: int, batches: int) -> None:
    """A CPU that went offline and came back reads one value for ever: those events are dropped and counted."""
    frozen = rising[-1] + 1000
    drain, kept = drain_of([rising + [frozen] * still])
    for _ in range(batches):
        drain.rest(1 << 50)
        drain._shares[0][0]._words = np.tile(np.array([frozen, *[0] * (WORDS - 1)], np.uint64), (still, 1))
    written = kept.all()
    assert written["tsc"].tolist() == rising
    (loss,) = drain.frozen()
    assert (loss.cause, loss.cpu, loss.count) == ("tsc-unreadable", 0, still * batches)
    assert drain.progress.drained == len(rising) + still * batches


def test_equal_time_stamps_of_another_clock_are_kept() -> None:
    """bpf_ktime_get_ns may well read the same twice."""
    drain, kept = drain_of([[5, 5, 7]], rises=False)
    drain.once()
    assert kept.all()["tsc"].tolist() == [5, 5, 7]


def test_a_drain_takes_no_more_at_a_time_than_its_buffers_hold() -> None:
    """However large the rings: what is over waits for the next time."""
    drain, kept = drain_of([[*range(1, 12_000)]], n_slots=5000)
    drain.once()
    assert len(kept.all()) == 5000
    drain.rest(1 << 50)
    assert kept.all()["tsc"].tolist() == [*range(1, 12_000)]


def test_words_are_events() -> None:
    """Rows of words and structures are one memory."""
    words = np.arange(3 * WORDS, dtype=np.uint64).reshape(3, WORDS)
    assert as_events(words)["tsc"].tolist() == [0, WORDS, 2 * WORDS]
    assert np.shares_memory(as_events(words), words)


def test_what_the_probes_hold_back_at_the_end_is_kept_once() -> None:
    """An exit of an NMI after which nothing came is in the trace and counted; the window holds for it too."""
    held = np.zeros(2, TRAP_EVENT)
    held["tsc"], held["cpu"], held["vector"], held["phase"] = [15, 40], [0, 1], 2, 1
    drain, kept = drain_of([[10, 20], [30]], held=held)
    drain.rest(35)
    written = kept.all()
    assert sorted(zip(written["tsc"].tolist(), written["vector"].tolist(), strict=True)) == [
        (10, 14),
        (15, 2),
        (20, 14),
        (30, 14),
    ]
    assert drain.progress.drained == 5
    assert drain.progress.events == 4


def test_a_ring_that_cannot_be_mapped_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next smaller one may be tried at once."""
    opened = os.open("/dev/null", os.O_RDWR)
    monkeypatch.setattr(syscalls, "create_ring", lambda _size, _name: opened)
    with pytest.raises(OSError, match="No such device"):
        Ring(4096, "test")
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(opened)
