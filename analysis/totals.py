"""The few numbers that answer the question: how many returns could use RET, and what would it save."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from iretrace.analysis.study import Study


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """An estimate with its interval, all in one unit."""

    value: float
    low: float
    high: float

    def times(self, factor: float) -> Estimate:
        """In another unit (``factor`` is positive)."""
        return Estimate(value=self.value * factor, low=self.low * factor, high=self.high * factor)


@dataclass(frozen=True, kw_only=True)
class Totals:
    """One trace under one policy, in numbers.

    Attributes:
        returns: returns judged.
        to_kernel: of them, those to the kernel.
        to_unknown: of them, those of which nothing told where they go.
        ret: returns by RET.
        erets: returns by ERETS.
        hazardous: hazards found, one a return and hazard.
        lost: events known to be lost.
        lossy: events are lost, known number or not.
        duration_s: length of the recording; ``None``: not known.
        n_cpus: CPUs online, or seen where that was not recorded.
        saved_cycles: TSC cycles saved in the whole recording; ``None``: no cost is known (there is none for ERETS).
        saved_cycles_per_s: TSC cycles saved per second of recording; ``None``: not known.
        saved_ns_per_s: the same in ns of CPU time.
        saved_pct: the same in percent of the time of all CPUs.
    """

    returns: int
    to_kernel: int
    to_unknown: int
    ret: int
    erets: int
    hazardous: int
    lost: int
    lossy: bool
    duration_s: float | None
    n_cpus: int
    saved_cycles: Estimate | None
    saved_cycles_per_s: Estimate | None
    saved_ns_per_s: Estimate | None
    saved_pct: Estimate | None


def totals(study: Study) -> Totals:
    """Add up a study."""
    frame, footer = study.by_vector, study.footer
    ret, duration_s, khz = int(frame["RET"].sum()), study.duration_s, study.tsc_khz
    n_cpus = len(set(footer.cpu.online)) or max(int(study.counts.cpus.sum()), 1)
    erets, saving = int(frame["ERETS"].sum()), study.saving
    known = saving is not None and not erets  # what ERETS costs, nobody has told
    saved = Estimate(value=saving.cycles, low=saving.low, high=saving.high).times(ret) if saving and known else None
    per_s = saved.times(1 / duration_s) if saved is not None and duration_s else None
    ns_per_s = per_s.times(1e6 / khz) if per_s is not None and khz else None
    return Totals(
        returns=int(frame["returns"].sum()),
        to_kernel=int(frame["kernel"].sum()),
        to_unknown=int(frame["unknown"].sum()),
        ret=ret,
        erets=erets,
        hazardous=int(study.hazards["returns"].sum()),
        lost=footer.lost_events(),
        lossy=footer.is_lossy(),
        duration_s=duration_s,
        n_cpus=n_cpus,
        saved_cycles=saved,
        saved_cycles_per_s=per_s,
        saved_ns_per_s=ns_per_s,
        saved_pct=None if ns_per_s is None else ns_per_s.times(1e-7 / n_cpus),
    )
