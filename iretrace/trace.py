"""Reading traces: Parquet, events sorted by TSC, in row groups of bounded size (:mod:`iretrace.trace_writer`).

Reading never holds more than a row group; files are untrusted, and what is wrong is told in one line.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from iretrace import footer as footers
from iretrace.errors import Damaged, InputError, NotATrace
from iretrace.schema import EVENT_COLUMNS, FOOTER_KEY, PHASES, ROW_GROUP_EVENTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

RUN_KEY: Final = b"iretrace-run"
"""In a run's metadata (:mod:`iretrace.store.run`)."""

STREAM_MAGIC: Final = b"\xff\xff\xff\xff"
"""First bytes of an Arrow IPC stream, which is what a run writes while it collects."""

MAX_ROW_GROUP_EVENTS: Final = 1 << 24
"""A reader refuses larger row groups: memory must stay bounded whatever the file says."""

_BYTES_PER_EVENT: Final = 96
_TYPES: Final = {column.name: column for column in EVENT_COLUMNS}


@dataclass(frozen=True, kw_only=True)
class Trace:
    """An opened trace.

    Attributes:
        path: where it lies.
        footer: what is known of how it was recorded.
        n_events: number of events, by the file.
    """

    path: Path
    footer: footers.Footer
    n_events: int
    _n_row_groups: int

    def batches(self, columns: Sequence[str], *, groups: range | None = None) -> Iterator[pa.RecordBatch]:
        """Yield the named columns, a row group (or less) at a time, in the file's order.

        Args:
            columns: names of columns.
            groups: which row groups; ``None``: all of them.

        Columns have the types of :data:`iretrace.schema.EVENT_SCHEMA`; values were checked: ``phase`` is one of
        :data:`iretrace.schema.PHASES`, ``tsc`` never falls.

        Raises:
            Damaged: a row group cannot be read or holds values out of range.
        """
        for batch in self._turns(columns, range(self._n_row_groups) if groups is None else groups):
            if batch is not None:
                yield batch

    def dealt(self, columns: Sequence[str], n: int) -> list[Iterator[pa.RecordBatch | None]]:
        """The same for ``n`` readers at once, the row groups dealt out in turn; each yields ``None`` after each group.

        Each checks what it reads; that ``tsc`` does not fall from one reader's batch to the next one's, :func:`rising`
        checks.
        """
        n = max(1, min(n, self._n_row_groups))
        return [self._turns(columns, range(first, self._n_row_groups, n)) for first in range(n)]

    def _turns(self, columns: Sequence[str], groups: range) -> Iterator[pa.RecordBatch | None]:
        try:
            with pq.ParquetFile(self.path, memory_map=True) as file:
                last = 0
                for index in groups:
                    for batch in _batches(file, index, list(columns)):
                        if batch.num_rows:
                            last = _check(batch, last, str(self.path))
                            yield batch
                    yield None
        except (pa.ArrowException, OSError) as error:
            raise Damaged(
                self.path, f"row group could not be read ({_short(error)})", expected="an intact trace", remedy=RECORD
            ) from None

    def row_groups(self) -> tuple[NDArray[np.int64], NDArray[np.uint64], NDArray[np.uint64]]:
        """Where the row groups lie in time, by the file's own statistics of ``tsc``.

        Returns:
            Number of events of each row group that has any, shape ``(n,)``, its smallest and its largest TSC: by them
            a reader finds the row groups of an interval.

        Raises:
            Damaged: the statistics are missing, or fall, or a row group in the middle is empty.
        """
        try:
            with pq.ParquetFile(self.path, memory_map=True) as file:
                column = file.schema_arrow.names.index("tsc")
                groups = [file.metadata.row_group(i) for i in range(self._n_row_groups)]
                found = [(group.num_rows, group.column(column).statistics) for group in groups]
        except (pa.ArrowException, OSError) as error:
            raise Damaged(
                self.path, f"the Parquet footer cannot be read ({_short(error)})", expected="an intact file"
            ) from None
        if any(not rows or statistics is None or not statistics.has_min_max for rows, statistics in found):
            raise Damaged(
                self.path,
                "a row group without events or without statistics of its tsc",
                expected="the smallest and largest tsc of every row group, as iretrace writes them",
            )
        events = np.array([rows for rows, _ in found], dtype=np.int64)
        first, last = (np.array([getattr(s, name) for _, s in found], dtype=np.uint64) for name in ("min", "max"))
        if (first > last).any() or (first[1:] < last[:-1]).any():
            raise Damaged(self.path, "the tsc column falls", expected="events sorted by TSC")
        return events, first, last


RECORD: Final = "record it again, or salvage a partial file with: iretrace import FILE.partial -o NEW"


def open_trace(path: str | Path) -> Trace:
    """Open a trace and check everything that can be checked without reading the events.

    Raises:
        InputError: no such file, not a trace, too new, truncated, empty, or columns that are off.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(path, "there is no such file", remedy="record one with: sudo iretrace collect -d 10")
    if path.is_dir():
        raise InputError(path, "is a directory", expected="a trace file")
    if not path.is_file():
        raise InputError(
            path,
            "is a pipe or a device: a Parquet file is read from its end",
            expected="a trace file",
            remedy="save it first: cat > trace.parquet",
        )
    _check_magic(path)
    try:
        with pq.ParquetFile(path, memory_map=True) as file:
            metadata = file.metadata
            schema = file.schema_arrow
            raw = (metadata.metadata or {}).get(FOOTER_KEY)
            sizes = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
            largest = max((group.num_rows for group in sizes), default=0)
            widest = max((group.total_byte_size for group in sizes), default=0)
            n_events, n_groups = metadata.num_rows, metadata.num_row_groups
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise Damaged(
            path, f"the Parquet footer cannot be read ({_short(error)})", expected="an intact file", remedy=RECORD
        ) from None
    if raw is None and RUN_KEY in (metadata.metadata or {}):
        raise NotATrace(
            path,
            "counters without events (collect --aggregate, or a run of a store)",
            expected="a trace, with events",
            remedy="iretrace report, compare and runs add take it; record events with: sudo iretrace collect",
        )
    if raw is None:
        raise NotATrace(
            path,
            "Parquet, but without iretrace's footer",
            expected=f"the key {FOOTER_KEY.decode()!r} in the file's metadata",
            remedy="for a table of events: iretrace import --format csv",
        )
    footer = footers.decode(raw, str(path))
    _check_columns(path, schema)
    if n_events == 0:
        raise Damaged(path, "the trace holds no events", expected="at least one", remedy="iretrace doctor")
    if largest > MAX_ROW_GROUP_EVENTS or widest > MAX_ROW_GROUP_EVENTS * _BYTES_PER_EVENT:
        raise Damaged(path, f"a row group holds {largest} events", expected=f"at most {MAX_ROW_GROUP_EVENTS}")
    return Trace(path=path, footer=footer, n_events=n_events, _n_row_groups=n_groups)


def _batches(file: pq.ParquetFile, group: int, columns: list[str]) -> Iterable[pa.RecordBatch]:
    """A row group's batches; one of iretrace's size is one, which costs less than to cut it."""
    found: Iterable[pa.RecordBatch]
    if file.metadata.row_group(group).num_rows <= ROW_GROUP_EVENTS:
        found = file.read_row_group(group, columns=columns).to_batches()
    else:
        found = file.iter_batches(ROW_GROUP_EVENTS, row_groups=[group], columns=columns)
    return found


def _check_magic(path: Path) -> None:
    try:
        with path.open("rb") as file:
            head = file.read(8)
            file.seek(0, 2)
            size = file.tell()
            file.seek(max(0, size - 4))
            tail = file.read(4)
    except OSError as error:
        raise InputError(path, f"cannot be read ({error.strerror})", expected="a readable file") from None
    if head.startswith(STREAM_MAGIC):
        raise NotATrace(
            path,
            "the partial stream of a run that did not finish",
            expected="a finished trace",
            remedy=f"salvage it with: iretrace import {path} -o NEW.parquet",
        )
    if head[:4] != b"PAR1":
        what = "empty" if size == 0 else f"begins with {head[:4]!r}"
        raise NotATrace(path, what, expected="a Parquet file (PAR1)", remedy="iretrace import --help")
    if tail != b"PAR1" or size < 12:
        raise Damaged(path, f"truncated after {size} bytes", expected="PAR1 at the end", remedy=RECORD)


def _check_columns(path: Path, schema: pa.Schema) -> None:
    for column in EVENT_COLUMNS:
        if column.name not in schema.names:
            raise Damaged(path, f"column {column.name!r} is missing", expected=", ".join(c.name for c in EVENT_COLUMNS))
        found = schema.field(column.name).type
        text = pa.types.is_dictionary(found) and pa.types.is_string(found.value_type)
        if found != column.type and not (text and pa.types.is_dictionary(column.type)):
            raise Damaged(path, f"column {column.name!r} is {found}", expected=str(column.type))


def rising(batches: Iterable[pa.RecordBatch], where: str) -> Iterator[pa.RecordBatch]:
    """The same batches, which begin with ``tsc``.

    Raises:
        Damaged: ``tsc`` falls from one to the next.
    """
    last = 0
    for batch in batches:
        tsc = batch.column(0)
        if tsc[0].as_py() < last:
            raise _falls(where)
        last = tsc[len(tsc) - 1].as_py()
        yield batch


def _falls(where: str) -> Damaged:
    return Damaged(where, "the tsc column falls", expected="events sorted by TSC", remedy="iretrace import sorts")


def _check(batch: pa.RecordBatch, last: int, where: str) -> int:
    """Check a batch's values; return its last TSC."""
    names = batch.schema.names
    for name in names:
        column = batch.column(name)
        if column.null_count and not _TYPES[name].nullable:
            raise Damaged(where, f"column {name!r} holds nulls", expected="a value in every row")
        if pa.types.is_dictionary(column.type):
            # Parquet's reader lets through what points beyond the texts, and whoever follows it reads foreign memory.
            width = column.type.index_type.bit_width // 8
            index = np.frombuffer(column.buffers()[1], f"u{width}")[column.offset : column.offset + len(column)]
            if int(index.max()) >= len(column.dictionary):
                raise Damaged(where, f"column {name!r} holds a text that is not there", expected="an intact trace")
    if "phase" in names:
        strange = set(batch.column("phase").dictionary.to_pylist()) - set(PHASES)
        if strange:
            raise Damaged(where, f"phase {min(map(str, strange))!r}", expected="entry or exit")
    if "tsc" not in names:
        return last
    tsc = batch.column("tsc")
    first, end = tsc[0].as_py(), tsc[len(tsc) - 1].as_py()
    # Not by pyarrow.compute or to_numpy: what they import (pandas, for one) takes longer than to read a small trace.
    values = np.frombuffer(tsc.buffers()[1], np.uint64)[tsc.offset : tsc.offset + len(tsc)]
    falls = bool((values[1:] < values[:-1]).any())
    if first < last or falls:
        raise _falls(where)
    return int(end)


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
