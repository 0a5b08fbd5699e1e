"""Importing CSV tables and partial files: what comes out, and how the wrong is refused."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iretrace.collect.partial import Header, PartialWriter, Status, copy_sorted, read_contents
from iretrace.collect.wire import SEEN_VECTOR, TRAP_EVENT
from iretrace.errors import InputError, IretraceError
from iretrace.footer import Anchor, Clock, Footer, Loss, Process
from iretrace.importers import csv_table, sorting
from iretrace.importers.job import ImportOptions
from iretrace.importers.run import import_file
from iretrace.trace import open_trace
from iretrace.trace_writer import writing

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from tests.conftest import RunIretrace

HEADER = "tsc,cpu,phase,vector,cs,ip,flags,sp,irq,error_code,to_kernel,pid\n"


def load_csv(path: Path, text: str, *, strict: bool = False) -> list[dict[str, Any]]:
    """Import a CSV text; the trace's rows."""
    source, target = path / "e.csv", path / "t.parquet"
    source.write_text(text)
    import_file(source, target, options=ImportOptions(strict=strict), force=True)
    rows: list[dict[str, Any]] = pq.read_table(target).to_pylist()
    return rows


def test_a_table_becomes_a_trace(tmp_path: Path) -> None:
    """Decimal and hexadecimal integers, empty cells, rows out of order."""
    text = (
        HEADER
        + "0x64,1,exit,2,0x10,0xffffffff81000000,0x46,18446744073709551615,,,true,7\n"
        + "50,1,entry,2,16,5,70,,,0,1,7\n"
        + "60,0,entry,,,,,,36,,false,0\n"
    )
    rows = load_csv(tmp_path, text)
    assert [row["tsc"] for row in rows] == [50, 60, 100]
    assert rows[2]["ip"] == 0xFFFFFFFF81000000
    assert rows[2]["sp"] == 2**64 - 1
    assert (rows[0]["cs"], rows[0]["flags"], rows[0]["to_kernel"], rows[0]["error_code"]) == (16, 70, True, 0)
    assert (rows[1]["vector"], rows[1]["irq"], rows[1]["cs"], rows[1]["to_kernel"]) == (None, 36, None, False)


def test_the_footer_holds_what_was_said(run_iretrace: RunIretrace, tmp_path: Path) -> None:
    """--kernel-cs, --nmi-text and --tsc-khz reach the footer; classes without exits are known."""
    (tmp_path / "e.csv").write_text("tsc,cpu,phase,vector\n1,0,entry,14\n2,0,entry,2\n5,0,entry,236\n9,0,exit,236\n")
    run_iretrace(
        *("import", "--format", "csv", "e.csv", "--kernel-cs", "0x8", "--nmi-text", "0xA-0xB"),
        *("--nmi-text", "ff-1ff", "--tsc-khz", "2450000.5", "-o", "t.parquet"),
    )
    footer = open_trace(tmp_path / "t.parquet").footer
    assert footer.kernel_cs == 8
    assert footer.nmi_text == [(0xA, 0xB), (0xFF, 0x1FF)]
    assert footer.clock == Clock(source="import", tsc_khz=2450000.5)
    exits = {item.name: item.exit for item in footer.classes}
    assert exits == {"#PF": None, "NMI": "csv", "timer": "csv"}
    assert (footer.window.start_tsc, footer.window.stop_tsc) == (1, 9)


def test_bad_rows_are_counted_and_left_out(tmp_path: Path) -> None:
    """Rows that cannot be read are a loss, named and counted once each; the others are kept."""
    source, target = tmp_path / "e.csv", tmp_path / "t.parquet"
    rows = ["1,0,entry,1", "x,y,entry,1", "3,0,exit", "4,0,entry,300", "5,0,exit,1", "6,,entry,300"]
    source.write_text("tsc,cpu,phase,vector\n" + "\n".join(rows) + "\n")
    done = import_file(source, target)
    assert pq.read_table(target).column("tsc").to_pylist() == [1, 5]
    assert [(loss.cause, loss.count) for loss in done.footer.losses] == [("malformed", 4)]
    assert any(text.startswith("row 3: tsc is 'x'") for text in done.job.told), done.job.told
    with pytest.raises(InputError, match=r"--strict"):
        load_csv(tmp_path, source.read_text(), strict=True)


@pytest.mark.parametrize(
    ("line", "finding"),
    [
        ("x,0,entry,1,,,,,,,,", "row 2: tsc is 'x'"),
        ("-1,0,entry,1,,,,,,,,", "tsc is '-1'"),
        ("18446744073709551616,0,entry,1,,,,,,,,", "tsc is '18446744073709551616'"),
        ("1,65536,entry,1,,,,,,,,", "cpu is '65536'; expected a whole number, decimal or 0x…, from 0 to 65535"),
        ("1,0,entry,256,,,,,,,,", "vector is '256'"),
        ("1,0,begin,1,,,,,,,,", "phase is 'begin'; expected entry or exit"),
        ("1,0,entry,1,,,,,,,maybe,", "to_kernel is 'maybe'; expected true or false"),
        ("1,,entry,1,,,,,,,,", "column 'cpu' is empty"),
        ("1,0,entry", "near row 2"),
    ],
)
def test_bad_cells_are_named_with_their_row(tmp_path: Path, line: str, finding: str) -> None:
    """The message names the file, the row, what was found and what was expected."""
    with pytest.raises(InputError) as caught:
        load_csv(tmp_path, HEADER + line + "\n", strict=True)
    assert finding in str(caught.value)
    assert "e.csv" in str(caught.value)


def test_bad_tables_leave_nothing_behind(run_iretrace: RunIretrace, tmp_path: Path) -> None:
    """Missing columns, no rows, binary junk, no file, a trace: one line, exit 2, no output file."""
    tables = {
        "missing.csv": b"cpu,phase,vector\n0,entry,1\n",
        "norows.csv": b"tsc,cpu,phase,vector\n",
        "twice.csv": b"tsc,tsc,cpu,phase,vector\n1,1,0,entry,1\n",
        "junk.csv": b"\x80\x81\x82\n\xff",
        "empty.csv": b"",
        "trace.csv": b"PAR1....PAR1",
        "stream.csv": b"\xff\xff\xff\xff\x10\x00\x00\x00junkjunkjunkjunk",
    }
    for name, content in tables.items():
        (tmp_path / name).write_bytes(content)
    for name in [*tables, "none.csv"]:
        done = run_iretrace("import", name, "-o", "t.parquet", check=False)
        assert done.returncode == 2, name
        assert done.stderr.count("\n") == 1, done.stderr
        assert name in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(tables)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2**64 - 1), st.integers(0, 65535), st.sampled_from(["entry", "exit"]), st.integers(0, 255)
        ),
        min_size=1,
        max_size=30,
    )
)
@settings(max_examples=50, deadline=None)
def test_import_sorts_and_loses_nothing(
    tmp_path_factory: pytest.TempPathFactory, events: list[tuple[int, int, str, int]]
) -> None:
    """Whatever the order of the rows, the trace holds them all, sorted by TSC, equals in their order."""
    lines = [f"{tsc},{cpu},{phase},{vector:#x}" for tsc, cpu, phase, vector in events]
    rows = load_csv(tmp_path_factory.mktemp("csv"), "tsc,cpu,phase,vector\n" + "\n".join(lines) + "\n")
    found = [(row["tsc"], row["cpu"], row["phase"], row["vector"]) for row in rows]
    assert found == sorted(events, key=lambda item: item[0])


def test_a_table_of_many_blocks_is_sorted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows far out of order across blocks of the file come out in order."""
    monkeypatch.setattr(csv_table, "_BLOCK_BYTES", 1000)
    monkeypatch.setattr(sorting, "HELD_ROWS", 100)
    rng = np.random.default_rng(1)
    for order in (rng.permutation(3000), np.arange(3000)[::-1]):
        lines = [f"{tsc},0,entry,14" for tsc in order]
        rows = load_csv(tmp_path, "tsc,cpu,phase,vector\n" + "\n".join(lines) + "\n")
        assert [row["tsc"] for row in rows] == list(range(3000))


ANCHOR = Anchor(tsc=1000, realtime_ns=0, monotonic_ns=0)
LATER = Anchor(tsc=3_001_000, realtime_ns=0, monotonic_ns=1_000_000)


def wire(tsc: list[int]) -> NDArray[np.void]:
    """Wire events of a timer at these times."""
    events = np.zeros(len(tsc), TRAP_EVENT)
    events["tsc"], events["vector"], events["seen"] = tsc, 0xEC, SEEN_VECTOR
    return events


def write_partial(path: Path, batches: list[list[int]]) -> Path:
    """A partial file of a run that lost 5 events and was not closed."""
    header = Header(
        footer=Footer(kernel_cs=0x10, clock=Clock(source="msr-tsc", anchors=[ANCHOR])), text_base=0, raw_addresses=True
    )
    writer = PartialWriter(path, header)
    for tsc in batches:
        learnt = [Process(pid=tsc[0], comm="sh"), Process(pid=1, comm=f"at {tsc[0]}", since_tsc=tsc[0])]
        losses = [Loss(cause="ring-full", cpu=0, count=5)]
        writer.write(wire(tsc), Status(losses=losses, anchor=LATER, processes=learnt))
    writer._writer = None  # killed: the stream never gets its end
    writer._file.close()
    return path


def salvage(path: Path, target: Path) -> tuple[list[int], Footer]:
    """Salvage a partial file: the time stamps kept, and the footer."""
    footer = import_file(path, target, source_format="partial", force=True).footer
    return pq.read_table(target).column("tsc").to_pylist(), footer


def test_a_partial_file_is_salvaged_in_order(tmp_path: Path) -> None:
    """Batches that overlap in time come out sorted; the footer says the run was killed, and what was lost by then."""
    path = write_partial(tmp_path / "t.partial", [[10, 50, 90], [20, 60], [95, 100], [30, 110]])
    kept, footer = salvage(path, tmp_path / "t.parquet")
    assert kept == [10, 20, 30, 50, 60, 90, 95, 100, 110]
    assert [(loss.cause, loss.count) for loss in footer.losses] == [("ring-full", 5), ("killed", 0)]
    assert footer.is_lossy()
    assert footer.window.ended_by == "killed"
    assert footer.clock.tsc_khz == pytest.approx(3_000_000)
    assert footer.events == 9
    assert [process.comm for process in footer.processes if process.pid == 1] == ["at 10", "at 20", "at 30", "at 95"]
    assert [process.pid for process in footer.processes if process.comm == "sh"] == [10, 20, 30, 95]


def test_a_disk_that_refuses_late_is_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was taken and then could not be put on the disk is counted, and the rest is a whole trace."""
    header = Header(footer=Footer(kernel_cs=0x10), text_base=0, raw_addresses=True)
    writer = PartialWriter(tmp_path / "t.partial", header)
    status = Status(losses=[], anchor=LATER)
    for tsc in range(0, 800, 100):
        writer.write(wire(list(range(tsc, tsc + 100))), status)

    def refuse(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fdatasync", refuse)
    writer.sync()  # in a thread of its own, which must go on
    writer.write(wire([900]), status)
    writer.close()
    kept = sum(batch.n_events for batch in writer.batches)
    assert writer.full
    assert 500 <= kept <= 700
    assert writer.dropped == {0: 801 - kept}
    contents = read_contents(tmp_path / "t.partial")
    assert sum(batch.n_events for batch in contents.batches) == kept


@pytest.mark.slow
def test_a_partial_file_cut_anywhere(tmp_path: Path) -> None:
    """Cut at any byte, every complete batch is salvaged, or one line says that there is none."""
    whole = write_partial(tmp_path / "t.partial", [[10, 20], [30, 40], [50]]).read_bytes()
    outcomes = set()
    for size in range(0, len(whole), 7):
        path = tmp_path / "cut.partial"
        path.write_bytes(whole[:size])
        try:
            kept, footer = salvage(path, tmp_path / "cut.parquet")
        except InputError as error:
            assert "\n" not in str(error)  # noqa: PT017 - either outcome is right
            outcomes.add(0)
            continue
        assert kept == [10, 20, 30, 40, 50][: len(kept)]
        assert footer.is_lossy()
        outcomes.add(len(kept))
    assert outcomes == {0, 2, 4} | ({5} if 5 in outcomes else set())


@given(st.binary(max_size=64), st.integers(0, 1 << 16))
@settings(max_examples=80, deadline=None)
def test_a_damaged_partial_file_never_crashes(tmp_path_factory: pytest.TempPathFactory, noise: bytes, at: int) -> None:
    """Bytes overwritten anywhere give some events back, or a one-line refusal."""
    directory = tmp_path_factory.mktemp("noise")
    data = bytearray(write_partial(directory / "t.partial", [[10, 20], [30, 40], [50]]).read_bytes())
    at %= len(data)
    data[at : at + len(noise)] = noise[: len(data) - at]
    (directory / "t.partial").write_bytes(bytes(data))
    try:
        salvage(directory / "t.partial", directory / "t.parquet")
    except IretraceError as error:
        assert "\n" not in str(error)  # noqa: PT017 - either outcome is right


def test_memory_is_bounded_by_overlap(tmp_path: Path) -> None:
    """Batches in order are written out as they are read: the writer sees each before the next is read."""
    path = write_partial(tmp_path / "t.partial", [[i, i + 1] for i in range(0, 100, 2)])
    contents = read_contents(path)
    progress: list[int] = []
    with writing(tmp_path / "t.parquet") as writer:
        copy_sorted(path, contents, writer, progress.append)
        writer.finish(Footer())
    assert progress == list(range(2, 101, 2))


def test_not_our_stream(tmp_path: Path) -> None:
    """An Arrow stream of someone else is refused."""
    path = tmp_path / "other.partial"
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, pa.schema([("x", pa.int8())])) as stream:
        stream.write_table(pa.table({"x": pa.array([1], pa.int8())}))
    with pytest.raises(InputError, match="none of iretrace's"):
        read_contents(path)
