"""Rows of any kind, batch by batch, as CSV, JSON or Parquet.

JSON is one document, ``{"schema": 1, "columns": [{"name": …, "type": …}], "rows": [{…}]}``, written as it comes.
"""

from __future__ import annotations

import json
import math
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO

FORMATS: Final = ("csv", "json", "parquet")


def write_rows(reader: pa.RecordBatchReader, file: BinaryIO, kind: str) -> int:
    """Write all rows of a reader.

    Args:
        reader: the rows.
        file: where to, in binary.
        kind: one of :data:`FORMATS`.

    Returns:
        The number of rows.
    """
    return _WRITERS[kind](reader, file)


def _csv(reader: pa.RecordBatchReader, file: BinaryIO) -> int:
    from pyarrow import csv  # noqa: PLC0415 - only this format needs it

    schema = pa.schema([pa.field(f.name, pa.string() if _is_odd(f.type) else f.type) for f in reader.schema])
    rows = 0
    with csv.CSVWriter(file, schema) as writer:
        for batch in reader:
            columns = [
                pa.array([None if v is None else json.dumps(plain(v)) for v in c.to_pylist()], pa.string())
                if _is_odd(c.type)
                else c
                for c in batch.columns
            ]
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
            rows += batch.num_rows
    return rows


def _is_odd(kind: pa.DataType) -> bool:
    """Whether a CSV cell holds the value as JSON."""
    types = pa.types
    return not (
        (types.is_primitive(kind) and not types.is_duration(kind) and not types.is_interval(kind))
        or types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_decimal(kind)
        or types.is_dictionary(kind)
        or types.is_null(kind)
    )


def _json(reader: pa.RecordBatchReader, file: BinaryIO) -> int:
    columns = [{"name": field.name, "type": str(field.type)} for field in reader.schema]
    file.write(f'{{"schema": 1, "columns": {json.dumps(columns)}, "rows": ['.encode())
    rows = 0
    for batch in reader:
        lines = [json.dumps(plain(row), ensure_ascii=False) for row in batch.to_pylist()]
        if lines:
            file.write((("\n" if not rows else ",\n") + ",\n".join(lines)).encode())
        rows += len(lines)
    file.write(b"\n]}\n")
    return rows


def _parquet(reader: pa.RecordBatchReader, file: BinaryIO) -> int:
    from pyarrow import parquet  # noqa: PLC0415

    rows = 0
    with parquet.ParquetWriter(file, reader.schema, compression="zstd") as writer:
        for batch in reader:
            writer.write_batch(batch)
            rows += batch.num_rows
    return rows


_WRITERS: Final[dict[str, Callable[[pa.RecordBatchReader, BinaryIO], int]]] = {
    "csv": _csv,
    "json": _json,
    "parquet": _parquet,
}


def plain(value: Any) -> Any:  # noqa: ANN401, PLR0911 - any value of Arrow becomes one of JSON
    """A value of Arrow as JSON has it: dates as ISO 8601, not-a-number as null, maps as objects."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, pa.MonthDayNano):
        return {"months": value.months, "days": value.days, "nanoseconds": value.nanoseconds}
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        if value and all(isinstance(item, tuple) and len(item) == 2 for item in value):  # an Arrow map
            return {str(key): plain(item) for key, item in value}
        return [plain(item) for item in value]
    return value
