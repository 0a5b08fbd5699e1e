"""While it records, the collector has given up what it does not need, keeps to its memory, and stands a lost CPU."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from iretrace.trace import open_trace
from tests.conftest import REQUIRED
from tests.live import own_faults, own_losses, read_events, statuses
from tests.waiting import LOOKED, PATIENCE_S, until_batches, until_written

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

    from tests.conftest import CompileWorkload, RunIretrace

pytestmark = pytest.mark.kernel

NOBODY = 65534
CPU1 = Path("/sys/devices/system/cpu/cpu1/online")


def started(run_iretrace: RunIretrace, trace: Path, **env: str) -> subprocess.Popen[str]:
    """A run that has settled: its first batch is written. It goes on until :func:`finished`."""
    process = run_iretrace.start("collect", "--no-calibrate", "-o", trace, env=env)
    until_written(trace.with_name(trace.name + ".partial"), process, size=4096)
    return process


def finished(process: subprocess.Popen[str]) -> str:
    """End a run, which must go well; what it said."""
    process.send_signal(signal.SIGINT)
    _out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, err
    return err


@pytest.fixture
def users_dir() -> Iterator[Path]:
    """A directory that is the user's, and that user can reach; pytest's own are root's alone."""
    with tempfile.TemporaryDirectory(prefix="iretrace-test-") as name:
        os.chown(name, NOBODY, NOBODY)
        yield Path(name)


def test_root_keeps_no_capability_while_recording(run_iretrace: RunIretrace, tmp_path: Path) -> None:
    """Every thread of the collector is without any capability, cannot gain one, and the memory is locked."""
    trace = tmp_path / "t.parquet"
    process = started(run_iretrace, trace)
    for status in statuses(process.pid):
        assert int(status["CapPrm"], 16) == int(status["CapEff"], 16) == 0, status["Name"]
        assert status["NoNewPrivs"] == "1"
        assert int(status["VmLck"].split()[0]) > 0
    finished(process)
    footer = open_trace(trace).footer
    assert footer.collector.capabilities == []
    assert footer.collector.privileged_threads == 0
    assert footer.collector.memory_locked
    assert own_losses(footer) == {}


def test_under_sudo_it_becomes_the_user(run_iretrace: RunIretrace, users_dir: Path) -> None:
    """With SUDO_UID all its threads are that user's, without a capability, and the trace is the user's."""
    trace = users_dir / "t.parquet"
    process = started(run_iretrace, trace, SUDO_UID=str(NOBODY), SUDO_GID=str(NOBODY))
    for status in statuses(process.pid):
        assert status["Uid"].split() == [str(NOBODY)] * 4
        assert status["Gid"].split() == [str(NOBODY)] * 4
        assert int(status["CapPrm"], 16) == int(status["CapEff"], 16) == 0, status["Name"]
    finished(process)
    assert (trace.stat().st_uid, trace.stat().st_gid) == (NOBODY, NOBODY)
    assert open_trace(trace).footer.collector.uid == NOBODY


def test_under_sudo_in_a_directory_that_is_not_the_users(run_iretrace: RunIretrace, tmp_path: Path) -> None:
    """It stays root with what it takes to hand the trace over, and nothing else."""
    tmp_path.chmod(0o700)
    trace = tmp_path / "t.parquet"
    finished(started(run_iretrace, trace, SUDO_UID=str(NOBODY), SUDO_GID=str(NOBODY)))
    assert trace.stat().st_uid == NOBODY
    collector = open_trace(trace).footer.collector
    assert collector.uid == 0
    assert set(collector.capabilities) == {"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER"}


def test_a_command_outlives_no_run(run_iretrace: RunIretrace, users_dir: Path) -> None:
    """The command was started as root and is ended by a collector that no longer is."""
    trace = users_dir / "t.parquet"
    env = {"SUDO_UID": str(NOBODY), "SUDO_GID": str(NOBODY)}
    forever = ("sleep", "infinity")  # without an end of its own: the run would have none either
    run_iretrace("collect", "-d", "1", "--no-calibrate", "-o", trace, "--", *forever, env=env)
    footer = open_trace(trace).footer
    assert footer.command_status == -15
    assert footer.collector.capabilities == ["CAP_KILL"]


def test_its_own_traps_are_few_and_known(
    run_iretrace: RunIretrace, tmp_path: Path, compile_workload: CompileWorkload
) -> None:
    """Under a storm the collector's own events are counted by its pid, and its page faults do not grow with it."""
    trace = tmp_path / "t.parquet"
    done = run_iretrace("collect", "--no-calibrate", "-o", trace, "--", compile_workload("faults"), "300007")
    events, footer = read_events(trace), open_trace(trace).footer
    mine, counted = own_faults(events, done.stdout)
    assert len(mine) == counted
    own = events[events.pid == footer.collector.pid]
    assert len(own) == footer.collector.events
    assert int((own.vector == 14).sum()) == footer.collector.page_faults
    assert footer.collector.page_faults < 2000  # 17 MB pass through the rings: a fault a page would be 4 100
    assert footer.collector.peak_bytes < 700e6


@pytest.mark.skipif(not (REQUIRED or os.access(CPU1, os.W_OK)), reason="this machine's CPU 1 cannot be taken offline")
def test_a_cpu_that_goes_and_comes_back(run_iretrace: RunIretrace, tmp_path: Path) -> None:
    """The run goes on; the footer says when; what the CPU does after it is back is counted, not misdated.

    Some seconds: twice it waits until the recorder has looked at the machine.
    """
    trace = tmp_path / "t.parquet"
    partial = tmp_path / "t.parquet.partial"
    process = started(run_iretrace, trace)
    try:
        CPU1.write_text("0")
        until_batches(partial, process, LOOKED)
    finally:
        CPU1.write_text("1")
    until_batches(partial, process, LOOKED)
    finished(process)
    footer = open_trace(trace).footer
    assert [incident.what for incident in footer.incidents] == ["cpu-offline", "cpu-online"]
    events = read_events(trace)
    gone = footer.incidents[0].tsc
    assert not len(events[(events.cpu == 1) & (events.tsc > gone)])
    assert len(events[(events.cpu == 0) & (events.tsc > gone)])
    lost = own_losses(footer)
    assert lost["tsc-unreadable"] > 0
    assert set(lost) == {"tsc-unreadable", "cpu-offline", "cpu-online"}
    for _, on_cpu in events.groupby("cpu"):
        assert on_cpu.tsc.is_monotonic_increasing


def test_a_class_that_costs_too_much_is_switched_off(
    run_iretrace: RunIretrace, tmp_path: Path, compile_workload: CompileWorkload
) -> None:
    """--max-overhead sheds page faults under a storm of them; timers go on, and the trace says what is missing.

    The storm must last for seconds: the cost is looked at twice a second, and something must be left to be shed.
    """
    trace = tmp_path / "t.parquet"
    storm = ["sh", "-c", f"for i in 1 2 3; do {compile_workload('faults')} 400003; done"]
    done = run_iretrace("collect", "--no-calibrate", "--max-overhead", "0.5", "-o", trace, "--", *storm)
    footer, events = open_trace(trace).footer, read_events(trace)
    assert footer.off[0].name == "#PF", footer.overhead
    assert "OFF after" in done.stderr
    assert "shed" in own_losses(footer)
    assert not len(events[(events.vector == 14) & (events.tsc > footer.off[0].from_tsc + 200_000_000)])
    assert len(events[events.vector == 14]) < 1_200_009
    shed = {off.name for off in footer.off}
    timer = events[events.vector == 0xEC]
    if "timer" not in shed:
        assert int((timer.tsc > footer.off[0].from_tsc).sum()) > 0
    assert abs(int((timer.phase == "entry").sum()) - int((timer.phase == "exit").sum())) <= 2
    assert 0 < footer.recorded_share(14) < 1
    assert "#PF was switched off" in run_iretrace("replay", trace).stdout
