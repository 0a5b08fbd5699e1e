"""The loop that empties the rings while the probes run."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from iretrace.collect.clock import take_anchor
from iretrace.collect.partial import PartialWriter, Status
from iretrace.collect.ring import as_events
from iretrace.collect.wire import WORDS
from iretrace.footer import Loss
from iretrace.vectors import PF

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from iretrace.collect.crosscheck import CrossCheck
    from iretrace.collect.probes import Probes

PERIOD_SECONDS: Final = 0.1
"""Longest time between two looks at the rings, and so between two flushes."""
_SYNC_SECONDS: Final = 1.0
_ANCHOR_BRACKETS: Final = 20
_MAX_ROWS: Final = 1 << 19
"""Events of all CPUs that are taken at a time, whatever the size of the rings: 28 MB, and as much to sort them."""
_MIN_SHARE: Final = 4096
_TSC: Final = 0
"""The word of an event that is its time stamp."""
_HASTE_PCT: Final = 20.0
"""A ring fuller than this is emptied again at once."""


class Clock(Protocol):
    """Turns the probes' clock into TSC cycles (:mod:`iretrace.collect.clock`)."""

    def to_tsc(self, events: NDArray[np.void]) -> None:
        """Translate ``events["tsc"]`` in place."""

    @property
    def rises(self) -> bool:
        """Whether two readings on one CPU are never equal."""


@dataclass(kw_only=True)
class Progress:
    """How a run goes, for the progress line and the footer.

    Attributes:
        events: events kept so far.
        drained: events taken out of the rings so far, those outside the window too.
        fill_pct: the fullest ring at the last look.
        peak_fill_pct: the fullest ring of the run.
        losses: lost so far, by cause and CPU.
        own_events: events kept that carry the collector's own pid.
        own_faults: of these, page faults.
        by_cpu: events drained, by CPU.
    """

    events: int = 0
    drained: int = 0
    fill_pct: float = 0.0
    peak_fill_pct: float = 0.0
    losses: list[Loss] = field(default_factory=list)
    own_events: int = 0
    own_faults: int = 0
    by_cpu: dict[int, int] = field(default_factory=dict)


class Buffers:
    """Room for what is drained at a time. It is bounded whatever the rings' size, and there before the run.

    Attributes:
        shares: every ring, ordinary ones first, and how many events of it are taken at a time.
        taken: shape ``(k, WORDS)``, events as they come out of the rings.
        sorted: the same, in order.
    """

    def __init__(self, probes: Probes) -> None:
        share = max(_MIN_SHARE, _MAX_ROWS // max(1, len(probes.rings)))
        self.shares = [(ring, min(share, ring.n_slots)) for ring in probes.rings.values()]
        self.shares += [(ring, min(_MIN_SHARE, ring.n_slots)) for ring in probes.nmi_rings.values()]
        rows = sum(share for _, share in self.shares)
        self.taken, self.sorted = np.empty((rows, WORDS), np.uint64), np.empty((rows, WORDS), np.uint64)
        for array in (self.taken, self.sorted):
            array.fill(0)  # so that every page is there


class Drain:
    """Moves events from the rings to the partial file, keeping those within the window.

    Args:
        probes: the attached probes.
        buffers: room, there before the probes were attached.
        clock: how to make their time stamps absolute.
        writer: the partial file.
        crosscheck: sees every event, for the comparison with the kernel's counts.
        start_tsc: events before this are from hooks attached earlier than others and are left out.
    """

    def __init__(  # noqa: PLR0913 - what it moves events from, through and to
        self,
        *,
        probes: Probes,
        buffers: Buffers,
        clock: Clock,
        writer: PartialWriter,
        crosscheck: CrossCheck,
        start_tsc: int,
    ) -> None:
        self._probes = probes
        self._clock = clock
        self._writer = writer
        self._crosscheck = crosscheck
        self._start_tsc = start_tsc
        self._pid = os.getpid()
        self._shares, self._buffer, self._sorted = buffers.shares, buffers.taken, buffers.sorted
        self._last = [-1] * len(self._shares)
        self._frozen: dict[int, int] = {}
        self.progress = Progress()

    def run(self, done: Callable[[], bool], report: Callable[[Progress], None]) -> None:
        """Drain until ``done()``; call ``report`` about twice a second."""
        stop_sync = threading.Event()
        syncer = threading.Thread(target=self._sync_until, args=(stop_sync,), daemon=True)
        syncer.start()
        next_report = 0.0
        try:
            while not done():
                self.once()
                now = time.monotonic()
                if now >= next_report:
                    next_report = now + 0.5
                    self.progress.losses = self._probes.losses()
                    report(self.progress)
                if self.progress.fill_pct < _HASTE_PCT:
                    time.sleep(PERIOD_SECONDS)
        finally:
            stop_sync.set()
            syncer.join()

    def once(self, stop_tsc: int | None = None) -> None:
        """Empty every ring once, as far as the buffer goes; with ``stop_tsc`` leave out events after it."""
        self.progress.fill_pct = max(ring.fill_pct() for ring, _ in self._shares)
        self.progress.peak_fill_pct = max(self.progress.peak_fill_pct, self.progress.fill_pct)
        self._keep(self._take(), stop_tsc)

    def _keep(self, n: int, stop_tsc: int | None) -> None:
        """Write the first ``n`` events of the buffer, in order, as far as they are in the window."""
        if not n:
            return
        drained = as_events(self._buffer[:n])
        self.progress.drained += n
        for cpu, count in enumerate(np.bincount(drained["cpu"]).tolist()):
            if count:
                self.progress.by_cpu[cpu] = self.progress.by_cpu.get(cpu, 0) + count
        self._clock.to_tsc(drained)
        self._probes.drain_names(self._clock)
        self._probes.processes.met(drained["pid"])
        self._crosscheck.add(drained)
        # Each ring is nearly in order, so the stable sort (timsort) is a merge.
        order = np.argsort(drained["tsc"], kind="stable")
        np.take(self._buffer, order, axis=0, out=self._sorted[:n], mode="clip")
        tsc = self._sorted[:n, _TSC]
        first = int(np.searchsorted(tsc, self._start_tsc, side="left"))
        last = n if stop_tsc is None else int(np.searchsorted(tsc, stop_tsc, side="right"))
        if first >= last:
            return
        events = as_events(self._sorted[first:last])
        status = Status(
            losses=self.progress.losses,
            anchor=take_anchor(_ANCHOR_BRACKETS),
            processes=self._probes.processes.fresh(),
        )
        self._writer.write(events, status)
        self.progress.events += len(events)
        own = events["pid"] == self._pid
        self.progress.own_events += int(np.count_nonzero(own))
        self.progress.own_faults += int(np.count_nonzero(own & (events["vector"] == PF)))

    def rest(self, stop_tsc: int) -> None:
        """The probes are detached: empty the rings for good."""
        self.once(stop_tsc)
        while any(ring.fill_pct() > 0 for ring, _ in self._shares):
            self.once(stop_tsc)
        held = self._probes.held_exits()
        as_events(self._buffer[: len(held)])[:] = held
        self._keep(len(held), stop_tsc)

    def counted(self) -> list[Loss]:
        """What the probes counted as lost."""
        return self._probes.losses()

    def dropped(self) -> list[Loss]:
        """Events that the disk had no room for, by CPU."""
        dropped = sorted(self._writer.dropped.items())
        return [Loss(cause="disk-full", cpu=cpu, count=count) for cpu, count in dropped]

    def frozen(self) -> list[Loss]:
        """Events that were dropped because the counter behind their time stamps stood still, by CPU.

        When a CPU goes offline its counter ends, and when it comes back a probe reads what the counter last was
        (perf_event_read_local(), kernel/events/core.c). No two readings of a running TSC on one CPU are equal.
        """
        return [Loss(cause="tsc-unreadable", cpu=cpu, count=count) for cpu, count in sorted(self._frozen.items())]

    def _take(self) -> int:
        """Copy events of all rings into the buffer, one ring after the other; how many."""
        n = 0
        for index, (ring, share) in enumerate(self._shares):
            taken = self._buffer[n : n + ring.drain_into(self._buffer[n : n + share])]
            n += self._unfrozen(index, taken) if self._clock.rises and len(taken) else len(taken)
        return n

    def _unfrozen(self, index: int, taken: NDArray[np.uint64]) -> int:
        """Drop the events of a counter that stands still, in place; how many are left."""
        tsc = taken[:, _TSC]
        same = tsc[1:] == tsc[:-1]
        last, self._last[index] = self._last[index], int(tsc[-1])
        if not same.any() and int(tsc[0]) != last:
            return len(taken)
        keep = np.ones(len(taken), np.bool_)
        keep[1:] &= ~same
        keep[:-1] &= ~same
        keep &= tsc != last
        cpu = int(as_events(taken)["cpu"][0])
        left = int(np.count_nonzero(keep))
        self._frozen[cpu] = self._frozen.get(cpu, 0) + len(taken) - left
        self.progress.drained += len(taken) - left  # they came out of a ring all the same
        taken[:left] = taken[keep]
        return left

    def _sync_until(self, stop: threading.Event) -> None:
        while not stop.wait(_SYNC_SECONDS):
            self._writer.sync()
