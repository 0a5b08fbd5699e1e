"""Small traces for tests, written out by hand or made at random."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from iretrace.footer import Footer
from iretrace.schema import EVENT_SCHEMA
from iretrace.trace_writer import writing

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

KERNEL_CS = 0x10
USER_CS = 0x33
IF = 1 << 9


def event(tsc: int, phase: str, vector: int | None, **fields: Any) -> dict[str, Any]:
    """One event; fields that are not given are null (cpu 0, hook ``test``, pid 1)."""
    row: dict[str, Any] = dict.fromkeys(EVENT_SCHEMA.names)
    row.update(tsc=tsc, cpu=0, phase=phase, vector=vector, hook="test", pid=1)
    row.update(fields)
    return row


def table(events: Iterable[dict[str, Any]]) -> pa.Table:
    """Events as a table of the trace's schema, sorted by TSC (stable)."""
    return pa.Table.from_pylist(sorted(events, key=lambda row: row["tsc"]), schema=EVENT_SCHEMA)


def write_trace(path: Path, events: Iterable[dict[str, Any]], footer: Footer | None = None) -> Path:
    """Write events as a trace; the default footer knows only the kernel's CS."""
    with writing(path) as writer:
        for batch in table(events).to_batches():
            writer.write(batch)
        writer.finish(footer or Footer(kernel_cs=KERNEL_CS))
    return path


class InMemory:
    """As much of a trace as a replay needs, without a file: a row group each ``group`` events."""

    path = "memory"

    def __init__(self, events: pa.Table, footer: Footer, *, group: int) -> None:
        self._events = events
        self._group = group
        self.footer = footer

    def dealt(self, columns: Sequence[str], n: int) -> list[Iterator[pa.RecordBatch | None]]:
        """As :meth:`iretrace.trace.Trace.dealt`."""
        batches = self._events.select(list(columns)).to_batches(max_chunksize=self._group)
        return [chain.from_iterable((batch, None) for batch in batches[k::n]) for k in range(n)]
