"""Helpers for the tests on the live kernel."""

from __future__ import annotations

import ctypes
import re
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pandas as pd
import pyarrow.parquet as pq

from iretrace.collect import syscalls

if TYPE_CHECKING:
    import subprocess

    from iretrace.footer import Footer

_BPF_PROG_GET_NEXT_ID: Final = 11


def read_events(path: Path) -> pd.DataFrame:
    """All events of a trace; integers that may be null keep their type."""
    frame: pd.DataFrame = pq.read_table(path).to_pandas(types_mapper=pd.ArrowDtype)
    return frame


def own_faults(events: pd.DataFrame, printed: str) -> tuple[pd.DataFrame, int]:
    """Page faults of ``tests/workloads/faults.c``, and how many the kernel itself counted, by what it printed."""
    pid, touch, counted = printed.split()
    address = int(touch, 16)
    mine = (events.pid == int(pid)) & (events.vector == 14) & (events.ip >= address) & (events.ip < address + 64)
    return events[mine], int(counted)


def bounds(events: pd.DataFrame, begin: tuple[int, int], end: tuple[int, int]) -> tuple[int, int]:
    """How many traps may have been counted between two readings of /proc/interrupts, at least and at most.

    The kernel counts an interrupt somewhere between its entry and its exit; a reading happens somewhere between two
    time stamps.

    Args:
        events: entries and exits of one class of interrupt, on one CPU.
        begin: TSC before and after the first reading.
        end: TSC before and after the second.
    """
    entries, exits = (events.tsc[events.phase == phase] for phase in ("entry", "exit"))
    least = int((exits < end[0]).sum() - (entries <= begin[1]).sum())
    most = int((entries < end[1]).sum() - (exits <= begin[0]).sum())
    return least, most


def interrupts() -> dict[str, list[int]]:
    """/proc/interrupts: counts per CPU, by the name of the row."""
    rows = {}
    for line in Path("/proc/interrupts").read_text().splitlines()[1:]:
        name, _, rest = line.partition(":")
        rows[name.strip()] = [int(text) for text in re.findall(r"^\s*((?:\d+\s+)*\d+)", rest)[0].split()]
    return rows


def loaded_programs() -> set[int]:
    """Ids of all BPF programs in the kernel."""
    found: set[int] = set()
    last = 0
    while True:
        buffer = ctypes.create_string_buffer(struct.pack("=III", last, 0, 0), 128)
        if syscalls._libc.syscall(321, ctypes.c_long(_BPF_PROG_GET_NEXT_ID), buffer, ctypes.c_long(128)) < 0:
            return found
        last = struct.unpack_from("=II", buffer)[1]
        found.add(last)


def wait_for(path: Path, process: subprocess.Popen[str], seconds: float = 20.0, size: int = 1) -> None:
    """Wait until a file of at least ``size`` bytes is there."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if path.exists() and path.stat().st_size >= size:
            return
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        time.sleep(0.05)
    raise AssertionError(f"{path} did not appear within {seconds} s")


def own_losses(footer: Footer) -> dict[str, int]:
    """Losses by cause, but for what the kernel itself ran no probe for (see docs/collecting.md)."""
    found: dict[str, int] = {}
    for loss in footer.losses:
        if loss.cause != "not-traced":
            found[loss.cause] = found.get(loss.cause, 0) + loss.count
    return found
