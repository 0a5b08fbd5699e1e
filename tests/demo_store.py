"""A store of runs that differ in what tests look for: made of one small trace, its counts and times changed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec

from iretrace.footer import Anchor
from iretrace.store import open_store
from iretrace.store.summarize import summarize
from iretrace.trace import open_trace

if TYPE_CHECKING:
    from pathlib import Path

    from iretrace.store import Run

START_NS = 1_790_000_000_000_000_000
DAY_NS = 86_400_000_000_000


def like(run: Run, index: int, *, longer: float = 1.0, **document: Any) -> Run:
    """A run of another day: the same counts, over ``longer`` times the time."""
    footer = run.document.footer
    anchors = [Anchor(tsc=0, realtime_ns=START_NS + index * DAY_NS, monotonic_ns=0)]
    clock = msgspec.structs.replace(footer.clock, anchors=anchors)
    changed = msgspec.structs.replace(
        run.document,
        run=f"2026{index:04d}-{index:010x}",
        duration_s=(run.document.duration_s or 1.0) * longer,
        footer=msgspec.structs.replace(footer, clock=clock),
        **document,
    )
    return replace(run, document=changed)


def fill(directory: Path, trace: Path, n: int) -> list[str]:
    """A store of ``n`` runs, of which the last third takes half the time again; their names, the oldest first."""
    run = summarize(open_trace(trace))
    store = open_store(directory, create=True)
    names = [store.add(like(run, i, longer=(1 + 0.01 * (i % 5)) * (1.5 if i >= 2 * n // 3 else 1.0))) for i in range(n)]
    store.index()
    return names


def damage(directory: Path, name: str) -> dict[str, str]:
    """Members that cannot be read: their file names, and what is said of them."""
    runs = directory / "runs"
    whole = (runs / f"{name}.parquet").read_bytes()
    (runs / "truncated.parquet").write_bytes(whole[: len(whole) // 2])
    (runs / "empty.parquet").write_bytes(b"")
    newer = whole.replace(b'{"schema":1,"run":', b'{"schema":9,"run":')
    assert newer != whole
    (runs / "newer.parquet").write_bytes(newer)
    return {"truncated.parquet": "truncated", "empty.parquet": "zero bytes", "newer.parquet": "schema 9"}
