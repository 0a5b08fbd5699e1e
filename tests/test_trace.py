"""Reading traces: what is not a whole trace is refused in one line that names file, finding, expectation, remedy."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iretrace.errors import Damaged, InputError, IretraceError, NotATrace, SchemaTooNew
from iretrace.footer import Footer, decode
from iretrace.schema import EVENT_SCHEMA, FOOTER_KEY, ROW_GROUP_EVENTS
from iretrace.trace import open_trace
from tests.traces import event, table, write_trace

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import RunIretrace

EVENTS = [event(100 + i, "entry" if i % 2 == 0 else "exit", 0xEC, cs=0x10, ip=i) for i in range(10)]


def rewrite(path: Path, data: pa.Table, footer: bytes | None) -> Path:
    """Write any table with any footer."""
    metadata = {} if footer is None else {FOOTER_KEY: footer}
    pq.write_table(data.replace_schema_metadata(metadata), path)
    return path


def test_a_trace_comes_back_as_it_was_written(tmp_path: Path) -> None:
    """Events and footer survive the file."""
    footer = Footer(kernel_cs=0x10, tags={"a": "b"}, nmi_text=[(1, 2)])
    trace = open_trace(write_trace(tmp_path / "t.parquet", EVENTS, footer))
    assert trace.footer == footer
    assert trace.n_events == 10
    (batch,) = trace.batches(EVENT_SCHEMA.names)
    assert pa.Table.from_batches([batch]).cast(EVENT_SCHEMA).to_pylist() == table(EVENTS).to_pylist()


def test_row_groups_are_bounded(tmp_path: Path) -> None:
    """A long trace is read in pieces of bounded size, in order."""
    n = ROW_GROUP_EVENTS + 17
    path = write_long(tmp_path / "t.parquet", n)
    sizes = [batch.num_rows for batch in open_trace(path).batches(["tsc"])]
    assert sum(sizes) == n
    assert max(sizes) <= ROW_GROUP_EVENTS


def write_long(path: Path, n: int) -> Path:
    """A trace of n timer entries."""
    from iretrace.trace_writer import writing  # noqa: PLC0415

    one = table([event(1, "entry", 0xEC)])
    columns = {
        name: one.column(name).combine_chunks().take(pa.array(np.zeros(n, np.int64))) for name in one.schema.names
    }
    columns["tsc"] = pa.array(np.arange(n, dtype=np.uint64))
    with writing(path) as writer:
        for batch in pa.table(columns, schema=EVENT_SCHEMA).to_batches():
            writer.write(batch)
        writer.finish(Footer())
    return path


def test_row_groups_are_whole(tmp_path: Path) -> None:
    """Whatever the size of the batches, every row group but the last is full."""
    from iretrace.trace_writer import writing  # noqa: PLC0415

    (batch,) = table([event(1, "entry", 0xEC)] * 1000).combine_chunks().to_batches()
    with writing(tmp_path / "t") as writer:
        for n in (700, 1, 1000) * 200:
            writer.write(batch.slice(0, n))
        writer.finish(Footer())
    with pq.ParquetFile(tmp_path / "t") as file:
        sizes = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
    assert sizes == [ROW_GROUP_EVENTS, 340_200 - ROW_GROUP_EVENTS]


def refusal(path: Path) -> str:
    """The one line with which a file is refused."""
    with pytest.raises(InputError) as caught:
        list(open_trace(path).batches(EVENT_SCHEMA.names))
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def test_what_is_not_a_trace_is_named(tmp_path: Path) -> None:
    """No file, an empty one, text, Parquet of someone else: each its own message and class."""
    path = tmp_path / "x.parquet"
    assert "no such file" in refusal(path)
    assert "directory" in refusal(tmp_path)
    path.write_bytes(b"")
    assert "empty" in refusal(path)
    path.write_bytes(b"hello, world, this is text")
    assert "PAR1" in refusal(path)
    rewrite(path, table(EVENTS), None)
    with pytest.raises(NotATrace, match="without iretrace's footer"):
        open_trace(path)


def test_a_newer_schema_is_not_guessed_at(tmp_path: Path) -> None:
    """A trace of a newer iretrace says which schema it has and which this one reads."""
    document = {**json.loads(Footer().to_json()), "schema": 99, "surprise": True}
    path = rewrite(tmp_path / "t.parquet", table(EVENTS), json.dumps(document).encode())
    with pytest.raises(SchemaTooNew, match="schema 99; expected at most 1; upgrade"):
        open_trace(path)


@pytest.mark.parametrize("keep", [4, 100, 0.5, 0.99])
def test_a_truncated_trace_is_refused(tmp_path: Path, keep: float) -> None:
    """Cut anywhere, the file is refused in one line."""
    path = write_trace(tmp_path / "t.parquet", EVENTS)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep if keep > 1 else keep * len(data))])
    assert "truncated" in refusal(path)


def test_a_trace_without_events(tmp_path: Path) -> None:
    """It is a trace, but nothing can be said of it."""
    assert "no events" in refusal(write_trace(tmp_path / "t.parquet", []))


@pytest.mark.parametrize("name", EVENT_SCHEMA.names)
def test_a_missing_column_is_named(tmp_path: Path, name: str) -> None:
    """Whichever column is missing, it is named."""
    path = rewrite(tmp_path / "t.parquet", table(EVENTS).drop_columns([name]), Footer().to_json())
    assert repr(name) in refusal(path)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("cpu", pa.array([70000] * 10, pa.uint32())),
        ("vector", pa.array([300] * 10, pa.uint16())),
        ("tsc", pa.array(list(range(10, 0, -1)), pa.uint64())),
        ("cpu", pa.array([None] * 10, pa.uint16())),
        ("phase", pa.array(["middle"] * 10).dictionary_encode()),
    ],
)
def test_values_out_of_range_are_refused(tmp_path: Path, name: str, values: pa.Array) -> None:
    """A CPU or vector that needs a wider type, a falling TSC, nulls and phases that do not exist."""
    data = table(EVENTS)
    data = data.set_column(data.schema.get_field_index(name), name, values)
    assert name in refusal(rewrite(tmp_path / "t.parquet", data, Footer().to_json()))


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"not json",
        b"[1]",
        b'{"schema": "1"}',
        b'{"schema": true}',
        b'{"schema": 1, "kernel_cs": -1}',
        b'{"schema": 1, "kernel_cs": 70000}',
        b'{"schema": 1, "nmi_text": [[5, 5]]}',
        b'{"schema": 1, "nmi_text": [[0, 18446744073709551617]]}',
        b'{"schema": 1, "losses": [{"cause": "gremlins", "count": 1}]}',
        b'{"schema": 1, "losses": [{"cause": "ring-full", "count": -1}]}',
        b'{"schema": 1, "clock": {"tsc_khz": 0}}',
        b"[" * 100_000,
        b'{"schema": 1, "host": {"name": "\xff"}}',
    ],
)
def test_a_footer_that_is_off_is_refused(document: bytes) -> None:
    """Untrusted JSON: types, ranges and names are checked."""
    with pytest.raises(Damaged):
        decode(document, "t.parquet")


@given(st.binary(max_size=200), st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_a_damaged_trace_never_crashes(tmp_path_factory: pytest.TempPathFactory, noise: bytes, at: int) -> None:
    """Bytes overwritten anywhere give the events back, or a one-line refusal."""
    path = tmp_path_factory.mktemp("noise") / "t.parquet"
    data = bytearray(write_trace(path, EVENTS).read_bytes())
    at %= len(data)
    data[at : at + len(noise)] = noise[: len(data) - at]
    path.write_bytes(bytes(data))
    try:
        for batch in open_trace(path).batches(EVENT_SCHEMA.names):
            assert batch.num_rows <= 10
    except IretraceError as error:
        assert "\n" not in str(error)  # noqa: PT017 - either outcome is right


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=5))
def test_any_json_is_decoded_or_refused(value: Any) -> None:
    """No JSON value makes decoding a footer crash."""
    for document in (value, {"schema": 1, "clock": value}, {"schema": 1, "idt": value, "classes": value}):
        try:
            decode(json.dumps(document).encode(), "t.parquet")
        except IretraceError:
            continue


def test_the_verb_refuses_in_one_line(run_iretrace: RunIretrace, tmp_path: Path) -> None:
    """On the command line: one line on standard error, exit status 2."""
    (tmp_path / "x.parquet").write_bytes(b"PAR1 but no more")
    for verb in ("replay", "report"):
        done = run_iretrace(verb, "x.parquet", check=False)
        assert done.returncode == 2
        assert done.stderr.startswith("iretrace: x.parquet: truncated")
        assert done.stderr.count("\n") == 1
        assert done.stdout == ""


def test_a_pipe_is_told_and_not_waited_for(tmp_path: Path) -> None:
    """Nobody may ever write to it."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="is a pipe or a device"):
        open_trace(tmp_path / "pipe")
