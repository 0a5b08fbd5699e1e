"""Watching on the live kernel: a known workload shows up in the counts, and nothing is left behind."""

from __future__ import annotations

import json
import signal
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.live import statuses
from tests.waiting import PATIENCE_S

if TYPE_CHECKING:
    from tests.conftest import CompileWorkload, RunIretrace

pytestmark = pytest.mark.kernel

PAGES = 100_003


def counted(lines: list[dict[str, Any]]) -> float:
    """How many page faults the updates have, with those that were lost."""
    faults = sum(row["per_s"] * line["seconds"] for line in lines for row in line["vectors"] if row["name"] == "#PF")
    return float(faults + lines[-1]["lost_events"])


def test_it_shows_as_many_updates_as_asked(run_iretrace: RunIretrace) -> None:
    """-n N ends it after N of them."""
    lines = run_iretrace("top", "--json", "-i", "0.5", "-n", "3").stdout.splitlines()
    assert [len(json.loads(line)["vectors"]) > 0 for line in lines] == [True] * 3


def test_a_known_workload_is_counted(run_iretrace: RunIretrace, compile_workload: CompileWorkload) -> None:
    """The page faults of a program that touches so many pages are in the updates, none to the kernel counted as RET."""
    program = compile_workload("faults")
    with run_iretrace.start("top", "--only", "page-faults", "--json", "-i", "0.5") as top:
        assert top.stdout is not None
        lines = [json.loads(top.stdout.readline())]
        subprocess.run([program, str(PAGES)], check=True, capture_output=True)
        while counted(lines) < PAGES:
            lines.append(json.loads(top.stdout.readline()))
        top.send_signal(signal.SIGINT)
        assert top.wait(PATIENCE_S) == 0
    assert {row["name"] for line in lines for row in line["vectors"]} == {"#PF"}
    for line in lines:
        assert line["total"]["ret_pct"] is None or 0 <= line["total"]["ret_pct"] <= 100


def test_it_keeps_no_capability(run_iretrace: RunIretrace) -> None:
    """Once it shows counts, every thread is without any capability and cannot gain one."""
    with run_iretrace.start("top", "--json", "-i", "0.5") as top:
        assert top.stdout is not None
        json.loads(top.stdout.readline())
        found = statuses(top.pid)
        top.send_signal(signal.SIGINT)
        top.stdout.read()
        assert top.wait(PATIENCE_S) == 0
    assert found
    for status in found:
        assert int(status["CapPrm"], 16) == int(status["CapEff"], 16) == 0, status["Name"]
        assert status["NoNewPrivs"] == "1"


def test_ctrl_c_ends_it_and_nothing_is_left(run_iretrace: RunIretrace) -> None:
    """At SIGINT it ends with status 0 and leaves no file."""
    top = run_iretrace.start("top", "-i", "0.5")
    assert top.stdout is not None
    while "traps/s" not in top.stdout.readline():
        assert top.poll() is None
    top.send_signal(signal.SIGINT)
    out, err = top.communicate(timeout=PATIENCE_S)
    assert top.returncode == 0, err
    assert "Traceback" not in err
    assert "all" in out or out == ""
    assert not list(run_iretrace._directory.iterdir())
