"""What the benchmarks share: results as rows, medians of alternating runs, the machine they ran on."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from iretrace.collect import kernel
from iretrace.console import three

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ROOT: Final = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the report.

    Attributes:
        what: what was measured.
        goal: what it should be; empty where there is none.
        measured: what came out.
        how: runs and spread, for the sceptic.
    """

    what: str
    goal: str
    measured: str
    how: str


def iretrace(*arguments: str | Path) -> list[str]:
    """Command line of iretrace in this checkout."""
    return [sys.executable, "-m", "iretrace", *map(str, arguments)]


def alternate(rounds: int, *contenders: Callable[[], float]) -> list[list[float]]:
    """Run the contenders in turn, ``rounds`` times; their figures, one list a contender."""
    figures: list[list[float]] = [[] for _ in contenders]
    for _ in range(rounds):
        for contender, mine in zip(contenders, figures, strict=True):
            mine.append(contender())
    return figures


def storm_ns(command: list[str]) -> float:
    """Run a storm (``storm.c``), maybe under a recorder; nanoseconds a fault, as it prints them."""
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    return float(done.stdout.split()[-1])


def spread(values: Sequence[float], unit: str = "") -> str:
    """Median with minimum and maximum."""
    return f"{three(statistics.median(values))}{unit} ({three(min(values))} to {three(max(values))})"


def machine() -> str:
    """The machine, in one line."""
    cpu, host = kernel.processor(), kernel.host()
    where = f"virtual machine ({host.hypervisor} hypervisor)" if host.hypervisor else "bare metal"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{cpu.name}, {cpu.vendor} family {cpu.family} model {cpu.model}, {len(cpu.online)} CPUs, {memory:.0f} GiB, "
        f"{where}, Linux {host.kernel}, Python {platform.python_version()}"
    )
