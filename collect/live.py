"""Watching traps as they come: the same probes and the same drain as a recording, and counts instead of a file."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from iretrace.collect import preflight
from iretrace.collect.ending import Stop
from iretrace.collect.options import CollectOptions
from iretrace.collect.partial import PartialWriter
from iretrace.collect.session import Recording
from iretrace.collect.wire import to_events
from iretrace.losses import BY_NAME
from iretrace.replay import contexts, costs
from iretrace.replay.contexts import N_SLOTS, Target
from iretrace.replay.engine import COLUMNS, Engine, Pairing
from iretrace.replay.policies import Choice
from iretrace.replay.tables import enumerate_policy, ist_vectors

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from iretrace.collect.drain import Progress
    from iretrace.collect.partial import Header, Status
    from iretrace.collect.wire import Addresses
    from iretrace.footer import Footer
    from iretrace.replay.policies import Policy


@dataclass(frozen=True, kw_only=True)
class WatchOptions:
    """What to watch.

    Attributes:
        policy: under which RETs and savings are.
        interval_seconds: between two snapshots.
        snapshots: after how many to end; ``None``: at a signal.
        only: words for classes of trap (:mod:`iretrace.collect.selection`); empty: all.
        ring_bytes: size of each CPU's ring buffer, a power of two.
        calibrate: time the return paths first, for the saving.
    """

    policy: Policy
    interval_seconds: float = 1.0
    snapshots: int | None = None
    only: tuple[str, ...] = ()
    ring_bytes: int = 1 << 22
    calibrate: bool = True


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """One interval; arrays of shape ``(N_SLOTS,)``, int64, by vector (256: a device whose vector was not seen).

    Attributes:
        seconds: its length.
        returns: returns in it. ``kernel`` (to the kernel), ``known`` (of which it is known where to) and ``ret``
            likewise.
        saved_cycles: TSC cycles that one RET saves; ``None``: not known, or the policy has other instructions.
        cost_source: where that comes from, or why it is not known.
        lost: events lost since the start.
        losses: since the start, by cause.
        fill_pct: the fullest ring.
    """

    seconds: float
    returns: NDArray[np.int64]
    kernel: NDArray[np.int64]
    known: NDArray[np.int64]
    ret: NDArray[np.int64]
    saved_cycles: float | None
    cost_source: str
    lost: int
    losses: dict[str, int]
    fill_pct: float


class _Counter(PartialWriter):
    """Stands where the partial file would: counts what is drained, by context, and keeps nothing of it."""

    def __init__(self, footer: Footer, addresses: Addresses, policy: Policy) -> None:
        self.batches = []
        self.dropped = {}
        self.full = False
        self._addresses = addresses
        self._engine = Engine(Pairing.from_footer(footer), [policy.counter])
        table = enumerate_policy(policy, ist_vectors(footer))
        fields = contexts.every()
        slot = fields.slot.astype(np.int64)
        self._keys = {
            "returns": (slot, np.ones(slot.shape, np.bool_)),
            "kernel": (slot, fields.target == Target.KERNEL),
            "known": (slot, fields.target != Target.UNKNOWN),
            "ret": (slot, table.choice == Choice.RET),
        }
        self._before = np.zeros(slot.shape, np.int64)
        saving = costs.saving_per_return(footer)
        fred = bool((table.choice >= Choice.ERETS).any())
        self.saved_cycles = None if saving is None or fred else saving.cycles
        self.cost_source = "what ERETS and ERETU cost is unknown" if fred else costs.describe(footer)

    def write(self, events: NDArray[np.void], status: Status) -> None:
        """Count events; batches of different CPUs' rings may overlap in time by a moment, which pairing bears."""
        del status
        self._engine.feed(to_events(events, self._addresses).select(COLUMNS))

    def sync(self) -> None:
        """There is nothing to write."""

    def close(self) -> None:
        """There is nothing to close."""

    def take(self) -> dict[str, NDArray[np.int64]]:
        """Counts by vector since the last call."""
        now = self._engine.counts[0].astype(np.int64)
        fresh, self._before = now - self._before, now
        return {
            name: np.bincount(slot, weights=fresh * where, minlength=N_SLOTS).astype(np.int64)
            for name, (slot, where) in self._keys.items()
        }


class _Watching(Recording):
    """A recording that keeps counts."""

    def __init__(self, options: CollectOptions, policy: Policy) -> None:
        super().__init__(options)
        self._policy = policy
        self.counter: _Counter | None = None

    def open_sink(self, header: Header) -> PartialWriter:
        """Counts, not a file."""
        self.counter = _Counter(header.footer, self._facts.addresses, self._policy)
        return self.counter


def watch(options: WatchOptions, show: Callable[[Snapshot], None]) -> None:
    """Watch until the last snapshot or a signal; detaches and frees everything whatever happens.

    Args:
        options: what to watch.
        show: called with every snapshot.

    Raises:
        MachineError: this machine or privilege does not allow it.
    """
    preflight.require("top")
    collecting = CollectOptions(
        target=Path(tempfile.gettempdir(), "iretrace-top"),  # never written: the sink is another
        ring_bytes=options.ring_bytes,
        calibrate=options.calibrate,
        only=options.only,
    )
    with Stop(collecting) as stop:
        run = _Watching(collecting, options.policy)
        began: float | None = None
        left = options.snapshots

        def look(progress: Progress) -> None:
            nonlocal began, left
            now, counter = time.monotonic(), run.counter
            if began is None or counter is None:
                began = now
                return
            if now - began < options.interval_seconds * 0.99 or stop.reason:
                return
            show(_snapshot(counter, now - began, progress))
            began = now
            if left is not None:
                left -= 1
                stop.reason = stop.reason or ("snapshots" if not left else "")

        with run:
            run.record(stop, look)


def _snapshot(counter: _Counter, seconds: float, progress: Progress) -> Snapshot:
    losses: dict[str, int] = {}
    for loss in progress.losses:
        losses[loss.cause] = losses.get(loss.cause, 0) + loss.count
    return Snapshot(
        seconds=seconds,
        **counter.take(),
        saved_cycles=counter.saved_cycles,
        cost_source=counter.cost_source,
        lost=sum(count for cause, count in losses.items() if BY_NAME[cause].severity == "events"),
        losses=losses,
        fill_pct=progress.fill_pct,
    )
