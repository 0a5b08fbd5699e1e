"""CSV: anyone's events as a table become a trace.

Columns are those of the trace, by name (:data:`iretrace.schema.EVENT_COLUMNS`). ``tsc``, ``cpu``, ``phase`` and
``vector`` must be there, the others may be, and columns of other names are left out. Integers are decimal or
``0x…``; an empty cell is null; ``to_kernel`` is ``true``/``false`` or ``1``/``0``. Rows need no order. The file is
read a block at a time, and sorted outside of memory. A row that cannot be read is counted and left out.
"""

from __future__ import annotations

import codecs
import io
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from iretrace import footer as footers
from iretrace.errors import Damaged, InputError
from iretrace.importers.rows import MAX_HOOKS, from_batch
from iretrace.schema import EVENT_COLUMNS, EVENT_SCHEMA, PHASES, Column
from iretrace.vectors import BP, DB, DF, MC, NM, NMI, SS, vector_name

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import BinaryIO

    from numpy.typing import NDArray

    from iretrace.importers.job import Job

REQUIRED: Final = ("tsc", "cpu", "phase", "vector")
_BLOCK_BYTES: Final = 4 << 20
_HEADER_BYTES: Final = 1 << 16
_TRUTH: Final = {"true": True, "1": True, "false": False, "0": False}

COUNTED: Final = frozenset({DB, NMI, BP, NM, DF, SS, MC})
"""Vectors that a nest counter may count. Where the table shows no exit of another vector at all, that class has no
exit hook and its traps are points; for these the missing exits may as well be cut off, and they stay open."""


def load(file: BinaryIO, _size: int | None, job: Job) -> footers.Footer:
    """Import a table; rows of equal TSC keep their order.

    Args:
        file: at its beginning; a pipe will do.
        job: what to fill.

    Raises:
        InputError: the table or one of its values is off; the message names the row.
    """
    seen = _Seen()
    hooks: list[str] = []
    job.sorter.hooks = hooks
    for batch in _blocks(file, job):
        seen.add(batch)
        try:
            job.add(from_batch(batch, hooks))
        except ValueError as error:
            raise Damaged(job.path, f"column 'hook' has {error}", expected="hooks by name") from None
    if not job.sorter.n_rows and not job.malformed:
        raise Damaged(job.path, "the table holds no events", expected="at least one row under the header")
    return job.footer(
        "iretrace import --format csv",
        footers.Clock(source="import", tsc_khz=job.options.tsc_khz),
        seen.classes(),
    )


class _Seen:
    """Which vectors begin and end in the table."""

    def __init__(self) -> None:
        self._begin: set[int | None] = set()
        self._end: set[int | None] = set()

    def add(self, batch: pa.RecordBatch) -> None:
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


def _blocks(file: BinaryIO, job: Job) -> Iterator[pa.RecordBatch]:
    """Batches of the trace's schema, a block of the file each."""
    row = 2  # the first line is the header
    skipped: list[str] = []

    def skip(line: Any) -> str:  # noqa: ANN401 - pyarrow.csv.InvalidRow
        skipped.append(f"{line.actual_columns} cells; expected {line.expected_columns}")  # (it must not raise)
        return "skip"

    def tell() -> int:
        for found in skipped:
            job.bad(f"near row {row}", found)
        n = len(skipped)
        skipped.clear()
        return n

    line = file.readline(_HEADER_BYTES)
    names = _header(line, job.path)
    known = {column.name for column in EVENT_COLUMNS}
    job.notes += [f"column {name!r} is not one of a trace's and is left out" for name in names if name not in known]
    try:
        reader = pa_csv.open_csv(
            _Counted(file, job, len(line)),
            read_options=pa_csv.ReadOptions(block_size=_BLOCK_BYTES, column_names=names, use_threads=False),
            parse_options=pa_csv.ParseOptions(invalid_row_handler=skip),
            convert_options=pa_csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=True, null_values=[""]
            ),
        )
        for block in reader:
            n_skipped = tell()
            if block.num_rows:
                yield _events(block, job, row)
            row += block.num_rows + n_skipped
        tell()
    except pa.ArrowInvalid as error:
        if str(error).startswith("Empty CSV file"):
            return
        job.bad(f"near row {row}", f"{' '.join(str(error).split())[:160]}; the rest cannot be read")


class _Counted(io.RawIOBase):
    """A file that tells how far it has been read, and whose text is UTF-8: pyarrow's handler of bad rows needs that."""

    def __init__(self, file: BinaryIO, job: Job, done: int) -> None:
        self._file = file
        self._job = job
        self._done = done
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._whole = True

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._done += len(data)
        self._job.progress(self._done, None)
        if data.isascii() and self._whole:
            return data
        text = self._decoder.decode(data, final=not data)
        self._whole = not self._decoder.getstate()[0]
        return text.encode() or (self.read(size) if data else b"")


def _header(line: bytes, path: Path) -> list[str]:
    """Names of the columns, checked."""
    try:
        text = line.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(
            path, "is not text, nor of a format known here", expected="a CSV table with a header"
        ) from None
    names = [name.strip().strip('"') for name in text.strip().split(",")]
    known = [column.name for column in EVENT_COLUMNS]
    for name in REQUIRED:
        if name not in names:
            raise Damaged(path, f"column {name!r} is missing from the header", expected=", ".join(known))
    if len(set(names)) != len(names):
        raise InputError(path, "has a column twice", expected="each column once")
    return names


def _events(block: pa.RecordBatch, job: Job, row: int) -> pa.RecordBatch:
    columns = []
    bad = np.zeros(block.num_rows, np.bool_)
    for column in EVENT_COLUMNS:
        if column.name in block.schema.names:
            values = _parse(block.column(column.name), column, job, row, bad)
        elif column.name == "pid":
            values = pa.array(np.zeros(block.num_rows, np.uint32))
        elif column.name == "hook":
            values = _constant("csv", block.num_rows)
        else:
            values = pa.nulls(block.num_rows, column.type)
        columns.append(values)
    if bad.any():
        job.malformed += int(bad.sum())
        keep = pa.array(~bad)
        columns = [values.filter(keep) for values in columns]
    return pa.RecordBatch.from_arrays(columns, schema=EVENT_SCHEMA)


def _constant(text: str, n: int) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int8)), pa.array([text]))


def _parse(texts: pa.StringArray, column: Column, job: Job, row: int, bad: NDArray[np.bool_]) -> pa.Array:
    """A column's cells as its type: each distinct text is read once. Rows that cannot be read are marked as bad."""
    if texts.null_count and not column.nullable:
        missing = texts.is_null()
        job.bad(f"row {row + missing.index(True).as_py()}", f"column {column.name!r} is empty", count=0)
        bad |= missing.to_numpy(zero_copy_only=False)
        texts = texts.fill_null("entry" if column.name == "phase" else "0")
    if pa.types.is_uint64(column.type):
        try:  # most numbers are decimal, and this is the column of the most distinct ones
            return texts.cast(pa.uint64())
        except pa.ArrowInvalid:
            pass
    encoded = texts.dictionary_encode()
    values, wrong = [], []
    for position, text in enumerate(encoded.dictionary.to_pylist()):
        value = _value(text.strip(), column)
        if value is None:
            at = pc.index(encoded.indices, position).as_py()
            job.bad(f"row {row + at}", f"{column.name} is {text!r}; expected {_expected(column)}", count=0)
            wrong.append(position)
            value = PHASES[0] if column.name == "phase" else 0
        values.append(value)
    if wrong:
        bad |= np.isin(encoded.indices.fill_null(-1).to_numpy(), wrong)
    if pa.types.is_dictionary(column.type):
        names = pa.array(values, pa.string())
        if len(names) > MAX_HOOKS:
            raise Damaged(job.path, f"column {column.name!r} has over {MAX_HOOKS} different texts")
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
