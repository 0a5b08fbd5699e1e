"""What the probes cost, and whether every run of one became an event: the kernel's own measurement.

``BPF_STATS_RUN_TIME`` makes the kernel count and time every run of every BPF program, at the price of two readings of
sched_clock each. It is on from before the first probe is attached until after the last is detached, so that the counts
are exact, and a run that became neither an event nor a counted loss shows.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from iretrace import footer as footers
from iretrace.collect import syscalls
from iretrace.collect.hooks import BY_NAME, PROCESS_HOOKS

if TYPE_CHECKING:
    from iretrace.collect.probes import Probes


EVENTS_LOST: Final = ("ring-full", "nmi-ring-busy", "tsc-unreadable")
"""Causes that a program counts in place of an event."""


@dataclass(frozen=True, kw_only=True)
class _Spent:
    """What was spent until a moment.

    Attributes:
        runs: of the programs.
        run_ns: the time they took.
        own_seconds: CPU time of this process.
    """

    runs: int = 0
    run_ns: int = 0
    own_seconds: float = 0.0


class Overhead:
    """The kernel's statistics of the probes, from :meth:`start` to :meth:`stop`."""

    def __init__(self, probes: Probes) -> None:
        self._probes = probes
        self._fd: int | None = None
        self._counted = False
        self._first = self._last = _Spent()

    def start(self) -> None:
        """Switch the statistics on, before any probe is attached; where the kernel refuses, costs stay unknown."""
        with contextlib.suppress(OSError):
            self._fd = syscalls.enable_run_time_stats()
            self._counted = self._probes.counting = True

    def begin(self) -> None:
        """The recorded window begins: what was spent until now was spent on getting there."""
        self._first = self._spent()

    def end(self) -> None:
        """The recorded window is over."""
        self._last = self._spent()

    def _spent(self) -> _Spent:
        infos = self._probes.program_runs().values()
        return _Spent(
            runs=sum(info.run_cnt for info in infos),
            run_ns=sum(info.run_time_ns for info in infos),
            own_seconds=time.process_time(),
        )

    def stop(self) -> None:
        """Switch the statistics off, after all probes are detached."""
        if self._fd is not None:
            with contextlib.suppress(OSError):
                os.close(self._fd)
            self._fd = None

    def unaccounted(self, n_drained: int, n_left_out: int, losses: list[footers.Loss]) -> list[footers.Loss]:
        """Runs of the probes that became neither an event nor a counted loss, and were not to; there should be none.

        Args:
            n_drained: events taken out of the rings, those outside the window too.
            n_left_out: traps that the filters left out.
            losses: what the probes counted as lost.
        """
        if not self._counted:
            return []
        apart = {hook.program for hook in PROCESS_HOOKS}
        runs = sum(info.run_cnt for name, info in self._probes.program_runs().items() if name not in apart)
        lost = sum(loss.count for loss in losses if loss.cause in EVENTS_LOST)
        missing = runs - n_drained - n_left_out - self._probes.passed() - lost
        return [footers.Loss(cause="unaccounted", count=missing)] if missing > 0 else []

    def hooks(self, hooks: list[footers.Hook]) -> list[footers.Hook]:
        """``hooks`` with the statistics of their programs."""
        infos = self._probes.program_runs()
        found = []
        for hook in hooks:
            info = infos.pop(BY_NAME[hook.name].program, None) if hook.attached else None
            if info is not None:
                hook = msgspec.structs.replace(  # noqa: PLW2901
                    hook,
                    runs=info.run_cnt,
                    run_ns=info.run_time_ns,
                    recursion_misses=info.recursion_misses,
                )
            found.append(hook)
        return found

    def skipped(self) -> list[footers.Loss]:
        """Runs that the kernel skipped because a probe interrupted itself."""
        missed = sum(info.recursion_misses for info in self._probes.program_runs().values())
        return [footers.Loss(cause="probe-skipped", count=missed)] if missed else []

    def summary(self, *, by_cpu: dict[int, int], seconds: float, n_cpus: int) -> footers.Overhead:
        """The probes' cost within the recorded window.

        Args:
            by_cpu: events by CPU.
            seconds: length of the window.
            n_cpus: CPUs online.
        """
        runs, run_ns = self._last.runs - self._first.runs, self._last.run_ns - self._first.run_ns
        mean = run_ns / runs if runs else None
        return footers.Overhead(
            runs=runs,
            run_ns=run_ns,
            ns_per_event=mean,
            cpu_pct=None if mean is None else 100.0 * run_ns / (seconds * 1e9 * n_cpus),
            by_cpu=[footers.CpuShare(cpu=cpu, pct=pct) for cpu, pct in shares(run_ns, by_cpu, seconds).items()],
            collector_cpu_pct=100.0 * (self._last.own_seconds - self._first.own_seconds) / seconds,
        )


def shares(run_ns: int, by_cpu: dict[int, int], seconds: float) -> dict[int, float]:
    """Percent of each CPU's time: the probes' time in all, shared out by events, since the kernel does not say."""
    events = sum(by_cpu.values())
    if not events:
        return {}
    return {cpu: 100.0 * run_ns * n / events / (seconds * 1e9) for cpu, n in sorted(by_cpu.items())}
