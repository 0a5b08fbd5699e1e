"""The loop that empties the rings while the probes run."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from iretrace.collect.clock import take_anchor
from iretrace.collect.partial import PartialWriter, Status
from iretrace.collect.wire import TRAP_EVENT

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from iretrace.collect.crosscheck import CrossCheck
    from iretrace.collect.probes import Probes
    from iretrace.footer import Loss

PERIOD_SECONDS: Final = 0.1
"""Longest time between two looks at the rings, and so between two flushes."""
_SYNC_SECONDS: Final = 1.0
_ANCHOR_BRACKETS: Final = 20
_HASTE_PCT: Final = 20.0
"""A ring fuller than this is emptied again at once."""


class Clock(Protocol):
    """Turns the probes' clock into TSC cycles (:mod:`iretrace.collect.clock`)."""

    def to_tsc(self, events: NDArray[np.void]) -> None:
        """Translate ``events["tsc"]`` in place."""


@dataclass(kw_only=True)
class Progress:
    """How a run goes, for the progress line and the footer.

    Attributes:
        events: events kept so far.
        drained: events taken out of the rings so far, those outside the window too.
        fill_pct: the fullest ring at the last look.
        peak_fill_pct: the fullest ring of the run.
        losses: lost so far, by cause and CPU.
    """

    events: int = 0
    drained: int = 0
    fill_pct: float = 0.0
    peak_fill_pct: float = 0.0
    losses: list[Loss] = field(default_factory=list)


class Drain:
    """Moves events from the rings to the partial file, keeping those within the window.

    Args:
        probes: the attached probes.
        clock: how to make their time stamps absolute.
        writer: the partial file.
        crosscheck: sees every event, for the comparison with the kernel's counts.
        start_tsc: events before this are from hooks attached earlier than others and are left out.
    """

    def __init__(
        self, probes: Probes, clock: Clock, writer: PartialWriter, crosscheck: CrossCheck, start_tsc: int
    ) -> None:
        self._probes = probes
        self._clock = clock
        self._writer = writer
        self._crosscheck = crosscheck
        self._start_tsc = start_tsc
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
        """Empty every ring once; with ``stop_tsc`` leave out events after it."""
        rings = [*self._probes.rings.values(), *self._probes.nmi_rings.values()]
        self.progress.fill_pct = max(ring.fill_pct() for ring in rings)
        self.progress.peak_fill_pct = max(self.progress.peak_fill_pct, self.progress.fill_pct)
        drained = [events for ring in rings if len(events := ring.drain())]
        self.progress.drained += sum(map(len, drained))
        events = np.concatenate(drained) if drained else np.empty(0, TRAP_EVENT)
        self._clock.to_tsc(events)
        self._probes.drain_names(self._clock)
        self._probes.processes.met(events["pid"])
        self._crosscheck.add(events)
        tsc = events["tsc"]
        keep = tsc >= self._start_tsc
        if stop_tsc is not None:
            keep &= tsc <= stop_tsc
        if not keep.all():
            events = events[keep]
        if not len(events):
            return
        # Each ring is nearly in order, so the stable sort (timsort) is a merge.
        events = events[np.argsort(events["tsc"], kind="stable")]
        status = Status(
            losses=self.progress.losses,
            anchor=take_anchor(_ANCHOR_BRACKETS),
            processes=self._probes.processes.fresh(),
        )
        self._writer.write(events, status)
        self.progress.events += len(events)

    def _sync_until(self, stop: threading.Event) -> None:
        while not stop.wait(_SYNC_SECONDS):
            self._writer.sync()
