"""All that a report says of one trace under one policy, from one pass over it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

from iretrace.analysis import frames
from iretrace.analysis.accumulate import Accumulator
from iretrace.analysis.commands import RetsByCommand
from iretrace.replay import costs
from iretrace.replay.run import replay

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd

    from iretrace.footer import Footer
    from iretrace.replay.costs import Saving
    from iretrace.replay.policies import Policy
    from iretrace.replay.run import Result, Returns
    from iretrace.trace import Trace

_PLAUSIBLE_KHZ: Final = (1e3, 1e9)


@dataclass(frozen=True, kw_only=True)
class Study:
    """One trace under one policy.

    Attributes:
        result: the replay's counts, for this one policy.
        counts: durations, depths and rates.
        saving: what one RET saves over IRET; ``None``: not known.
        cost_source: where that comes from, or why it is not known.
        commands: RETs by command; ``None``: the trace has no names, or only a stored run's counts are there.
    """

    result: Result
    counts: Accumulator
    saving: Saving | None
    cost_source: str
    commands: RetsByCommand | None = None

    @property
    def footer(self) -> Footer:
        """How the trace was recorded."""
        return self.result.trace.footer

    @property
    def policy(self) -> Policy:
        """The policy."""
        return self.result.policies[0].table.policy

    @property
    def tsc_khz(self) -> float | None:
        """TSC frequency; ``None``: not known, or a footer says what no TSC does."""
        khz = self.footer.clock.tsc_khz
        return khz if khz is not None and _PLAUSIBLE_KHZ[0] <= khz <= _PLAUSIBLE_KHZ[1] else None

    @cached_property
    def by_vector(self) -> pd.DataFrame:
        """:func:`iretrace.analysis.frames.by_vector`."""
        return frames.by_vector(self.result.policies[0])

    @cached_property
    def hazards(self) -> pd.DataFrame:
        """:func:`iretrace.analysis.frames.hazards`."""
        return frames.hazards(self.result.policies[0])

    @property
    def only_counted(self) -> bool:
        """Whether the kernel counted and kept no events (``collect --aggregate``): no depths, no course over time."""
        return bool(self.by_vector["returns"].any()) and not self.counts.depths.any()

    @property
    def duration_s(self) -> float | None:
        """Length of the recording: the window, or from the first to the last return; ``None``: not known."""
        cycles = self.footer.duration_cycles()
        if cycles is None and self.counts.bins is not None:
            cycles = self.counts.bins.last - self.counts.bins.origin
        return cycles / (self.tsc_khz * 1e3) if self.tsc_khz and cycles else None


def study(trace: Trace, policy: Policy, *, progress: Callable[[int], None] | None = None) -> Study:
    """Replay a trace and count all that a report shows, in one pass and fixed memory.

    Args:
        trace: an opened trace.
        policy: how to choose the return instruction.
        progress: called after every batch with the number of its events.

    Raises:
        Damaged: the trace holds what it must not.
        UsageError: the policy is not a pure function from contexts to choices.
    """
    saving = costs.saving_per_return(trace.footer)
    counts = Accumulator(saving_cycles=None if saving is None else saving.cycles, origin=trace.footer.window.start_tsc)
    commands = RetsByCommand(trace.footer.processes) if trace.footer.processes else None

    def take(batch: Returns) -> None:
        counts.add(batch)
        if commands is not None:
            commands.add(batch)

    result = replay(trace, [policy], sink=take, progress=progress)
    if counts.bins is not None and trace.footer.window.stop_tsc is not None:
        counts.bins.cover(trace.footer.window.stop_tsc)
    return Study(
        result=result,
        counts=counts,
        saving=saving,
        cost_source=costs.describe(trace.footer),
        commands=commands,
    )
