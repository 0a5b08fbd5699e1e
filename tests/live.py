"""Helpers for the tests on the live kernel."""

from __future__ import annotations

import ctypes
import re
import struct
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pandas as pd
import pyarrow.parquet as pq

from iretrace.collect import syscalls
from tests.surroundings import tracefs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from iretrace.footer import Footer

_BPF_PROG_GET_NEXT_ID: Final = 11

INTERRUPT_ROWS: Final = {"LOC": [0xEC], "RES": [0xFD], "CAL": [0xFB, 0xFC]}
"""Rows of /proc/interrupts and the vectors counted in them."""
INTERRUPT_ENTRIES: Final = (
    "local_timer_entry",
    "reschedule_entry",
    "call_function_single_entry",
    "call_function_entry",
)
"""Their tracepoints, under ``irq_vectors``."""


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


@contextmanager
def ftrace_instance(name: str) -> Iterator[Path]:
    """A trace instance of its own, with the TSC as its clock; removed at the end."""
    with tracefs() as root:
        instance = root / "instances" / name
        instance.mkdir(exist_ok=True)
        try:
            (instance / "trace_clock").write_text("x86-tsc")
            yield instance
        finally:
            (instance / "events" / "enable").write_text("0")
            instance.rmdir()


@contextmanager
def interrupts_of_init(*more: str) -> Iterator[Callable[[int, int], dict[int, int]]]:
    """Interrupts that came while a thread of process 1 was on the CPU, by ftrace: see docs/collecting.md.

    Args:
        *more: names of other tasks whose interrupts are counted too.

    Yields:
        A function from two TSC to their number between them, by CPU.
    """
    names = {(task / "comm").read_text().strip() for task in Path("/proc/1/task").iterdir()}.union(more)
    chosen = " || ".join(f'COMM == "{name}"' for name in sorted(names))
    with ftrace_instance("iretrace-init") as instance:
        for entry in INTERRUPT_ENTRIES:
            event = instance / "events" / "irq_vectors" / entry
            (event / "filter").write_text(chosen)
            (event / "enable").write_text("1")

        def count(begin: int, end: int) -> dict[int, int]:
            found: dict[int, int] = {}
            for cpu, tsc in re.findall(r"\[(\d+)\] \S+ +(\d+): \w+_entry", (instance / "trace").read_text()):
                if begin <= int(tsc) <= end:
                    found[int(cpu)] = found.get(int(cpu), 0) + 1
            return found

        yield count


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


def own_losses(footer: Footer) -> dict[str, int]:
    """Losses by cause, but for interrupts of process 1, for which the kernel ran no probe (see docs/collecting.md)."""
    found: dict[str, int] = {}
    for loss in footer.losses:
        if loss.cause != "not-traced":
            found[loss.cause] = found.get(loss.cause, 0) + loss.count
    return found


def statuses(pid: int) -> list[dict[str, str]]:
    """/proc/PID/task/*/status of each thread, as fields."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        lines = (task / "status").read_text().splitlines()
        found.append({name: rest.strip() for name, _, rest in (line.partition(":") for line in lines)})
    return found
