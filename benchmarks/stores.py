"""Stores of runs for benchmarks, tests and screenshots: one recorded run, on many days, at several levels."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np

from benchmarks.traces import SAMPLE
from iretrace.footer import Anchor
from iretrace.store import open_store
from iretrace.store.summarize import summarize
from iretrace.trace import open_trace

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from iretrace.store import Run

START_NS: Final = 1_790_000_000_000_000_000
DAY_NS: Final = 86_400_000_000_000
HOSTS: Final = ("build-1", "build-2", "desk")


def like(  # noqa: PLR0913 - what may differ
    run: Run,
    index: int,
    *,
    longer: float = 1.0,
    slower: float = 1.0,
    host: str = "",
    tags: dict[str, str] | None = None,
) -> Run:
    """A run of another day: the same counts in ``longer`` times the time, latencies ``slower`` times as long."""
    footer = run.document.footer
    anchors = [Anchor(tsc=0, realtime_ns=START_NS + index * DAY_NS, monotonic_ns=0)]
    clock = msgspec.structs.replace(footer.clock, anchors=anchors)
    machine = msgspec.structs.replace(footer.host, name=host) if host else footer.host
    changed = msgspec.structs.replace(
        run.document,
        run=f"2026{index:04d}-{index:010x}",
        duration_s=(run.document.duration_s or 1.0) * longer,
        footer=msgspec.structs.replace(footer, clock=clock, host=machine),
        tags=run.document.tags if tags is None else tags,
    )
    # A bucket is a 64th of a power of two: so many of them make the factor.
    by = round(64 * np.log2(slower))
    moved = {name: np.roll(getattr(run, name), by, axis=1) for name in ("latency", "self_time")} if by else {}
    return replace(run, document=changed, **moved)


def fill(
    directory: Path, n: int, *, trace: Path = SAMPLE, hosts: tuple[str, ...] = ("",), seed: int | None = None
) -> list[str]:
    """A store of ``n`` runs; on each host the last third takes half the time again. Their names, the oldest first.

    Args:
        directory: where it is made.
        n: number of runs.
        trace: what they are made of.
        hosts: hosts in turn; empty: the recorded one.
        seed: of the noise of rates and latencies; ``None``: a small pattern that repeats.
    """
    run = summarize(open_trace(trace))
    store = open_store(directory, create=True)
    noise: Callable[[int], tuple[float, float]]
    if seed is None:

        def noise(index: int) -> tuple[float, float]:
            return 1 + 0.01 * (index % 5), 1.0
    else:
        rng = random.Random(seed)  # noqa: S311 - not for secrets

        def noise(_: int) -> tuple[float, float]:
            return rng.gauss(1, 0.02), max(rng.gauss(1, 0.03), 0.5)

    names = []
    for index in range(n):
        longer, slower = noise(index)
        longer *= 1.5 if index >= 2 * n // 3 else 1.0
        tags = {**run.document.tags, "commit": f"{index * 2654435761 % 2**28:07x}"}
        host = hosts[index % len(hosts)]
        names.append(store.add(like(run, index, longer=longer, slower=slower, host=host, tags=tags)))
    store.index()
    return names
