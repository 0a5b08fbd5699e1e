"""However a run ends, a complete trace or everything flushed is left, and nothing in the kernel."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from iretrace.trace import open_trace
from tests.conftest import needed
from tests.live import loaded_programs, own_faults, own_losses, read_events
from tests.waiting import PATIENCE_S, until, until_batches, until_written

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import CompileWorkload, RunIretrace

pytestmark = pytest.mark.kernel


@pytest.fixture(autouse=True)
def _nothing_left_in_the_kernel() -> Iterator[None]:
    """After each test the kernel has no BPF program it had not before."""
    before = loaded_programs()
    yield
    until(lambda: loaded_programs() <= before, "no program is left")  # they are freed after a grace period


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_in_a_complete_trace(run_iretrace: RunIretrace, tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C and SIGTERM stop the recording, not the writing."""
    trace = tmp_path / "t.parquet"
    process = run_iretrace.start("collect", "--no-calibrate", "-o", trace)
    until_written(tmp_path / "t.parquet.partial", process, size=4096)
    process.send_signal(number)
    _out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, err
    footer = open_trace(trace).footer
    assert footer.window.ended_by == number.name
    assert own_losses(footer) == {}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["t.parquet"]


def test_duration_ends_the_run(run_iretrace: RunIretrace, tmp_path: Path) -> None:
    """-d SECONDS records for that long, and what is said of the time is the recorded window."""
    began = time.monotonic()
    done = run_iretrace("collect", "-d", "1", "--no-calibrate", "-o", "t.parquet")
    took = time.monotonic() - began
    footer = open_trace(tmp_path / "t.parquet").footer
    cycles, khz = footer.duration_cycles(), footer.clock.tsc_khz
    assert footer.window.ended_by == "duration"
    assert cycles is not None
    assert khz is not None
    seconds = cycles / khz / 1e3
    assert 1.0 <= seconds < 3.0
    told = re.match(
        r"t\.parquet: [\d,]+ events in ([\d.]+) s, .*\nset up in ([\d.]+) s, finished in ([\d.]+) s\n", done.stderr
    )
    assert told is not None, done.stderr
    assert float(told[1]) == pytest.approx(seconds, abs=0.06)
    assert float(told[2]) > 0
    assert sum(map(float, told.groups())) <= took + 0.15  # each rounded


def test_the_command_ends_the_run_and_its_status_is_kept(run_iretrace: RunIretrace, tmp_path: Path) -> None:
    """A traced command that fails is no failure of the recording."""
    done = run_iretrace("collect", "--no-calibrate", "-o", "t.parquet", "--", "sh", "-c", "sleep 0.3; exit 3")
    assert "the command ended with exit status 3" in done.stderr
    footer = open_trace(tmp_path / "t.parquet").footer
    assert footer.window.ended_by == "command"
    assert footer.command == ["sh", "-c", "sleep 0.3; exit 3"]
    assert footer.command_status == 3


def test_a_killed_run_is_salvaged(run_iretrace: RunIretrace, tmp_path: Path, compile_workload: CompileWorkload) -> None:
    """After kill -9 every flushed batch is there, and the trace says that what came later may be missing."""
    faults = compile_workload("faults")
    trace, partial = tmp_path / "t.parquet", tmp_path / "t.parquet.partial"
    process = run_iretrace.start("collect", "--no-calibrate", "-o", trace)
    until_written(partial, process, size=4096)
    first = subprocess.run([faults, "20011"], check=True, capture_output=True, text=True).stdout
    until_batches(partial, process)
    process.kill()
    process.communicate()
    assert not trace.exists()
    refused = run_iretrace("collect", "-d", "1", "-o", trace, check=False)
    assert refused.returncode == 2
    assert "iretrace import" in refused.stderr
    wrong = run_iretrace("replay", partial, check=False)
    assert wrong.returncode == 2
    assert "iretrace import" in wrong.stderr
    done = run_iretrace("import", partial)
    assert "missing: killed" in done.stderr
    mine, counted = own_faults(read_events(trace), first)
    assert len(mine) == counted >= 20011
    footer = open_trace(trace).footer
    assert footer.window.ended_by == "killed"
    assert footer.is_lossy()


def test_a_full_disk_leaves_a_complete_trace(
    run_iretrace: RunIretrace, tmp_path: Path, compile_workload: CompileWorkload
) -> None:
    """On a full file system what fitted is kept, and what did not is counted, CPU by CPU: nothing goes uncounted."""
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", small], check=True)
    try:
        trace = small / "t.parquet"
        faults = str(compile_workload("faults"))
        done = run_iretrace("collect", "--no-calibrate", "-o", trace, "--", faults, "200003")
        assert "LOST" in done.stderr
        footer = open_trace(trace).footer
        lost = own_losses(footer)
        assert set(lost) == {"disk-full"}
        mine, counted = own_faults(read_events(trace), done.stdout)
        assert 0 < len(mine) < counted
        assert len(mine) + lost["disk-full"] >= counted
        assert [p.name for p in small.iterdir()] == ["t.parquet"]
    finally:
        subprocess.run(["umount", small], check=True)


def test_a_full_ring_is_counted(run_iretrace: RunIretrace, tmp_path: Path, compile_workload: CompileWorkload) -> None:
    """With a ring of 64 slots most of a storm is lost; kept and lost together are all of it."""
    done = run_iretrace(
        "collect", "--no-calibrate", "--buffer", "4K", "-o", "t.parquet", "--", compile_workload("faults"), "50021"
    )
    lost = own_losses(open_trace(tmp_path / "t.parquet").footer)
    mine, counted = own_faults(read_events(tmp_path / "t.parquet"), done.stdout)
    assert set(lost) == {"ring-full"}
    assert 0 < len(mine) < counted
    assert len(mine) + lost["ring-full"] >= counted


def test_existing_and_unwritable_targets(run_iretrace: RunIretrace, tmp_path: Path) -> None:
    """A target that exists, or cannot be written, is refused before anything is recorded."""
    (tmp_path / "t.parquet").write_text("mine")
    for target, word in (("t.parquet", "--force"), ("no/such/t.parquet", "mkdir"), (".", "directory")):
        done = run_iretrace("collect", "-d", "1", "-o", target, check=False)
        assert done.returncode == 2
        assert word in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
    assert (tmp_path / "t.parquet").read_text() == "mine"
    run_iretrace("collect", "-d", "0.5", "--no-calibrate", "--force", "-o", "t.parquet")
    assert open_trace(tmp_path / "t.parquet").n_events > 0


def test_under_sudo_the_trace_belongs_to_the_user(run_iretrace: RunIretrace, tmp_path: Path) -> None:
    """SUDO_UID and SUDO_GID own the output."""
    sudo = {"SUDO_UID": "65534", "SUDO_GID": "65534"}
    run_iretrace("collect", "-d", "0.5", "--no-calibrate", "-o", "t.parquet", env=sudo)
    status = (tmp_path / "t.parquet").stat()
    assert (status.st_uid, status.st_gid) == (65534, 65534)


def test_a_command_that_does_not_exist(run_iretrace: RunIretrace, tmp_path: Path) -> None:
    """It is refused in one line, and nothing is left behind."""
    done = run_iretrace("collect", "-o", "t.parquet", "--", "/no/such/program", check=False)
    assert done.returncode == 2
    assert "/no/such/program" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_footer_knows_the_machine(run_iretrace: RunIretrace, tmp_path: Path) -> None:
    """IDT, NMI text, kernel CS, hooks, classes, clock and overhead are there; addresses are relative."""
    run_iretrace("collect", "-d", "1.5", "-o", "t.parquet", "--tag", "why=test")
    footer = open_trace(tmp_path / "t.parquet").footer
    assert footer.tags == {"why": "test"}
    assert footer.kernel_cs == 0x10
    assert footer.idt is not None
    gates = {gate.vector: gate for gate in footer.idt}
    assert gates[2].handler == "asm_exc_nmi"
    assert gates[2].ist != 0
    assert gates[8].ist != 0
    assert gates[14].ist == 0
    assert footer.nmi_text
    low, high = footer.nmi_text[0]
    assert low == gates[2].address
    assert 0 < high - low < 0x2000
    assert low < 1 << 32  # an offset from _text
    assert {hook.name for hook in footer.hooks if hook.attached} >= {"page_fault_user", "local_timer_entry"}
    assert footer.overhead.ns_per_event is not None
    assert footer.overhead.ns_per_event > 0
    assert footer.clock.tsc_khz is not None
    assert footer.calibration is not None
    assert {cost.path for cost in footer.calibration.costs} >= {"iretq", "popfq-ret"}
    events = read_events(tmp_path / "t.parquet")
    kernel = events[events.to_kernel == True]  # noqa: E712 - a nullable column
    assert (kernel.ip < 1 << 32).mean() > 0.9


def test_without_privilege_collect_top_and_doctor_say_so(run_iretrace: RunIretrace, tmp_path: Path) -> None:
    """An ordinary user gets one line with the command that mends it, the one that was typed, and exit status 2."""
    tmp_path.chmod(0o777)
    as_nobody = [needed("setpriv", "util-linux"), "--reuid=65534", "--regid=65534", "--clear-groups"]
    for verb in (["collect", "-d", "1"], ["top", "-n", "1"], ["doctor"]):
        done = subprocess.run(
            [*as_nobody, *run_iretrace.command(*verb)],
            env={**run_iretrace.environment(), "HOME": "/nonexistent"},
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )
        if "Permission denied" in done.stderr and sys.prefix in done.stderr:
            pytest.fail("the test's Python cannot be run by another user")
        assert done.returncode == 2, done.stderr
        assert f"sudo iretrace {verb[0]}\n" in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
