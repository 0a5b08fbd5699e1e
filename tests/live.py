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


def losses_of_events(footer: Footer) -> dict[str, int]:
    """Lost events by cause."""
    found: dict[str, int] = {}
    for loss in footer.losses:
        found[loss.cause] = found.get(loss.cause, 0) + loss.count
    return found
