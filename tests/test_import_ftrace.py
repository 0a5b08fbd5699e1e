"""Importing trace.dat and ftrace's text: what the real tools wrote, and what they would not write to order."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import time
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iretrace.errors import InputError
from iretrace.importers import lines, sorting
from tests import perf_writer as perf
from tests import ring_writer as ring
from tests.conftest import needed
from tests.import_twins import page_events
from tests.importing import read_damaged, rows_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import CompileWorkload

SYSTEMS: Final = ("exceptions", "irq_vectors", "irq", "nmi")
_REPORT = re.compile(r"^.*?-(\d+)\s+\[(\d+)\](?:\s+\S+\s+|\s*)([\d.]+): +(\w+): +(.*)$")


def as_reported(text: str) -> list[tuple[Any, ...]]:
    """A line-by-line reading of a text: (time, CPU, thread, phase, vector, irq, error code) of each trap."""
    found = []
    for line in text.splitlines():
        match = _REPORT.match(line)
        if match is None:
            continue
        pid, cpu, stamp, name, trace = match.groups()
        values = dict(re.findall(r"(\w+)=(\S+)", trace))
        seconds, point, part = stamp.partition(".")
        moment = int(seconds) * 10**9 + int(part.ljust(9, "0")) if point else int(seconds)
        if name.startswith("page_fault_"):
            what: tuple[Any, ...] = ("entry", 14, None, int(values["error_code"], 16))
        elif name in ("irq_handler_entry", "irq_handler_exit"):
            what = (name.rpartition("_")[2], None, int(values["irq"]), None)
        elif name.endswith(("_entry", "_exit")) and "vector" in values:
            what = (name.rpartition("_")[2], int(values["vector"]), None, None)
        else:
            continue
        found.append((moment, int(cpu), int(pid), *what))
    return sorted(found, key=repr)


def as_imported(rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """The trace's events in the same form."""
    names = ("tsc", "cpu", "pid", "phase", "vector", "irq", "error_code")
    return sorted((tuple(row[name] for name in names) for row in rows), key=repr)


@pytest.fixture(scope="module")
def recorded(
    tmp_path_factory: pytest.TempPathFactory, tracefs: Path, compile_workload: CompileWorkload
) -> Iterator[dict[str, Path]]:
    """A recording of this kernel's ftrace with the TSC as its clock: as text, and by trace-cmd in both versions.

    ``trace-cmd record`` writes to ftrace's function filter, which a locked kernel refuses; enabling the events through
    tracefs and ``trace-cmd extract`` do without.
    """
    directory = tmp_path_factory.mktemp("ftrace")
    program, trace_cmd = compile_workload("faults"), needed("trace-cmd", "trace-cmd")
    clock, room = tracefs / "trace_clock", tracefs / "buffer_size_kb"
    before = clock.read_text().partition("[")[2].partition("]")[0]
    room_before = room.read_text().split()[0]  # 7 (expanded: 1408) until it is first used
    try:
        room.write_text("16384")  # what else the machine does while the program waits for a CPU has room
        clock.write_text("x86-tsc")
        (tracefs / "trace").write_text("")
        (tracefs / "tracing_on").write_text("1")
        for system in SYSTEMS:
            (tracefs / "events" / system / "enable").write_text("1")
        subprocess.run([program, "2003"], check=True, capture_output=True)
        time.sleep(0.1)  # no wait: how long the recording goes on
        for system in SYSTEMS:
            (tracefs / "events" / system / "enable").write_text("0")
        files = {name: directory / name for name in ("trace", "v7.dat", "v6.dat", "none.dat", "report")}
        files["trace"].write_bytes((tracefs / "trace").read_bytes())
        run = [trace_cmd, "extract", "-o", str(files["v7.dat"])]
        subprocess.run(run, check=True, capture_output=True)
        for version, name in (("6", "v6.dat"), ("7", "none.dat")):
            run = [trace_cmd, "convert", "--file-version", version, "--compression", "none"]
            subprocess.run([*run, "-i", str(files["v7.dat"]), "-o", str(files[name])], check=True, capture_output=True)
        report = [trace_cmd, "report", "-i", str(files["v7.dat"])]
        files["report"].write_text(subprocess.run(report, check=True, capture_output=True, text=True).stdout)
        yield files
    finally:
        for system in SYSTEMS:
            (tracefs / "events" / system / "enable").write_text("0")
        clock.write_text(before)
        room.write_text(room_before)


@pytest.mark.kernel
@pytest.mark.parametrize("name", ["v7.dat", "v6.dat", "none.dat", "trace", "report"])
def test_what_ftrace_recorded_is_what_trace_cmd_reports(
    recorded: dict[str, Path], tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """trace.dat of both versions, the kernel's text and trace-cmd's: the same events, as trace-cmd report has them."""
    monkeypatch.setattr(sorting, "HELD_ROWS", 500)
    monkeypatch.setattr(lines, "BLOCK_BYTES", 10_000)
    rows, done = rows_of(recorded[name], tmp_path / "t.parquet")
    assert done.job.malformed == 0, done.job.told
    expected = as_reported(recorded["report"].read_text())
    assert len(expected) > 2003
    assert as_imported(rows) == expected
    assert sum(row["vector"] == 14 and not row["to_kernel"] for row in rows) >= 2003
    assert "x86-tsc" in done.footer.clock.note
    if name.endswith(".dat"):
        assert done.footer.host.kernel == os.uname().release


@given(data=st.data())
@settings(max_examples=60, deadline=None)
@pytest.mark.slow
def test_pages_are_read_as_the_twin_reads_them(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Short and long events, time extensions, absolute stamps, discarded events: each event at its time."""
    cpus = []
    for _ in range(data.draw(st.integers(1, 3))):
        pages = b""
        for _ in range(data.draw(st.integers(1, 2))):
            events = []
            for kind in data.draw(st.lists(st.sampled_from(["event", "long", "extend", "stamp", "pad"]), max_size=20)):
                delta = data.draw(st.integers(0, (1 << 27) - 1))
                raw = perf.TIMER_ENTRY.raw({"vector": data.draw(st.integers(0, 255)), "pid": 7})
                events.append(
                    {
                        "event": ring.event(delta, raw),
                        "long": ring.event(delta, raw, long=True),
                        "extend": ring.extend(delta << 3),
                        "stamp": ring.stamp(delta << 7),
                        "pad": ring.padding(8),
                    }[kind]
                )
            pages += ring.page(data.draw(st.integers(0, 2**62)), events)
        cpus.append(pages)
    expected = sorted(
        (moment, cpu, raw[8])
        for cpu, pages in enumerate(cpus)
        for at in range(0, len(pages), ring.PAGE)
        for moment, raw in page_events(pages[at : at + ring.PAGE])
    )
    directory = tmp_path_factory.mktemp("pages")
    made = data.draw(st.sampled_from(["6", "none", "zstd", "zlib"]))
    (directory / "t.dat").write_bytes(
        ring.version_6(cpus, "x86-tsc") if made == "6" else ring.version_7(cpus, compression=made)
    )
    if not expected:
        with pytest.raises(InputError, match="holds no trap event"):
            rows_of(directory / "t.dat", directory / "t.parquet")
        return
    rows, done = rows_of(directory / "t.dat", directory / "t.parquet")
    assert done.job.malformed == 0, done.job.told
    assert sorted((row["tsc"], row["cpu"], row["vector"]) for row in rows) == expected


def test_what_the_ring_buffer_lost_is_a_loss(tmp_path: Path) -> None:
    """A page says how many events were lost before it."""
    raw = perf.TIMER_ENTRY.raw({"vector": 236})
    pages = ring.page(5, [ring.event(1, raw)]) + ring.page(9, [ring.event(1, raw)], missed=12)
    (tmp_path / "t.dat").write_bytes(ring.version_6([pages]))
    rows, done = rows_of(tmp_path / "t.dat", tmp_path / "t.parquet", tsc_khz=2e6)
    assert [row["tsc"] for row in rows] == [12, 20]  # 6 and 10 ns at 2 GHz
    assert [(loss.cause, loss.cpu, loss.count) for loss in done.footer.losses] == [("overrun", 0, 12)]
    assert [(item.pid, item.comm) for item in done.footer.processes] == [(1, "init"), (42, "my task")]
    assert done.footer.host.name == "box"


def test_a_bad_event_costs_the_rest_of_its_page(tmp_path: Path) -> None:
    """Nothing can be found behind an event of wrong length; other pages are read."""
    raw = perf.TIMER_ENTRY.raw({"vector": 236})
    bad = struct.pack("<II", 0, 5000)
    pages = ring.page(5, [ring.event(1, raw), bad, ring.event(1, raw)]) + ring.page(9, [ring.event(1, raw)])
    (tmp_path / "t.dat").write_bytes(ring.version_7([pages]))
    rows, done = rows_of(tmp_path / "t.dat", tmp_path / "t.parquet")
    assert [row["tsc"] for row in rows] == [6, 10]
    assert done.job.malformed == 1
    assert "page 0, byte 32" in done.job.told[0]
    with pytest.raises(InputError, match="page 0, byte 32"):
        rows_of(tmp_path / "t.dat", tmp_path / "t.parquet", strict=True)


TEXT: Final = """# tracer: nop
#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION
          <idle>-0       [000] d.h1.   100.000001: local_timer_entry: vector=236
          <idle>-0       [000] d.h1.   100.000002: irq_handler_entry: irq=24 name=virtio 0
     my task [1]-77      (     70) [001] d....   100.000003: page_fault_user: address=f ip=0x401000 error_code=0x6
              sh-78      [001] .....   100.000004: page_fault_kernel: address=f ip=copy_page error_code=0x2
CPU:1 [LOST 12 EVENTS]
CPU:0 [LOST EVENTS]
              sh-78      [001] d.h..   100.000005: softirq_entry: vec=1 [action=TIMER]
              sh-78      [001] d.h..   100.000006: local_timer_exit: vector=999
              sh-78      [001] d.h..   100.000007: own_entry: vector=9
              sh-78      [001] d.h..   100.000008: nmi_handler: perf_event_nmi_handler() delta_ns: 5 handled: 1
              sh-78      [001] d.h..   100.000009: nmi_handler: nmi_cpu_backtrace_handler() delta_ns: 5 handled: 0
what is this
 => asm_sysvec
"""


def test_lines_of_text(tmp_path: Path) -> None:
    """Names with spaces and brackets, processes of threads, symbols for addresses, losses, unreadable lines."""
    (tmp_path / "trace").write_text(TEXT)
    rows, done = rows_of(tmp_path / "trace", tmp_path / "t.parquet")
    told = [(row["tsc"] % 1000, row["pid"], row["vector"], row["irq"], row["ip"], row["to_kernel"]) for row in rows]
    assert told == [
        (0, 0, 236, None, None, True),
        (0, 0, None, 24, None, True),
        (0, 70, 14, None, 0x401000, False),
        (0, 78, 14, None, None, True),
        (0, 78, 2, None, None, None),
    ]
    assert rows[0]["tsc"] == 100_000_001_000
    losses = [(loss.cause, loss.cpu, loss.count) for loss in done.footer.losses]
    assert losses == [("overrun", 0, 0), ("overrun", 1, 12), ("malformed", None, 2)]
    assert done.job.told == [
        "line 14: is no line of an event",
        "line 10: local_timer_exit does not say what it should",
    ]
    assert {row["event"]: row["meaning"] for row in done.mapping()}["own_entry"] == "unknown"


def test_perf_script_is_read_too(tmp_path: Path) -> None:
    """Perf names the system, and the process before the thread."""
    line = "my prog  70/77  [003]   5.000000001: irq_vectors:local_timer_entry: vector=236\n"
    (tmp_path / "s").write_text(
        "    swapper     0 [000]   5.5: exceptions:page_fault_user: ip=elf error_code=0x7\n" + line
    )
    rows, done = rows_of(tmp_path / "s", tmp_path / "t.parquet")
    assert [(row["tsc"], row["cpu"], row["pid"]) for row in rows] == [(5_000_000_001, 3, 70), (5_500_000_000, 0, 0)]
    assert done.format == "ftrace"


@given(
    noise=st.binary(max_size=40),
    at=st.integers(0, 1 << 16),
    cut=st.integers(0, 1 << 16),
    kind=st.sampled_from(["6", "none", "zstd", "text"]),
)
@settings(max_examples=150, deadline=None)
@pytest.mark.slow
def test_damage_never_crashes(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, at: int, cut: int, kind: str
) -> None:
    """Bytes overwritten and cut off anywhere: some events, or one line of refusal."""
    page = ring.page(5, [ring.event(1, perf.TIMER_ENTRY.raw({"vector": 236})), ring.extend(1 << 30), ring.padding(8)])
    made = {"6": ring.version_6([page]), "text": TEXT.encode()}
    data = made[kind] if kind in made else ring.version_7([page, page], compression=kind)
    read_damaged(data, tmp_path_factory.mktemp("noise"), noise=noise, at=at, cut=cut)
