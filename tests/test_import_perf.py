"""Importing perf.data: what the real tool recorded, and what it would not record to order."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from iretrace.errors import InputError
from iretrace.importers import perf_data, perf_tasks, sorting
from iretrace.importers.run import import_file
from iretrace.processes import Commands
from tests import perf_writer as perf
from tests.conftest import needed
from tests.import_twins import perf_samples
from tests.importing import read_damaged, rows_of
from tests.perf_writer import PerfFile, Tracepoint

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import CompileWorkload

EVENTS: Final = "exceptions:*,irq:*,nmi:*,irq_vectors:*_entry,irq_vectors:[!i]*_exit"
"""Everything that perf will record: it refuses irq_vectors:irq_work_exit, which its own wake-up would cause."""

_LINE = re.compile(r"^\s*(-?\d+)/-?\d+\s+\[(\d+)\]\s+(\d+)\.(\d{9}):\s+([\w:]+):\s*(.*)$")


def perf_tool() -> str:
    """Where perf is."""
    return needed("perf", "linux-perf")


def as_perf_prints(path: Path) -> list[tuple[Any, ...]]:
    """Perf's own reading of a perf.data: (time, CPU, pid, phase, vector, irq, error code, user ip) of each trap."""
    command = [perf_tool(), "script", "--ns", "-F", "pid,tid,cpu,time,event,trace", "-i", str(path)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = []
    for line in text.splitlines():
        match = _LINE.match(line)
        assert match is not None, line
        pid, cpu, seconds, ns, event, trace = match.groups()
        values = dict(re.findall(r"(\w+)=(\S+)", trace))
        time = int(seconds) * 10**9 + int(ns)
        system, name = event.split(":")
        if system == "exceptions":
            ip = int(values["ip"], 16) if values["ip"].startswith("0x") else None
            what: tuple[Any, ...] = ("entry", 14, None, int(values["error_code"], 16), ip, name == "page_fault_kernel")
        elif system == "irq_vectors":
            what = (name.rpartition("_")[2], int(values["vector"]), None, None, None, None)
        elif name in ("irq_handler_entry", "irq_handler_exit"):
            what = (name.rpartition("_")[2], None, int(values["irq"]), None, None, None)
        else:
            continue
        found.append((time, int(cpu), int(pid), *what))
    return sorted(found, key=repr)


def as_imported(rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """The trace's events in the same form."""
    return sorted(
        (
            (row["tsc"], row["cpu"], row["pid"], row["phase"], row["vector"], row["irq"], row["error_code"])
            + ((row["ip"], row["to_kernel"]) if row["vector"] == 14 else (None, None))
            for row in rows
        ),
        key=repr,
    )


def assert_same(theirs: list[tuple[Any, ...]], ours: list[tuple[Any, ...]]) -> None:
    """The same events one by one; an ip that perf prints as a symbol is not compared."""
    assert len(theirs) == len(ours)
    by_moment = {item[:7]: item for item in theirs}
    for item in ours:
        other = by_moment[item[:7]]
        assert other[8] == item[8]
        if other[7] is not None:
            assert other[7] == item[7]


_NAMED = re.compile(r"^\s*(.+?)\s+(-?\d+)/(-?\d+)\s+(\d+)\.(\d{9}):\s*$")


@pytest.mark.kernel
@pytest.mark.usefixtures("tracefs")
def test_processes_are_called_what_perf_calls_them(tmp_path: Path) -> None:
    """Processes that fork, execute and rename themselves: at each trap of a main thread the name that perf prints."""
    data = tmp_path / "perf.data"
    renames = (
        "import os, time\nfor n in range(30):\n open('/proc/self/comm', 'w').write(f'name {n}')\n bytearray(1 << 20)"
    )
    shell = "for i in 1 2 3 4 5 6 7; do /bin/true; (:; (ls / | cat)) >/dev/null; done"
    script = f'{shell}; exec {sys.executable} -c "{renames}"'
    command = [perf_tool(), "record", "-q", "-a", "-m", "4M", "-e", EVENTS, "-o", str(data), "--", "sh", "-c", script]
    subprocess.run(command, check=True, capture_output=True)
    rows, imported = rows_of(data, tmp_path / "t.parquet")
    commands = Commands(imported.footer.processes)
    theirs: dict[tuple[int, int], set[str]] = {}
    script_of = [command[0], "script", "--ns", "-F", "comm,pid,tid,time", "-i", str(data)]
    for line in subprocess.run(script_of, check=True, capture_output=True, text=True).stdout.splitlines():
        match = _NAMED.match(line)
        assert match is not None, line
        comm, pid, tid, seconds, ns = match.groups()
        if pid == tid:
            theirs.setdefault((int(seconds) * 10**9 + int(ns), int(pid)), set()).add(comm)
    ours = commands.find(np.array([row["pid"] for row in rows], np.uint32), np.array([row["tsc"] for row in rows]))
    compared = [
        (theirs[row["tsc"], row["pid"]], commands.names[name])
        for row, name in zip(rows, ours, strict=True)
        if (row["tsc"], row["pid"]) in theirs and row["pid"]
    ]
    assert [item for item in compared if item[1] not in item[0]] == []
    assert {"sh", "true", "ls", "cat", "name 0", "name 29"} <= {name for _, name in compared}


@pytest.mark.kernel
@pytest.mark.usefixtures("tracefs")
@pytest.mark.parametrize(
    "how", [("-o", "{}"), ("-o", "-"), ("-z", "-o", "{}"), ("--user-regs=ip,sp,flags,cs", "-g", "-o", "{}")], ids=repr
)
def test_what_perf_recorded_is_what_perf_prints(
    tmp_path: Path, compile_workload: CompileWorkload, how: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recording to a file, to a pipe, compressed, with registers: each event as perf script has it, none more."""
    monkeypatch.setattr(sorting, "HELD_ROWS", 5000)  # so that runs are spilled and merged
    data = tmp_path / "perf.data"
    workload = [str(compile_workload("faults")), "20011"]
    command = [perf_tool(), "record", "-q", "-a", "-m", "4M", "-e", EVENTS, *(part.format(data) for part in how), "--"]
    done = subprocess.run([*command, *workload], check=True, capture_output=True)
    if "-" in how:
        data.write_bytes(done.stdout[done.stdout.index(b"PERFILE2") :])
    rows, imported = rows_of(data, tmp_path / "t.parquet")
    assert imported.job.malformed == 0, imported.job.told
    assert_same(as_perf_prints(data), as_imported(rows))
    assert sum(row["vector"] == 14 for row in rows) >= 20011
    assert [row["tsc"] for row in rows] == sorted(row["tsc"] for row in rows)
    assert imported.footer.host.kernel == os.uname().release
    if "--user-regs=ip,sp,flags,cs" in how:
        user = [row for row in rows if row["vector"] == 14 and not row["to_kernel"]]
        assert all(row["cs"] & 3 == 3 and row["sp"] is not None and row["flags"] & 2 for row in user)


def write(path: Path, recording: PerfFile, *, pipe: bool = False) -> Path:
    """Write a recording."""
    path.write_bytes(recording.to_pipe() if pipe else recording.to_file())
    return path


def one_of_each(recording: PerfFile) -> None:
    """A sample of each tracepoint, from 100 ns on, latest first."""
    values = {"address": 1, "ip": 0x401000, "error_code": 6, "vector": 0xEC, "irq": 9, "name": 0, "handler": 7}
    for index, item in reversed(list(enumerate(perf.TRACEPOINTS))):
        raw = item.raw({**values, "handled": 1, "vec": 1, "x": 1})
        recording.records.append(recording.sample(item, time=100 + index, cpu=1, pid=42, raw=raw))


@pytest.mark.parametrize("pipe", [False, True])
def test_each_tracepoint_becomes_its_event(tmp_path: Path, *, pipe: bool) -> None:
    """Vectors, phases and fields by the one table; what is no trap, and what is unknown, is counted."""
    recording = PerfFile()
    one_of_each(recording)
    rows, done = rows_of(write(tmp_path / "p", recording, pipe=pipe), tmp_path / "t.parquet")
    told = [(row["tsc"], row["phase"], row["vector"], row["irq"], row["to_kernel"], row["ip"]) for row in rows]
    assert told == [
        (100, "entry", 14, None, False, 0x401000),
        (101, "entry", 0xEC, None, None, None),
        (102, "exit", 0xEC, None, None, None),
        (103, "entry", None, 9, None, None),
        (104, "entry", 2, None, None, None),
    ]
    meanings = {row["event"]: (row["records"], row["meaning"]) for row in done.mapping()}
    assert meanings["irq:softirq_entry"] == (1, "no trap")
    assert meanings["my:own_event"] == (1, "unknown")
    assert {item.name: item.exit for item in done.footer.classes} == {
        "#PF": None,
        "NMI": None,
        "timer": "local_timer_exit",
        "device": None,
    }


@given(data=st.data())
@settings(max_examples=60, deadline=None)
@pytest.mark.slow
def test_every_sample_type_is_read_as_the_twin_reads_it(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Whatever stands before and behind the raw data of a sample, its event is found."""
    optional = (perf.IP, perf.ADDR, perf.READ, perf.CALLCHAIN, perf.PERIOD, perf.STREAM, perf.BRANCH, perf.REGS)
    kind = perf.TID | perf.TIME | perf.CPU | perf.RAW
    for bit in optional:
        kind |= bit if data.draw(st.booleans()) else 0
    kind |= data.draw(st.sampled_from([perf.IDENTIFIER, perf.ID, perf.IDENTIFIER | perf.ID]))
    read_format = data.draw(st.sampled_from([0, 4, 7, 8, 12, 16, 20, 31]))
    recording = PerfFile(sample_type=kind, read_format=read_format)
    u64 = st.integers(0, 2**64 - 1)
    for _ in range(data.draw(st.integers(1, 12))):
        code = data.draw(st.integers(0, 2**32 - 1))
        raw = perf.FAULT_USER.raw({"address": 0, "ip": data.draw(u64), "error_code": code})
        item: Tracepoint = perf.FAULT_USER
        if data.draw(st.booleans()):
            item, raw = perf.TIMER_EXIT, perf.TIMER_EXIT.raw({"vector": data.draw(st.integers(0, 255))})
        recording.records.append(
            recording.sample(
                item,
                time=data.draw(st.integers(0, 2**63)),
                cpu=data.draw(st.integers(0, 65535)),
                pid=data.draw(st.integers(1, 2**32 - 2)),
                raw=raw,
                regs=data.draw(st.one_of(st.none(), st.tuples(u64, u64, u64, u64))),
            )
        )
    directory = tmp_path_factory.mktemp("types")
    rows, done = rows_of(write(directory / "p", recording, pipe=data.draw(st.booleans())), directory / "t.parquet")
    assert done.job.malformed == 0, done.job.told
    expected = []
    for sample in perf_samples(b"".join(recording.records), kind, read_format, perf.REGS_MASK):
        event = struct.unpack_from("<H", sample["raw"])[0]
        fault = event == perf.FAULT_USER.id
        frame = dict.fromkeys(("cs", "ip", "flags", "sp"))
        target = False if fault else None
        if kind & perf.REGS and "regs" not in sample and not fault:
            target = True  # a kernel thread has no user registers
        if fault:
            frame["ip"] = struct.unpack_from("<Q", sample["raw"], 16)[0]
            regs = sample.get("regs", {})
            bits = {"cs": 16, "flags": 32}
            frame |= {name: regs[name] % 2 ** bits.get(name, 64) for name in regs}
        vector = 14 if fault else struct.unpack_from("<I", sample["raw"], 8)[0]
        error = struct.unpack_from("<Q", sample["raw"], 24)[0] if fault else None
        row = {"tsc": sample["time"], "cpu": sample["cpu"], "pid": sample["pid"], "vector": vector, "error_code": error}
        expected.append({**row, **frame, "to_kernel": target})
    expected.sort(key=lambda row: row["tsc"])
    assert [{name: row[name] for name in expected[0]} for row in rows] == expected


def test_lost_records_are_losses(tmp_path: Path) -> None:
    """PERF_RECORD_LOST says how many and on which CPU; what the counters at the end add is told once."""
    recording = PerfFile()
    one_of_each(recording)
    end = struct.pack("<IIQIIQ", 1, 1, 50, 1, 0, 0)  # tid, time, cpu, identifier
    recording.records.append(perf.record(2, struct.pack("<QQ", 1000, 7) + end))
    recording.records.append(perf.record(13, struct.pack("<Q", 10) + end))
    _, done = rows_of(write(tmp_path / "p", recording), tmp_path / "t.parquet")
    assert [(loss.cause, loss.cpu, loss.count) for loss in done.footer.losses] == [
        ("overrun", 1, 7),
        ("overrun", None, 3),
    ]


def test_names_follow_renames_and_forks(tmp_path: Path) -> None:
    """Names count from their record's time, in any order; a new process has its parent's; threads none."""

    def comm(time: int, pid: int, tid: int, name: bytes) -> bytes:
        end = struct.pack("<IIQIIQ", pid, tid, time, 1, 0, 0)
        return perf.record(3, struct.pack("<II", pid, tid) + name.ljust(len(name) // 8 * 8 + 8, b"\0") + end)

    def fork(time: int, child: tuple[int, int], parent: tuple[int, int]) -> bytes:
        numbers = (child[0], parent[0], child[1], parent[1], time)
        return perf.record(7, struct.pack("<IIIIQ", *numbers) + struct.pack("<IIQIIQ", *parent, time, 1, 0, 0))

    recording = PerfFile()
    recording.records = [
        comm(0, 7, 7, b"sh"),
        comm(0, 8, 8, b"unmet"),
        comm(300, 7, 7, b"two\nlines"),
        comm(200, 9, 9, b"ls"),
        fork(100, (9, 9), (7, 7)),
        fork(110, (7, 70), (7, 7)),
        comm(120, 7, 70, b"worker"),
        fork(400, (9, 9), (7, 70)),  # the number given again, by a thread
    ]
    for time, pid in ((50, 7), (150, 9), (250, 9), (350, 7), (450, 9)):
        raw = perf.TIMER_ENTRY.raw({"vector": 236})
        recording.records.append(recording.sample(perf.TIMER_ENTRY, time=time, cpu=0, pid=pid, raw=raw))
    _, done = rows_of(write(tmp_path / "p", recording), tmp_path / "t.parquet", tsc_khz=2_000_000.0)
    assert done.job.malformed == 0, done.job.told
    assert [(one.pid, one.comm, one.since_tsc) for one in done.footer.processes] == [
        (7, "sh", None),
        (7, "two?lines", 600),
        (9, "sh", 200),
        (9, "ls", 400),
        (9, "worker", 800),
    ]


def test_too_many_names_are_a_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not kept is counted."""
    monkeypatch.setattr(perf_tasks, "MAX_NAMES", 2)
    monkeypatch.setattr(perf_tasks, "_MAX_RECORDS", 4)
    recording = PerfFile()
    one_of_each(recording)
    for time in range(7):
        body = struct.pack("<II", 42, 42) + f"name {time}".encode().ljust(8, b"\0")
        recording.records.append(perf.record(3, body + struct.pack("<IIQIIQ", 42, 42, time, 1, 0, 0)))
    _, done = rows_of(write(tmp_path / "p", recording), tmp_path / "t.parquet")
    assert [one.comm for one in done.footer.processes] == ["name 0", "name 1"]
    assert [(loss.cause, loss.count) for loss in done.footer.losses] == [("process-names", 5)]


def test_the_clock(tmp_path: Path) -> None:
    """Nanoseconds, cycles by --tsc-khz, or the TSC itself where the file says how time follows it; the footer tells."""
    recording = PerfFile()
    one_of_each(recording)
    path = write(tmp_path / "p", recording)
    rows, done = rows_of(path, tmp_path / "t.parquet")
    assert (rows[0]["tsc"], done.footer.clock.tsc_khz) == (100, 1e6)
    rows, done = rows_of(path, tmp_path / "t.parquet", tsc_khz=2_500_000.0)
    assert (rows[0]["tsc"], done.footer.clock.tsc_khz) == (250, 2_500_000.0)
    recording.records.insert(0, perf.record(79, struct.pack("<QQQ", 10, 512, 50)))  # two cycles a ns, from 50 ns on
    rows, done = rows_of(write(tmp_path / "p", recording), tmp_path / "t.parquet")
    assert (rows[0]["tsc"], done.footer.clock.tsc_khz) == (100, 2e6)
    assert "TIME_CONV" in done.footer.clock.note


def test_only_the_first_nmi_handler_of_a_cpu_counts(tmp_path: Path) -> None:
    """An NMI passes several handlers; one event stands for it."""
    recording = PerfFile()
    for time, cpu, handler in ((1, 0, 5), (2, 0, 6), (3, 1, 6), (4, 1, 5), (5, 0, 5)):
        raw = perf.NMI.raw({"handler": handler, "handled": 0})
        recording.records.append(recording.sample(perf.NMI, time=time, cpu=cpu, pid=1, raw=raw))
    rows, _ = rows_of(write(tmp_path / "p", recording), tmp_path / "t.parquet")
    assert [row["tsc"] for row in rows] == [1, 3, 5]


def test_the_idle_task_returns_to_the_kernel(tmp_path: Path) -> None:
    """Process 0 has no user mode."""
    recording = PerfFile()
    for pid in (0, 1):
        raw = perf.TIMER_ENTRY.raw({"vector": 236})
        recording.records.append(recording.sample(perf.TIMER_ENTRY, time=pid, cpu=0, pid=pid, raw=raw))
    rows, _ = rows_of(write(tmp_path / "p", recording), tmp_path / "t.parquet")
    assert [row["to_kernel"] for row in rows] == [True, None]


def test_a_bad_record_is_named_and_the_rest_is_read(tmp_path: Path) -> None:
    """A vector of 999, a cut sample, an unknown id: each is counted at its offset; --strict stops there."""
    recording = PerfFile()
    recording.records = [
        recording.sample(perf.TIMER_ENTRY, time=1, cpu=0, pid=1, raw=perf.TIMER_ENTRY.raw({"vector": vector}))
        for vector in (236, 999, 236, 236, 236)
    ]
    recording.records[2] = perf.record(9, recording.records[2][8:40])
    recording.records[3] = perf.record(9, b"\xee" * 8 + recording.records[3][16:])
    path = write(tmp_path / "p", recording)
    rows, done = rows_of(path, tmp_path / "t.parquet")
    assert len(rows) == 2
    assert [(loss.cause, loss.count) for loss in done.footer.losses] == [("malformed", 3)]
    offset = path.read_bytes().index(recording.records[1])
    assert done.job.told[0].startswith(f"offset {offset}: ")
    with pytest.raises(InputError, match=f"offset {offset}"):
        rows_of(path, tmp_path / "t.parquet", strict=True)


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (lambda data: b"2ELIFREP" + data[8:], "big-endian"),
        (lambda data: data[:50], "its header is 50 bytes long"),
        (lambda data: data[: 1 + int.from_bytes(data[40:48], "little")], "was cut after"),
        (lambda data: data[:40] + b"\xff" * 8 + bytes(8) + data[56:], "was cut after"),
        (
            lambda data: (
                data.replace(b"irq_vectors\0", b"irq_vectorz\0")
                .replace(b"exceptions\0", b"exceptionz\0")
                .replace(b"irq\0", b"irr\0")
                .replace(b"nmi\0", b"nmj\0")
            ),
            "none of its events is a trap's",
        ),
        (lambda data: data[:16] + b"\0" * 8 + data[24:], "its header cannot be read"),
    ],
)
def test_what_cannot_be_imported_is_refused(tmp_path: Path, change: Callable[[bytes], bytes], finding: str) -> None:
    """One line says why, and no trace is left."""
    recording = PerfFile()
    one_of_each(recording)
    (tmp_path / "p").write_bytes(change(recording.to_file()))
    with pytest.raises(InputError, match=finding):
        import_file(tmp_path / "p", tmp_path / "t.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["p"]


@given(times=st.lists(st.integers(0, 60), min_size=1, max_size=80), step=st.integers(0, 3))
@example(times=[*range(7, 20), 0, 1, 2], step=0)
@example(times=[9, 1, 8, 2, 7, 3, 6, 4, 5, 60, 0, 1, 2], step=0)
@settings(max_examples=60, deadline=None)
@pytest.mark.slow
def test_any_disorder_is_sorted(tmp_path_factory: pytest.TempPathFactory, times: list[int], step: int) -> None:
    """More events than are held, nearly in order or not at all: all are there, equal times in the file's order."""
    recording = PerfFile()
    for index, time in enumerate(times):
        raw = perf.TIMER_ENTRY.raw({"vector": 236})
        item = recording.sample(perf.TIMER_ENTRY, time=1 + time + index * step * 10, cpu=0, pid=index + 1, raw=raw)
        recording.records.append(item)
    directory = tmp_path_factory.mktemp("order")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sorting, "HELD_ROWS", 7)
        rows, _ = rows_of(write(directory / "p", recording), directory / "t.parquet")
    expected = sorted((1 + time + index * step * 10, index + 1) for index, time in enumerate(times))
    assert [(row["tsc"], row["pid"]) for row in rows] == expected


def test_pieces_of_any_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records that lie across the pieces in which the file is read are whole."""
    recording = PerfFile()
    for _ in range(50):
        one_of_each(recording)
    path = write(tmp_path / "p", recording)
    whole, _ = rows_of(path, tmp_path / "t.parquet")
    for size in (1, 7, 64, 1000):
        monkeypatch.setattr(perf_data, "_CHUNK_BYTES", size)
        assert rows_of(path, tmp_path / "t.parquet")[0] == whole


@given(noise=st.binary(max_size=40), at=st.integers(0, 1 << 16), cut=st.integers(0, 1 << 16), pipe=st.booleans())
@settings(max_examples=150, deadline=None)
@pytest.mark.slow
def test_damage_never_crashes(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, at: int, cut: int, *, pipe: bool
) -> None:
    """Bytes overwritten and cut off anywhere: some events, or one line of refusal."""
    recording = PerfFile()
    one_of_each(recording)
    data = recording.to_pipe() if pipe else recording.to_file()
    read_damaged(data, tmp_path_factory.mktemp("noise"), noise=noise, at=at, cut=cut)
