"""collect --backend perf on the live kernel, without BCC: the events of a known workload, and the footer."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Final

import pyarrow.parquet as pq
import pytest

from iretrace.collect import kernel
from iretrace.trace import open_trace
from tests.conftest import TESTED, needed
from tests.live import interrupts_of_init
from tests.surroundings import TRACEFS
from tests.waiting import PATIENCE_S

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import CompileWorkload

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("tracefs")]

DEBUGFS: Final = "/sys/kernel/debug"
FAULTS: Final = 10007
WITHOUT_BCC: Final = "import sys; sys.modules['bcc'] = None; from iretrace.cli import main; main(sys.argv[1:])"


def collect(directory: Path, *arguments: str, within: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run the verb in a process that cannot import BCC, started by another command if one is given."""
    command = [*within, sys.executable, "-c", WITHOUT_BCC, "collect", "--backend", "perf", *arguments]
    return subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        cwd=directory,
        timeout=PATIENCE_S,
        env={"PYTHONPATH": str(TESTED), "PATH": "/usr/bin:/usr/sbin:/bin:/sbin"},
    )


def test_a_workload_is_recorded_whole(tmp_path: Path, compile_workload: CompileWorkload) -> None:
    """Each page fault of the program is there, with its frame; the footer is as the probes' would be."""
    program = str(compile_workload("faults"))
    # As BPF, perf is told nothing of interrupts of process 1, nor of those of the idle tasks that it forked at boot
    # (docs/collecting.md): all but CPU 0's.
    with interrupts_of_init(*(f"swapper/{cpu}" for cpu in kernel.cpu_list("online") if cpu)) as of_init:
        done = collect(tmp_path, "-o", "t.parquet", "--no-calibrate", "--tag", "a=b", "--", program, str(FAULTS))
        assert done.returncode == 0, done.stderr
        window = open_trace(tmp_path / "t.parquet").footer.window
        assert window.start_tsc is not None
        assert window.stop_tsc is not None
        explained = of_init(window.start_tsc, window.stop_tsc)
    pid, touch = (int(text, 0) for text in done.stdout.split()[:2])
    footer = open_trace(tmp_path / "t.parquet").footer
    rows = pq.read_table(tmp_path / "t.parquet").to_pylist()
    faults = [row for row in rows if row["vector"] == 14 and row["pid"] == pid and touch <= row["ip"] < touch + 64]
    assert len(faults) >= FAULTS
    assert all(row["cs"] & 3 == 3 and row["sp"] and not row["to_kernel"] and row["error_code"] & 4 for row in faults)
    assert footer.window.start_tsc is not None
    assert footer.window.stop_tsc is not None
    span = footer.window.stop_tsc - footer.window.start_tsc
    assert all(footer.window.start_tsc <= row["tsc"] <= footer.window.stop_tsc for row in rows)
    assert {row["vector"] for row in rows} >= {14, 0xEC}
    exits = {item.name: item.exit for item in footer.classes}
    assert exits["timer"] == "local_timer_exit"
    assert exits["irq-work"] is None
    assert (footer.host, footer.cpu) == (kernel.host(), kernel.processor())
    assert (footer.kernel_cs, footer.addresses, footer.tags) == (0x10, "relative", {"a": "b"})
    assert footer.nmi_text
    assert footer.mitigations == kernel.mitigations()
    assert (footer.window.ended_by, footer.command_status) == ("command", 0)
    assert footer.clock.tsc_khz == pytest.approx(
        1e6 * span / (footer.clock.anchors[1].monotonic_ns - footer.clock.anchors[0].monotonic_ns)
    )
    assert all(row["ip"] is None or row["ip"] < 1 << 63 for row in rows)  # relative to _text
    assert {loss.cause for loss in footer.losses} <= {"not-traced"}
    assert {loss.cpu: loss.count for loss in footer.losses if loss.count > explained.get(loss.cpu or 0, 0)} == {}
    assert [path.name for path in tmp_path.iterdir()] == ["t.parquet"]


def test_only_what_is_asked(tmp_path: Path) -> None:
    """--only chooses tracepoints, --cpu processors; filters by task need the probes."""
    done = collect(tmp_path, "-o", "t.parquet", "--no-calibrate", "--only", "timer", "--cpu", "0", "-d", "0.3")
    assert done.returncode == 0, done.stderr
    rows = pq.read_table(tmp_path / "t.parquet").to_pylist()
    assert {(row["vector"], row["cpu"]) for row in rows} == {(0xEC, 0)}
    done = collect(tmp_path, "-o", "u.parquet", "--pid", "1", "-d", "0.1")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "--backend bpf" in done.stderr


def test_a_refusal_of_perf_is_told(tmp_path: Path) -> None:
    """What perf says is the error, in one line, and nothing is left behind."""
    done = collect(
        tmp_path, "-o", "t.parquet", "--no-calibrate", "--buffer", "4K", "--only", "timer", "--", "/nowhere/x"
    )
    assert done.returncode == 2
    assert "/nowhere/x" in done.stderr
    assert not list(tmp_path.iterdir())


def test_without_tracefs_the_command_that_mounts_it_is_told(tmp_path: Path) -> None:
    """Where nothing has mounted it yet, as after a boot into a small system: one line, and exit status 2."""
    bare = (
        needed("unshare", "util-linux"),
        "--mount",
        "sh",
        "-c",
        f'umount -l {TRACEFS}; umount -l {DEBUGFS}; exec "$@"',
    )
    done = collect(tmp_path, "-o", "t.parquet", "-d", "0.1", within=(*bare, "sh"))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith("mount -t tracefs none /sys/kernel/tracing, as root"), done.stderr
    assert not list(tmp_path.iterdir())
