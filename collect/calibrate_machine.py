"""What bears on a calibration: core types, SMT, the frequency governor, and the core's own clock."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from iretrace.collect import kernel, syscalls
from iretrace.collect.calibrate import pinned

_DEVICES: Final = Path("/sys/devices")
_CORE_TYPES: Final = ("cpu_core", "cpu_atom", "cpu_lowpower")
"""PMUs of a hybrid CPU's core types; their ``cpus`` files list who is which (arch/x86/events/intel/core.c)."""

PERF_TYPE_HARDWARE: Final = 0
PERF_COUNT_HW_CPU_CYCLES: Final = 0


@dataclass(frozen=True, kw_only=True)
class CoreClock:
    """The core's own cycles against the TSC's while the CPU is busy.

    Attributes:
        per_tsc: core cycles a TSC cycle; ``None``: not known.
        lacks: why it is not known.
    """

    per_tsc: float | None
    lacks: str = ""


def core_types(devices: Path = _DEVICES) -> dict[str, list[int]]:
    """CPUs of each core type of a hybrid CPU; empty where all cores are alike."""
    found = {}
    for name in _CORE_TYPES:
        try:
            text = (devices / name / "cpus").read_text(encoding="ascii").strip()
        except OSError:
            continue
        found[name] = kernel.parse_cpu_list(text)
    return found


def choose_cpus(types: dict[str, list[int]], allowed: set[int]) -> dict[int, str]:
    """One CPU of each core type, by its type's name (empty where all are alike).

    The highest number allowed: CPU 0 takes more than its share of interrupts.
    """
    chosen = {max(set(cpus) & allowed): name for name, cpus in types.items() if set(cpus) & allowed}
    return chosen or {max(allowed): ""}


def conditions(cpu: int, devices: Path = _DEVICES) -> dict[str, str]:
    """What the kernel says of one CPU's clock and siblings: SMT, governor, frequencies; only what it does say."""
    frequency = devices / "system" / "cpu" / f"cpu{cpu}" / "cpufreq"
    files = {
        "SMT": devices / "system" / "cpu" / "smt" / "control",
        "siblings": devices / "system" / "cpu" / f"cpu{cpu}" / "topology" / "thread_siblings_list",
        "governor": frequency / "scaling_governor",
        "frequency_khz": frequency / "scaling_cur_freq",
        "highest_khz": frequency / "cpuinfo_max_freq",
    }
    said = {}
    for name, file in files.items():
        try:
            said[name] = file.read_text(encoding="ascii", errors="replace").strip()
        except OSError:
            continue
    return said


def cycles_event(core_type: str, devices: Path = _DEVICES) -> int:
    """Perf's event of core cycles, for one core type of a hybrid CPU or (empty) where all cores are alike.

    Each core type has a PMU of its own, whose number goes into the upper half of the event (Linux commit 55bcf6ef31
    ("perf: Extend PERF_TYPE_HARDWARE and PERF_TYPE_HW_CACHE") in v5.13).
    """
    try:
        kind = int((devices / core_type / "type").read_text(encoding="ascii")) if core_type else 0
    except (OSError, ValueError):
        kind = 0
    return kind << 32 | PERF_COUNT_HW_CPU_CYCLES


def core_clock(cpu: int, *, kind: int = PERF_TYPE_HARDWARE, config: int = PERF_COUNT_HW_CPU_CYCLES) -> CoreClock:
    """Count a perf event on a busy CPU over 20 ms of TSC cycles.

    Args:
        cpu: the CPU, to which this thread is pinned meanwhile.
        kind: perf's event type.
        config: perf's event; both together default to core cycles.
    """
    from iretrace._native import bracket_read, rdtsc  # noqa: PLC0415 - absent on other machines

    with pinned(cpu):
        try:
            fd = syscalls.perf_event_open(kind=kind, config=config, cpu=cpu)
        except OSError as error:
            return CoreClock(per_tsc=None, lacks=f"no counter of core cycles here ({error.strerror})")
        try:
            first = bracket_read(fd)
            until = time.monotonic() + 0.02
            while time.monotonic() < until:
                rdtsc()
            last = bracket_read(fd)
        except OSError as error:
            return CoreClock(per_tsc=None, lacks=f"the counter of core cycles cannot be read ({error.strerror})")
        finally:
            os.close(fd)
    counted = last[1] - first[1]
    if counted <= 0:
        return CoreClock(per_tsc=None, lacks="the counter of core cycles stands still")
    return CoreClock(per_tsc=counted / (last[0] - first[0]))
