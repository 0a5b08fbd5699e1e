"""Names of processes on the live kernel, against processes that say themselves what they are called and when."""

from __future__ import annotations

import json
import signal
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from iretrace.processes import Commands
from iretrace.trace import open_trace
from tests.live import read_events
from tests.waiting import PATIENCE_S, until_batches, until_written

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import RunIretrace

pytestmark = pytest.mark.kernel

RENAMING = """
import ctypes, json, mmap, os, sys
from iretrace import _native
def touch():
    begin = _native.rdtsc()
    memory = mmap.mmap(-1, 50 * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    for page in range(50):
        memory[page * 4096] = 1
    return [os.getpid(), open("/proc/self/comm").read().strip(), begin, _native.rdtsc()]
def called(name):
    ctypes.CDLL(None).prctl(15, name, 0, 0, 0)  # PR_SET_NAME
marks = [touch()]
called(b"first-name"); marks.append(touch())
called(b"second-name"); marks.append(touch())
child = os.fork()
if child == 0:
    print(json.dumps(touch()), flush=True)
    called(b"child-name")
    print(json.dumps(touch()), flush=True)
    os.execv(sys.executable, [sys.executable, "-c", sys.argv[1]])
os.waitpid(child, 0)
for mark in marks:
    print(json.dumps(mark), flush=True)
"""

AFTER_EXEC = RENAMING.partition("marks =")[0] + "print(json.dumps(touch()), flush=True)"


def test_traps_have_the_name_their_process_had(run_iretrace: RunIretrace, tmp_path: Path) -> None:
    """Before and after prctl, fork and execve: every page fault finds the name that its process read in /proc."""
    trace = tmp_path / "t.parquet"
    command = [sys.executable, "-c", RENAMING, AFTER_EXEC]
    done = run_iretrace("collect", "-q", "--no-calibrate", "-o", trace, "--", *command)
    marks = [json.loads(line) for line in done.stdout.splitlines()]
    events = read_events(trace)
    footer = open_trace(trace).footer
    commands = Commands(footer.processes)
    found = commands.find(events.pid.to_numpy(np.uint32), events.tsc.to_numpy(np.uint64))
    assert len({name for _, name, _, _ in marks}) == 4
    for pid, name, begin, end in marks:
        mine = (events.pid == pid) & (events.tsc >= begin) & (events.tsc <= end)
        assert mine.sum() >= 50
        assert {commands.names[k] for k in found[mine.to_numpy(bool)]} == {name}
    assert sum(loss.count for loss in footer.losses if loss.cause == "process-names") == 0


def test_nearly_every_trap_has_a_name(run_iretrace: RunIretrace, tmp_path: Path) -> None:
    """A thousand short processes, each with its own: all traps but a few find a name, and no name is a stranger's."""
    trace = tmp_path / "t.parquet"
    command = ["sh", "-c", "i=0; while [ $i -lt 500 ]; do /bin/true; i=$((i+1)); done"]
    run_iretrace("collect", "-q", "--no-calibrate", "-o", trace, "--", *command)
    events = read_events(trace)
    footer = open_trace(trace).footer
    commands = Commands(footer.processes)
    found = commands.find(events.pid.to_numpy(np.uint32), events.tsc.to_numpy(np.uint64))
    assert (found == 0).sum() <= 0.001 * len(events)
    called = commands.of_pid()
    assert sum(name == "sh → true" for name in called.values()) >= 500


def test_a_killed_run_keeps_the_names(run_iretrace: RunIretrace, tmp_path: Path) -> None:
    """What was learnt by the last flush is salvaged with the events."""
    partial = tmp_path / "t.parquet.partial"
    process = run_iretrace.start("collect", "-q", "--no-calibrate", "-o", tmp_path / "t.parquet")
    until_written(partial, process, size=4096)
    until_batches(partial, process)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=PATIENCE_S)
    run_iretrace("import", partial, "-o", tmp_path / "s.parquet")
    named = {name.pid: name.comm for name in open_trace(tmp_path / "s.parquet").footer.processes}
    assert len(named) > 10
    assert named[1] == (tmp_path / "/proc/1/comm").read_text().strip()
