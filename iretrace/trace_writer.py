"""Writing traces: Parquet, events sorted by TSC, in row groups of one size; :mod:`iretrace.trace` reads them."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pyarrow as pa

from iretrace.parquet.writer import ParquetWriter
from iretrace.schema import EVENT_SCHEMA, FOOTER_KEY, ROW_GROUP_EVENTS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from iretrace.footer import Footer


class TraceWriter:
    """Writes sorted events as a trace; the footer is given at the end.

    Use :func:`writing`. Batches must have :data:`~iretrace.schema.EVENT_SCHEMA` and come in TSC order.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._writer = ParquetWriter(self._file, EVENT_SCHEMA, deltas=["tsc"])
        self._held: list[pa.RecordBatch] = []
        self._held_events = 0
        self.n_events = 0

    def write(self, batch: pa.RecordBatch) -> None:
        """Append a batch."""
        self._held.append(batch)
        self._held_events += batch.num_rows
        self.n_events += batch.num_rows
        if self._held_events >= ROW_GROUP_EVENTS:
            # Whole row groups only: each small one costs a reader as much as a large one.
            self._flush(self._held_events - self._held_events % ROW_GROUP_EVENTS)

    def _flush(self, n_events: int) -> None:
        table = pa.Table.from_batches(self._held, EVENT_SCHEMA)
        for start in range(0, n_events, ROW_GROUP_EVENTS):
            part = table.slice(start, min(ROW_GROUP_EVENTS, n_events - start))
            if part.column(0).num_chunks > 1:
                part = part.unify_dictionaries().combine_chunks()
            self._writer.write(part.to_batches()[0])
        self._held = table.slice(n_events).to_batches()
        self._held_events -= n_events

    def finish(self, footer: Footer) -> None:
        """Write what is held and the footer."""
        if self._held_events:
            self._flush(self._held_events)
        self._writer.close({FOOTER_KEY: footer.to_json()})
        self._file.close()

    def abandon(self) -> None:
        """Close without a footer, after a failure."""
        self._file.close()


@contextmanager
def writing(path: Path) -> Iterator[TraceWriter]:
    """A :class:`TraceWriter` on ``path`` that is closed whatever happens."""
    writer = TraceWriter(path)
    try:
        yield writer
    except BaseException:
        # The first error matters; the file is discarded by its owner.
        with suppress(OSError, pa.ArrowException):
            writer.abandon()
        raise
