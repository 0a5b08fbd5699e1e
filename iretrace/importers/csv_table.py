"""CSV: anyone's events as a table become a trace.

Columns are those of the trace, by name (:data:`iretrace.schema.EVENT_COLUMNS`). ``tsc``, ``cpu``, ``phase`` and
``vector`` must be there, the others may be, and columns of other names are left out. Integers are decimal or
``0x…``; an empty cell is null; ``to_kernel`` is ``true``/``false`` or ``1``/``0``. Rows need no order. The file is
read a block at a time; memory grows with the table's disorder only.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from iretrace import footer as footers
from iretrace.errors import Damaged, InputError
from iretrace.merge import safe_until
from iretrace.schema import EVENT_COLUMNS, EVENT_SCHEMA, PHASES, Column
from iretrace.vectors import BP, DB, DF, MC, NM, NMI, SS, vector_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from iretrace.trace import TraceWriter

REQUIRED: Final = ("tsc", "cpu", "phase", "vector")
_BLOCK_BYTES: Final = 4 << 20
_TRUTH: Final = {"true": True, "1": True, "false": False, "0": False}

COUNTED: Final = frozenset({DB, NMI, BP, NM, DF, SS, MC})
"""Vectors that a nest counter may count. Where the table shows no exit of another vector at all, that class has no
exit hook and its traps are points; for these the missing exits may as well be cut off, and they stay open."""


@dataclass(frozen=True, kw_only=True)
class CsvOptions:
    """What a table cannot say of itself.

    Attributes:
        kernel_cs: the kernel's 64-bit code segment selector.
        nmi_text: [low, high) ranges of the NMI entry and exit code, in the space of ``ip``.
        tsc_khz: TSC frequency, where known.
    """

    kernel_cs: int = 0x10
    nmi_text: tuple[tuple[int, int], ...] = ()
    tsc_khz: float | None = None


def load(path: Path, writer: TraceWriter, progress: Callable[[int], None], options: CsvOptions) -> footers.Footer:
    """Write a table's events to a trace, sorted by TSC (rows of equal TSC keep their order).

    Raises:
        InputError: the table or one of its values is off; the message names the row.
    """
    seen = _Seen()
    with tempfile.TemporaryFile() as spool:
        first_tsc = []
        with pa.ipc.new_stream(spool, EVENT_SCHEMA) as stream:
            for batch in _blocks(path):
                ordered = batch.take(pc.array_sort_indices(batch.column("tsc"))) if not _sorted(batch) else batch
                seen.add(batch)
                first_tsc.append(ordered.column("tsc")[0].as_py())
                stream.write_batch(ordered)
        spool.seek(0)
        held: pa.RecordBatch | None = None
        with pa.ipc.open_stream(spool) as stream:
            for batch, earliest in zip(stream, safe_until(first_tsc), strict=True):
                table = pa.Table.from_batches([batch] if held is None else [held, batch])
                order = np.argsort(table.column("tsc").to_numpy(), kind="stable")
                merged = table.take(pa.array(order)).combine_chunks().to_batches()[0]
                n = int(np.searchsorted(merged.column("tsc").to_numpy(), earliest, side="right"))
                if n:
                    writer.write(merged.slice(0, n))
                    progress(writer.n_events)
                held = merged.slice(n) if n < merged.num_rows else None
    if not writer.n_events:
        raise Damaged(path, "the table holds no events", expected="at least one row under the header")
    return footers.Footer(
        tool="iretrace import --format csv",
        events=writer.n_events,
        kernel_cs=options.kernel_cs,
        nmi_text=list(options.nmi_text),
        clock=footers.Clock(source="import", tsc_khz=options.tsc_khz),
        classes=seen.classes(),
        window=footers.Window(start_tsc=seen.first, stop_tsc=seen.last, ended_by="end of input"),
    )


class _Seen:
    """Which vectors begin and end in the table, and its span of time."""

    def __init__(self) -> None:
        self._begin: set[int | None] = set()
        self._end: set[int | None] = set()
        self.first: int | None = None
        self.last: int | None = None

    def add(self, batch: pa.RecordBatch) -> None:
        tsc = pc.min_max(batch.column("tsc")).as_py()
        self.first = tsc["min"] if self.first is None else min(self.first, tsc["min"])
        self.last = tsc["max"] if self.last is None else max(self.last, tsc["max"])
        is_entry = pc.equal(batch.column("phase").cast(pa.string()), "entry")
        vector = batch.column("vector")
        self._begin.update(pc.unique(vector.filter(is_entry)).to_pylist())
        self._end.update(pc.unique(vector.filter(pc.invert(is_entry))).to_pylist())

    def classes(self) -> list[footers.TrapClass]:
        found = []
        for vector in sorted(self._begin | self._end, key=lambda v: 256 if v is None else v):
            ends = vector in self._end or vector in COUNTED
            found.append(
                footers.TrapClass(
                    name=vector_name(vector),
                    vectors=[] if vector is None else [vector],
                    entry="csv" if vector in self._begin else None,
                    exit="csv" if ends else None,
                    lacks="" if ends else "the exit: the table has none of this class",
                )
            )
        return found


def _sorted(batch: pa.RecordBatch) -> bool:
    tsc = batch.column("tsc")
    return len(tsc) < 2 or not pc.any(pc.less(tsc[1:], tsc[:-1])).as_py()


def _blocks(path: Path) -> Iterator[pa.RecordBatch]:
    """Batches of the trace's schema, a block of the file each."""
    row = 2  # the first line is the header
    try:
        names = _header(path)
        reader = pa_csv.open_csv(
            path,
            read_options=pa_csv.ReadOptions(block_size=_BLOCK_BYTES),
            convert_options=pa_csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=True, null_values=[""]
            ),
        )
        for block in reader:
            if block.num_rows:
                yield _events(block, path, row)
                row += block.num_rows
    except pa.ArrowException as error:
        raise InputError(
            path, f"near row {row}: {' '.join(str(error).split())[:160]}", expected="a CSV table"
        ) from None


def _header(path: Path) -> list[str]:
    """Names of the columns, checked."""
    try:
        with path.open(encoding="utf-8") as file:
            line = file.readline(1 << 16)
    except UnicodeDecodeError:
        raise InputError(path, "is not text", expected="a CSV table with a header") from None
    names = [name.strip().strip('"') for name in line.strip().split(",")]
    known = [column.name for column in EVENT_COLUMNS]
    for name in REQUIRED:
        if name not in names:
            raise Damaged(path, f"column {name!r} is missing from the header", expected=", ".join(known))
    if len(set(names)) != len(names):
        raise InputError(path, "has a column twice", expected="each column once")
    return names


def unused_columns(path: Path) -> list[str]:
    """Columns of a table that a trace has no place for."""
    known = {column.name for column in EVENT_COLUMNS}
    return [name for name in _header(path) if name not in known]


def _events(block: pa.RecordBatch, path: Path, row: int) -> pa.RecordBatch:
    columns = []
    for column in EVENT_COLUMNS:
        if column.name in block.schema.names:
            values = _parse(block.column(column.name), column, path, row)
        elif column.name == "pid":
            values = pa.array(np.zeros(block.num_rows, np.uint32))
        elif column.name == "hook":
            values = _constant("csv", block.num_rows)
        else:
            values = pa.nulls(block.num_rows, column.type)
        columns.append(values)
    return pa.RecordBatch.from_arrays(columns, schema=EVENT_SCHEMA)


def _constant(text: str, n: int) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int8)), pa.array([text]))


def _parse(texts: pa.StringArray, column: Column, path: Path, row: int) -> pa.Array:
    """A column's cells as its type: each distinct text is read once."""
    if texts.null_count and not column.nullable:
        at = texts.is_null().index(True).as_py()
        raise Damaged(path, f"row {row + at}: column {column.name!r} is empty", expected="a value")
    if pa.types.is_uint64(column.type):
        try:  # most numbers are decimal, and this is the column of the most distinct ones
            return texts.cast(pa.uint64())
        except pa.ArrowInvalid:
            pass
    encoded = texts.dictionary_encode()
    values = []
    for position, text in enumerate(encoded.dictionary.to_pylist()):
        value = _value(text.strip(), column)
        if value is None:
            at = pc.index(encoded.indices, position).as_py()
            raise Damaged(path, f"row {row + at}: {column.name} is {text!r}", expected=_expected(column))
        values.append(value)
    if pa.types.is_dictionary(column.type):
        names = pa.array(values, pa.string())
        if len(names) > 127:
            raise Damaged(path, f"column {column.name!r} has over 127 different texts", expected="at most 127")
        plain = pa.DictionaryArray.from_arrays(encoded.indices.cast(pa.int8()), names)
        return plain.cast(pa.string()).dictionary_encode().cast(column.type)
    return pa.array(values, column.type).take(encoded.indices)


def _value(text: str, column: Column) -> int | bool | str | None:
    """One cell; ``None`` where it cannot be read."""
    if column.name == "phase":
        return text if text in PHASES else None
    if pa.types.is_dictionary(column.type):
        return text
    if pa.types.is_boolean(column.type):
        return _TRUTH.get(text.lower())
    try:
        number = int(text, 16) if text[:2].lower() == "0x" else int(text)
    except ValueError:
        return None
    return number if 0 <= number < 2**column.type.bit_width else None


def _expected(column: Column) -> str:
    if column.name == "phase":
        return "entry or exit"
    if pa.types.is_boolean(column.type):
        return "true or false"
    return f"a whole number, decimal or 0x…, from 0 to {2**column.type.bit_width - 1}"
