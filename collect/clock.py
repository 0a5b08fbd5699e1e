"""The clock of the ``tsc`` column: the TSC itself, read in BPF.

BPF has no helper for the TSC, but a counter of the ``msr`` PMU's ``tsc`` event (arch/x86/events/msr.c) can be read
from BPF with ``bpf_perf_event_read``; it runs RDTSC and counts from the moment the event was opened on that CPU.
What it started from is found by bracketing ``read(2)`` of the counter with RDTSCP on the same CPU: the offset lies
within the bracket, half of whose width is the stated error. Resolution: one cycle. Readings on one CPU never fall;
between CPUs they agree as well as the TSCs do (``constant_tsc nonstop_tsc``) plus the errors of both offsets.

Where the PMU is not to be had, ``bpf_ktime_get_ns`` (CLOCK_MONOTONIC) is mapped to cycles by two anchors.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, Self

import numpy as np

from iretrace import _native
from iretrace.collect import syscalls
from iretrace.errors import MachineError
from iretrace.footer import Anchor, khz_between

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PMU: Final = Path("/sys/bus/event_source/devices/msr")
_BRACKETS: Final = 2000
_KTIME_CALIBRATION_SECONDS: Final = 0.2


def take_anchor(brackets: int = _BRACKETS) -> Anchor:
    """The TSC and the kernel's clocks at one moment; the narrowest of several brackets."""
    best = min((_native.bracket_clocks() for _ in range(brackets)), key=lambda b: b[3] - b[0])
    before, realtime_ns, monotonic_ns, after = best
    return Anchor(
        tsc=(before + after) // 2,
        realtime_ns=realtime_ns,
        monotonic_ns=monotonic_ns,
        error_cycles=(after - before + 1) // 2,
    )


def has_msr_pmu() -> bool:
    """Whether this kernel offers the msr PMU's tsc event."""
    return (_PMU / "events" / "tsc").exists()


@dataclass(frozen=True, kw_only=True)
class Offset:
    """What to add to a CPU's counter to have its TSC.

    Attributes:
        cycles: the offset.
        error_cycles: it is right within plus or minus this.
    """

    cycles: int
    error_cycles: int


class TscCounters:
    """One ``msr/tsc`` counter a CPU, with its offset to the TSC."""

    source: Final = "msr-tsc"
    rises: Final = True

    def __init__(self, cpus: list[int]) -> None:
        try:
            kind = int((_PMU / "type").read_text(encoding="ascii"))
            config = int((_PMU / "events" / "tsc").read_text(encoding="ascii").partition("=")[2], 0)
        except (OSError, ValueError) as error:
            raise MachineError("msr PMU", f"not to be had ({error})", remedy="collect --clock ktime") from None
        self.fds: dict[int, int] = {}
        self.offsets: dict[int, Offset] = {}
        home = os.sched_getaffinity(0)
        try:
            for cpu in cpus:
                self.fds[cpu] = syscalls.perf_event_open(kind=kind, config=config, cpu=cpu)
                self.offsets[cpu] = _offset(self.fds[cpu], cpu)
        except OSError as error:
            self.close()
            raise MachineError(
                "msr PMU", f"could not be opened ({error})", remedy="run as root: sudo iretrace"
            ) from None
        except MachineError:
            self.close()
            raise
        finally:
            os.sched_setaffinity(0, home)
        self._table = np.zeros(max(cpus) + 1, np.uint64)
        for cpu, offset in self.offsets.items():
            self._table[cpu] = offset.cycles % 2**64

    @property
    def error_cycles(self) -> int:
        """The largest error of an offset."""
        return max(offset.error_cycles for offset in self.offsets.values())

    def moved(self) -> dict[int, int]:
        """CPUs whose counter no longer stands where it stood to the TSC, with by how many cycles at least.

        A counter that was taken off its CPU for a while, or a TSC that jumped, shows here; CPUs that went offline are
        left out.
        """
        found = {}
        home = os.sched_getaffinity(0)
        try:
            for cpu, fd in self.fds.items():
                try:
                    now = _offset(fd, cpu)
                except (OSError, MachineError):
                    continue  # offline, or offline for a while: the counter ended with it
                before = self.offsets[cpu]
                apart = abs(now.cycles - before.cycles) - now.error_cycles - before.error_cycles
                if apart > 0:
                    found[cpu] = apart
        finally:
            os.sched_setaffinity(0, home)
        return found

    def to_tsc(self, events: NDArray[np.void]) -> None:
        """Turn the counters in ``events["tsc"]`` into TSC values, in place."""
        events["tsc"] += self._table[events["cpu"]]

    def close(self) -> None:
        """Close the counters."""
        for fd in self.fds.values():
            os.close(fd)
        self.fds = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _offset(fd: int, cpu: int) -> Offset:
    """Pin to ``cpu`` and bracket the counter; every bracket bounds the offset, so they are intersected."""
    os.sched_setaffinity(0, {cpu})
    low, high = -(2**63), 2**63
    for _ in range(_BRACKETS):
        before, counter, after, where = _native.bracket_read(fd)
        if where != cpu:
            continue
        low, high = max(low, before - counter), min(high, after - counter)
    if low > high or low == -(2**63):
        raise MachineError(f"CPU {cpu}", "its TSC and the msr/tsc counter disagree", remedy="collect --clock ktime")
    return Offset(cycles=(low + high) // 2, error_cycles=(high - low + 1) // 2)


class KtimeClock:
    """``bpf_ktime_get_ns`` mapped to TSC cycles by the anchors around the run.

    The mapping is linear between an anchor at the start and the latest one; NTP's slewing of CLOCK_MONOTONIC is in
    its error (at most 500 ppm of the time since the nearer anchor).
    """

    source: Final = "ktime"
    rises: Final = False

    def __init__(self, first: Anchor, khz: float) -> None:
        self._first = first
        self._cycles_per_ns = khz / 1e6
        self.fds: dict[int, int] = {}
        self.error_cycles = first.error_cycles + int(500e-6 * khz * 1e3)

    def to_tsc(self, events: NDArray[np.void]) -> None:
        """Turn nanoseconds in ``events["tsc"]`` into TSC values, in place."""
        elapsed = events["tsc"].astype(np.int64) - self._first.monotonic_ns
        events["tsc"] = self._first.tsc + np.rint(elapsed * self._cycles_per_ns).astype(np.int64)

    def moved(self) -> dict[int, int]:
        """Nothing that could move: the kernel keeps this clock."""
        return {}

    def close(self) -> None:
        """Nothing to close."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_clock(kind: Literal["auto", "tsc", "ktime"], cpus: list[int], first: Anchor) -> TscCounters | KtimeClock:
    """The clock that was asked for; ``auto`` takes the TSC where BPF can read it.

    Args:
        kind: which.
        cpus: those online.
        first: the anchor at the start.

    Raises:
        MachineError: it cannot be had.
    """
    if kind == "tsc" or (kind == "auto" and has_msr_pmu()):
        return TscCounters(cpus)
    return KtimeClock(first, _khz())


def _khz() -> float:
    """TSC frequency over a short while, in kHz (the ktime clock needs it before the run)."""
    first = take_anchor()
    time.sleep(_KTIME_CALIBRATION_SECONDS)
    khz = khz_between(first, take_anchor())
    if khz is None:
        raise MachineError("TSC", "does not advance against CLOCK_MONOTONIC", remedy="collect --clock tsc")
    return khz
