"""What happens to the machine during a run that a reader must know: sleep, an unsteady TSC, CPUs that come and go.

Looked at about once a second, and at the end. Everything found is an incident with its TSC, and a loss.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from iretrace import footer as footers
from iretrace.collect import kernel

if TYPE_CHECKING:
    from collections.abc import Callable

CLOCKSOURCE: Final = Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")

_SLEPT_NS: Final = 1_000_000
"""Sleep shorter than this is the two clocks being read one after the other."""

_SLEW: Final = 1000e-6
"""NTP may slew CLOCK_MONOTONIC by 500 ppm (kernel/time/ntp.c, MAXFREQ); both intervals compared may be slewed."""

_BASELINE_NS: Final = 400_000_000
"""The TSC's rate is taken from an interval of at least this length."""


def clocksource(path: Path = CLOCKSOURCE) -> str:
    """The kernel's clocksource; empty where it is not told."""
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def asleep_ns() -> int:
    """How long the machine has slept since boot: CLOCK_BOOTTIME counts it, CLOCK_MONOTONIC does not."""
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    boot = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    after = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    return boot - (before + after) // 2


class Watch:
    """Compares each look with the one before.

    Args:
        first: an anchor at the start.
        asleep: how long the machine has slept so far, in ns.
        source: the kernel's clocksource.
        online: the CPUs online.

    Attributes:
        incidents: what was found, in order.
    """

    def __init__(
        self,
        first: footers.Anchor,
        *,
        asleep: Callable[[], int] = asleep_ns,
        source: Callable[[], str] = clocksource,
        online: Callable[[], list[int]] = lambda: kernel.cpu_list("online"),
    ) -> None:
        self.incidents: list[footers.Incident] = []
        self._losses: list[footers.Loss] = []
        self._asleep, self._source, self._online = asleep, source, online
        self._slept_before, self._source_before, self._online_before = asleep(), source(), set(online())
        self._anchor = first
        self._khz: float | None = None

    def look(self, now: footers.Anchor) -> None:
        """Look at everything; ``now`` is an anchor taken just before."""
        slept = self._sleep(now)
        self._clock(now, slept=slept)
        self._cpus(now)

    def losses(self) -> list[footers.Loss]:
        """What was found, as losses, one a cause and CPU."""
        total: dict[tuple[str, int | None], int] = {}
        for loss in self._losses:
            key = (loss.cause, loss.cpu)
            total[key] = total.get(key, 0) + loss.count
        return [footers.Loss(cause=cause, cpu=cpu, count=count) for (cause, cpu), count in total.items()]

    def _tell(self, now: footers.Anchor, cause: str, detail: str, count: int, cpu: int | None = None) -> None:
        self.incidents.append(footers.Incident(tsc=now.tsc, what=cause, detail=detail))
        self._losses.append(footers.Loss(cause=cause, count=count, cpu=cpu))

    def _sleep(self, now: footers.Anchor) -> bool:
        slept = self._asleep()
        longer = slept - self._slept_before
        self._slept_before = max(slept, self._slept_before)
        if longer < _SLEPT_NS:
            return False
        self._tell(now, "suspended", f"the machine slept for {longer / 1e9:.1f} s", longer // 1_000_000)
        return True

    def _clock(self, now: footers.Anchor, *, slept: bool) -> None:
        source = self._source()
        if source != self._source_before:
            self._tell(now, "clocksource-changed", f"from {self._source_before} to {source}", 1)
            self._source_before = source
        before, self._anchor = self._anchor, now
        elapsed_ns = now.monotonic_ns - before.monotonic_ns
        if slept or elapsed_ns <= 0:
            return
        if self._khz is None:
            if elapsed_ns < _BASELINE_NS:
                self._anchor = before
            else:
                self._khz = footers.khz_between(before, now)
            return
        expected = self._khz * elapsed_ns / 1e6
        error = before.error_cycles + now.error_cycles + expected * _SLEW
        apart = abs(now.tsc - before.tsc - expected)
        if apart > error:
            detail = f"{now.tsc - before.tsc - expected:+,.0f} cycles against CLOCK_MONOTONIC"
            self._tell(now, "tsc-unsteady", detail, round(apart))

    def _cpus(self, now: footers.Anchor) -> None:
        online = set(self._online())
        for cpu in sorted(self._online_before - online):
            self._tell(now, "cpu-offline", f"CPU {cpu} went offline", 1, cpu)
        for cpu in sorted(online - self._online_before):
            self._tell(now, "cpu-online", f"CPU {cpu} came online", 1, cpu)
        self._online_before = online
