"""Names of processes: how they are gathered, and how traps find theirs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iretrace.collect import processes
from iretrace.collect.processes import ProcessNames
from iretrace.collect.wire import PROCESS_ENDED, PROCESS_EVENT, PROCESS_RENAMED, PROCESS_RENAMED_BY_OTHER
from iretrace.footer import Process
from iretrace.processes import IDLE, UNKNOWN, Commands, in_order

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

INITIAL = "pid:[4026531836]"

Told = tuple[int, int, int, bytes, bytes]


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A /proc of the initial namespace without processes."""
    (tmp_path / "self" / "ns").mkdir(parents=True)
    (tmp_path / "self" / "ns" / "pid").symlink_to(INITIAL)
    return tmp_path


def put(proc: Path, pid: int, comm: bytes) -> None:
    """A process in it."""
    (proc / str(pid)).mkdir(exist_ok=True)
    (proc / str(pid) / "comm").write_bytes(comm + b"\n")


def told(*records: Told) -> NDArray[np.void]:
    """Records of the probes: tsc, pid, what, name before, name after."""
    found = np.zeros(len(records), PROCESS_EVENT)
    for row, (tsc, pid, what, before, after) in zip(found, records, strict=True):
        row["tsc"], row["pid"], row["what"], row["before"], row["after"] = tsc, pid, what, before, after
    return found


def names(found: ProcessNames, pid: int) -> list[tuple[str, int | None]]:
    """What a process was called, and since when."""
    found.met(np.array([pid], np.uint32))
    return [(process.comm, process.since_tsc) for process in found.of_trace() if process.pid == pid]


def test_a_process_keeps_each_name_for_its_time(proc: Path) -> None:
    """Forked as sh, then gcc by execve, then cc1: three names, each from its moment on."""
    found = ProcessNames(proc)
    found.take(told((200, 7, PROCESS_RENAMED, b"gcc", b"cc1"), (100, 7, PROCESS_RENAMED, b"sh", b"gcc")))
    found.take(told((300, 7, PROCESS_ENDED, b"cc1", b"")))
    assert names(found, 7) == [("sh", None), ("gcc", 100), ("cc1", 200)]


def test_a_number_given_again_is_another_process(proc: Path) -> None:
    """Whether the second process of a number renames itself, ends or only lives on, it does not inherit a name."""
    found = ProcessNames(proc)
    found.take(told(*[(10, pid, PROCESS_ENDED, b"old", b"") for pid in (1, 2, 3, 4)]))
    found.take(told((50, 1, PROCESS_RENAMED, b"sh", b"new"), (60, 2, PROCESS_ENDED, b"new", b"")))
    put(proc, 3, b"new")
    found.look_up()
    assert names(found, 1) == [("old", None), ("sh", 10), ("new", 50)]
    assert names(found, 2) == [("old", None), ("new", 10)]
    assert names(found, 3) == [("old", None), ("new", 10)]
    assert names(found, 4) == [("old", None)]


def test_what_was_there_before_is_looked_up(proc: Path) -> None:
    """Processes that never tell anything have the name that /proc says; of others the probes know better."""
    put(proc, 5, b"daemon")
    put(proc, 6, b"after")
    found = ProcessNames(proc)
    found.look_up()
    found.take(told((20, 6, PROCESS_RENAMED, b"before", b"after")))  # was on its way when /proc was read
    assert names(found, 5) == [("daemon", None)]
    assert names(found, 6) == [("before", None), ("after", 20)]


def test_a_name_given_by_another_thread_is_looked_up(proc: Path) -> None:
    """Where a thread renames another task, /proc tells whether the process is called otherwise now."""
    put(proc, 5, b"five")
    put(proc, 6, b"six")
    found = ProcessNames(proc)
    found.look_up()
    put(proc, 5, b"renamed")
    found.take(told(*[(30, pid, PROCESS_RENAMED_BY_OTHER, b"thread", b"") for pid in (5, 6, 7)]))
    assert names(found, 5) == [("five", None), ("renamed", 30)]
    assert names(found, 6) == [("six", None)]
    assert names(found, 7) == []


def test_other_numbers_are_not_taken_for_these(proc: Path) -> None:
    """In a namespace of its own /proc numbers other processes: it is not read."""
    (proc / "self" / "ns" / "pid").unlink()
    (proc / "self" / "ns" / "pid").symlink_to("pid:[4026532000]")
    put(proc, 5, b"daemon")
    found = ProcessNames(proc)
    found.look_up()
    assert names(found, 5) == []


def test_names_are_text_of_one_line(proc: Path) -> None:
    """A process may call itself anything: what is no letter does not reach a terminal or a page."""
    found = ProcessNames(proc)
    found.take(told((10, 7, PROCESS_RENAMED, b"\x1b[31m\xffx", b"two\nlines")))
    assert names(found, 7) == [("?[31m�x", None), ("two?lines", 10)]


def test_too_many_names_are_counted(proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded, and what was left out is a loss."""
    monkeypatch.setattr(processes, "MAX_NAMES", 3)
    found = ProcessNames(proc)
    found.take(told(*[(pid, pid, PROCESS_ENDED, b"x", b"") for pid in range(1, 6)]))
    assert [(loss.cause, loss.count) for loss in found.losses()] == [("process-names", 2)]
    assert len(found.fresh()) == 3
    assert found.fresh() == []


def test_processes_without_traps_are_left_out(proc: Path) -> None:
    """A footer names who was interrupted, not everybody."""
    found = ProcessNames(proc)
    found.take(told((10, 7, PROCESS_ENDED, b"x", b""), (11, 8, PROCESS_ENDED, b"y", b"")))
    found.met(np.array([8, 2**32 - 1], np.uint32))
    assert [process.pid for process in found.of_trace()] == [8]


PROCESSES = st.lists(
    st.builds(
        Process,
        pid=st.integers(0, 4) | st.just(2**32 - 1),
        comm=st.sampled_from(["a", "b", "c", UNKNOWN]),
        since_tsc=st.none() | st.integers(0, 6) | st.just(2**64 - 1),
    ),
    max_size=12,
)
TRAPS = st.lists(
    st.tuples(st.integers(0, 5) | st.just(2**32 - 1), st.integers(0, 7) | st.just(2**64 - 1)), min_size=1, max_size=20
)


@given(PROCESSES, TRAPS)
def test_traps_find_the_name_of_their_moment(listed: list[Process], traps: list[tuple[int, int]]) -> None:
    """The latest name of that process that is not younger than the trap; pid 0 is idle."""
    commands = Commands(listed)
    found = commands.find(np.array([p for p, _ in traps], np.uint32), np.array([t for _, t in traps], np.uint64))
    for (pid, tsc), index in zip(traps, found, strict=True):
        expected = IDLE if pid == 0 else UNKNOWN
        for process in in_order(listed):
            if pid and process.pid == pid and (process.since_tsc or 0) <= tsc:
                expected = process.comm
        assert commands.names[index] == expected


def test_a_course_of_names() -> None:
    """What a process was called, in one line."""
    listed = [Process(pid=7, comm="gcc", since_tsc=5), Process(pid=7, comm="sh"), Process(pid=8, comm=UNKNOWN)]
    assert Commands(listed).of_pid() == {0: IDLE, 7: "sh → gcc", 8: "?"}
