"""What the probes cost, by the kernel's own measurement.

``BPF_STATS_RUN_TIME`` makes the kernel time every run of every BPF program, at the price of two readings of
sched_clock each. It is therefore switched on for about a tenth of the run, and the mean is applied to all of it.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING

import msgspec

from iretrace import footer as footers
from iretrace.collect import syscalls
from iretrace.collect.hooks import HOOKS

if TYPE_CHECKING:
    from iretrace.collect.probes import Probes


class Overhead:
    """Samples the kernel's statistics of the probes during a run."""

    def __init__(self, probes: Probes) -> None:
        self._probes = probes
        self._fd: int | None = None
        self._possible = True
        self._begin = time.monotonic()

    def sample(self) -> None:
        """Switch the statistics on in the first tenth of every second, off in the rest."""
        wanted = (time.monotonic() - self._begin) % 1.0 < 0.1
        if wanted and self._fd is None and self._possible:
            try:
                self._fd = syscalls.enable_run_time_stats()
            except OSError:
                self._possible = False
        elif not wanted:
            self.stop()

    def stop(self) -> None:
        """Switch the statistics off."""
        if self._fd is not None:
            with contextlib.suppress(OSError):
                os.close(self._fd)
            self._fd = None

    def hooks(self, hooks: list[footers.Hook]) -> list[footers.Hook]:
        """``hooks`` with the statistics of their programs.

        Several hooks may share a program; its statistics stand with the first of them.
        """
        infos = self._probes.program_runs()
        by_tracepoint = {hook.tracepoint: hook.program for hook in HOOKS}
        found = []
        for hook in hooks:
            info = infos.pop(by_tracepoint[hook.name], None) if hook.attached else None
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

    def summary(self, *, n_events: int, seconds: float, n_cpus: int, own_cpu_seconds: float) -> footers.Overhead:
        """The probes' cost over the run."""
        infos = self._probes.program_runs().values()
        runs, run_ns = sum(info.run_cnt for info in infos), sum(info.run_time_ns for info in infos)
        mean = run_ns / runs if runs else None
        return footers.Overhead(
            runs=runs,
            run_ns=run_ns,
            ns_per_event=mean,
            cpu_pct=None if mean is None else 100.0 * mean * n_events / (seconds * 1e9 * n_cpus),
            collector_cpu_pct=100.0 * own_cpu_seconds / seconds,
        )
