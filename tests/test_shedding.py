"""Above the limit the dearest class is switched off first, entries before exits, and the footer knows."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec

from iretrace.collect import shedding
from iretrace.collect.drain import Progress
from iretrace.collect.hooks import CLASSES, Hook
from iretrace.collect.overhead import shares
from iretrace.footer import Footer, Window

TIMER, RESCHEDULE, FAULTS = (
    next(item for item in CLASSES if item.name == name) for name in ("timer", "reschedule", "#PF")
)


class Machine:
    """Probes of three classes whose cost a test sets; time passes as it says."""

    def __init__(self, limit: float | None) -> None:
        self.classes = [TIMER, RESCHEDULE, FAULTS]
        ways: dict[str, Any] = {item.name: item.ways[-1] for item in self.classes}
        hooks: list[Hook] = [hook for way in ways.values() for hook in (*way.entries, *way.exits)]
        self.attached = {hook.name: 1 for hook in hooks}
        self.detached: list[str] = []
        self.ns = {hook.program: 0 for hook in hooks}
        self.now = 100.0
        self.progress = Progress()
        self.forgotten: list[int] = []
        crosscheck: Any = SimpleNamespace(forget=self.forgotten.extend)
        choice: Any = SimpleNamespace(ways=ways)
        probes: Any = self
        self.ways = ways
        self.shedder = shedding.Shedder(
            probes=probes,
            choice=choice,
            classes=self.classes,
            limit_pct=limit,
            crosscheck=crosscheck,
            clock=lambda: self.now,
        )

    def program_runs(self) -> dict[str, Any]:
        """As :meth:`iretrace.collect.probes.Probes.program_runs`."""
        return {name: SimpleNamespace(run_time_ns=ns) for name, ns in self.ns.items()}

    def detach(self, hook: Hook) -> None:
        """As :meth:`iretrace.collect.probes.Probes.detach`."""
        self.detached.append(hook.name)
        del self.attached[hook.name]

    def second(self, **ms: float) -> None:
        """A second passes in which classes cost so many milliseconds; a look is taken."""
        self.now += 1.0
        for item, cost in zip(self.classes, (ms.get("timer", 0), ms.get("reschedule", 0), ms.get("faults", 0))):  # noqa: B905
            self.ns[self.ways[item.name].entries[0].program] += round(cost * 1e6)
        self.progress.by_cpu = {0: self.progress.by_cpu.get(0, 0) + 900, 1: self.progress.by_cpu.get(1, 0) + 100}
        self.shedder.look(self.progress)


def test_within_the_limit_nothing_is_switched_off() -> None:
    """And without one neither, whatever it costs."""
    for limit, cost in ((2.0, 5.0), (None, 900.0)):
        machine = Machine(limit)
        for _ in range(5):
            machine.second(timer=cost, faults=cost)
        assert machine.detached == []
        assert machine.shedder.losses() == []


def test_the_dearest_class_goes_first_and_no_more_than_must() -> None:
    """The limit is on the busiest CPU; a class's entries are detached before its exits."""
    machine = Machine(2.0)
    machine.second(timer=4, reschedule=2, faults=30)
    assert [off.name for off in machine.shedder.off] == ["#PF"]
    assert "3.2 %" in machine.shedder.off[0].reason
    machine.second(timer=40, reschedule=2)
    assert [off.name for off in machine.shedder.off] == ["#PF", "timer"]
    assert machine.detached[-2:] == [hook.name for hook in (*TIMER.ways[-1].entries, *TIMER.ways[-1].exits)]
    assert machine.forgotten == [14, 0xEC]
    (loss,) = machine.shedder.losses()
    assert (loss.cause, loss.count) == ("shed", 0)


def test_a_trace_with_a_class_switched_off_is_not_read_as_quiet() -> None:
    """It is lossy, a replay says from when on, and rates are of the time before."""
    machine = Machine(0.1)
    machine.second(faults=30)
    off = [msgspec.structs.replace(machine.shedder.off[0], from_tsc=400)]
    footer = Footer(window=Window(start_tsc=0, stop_tsc=1000), off=off, losses=machine.shedder.losses())
    assert footer.is_lossy()
    assert footer.recorded_share(14) == 0.4
    assert footer.recorded_share(0xEC) == 1.0
    (sentence,) = footer.limits()
    assert "#PF" in sentence
    assert "40 %" in sentence


def test_time_is_shared_out_by_events() -> None:
    """The kernel tells the time of a program, not on which CPU."""
    assert shares(10_000_000, {0: 900, 1: 100}, 1.0) == {0: 0.9, 1: 0.1}
    assert shares(10, {}, 1.0) == {}
