"""What emptying the rings costs at 600 000 events a second, on any machine: the rings are memory filled beforehand.

Usage: python -m benchmarks.drain
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from benchmarks.common import Row, spread
from iretrace.collect.crosscheck import CrossCheck, Reading
from iretrace.collect.drain import PERIOD_SECONDS, Buffers, Drain
from iretrace.collect.partial import Header, PartialWriter
from iretrace.collect.processes import ProcessNames
from iretrace.collect.ring import Ring
from iretrace.collect.wire import SLOT, TRAP_EVENT, WORDS
from iretrace.footer import Footer, TrapClass

RATE = 600_000
CPUS = 2
N_SLOTS = 1 << 18
ROUNDS = 9
BATCHES = 10


class MemoryRing(Ring):
    """A ring whose producer is this process."""

    def __init__(self, cpu: int) -> None:
        self.n_slots = N_SLOTS
        self._consumer, self._producer = np.zeros(1, np.uint64), np.zeros(1, np.uint64)
        slots = np.zeros(2 * N_SLOTS, SLOT)
        slots["length"] = TRAP_EVENT.itemsize
        event = slots["event"]
        n = np.arange(2 * N_SLOTS)
        event["tsc"], event["cpu"], event["pid"] = 4000 * n + 1700 * cpu, cpu, 1000 + n % 50
        event["vector"], event["seen"], event["phase"] = np.where(n % 4 < 2, 14, 0xEC), 0x35, n % 2
        self._lengths, self._words = slots["length"], slots.view("<u8").reshape(-1, WORDS + 1)

    def produce(self, n: int) -> None:
        """``n`` more events are there."""
        self._producer[0] += np.uint64(n * SLOT.itemsize)


def run() -> list[Row]:
    """CPU time of the draining thread: copying, dating, checking, sorting, writing."""
    per_batch = round(RATE * PERIOD_SECONDS / CPUS)
    rings = {cpu: MemoryRing(cpu) for cpu in range(CPUS)}
    names = ProcessNames()
    probes: Any = SimpleNamespace(rings=rings, nmi_rings={}, processes=names, drain_names=lambda _: None)
    offsets = np.zeros(CPUS, np.uint64)

    def to_tsc(events: Any) -> None:  # noqa: ANN401 - a structured array
        events["tsc"] += offsets[events["cpu"]]

    clock: Any = SimpleNamespace(rises=True, to_tsc=to_tsc)
    timer = TrapClass(name="timer", vectors=[0xEC], entry="e", exit="x")
    with tempfile.TemporaryDirectory() as directory:
        header = Header(footer=Footer(), text_base=0, raw_addresses=False)
        writer = PartialWriter(Path(directory) / "p", header)
        drain = Drain(
            probes=probes,
            buffers=Buffers(probes),
            clock=clock,
            writer=writer,
            crosscheck=CrossCheck(Reading(before=0, after=1, counts={"LOC": {0: 0, 1: 0}}), [timer], range(CPUS)),
            start_tsc=0,
        )
        shares = []
        for _ in range(ROUNDS):
            begin = time.thread_time()
            for _ in range(BATCHES):
                for ring in rings.values():
                    ring.produce(per_batch)
                drain.once()
            shares.append(100.0 * (time.thread_time() - begin) / (BATCHES * PERIOD_SECONDS))
        expected = ROUNDS * BATCHES * CPUS * per_batch
        drained = drain.progress.drained
        writer.close()
    ns = statistics.median(shares) / 100 / RATE * 1e9
    how = f"{ROUNDS} times {BATCHES} batches of {CPUS * per_batch:,} events, {CPUS} rings, written to disk"
    return [
        Row(what="of one CPU, at 600 000 events/s", goal="< 15 %", measured=spread(shares, " %"), how=how),
        Row(what="an event", goal="", measured=f"{ns:.0f} ns", how=how),
        Row(what="events drained", goal=f"{expected:,}", measured=f"{drained:,}", how="none is lost on the way"),
    ]


if __name__ == "__main__":
    for row in run():
        print(f"{row.what}: {row.measured}  [goal {row.goal or 'none'}; {row.how}]")
