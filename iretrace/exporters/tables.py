"""A trace's events, traps or decisions as CSV or plain Parquet.

Events as CSV have the columns of the trace, so that ``iretrace import --format csv`` reads them back. Traps have
:data:`iretrace.traps.TRAP_COLUMNS`; decisions are the same rows with each policy's columns after them
(``decision.rfc2014``), in the order in which the traps ended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pyarrow as pa

from iretrace import traps
from iretrace.exporters.rows import write_rows
from iretrace.replay import costs, run
from iretrace.replay.policies import IRET
from iretrace.schema import EVENT_SCHEMA, arrow_schema

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import BinaryIO

    from iretrace.replay.policies import Policy
    from iretrace.trace import Trace

TABLES: Final = ("events", "traps", "decisions")


def export(  # noqa: PLR0913 - what, of what, and how
    trace: Trace,
    policies: Sequence[Policy],
    file: BinaryIO,
    *,
    table: str,
    kind: str,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Write one table of a trace.

    Args:
        trace: an opened trace.
        policies: of table ``decisions``.
        file: where to.
        table: one of :data:`TABLES`.
        kind: ``csv`` or ``parquet``.
        progress: called with the number of events or rows of each batch.

    Returns:
        The number of rows.

    Raises:
        Damaged: the trace holds what it must not.
    """
    reader = {"events": _events, "traps": _traps, "decisions": _decisions}[table](trace, policies)
    if progress is not None:
        reader = pa.RecordBatchReader.from_batches(reader.schema, _told(reader, progress))
    return write_rows(reader, file, kind)


def _events(trace: Trace, _policies: Sequence[Policy]) -> pa.RecordBatchReader:
    schema = pa.schema([_plain(field) for field in EVENT_SCHEMA])
    batches = (batch.cast(schema) for batch in trace.batches(EVENT_SCHEMA.names))
    return pa.RecordBatchReader.from_batches(schema, batches)


def _traps(trace: Trace, _policies: Sequence[Policy]) -> pa.RecordBatchReader:
    schema = arrow_schema(traps.TRAP_COLUMNS)
    return _tables(schema, (traps.trap_table(batch) for batch in run.returns(trace, [IRET])))


def _decisions(trace: Trace, policies: Sequence[Policy]) -> pa.RecordBatchReader:
    saving = costs.saving_per_return(trace.footer)
    schema = traps.return_schema(tuple(policy.name for policy in policies))
    return _tables(schema, (traps.return_table(batch, saving) for batch in run.returns(trace, policies)))


def _tables(schema: pa.Schema, tables: Iterator[pa.Table]) -> pa.RecordBatchReader:
    plain = pa.schema([_plain(field) for field in schema])
    return pa.RecordBatchReader.from_batches(
        plain, (batch for table in tables for batch in table.cast(plain).combine_chunks().to_batches())
    )


def _plain(field: pa.Field) -> pa.Field:
    """Names as text: any tool reads that, and every batch has the same."""
    return field.with_type(pa.string()) if pa.types.is_dictionary(field.type) else field


def _told(reader: pa.RecordBatchReader, progress: Callable[[int], None]) -> Iterator[pa.RecordBatch]:
    for batch in reader:
        yield batch
        progress(batch.num_rows)
