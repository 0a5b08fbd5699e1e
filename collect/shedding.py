"""Keeping the probes' cost below a limit: the class of trap that costs most is switched off first.

The kernel says how long each program ran (BPF_STATS_RUN_TIME). The limit is on the busiest CPU: that one is disturbed.
Entries are detached first and exits a moment later, so that what had begun is seen to end, and no trap is left open
for ever. A class that was switched off stays off: attaching it again would take the privileges that are gone.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from iretrace import _native
from iretrace import footer as footers
from iretrace.collect.overhead import shares

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from iretrace.collect.choice import Choice
    from iretrace.collect.crosscheck import CrossCheck
    from iretrace.collect.drain import Progress
    from iretrace.collect.hooks import Hook, HookClass
    from iretrace.collect.probes import Probes

_BEGUN_SECONDS: Final = 0.02
"""How long what had begun may take to end; handlers of interrupts take far less."""

_LEAST_SECONDS: Final = 0.2
"""A shorter time says too little."""


class Shedder:
    """Looks at the cost now and then, and switches off what is too much.

    Args:
        probes: the attached probes.
        choice: which hooks show which class.
        classes: the classes that are recorded.
        limit_pct: of the busiest CPU; ``None``: there is no limit.
        crosscheck: is told what it must not compare.
        clock: seconds, for tests.
    """

    def __init__(  # noqa: PLR0913 - what it looks at and tells
        self,
        *,
        probes: Probes,
        choice: Choice,
        classes: list[HookClass],
        limit_pct: float | None,
        crosscheck: CrossCheck,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._probes, self._choice, self._crosscheck = probes, choice, crosscheck
        self._classes = {item.name: item for item in classes if choice.ways.get(item.name) is not None}
        self._limit_pct = limit_pct
        self._clock = clock
        self._before: tuple[float, dict[str, int], dict[int, int]] = (clock(), self._run_ns(), {})
        self.off: list[footers.Off] = []

    def losses(self) -> list[footers.Loss]:
        """What was switched off, as a loss of unknown number."""
        return [footers.Loss(cause="shed", count=0)] if self.off else []

    def look(self, progress: Progress) -> None:
        """Compare the time since the last look with the limit."""
        if self._limit_pct is None:
            return
        then, ns_then, events_then = self._before
        now = self._clock()
        if now - then < _LEAST_SECONDS:
            return
        run_ns, events = self._run_ns(), dict(progress.by_cpu)
        self._before = (now, run_ns, events)
        spent = {name: ns - ns_then.get(name, 0) for name, ns in run_ns.items()}
        by_cpu = {cpu: n - events_then.get(cpu, 0) for cpu, n in events.items()}
        busiest = max(shares(sum(spent.values()), by_cpu, now - then).values(), default=0.0)
        if busiest > self._limit_pct:
            self._shed(spent, busiest)

    def _run_ns(self) -> dict[str, int]:
        return {name: info.run_time_ns for name, info in self._probes.program_runs().items()}

    def _hooks(self, name: str) -> tuple[tuple[Hook, ...], tuple[Hook, ...]]:
        way = self._choice.ways[name]
        return (way.entries, way.exits) if way is not None else ((), ())

    def _shed(self, spent: Mapping[str, int], busiest: float) -> None:
        """Switch off the dearest classes until the rest would be within the limit."""
        cost = {
            name: sum(spent.get(hook.program, 0) for hooks in self._hooks(name) for hook in hooks)
            for name in self._classes
        }
        total, left = sum(spent.values()), busiest
        for name in sorted(cost, key=lambda name: -cost[name]):
            if left <= (self._limit_pct or 0) or not cost[name]:
                break
            self._switch_off(name, f"{busiest:.2g} % of the busiest CPU, allowed {self._limit_pct:g} %")
            left -= busiest * cost[name] / max(total, 1)

    def _switch_off(self, name: str, reason: str) -> None:
        item = self._classes.pop(name)
        entries, exits = self._hooks(name)
        others = {hook for other in self._classes for hooks in self._hooks(other) for hook in hooks}
        at = _native.rdtsc()
        for hooks in (entries, exits):
            for hook in hooks:
                if hook.name in self._probes.attached and hook not in others:
                    self._probes.detach(hook)
            time.sleep(_BEGUN_SECONDS)
        self.off.append(footers.Off(name=name, vectors=list(item.vectors), from_tsc=at, reason=reason))
        self._crosscheck.forget(item.vectors)
