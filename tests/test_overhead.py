"""The probes' cost: what was spent within the recorded window, and nothing of what came before and after it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from iretrace.collect.overhead import Overhead


class Spender:
    """Programs and a process that have spent what a test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.runs, self.run_ns, self.own_seconds = 0, 0, 0.0
        monkeypatch.setattr("time.process_time", lambda: self.own_seconds)

    def spend(self, runs: int, run_ns: int, own_seconds: float) -> None:
        """Some time passes."""
        self.runs, self.run_ns, self.own_seconds = (
            self.runs + runs,
            self.run_ns + run_ns,
            self.own_seconds + own_seconds,
        )

    def program_runs(self) -> dict[str, Any]:
        """As :meth:`iretrace.collect.probes.Probes.program_runs`, of two programs."""
        half = SimpleNamespace(run_cnt=self.runs // 2, run_time_ns=self.run_ns // 2)
        return {"one": half, "other": half}


def test_the_cost_is_that_of_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attaching makes hooks run, and loading takes CPU time; a reader asks what recording costs."""
    machine = Spender(monkeypatch)
    probes: Any = machine
    overhead = Overhead(probes)
    machine.spend(5000, 50_000_000, 3.0)  # hooks are tried
    overhead.begin()
    machine.spend(1000, 200_000, 0.5)
    overhead.end()
    machine.spend(70, 7000, 1.0)  # hooks are detached, one after the other
    found = overhead.summary(by_cpu={0: 750, 1: 250}, seconds=2.0, n_cpus=2)
    assert (found.runs, found.run_ns, found.ns_per_event) == (1000, 200_000, 200.0)
    assert found.cpu_pct == pytest.approx(100 * 200e-6 / (2 * 2.0))
    assert {share.cpu: share.pct for share in found.by_cpu} == pytest.approx({0: 0.0075, 1: 0.0025})
    assert found.collector_cpu_pct == pytest.approx(25.0)


def test_where_the_kernel_does_not_count_no_cost_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without BPF_STATS_RUN_TIME the programs seem never to run."""
    probes: Any = Spender(monkeypatch)
    overhead = Overhead(probes)
    overhead.begin()
    overhead.end()
    found = overhead.summary(by_cpu={0: 9}, seconds=1.0, n_cpus=1)
    assert found.ns_per_event is found.cpu_pct is None
