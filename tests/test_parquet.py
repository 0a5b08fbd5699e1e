"""The Parquet writer against two readers that know nothing of it: Arrow's and DuckDB's."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iretrace import _native
from iretrace.parquet.writer import ParquetWriter
from iretrace.schema import EVENT_SCHEMA

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SCHEMA = pa.schema(
    [
        pa.field("rising", pa.uint64(), nullable=False),
        pa.field("text", pa.dictionary(pa.int8(), pa.string()), nullable=False),
        pa.field("maybe_text", pa.dictionary(pa.int8(), pa.string())),
        pa.field("u8", pa.uint8()),
        pa.field("u16", pa.uint16()),
        pa.field("u32", pa.uint32(), nullable=False),
        pa.field("u64", pa.uint64()),
        pa.field("bit", pa.bool_()),
        pa.field("sure_bit", pa.bool_(), nullable=False),
    ]
)
NULLABLE = True
TEXTS = ["entry", "exit", "", "ünïcode \N{SNOWMAN}", "x" * 300]


def written(batches: Sequence[pa.RecordBatch], metadata: dict[bytes, bytes] | None = None) -> bytes:
    """The file that the batches become."""
    file = io.BytesIO()
    writer = ParquetWriter(file, batches[0].schema, deltas=["rising"])
    for batch in batches:
        writer.write(batch)
    writer.close(metadata or {})
    return file.getvalue()


def plain(table: pa.Table) -> pa.Table:
    """The same with texts in place of dictionaries, and without metadata."""
    fields = [pa.field(f.name, pa.string(), f.nullable) if pa.types.is_dictionary(f.type) else f for f in table.schema]
    return table.cast(pa.schema(fields)).combine_chunks().replace_schema_metadata(None)


def check(batches: Sequence[pa.RecordBatch], tmp_path: Path) -> pq.FileMetaData:
    """Both readers find what was written."""
    path = tmp_path / "t.parquet"
    path.write_bytes(written(batches))
    expected = plain(pa.Table.from_batches(batches).unify_dictionaries())
    with pq.ParquetFile(path) as file:
        assert file.schema_arrow == batches[0].schema
        assert plain(file.read()).equals(expected)
        metadata = file.metadata
    found = duckdb.connect().read_parquet(str(path)).to_arrow_table()
    assert found.cast(expected.schema).equals(expected)
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [len(b) for b in batches]
    for i, batch in enumerate(batches):
        statistics = metadata.row_group(i).column(0).statistics
        values = batch.column(0).to_pylist()
        assert (statistics.min, statistics.max, statistics.null_count) == (min(values), max(values), 0)
    return metadata


def make(seed: int, n: int, *, distinct: int, run: int, nulls: float) -> pa.RecordBatch:
    """Random columns: each holds a value for about ``run`` rows, one of ``distinct``, or null."""
    rng = np.random.default_rng(seed)

    def integers(bits: int) -> np.ndarray[Any, Any]:
        pool = rng.integers(0, 1 << bits, distinct, np.uint64, endpoint=False) if bits < 64 else rng.bytes(8 * distinct)
        pool = np.frombuffer(pool, np.uint64) if isinstance(pool, bytes) else pool
        runs = rng.integers(0, distinct, n // run + 1)
        return pool[np.repeat(runs, run)[:n]].astype(f"u{bits // 8}")

    def missing() -> np.ndarray[Any, Any]:
        return np.repeat(rng.random(n // run + 1) < nulls, run)[:n]

    columns = []
    for field in SCHEMA:
        mask = missing() if field.nullable else None
        if field.name == "rising":
            columns.append(pa.array(np.sort(integers(64))))
        elif pa.types.is_dictionary(field.type):
            codes = pa.array((integers(8) % len(TEXTS)).astype(np.int8), mask=mask)
            columns.append(pa.DictionaryArray.from_arrays(codes, pa.array(TEXTS)))
        elif pa.types.is_boolean(field.type):
            columns.append(pa.array(integers(8) % 2 == 1, mask=mask))
        else:
            columns.append(pa.array(integers(field.type.bit_width), mask=mask))
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


SHAPES = st.fixed_dictionaries(
    {
        "distinct": st.sampled_from([1, 2, 3, 17, 256, 5000]),
        "run": st.sampled_from([1, 2, 5, 64, 100, 1000]),
        "nulls": st.sampled_from([0.0, 0.02, 0.5, 0.97, 1.0]),
    }
)
SIZES = st.sampled_from([1, 2, 7, 8, 31, 33, 63, 64, 65, 127, 129, 130, 200, 513, 4096])


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 1 << 32), sizes=st.lists(SIZES, min_size=1, max_size=3), shape=SHAPES, first=st.integers(0, 70)
)
@pytest.mark.slow
def test_readers_find_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, seed: int, sizes: list[int], shape: dict[str, Any], first: int
) -> None:
    """Every kind of column, runs and nulls, of row groups that begin in the middle of Arrow's buffers."""
    batches = [make(seed + i, n + first, **shape).slice(first) for i, n in enumerate(sizes)]
    check(batches, tmp_path_factory.mktemp("parquet"))


@pytest.mark.parametrize("distinct", [65_535, 65_536, 65_537, 200_000])
@pytest.mark.parametrize("nulls", [0.0, 0.3])
def test_many_different_values(tmp_path: Path, distinct: int, nulls: float) -> None:
    """A dictionary holds 65,536 values; where there are more the values themselves are written."""
    rng = np.random.default_rng(distinct)
    values = rng.permutation(np.concatenate([np.arange(distinct), rng.integers(0, distinct, 50_000)])).astype(np.uint64)
    mask = rng.random(len(values)) < nulls if nulls else None
    schema = pa.schema([pa.field("u64", pa.uint64()), pa.field("u32", pa.uint32())])
    columns = [
        pa.array(values * np.uint64(0x9E3779B97F4A7C15), mask=mask),
        pa.array(values.astype(np.uint32), mask=mask),
    ]
    path = tmp_path / "t.parquet"
    path.write_bytes(written([pa.RecordBatch.from_arrays(columns, schema=schema)]))
    assert pq.read_table(path).equals(pa.table(columns, schema=schema))
    assert (
        duckdb.connect().read_parquet(str(path)).to_arrow_table().cast(schema).equals(pa.table(columns, schema=schema))
    )
    there = len(np.unique(values[~mask] if mask is not None else values))
    column = pq.read_metadata(path).row_group(0).column(0)
    assert column.has_dictionary_page is (there <= 65_536)


@pytest.mark.parametrize(
    "values",
    [
        [0, (1 << 64) - 1],
        [(1 << 63) - 1, 1 << 63, (1 << 63) + 1],
        [0] * 1000,
        [(i << 33) + (i * i) % 8191 for i in range(1000)],
        [0, 1 << 62, (1 << 63) + (1 << 62), (1 << 64) - 1],
    ],
)
def test_differences_of_any_width(tmp_path: Path, values: list[int]) -> None:
    """A jump over half of all numbers is a negative difference."""
    schema = pa.schema([pa.field("rising", pa.uint64(), nullable=False)])
    check([pa.RecordBatch.from_arrays([pa.array(values, pa.uint64())], schema=schema)], tmp_path)


@pytest.mark.parametrize("width", range(65))
def test_every_width_of_a_miniblock(tmp_path: Path, width: int) -> None:
    """Differences of so many bits, over more than a block."""
    rng = np.random.default_rng(width)
    step = rng.integers(0, 1 << 64, 300, np.uint64) >> np.uint64(64 - width) if width else np.zeros(300, np.uint64)
    schema = pa.schema([pa.field("rising", pa.uint64(), nullable=False)])
    batch = pa.RecordBatch.from_arrays([pa.array(np.cumsum(step))], schema=schema)
    path = tmp_path / "t.parquet"
    path.write_bytes(written([batch]))  # it need not rise
    assert pq.read_table(path).column(0).combine_chunks().equals(batch.column(0))
    assert (
        duckdb.connect().read_parquet(str(path)).to_arrow_table().column(0).to_pylist() == batch.column(0).to_pylist()
    )


def test_many_row_groups_and_metadata(tmp_path: Path) -> None:
    """Lists of more than fourteen, keys of the caller, and what Parquet calls the types."""
    batches = [make(i, 100, distinct=3, run=4, nulls=0.1) for i in range(20)]
    metadata = check(batches, tmp_path)
    assert metadata.num_row_groups == 20
    logical = [str(metadata.schema.column(i).logical_type) for i in range(metadata.num_columns)]
    assert logical[0] == "Int(bitWidth=64, isSigned=false)"
    assert logical[1] == "String"
    assert logical[3] == "Int(bitWidth=8, isSigned=false)"
    whole = written(batches, {b"iretrace": b"{}" * 500})
    assert pq.read_metadata(io.BytesIO(whole)).metadata[b"iretrace"] == b"{}" * 500


def test_same_schema_as_arrows_own_writer(tmp_path: Path) -> None:
    """A trace says of its columns what Arrow's writer would say."""
    events = EVENT_SCHEMA.empty_table().to_batches() or [pa.RecordBatch.from_pylist([], schema=EVENT_SCHEMA)]
    theirs, ours = tmp_path / "theirs.parquet", tmp_path / "ours.parquet"
    pq.write_table(pa.Table.from_batches(events, EVENT_SCHEMA), theirs)
    with ours.open("wb") as file:
        ParquetWriter(file, EVENT_SCHEMA, deltas=["tsc"]).close({})
    assert pq.read_schema(ours).equals(pq.read_schema(theirs))
    assert str(pq.read_metadata(ours).schema).split("\n")[1:] == str(pq.read_metadata(theirs).schema).split("\n")[1:]


def test_other_types_are_refused() -> None:
    """Whoever adds a column of another type must teach the writer."""
    with pytest.raises(TypeError, match="double"):
        ParquetWriter(io.BytesIO(), pa.schema([pa.field("x", pa.float64())]))


def test_too_little_room() -> None:
    """The encoders check what they are given, whatever the caller got wrong."""
    values = np.arange(1000, dtype=np.uint64)
    small, large = np.empty(40, np.uint8), np.empty(1 << 21, np.uint8)
    with pytest.raises(ValueError, match="room"):
        _native.page_deltas(values, small)
    with pytest.raises(ValueError, match="room"):
        _native.page_integers(values, 8, None, 0, NULLABLE, large, large, small)
    with pytest.raises(ValueError, match="scratch"):
        _native.page_integers(values, 8, None, 0, NULLABLE, small, large, large)
    with pytest.raises(ValueError, match="bitmap"):
        _native.page_integers(values, 8, np.zeros(10, np.uint8), 0, NULLABLE, large, large, large)
    with pytest.raises(ValueError, match="bytes"):
        _native.page_integers(values, 3, None, 0, NULLABLE, large, large, large)
    with pytest.raises(ValueError, match="bitmaps"):
        _native.page_bits(np.zeros(10, np.uint8), 1, None, 0, 80, NULLABLE, large)
    with pytest.raises(ValueError, match="room"):
        _native.page_bits(np.zeros(1000, np.uint8), 0, None, 0, 8000, NULLABLE, small)
    with pytest.raises(ValueError, match="8 bytes"):
        _native.page_deltas(bytes(7), large)
