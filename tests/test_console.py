"""Text on a terminal: numbers without exponents, tables that are never cut, sentences as wide as the terminal."""

from __future__ import annotations

import os
import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from iretrace.console import plural, share, size, three
from tests.conftest import ROOT, RunIretrace

if TYPE_CHECKING:
    from pathlib import Path

SAMPLE = str(ROOT / "samples" / "mixed.parquet")
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def on_terminal(command: list[str], columns: int, environment: dict[str, str], directory: Path) -> list[str]:
    """The lines that a program prints on a terminal so wide."""
    termios = pytest.importorskip("termios", reason="terminals of Unix")
    controller, terminal = os.openpty()
    termios.tcsetwinsize(terminal, (40, columns))
    environment = {name: value for name, value in environment.items() if name not in {"COLUMNS", "LINES"}}
    with subprocess.Popen(
        command, cwd=directory, stdin=terminal, stdout=terminal, stderr=subprocess.DEVNULL, env=environment
    ):
        os.close(terminal)
        printed = b""
        try:
            while part := os.read(controller, 65536):
                printed += part
        except OSError:  # the program has ended
            pass
    os.close(controller)
    return [_CONTROL.sub("", line).rstrip() for line in printed.decode().split("\r\n")]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (9.174e-5, "0.0000917"),
        (0.0110, "0.011"),
        (12.34, "12.3"),
        (123.4, "123"),
        (20_832.0, "20,800"),
        (-0.5, "-0.5"),
        (float("nan"), "nan"),
    ],
)
def test_three_digits(value: float, shown: str) -> None:
    """Never with an exponent."""
    assert three(value) == shown


def test_sizes_and_shares() -> None:
    """What is small is not nothing."""
    assert [plural(n, "event") for n in (0, 1, 1234)] == ["0 events", "1 event", "1,234 events"]
    assert [size(n) for n in (830, 12_345, 4_960_737, 2.5e9)] == ["830 bytes", "12.3 kB", "5.0 MB", "2.5 GB"]
    assert share(1, 3_000_000) == "0.0000333 %"
    assert share(0, 5) == "0.0 %"
    assert share(0, 0) == "-"


def test_a_narrow_terminal_cuts_no_table(tmp_path: Path, run_iretrace: RunIretrace) -> None:
    """All cells are there, whatever the width; in a pipe no line ends with blanks."""
    arguments = ("compare", SAMPLE, SAMPLE, "--all")
    piped = run_iretrace(*arguments).stdout.splitlines()
    assert all(line == line.rstrip() for line in piped)
    cells = next(line for line in piped if "latency_p99.9" in line)
    shown = on_terminal(run_iretrace.command(*arguments), 40, run_iretrace.environment(), tmp_path)
    assert cells in shown
    assert not any("…" in line for line in shown)


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_sentences_are_as_wide_as_the_terminal(tmp_path: Path, run_iretrace: RunIretrace, columns: int) -> None:
    """But no wider than can be read, and in a pipe a sentence is a line."""
    arguments = ("check", SAMPLE)
    shown = on_terminal(run_iretrace.command(*arguments), columns, run_iretrace.environment(), tmp_path)
    paths = [line for line in shown if SAMPLE in line]
    assert max(len(line) for line in shown if line not in paths) <= min(columns, 100)
    replayed = run_iretrace("replay", SAMPLE).stdout.splitlines()
    (cost,) = (line for line in replayed if line.startswith("RET saves"))
    assert len(cost) > 100
