"""Watching on the live kernel: a known workload shows up in the counts, and nothing is left behind."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from tests.live import statuses

if TYPE_CHECKING:
    from tests.conftest import CompileWorkload, RunIretrace

pytestmark = pytest.mark.kernel

PAGES = 100_003


def test_a_known_workload_is_counted(run_iretrace: RunIretrace, compile_workload: CompileWorkload) -> None:
    """The page faults of a program that touches so many pages are in the updates, none to the kernel counted as RET."""
    with run_iretrace.start("top", "--only", "page-faults", "--json", "-i", "0.5", "-n", "8") as top:
        assert top.stdout is not None
        first = json.loads(top.stdout.readline())
        subprocess.run([compile_workload("faults"), str(PAGES)], check=True, capture_output=True)
        lines = [first, *map(json.loads, top.stdout)]
        assert top.wait(60) == 0
    assert len(lines) == 8
    faults = sum(row["per_s"] * line["seconds"] for line in lines for row in line["vectors"] if row["name"] == "#PF")
    lost = lines[-1]["lost_events"]
    assert faults + lost >= PAGES
    assert {row["name"] for line in lines for row in line["vectors"]} == {"#PF"}
    for line in lines:
        assert line["total"]["ret_pct"] is None or 0 <= line["total"]["ret_pct"] <= 100


def test_it_keeps_no_capability(run_iretrace: RunIretrace) -> None:
    """Once it shows counts, every thread is without any capability and cannot gain one."""
    with run_iretrace.start("top", "--json", "-i", "0.5", "-n", "4") as top:
        assert top.stdout is not None
        json.loads(top.stdout.readline())
        found = statuses(top.pid)
        top.stdout.read()
        assert top.wait(60) == 0
    assert found
    for status in found:
        assert int(status["CapPrm"], 16) == int(status["CapEff"], 16) == 0, status["Name"]
        assert status["NoNewPrivs"] == "1"


def test_ctrl_c_ends_it_and_nothing_is_left(run_iretrace: RunIretrace) -> None:
    """At SIGINT it ends with status 0 and leaves no file."""
    top = run_iretrace.start("top", "-i", "0.5")
    assert top.stdout is not None
    begin = time.monotonic()
    while "traps/s" not in top.stdout.readline():
        assert time.monotonic() - begin < 60
    top.send_signal(signal.SIGINT)
    out, err = top.communicate(timeout=60)
    assert top.returncode == 0, err
    assert "Traceback" not in err
    assert "all" in out or out == ""
    assert not list(run_iretrace._directory.iterdir())
