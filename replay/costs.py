"""What one RET saves over one IRET, in TSC cycles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from iretrace.footer import Footer


@dataclass(frozen=True, kw_only=True)
class Saving:
    """Cycles saved by one RET instead of one IRET, with an interval.

    Attributes:
        cycles: the estimate.
        low: lower end of its interval.
        high: upper end of its interval.
        source: where it comes from, for people.
    """

    cycles: float
    low: float
    high: float
    source: str


def saving_per_return(footer: Footer) -> Saving | None:
    """The saving by the trace's own calibration; ``None``: not known."""
    costs = {cost.path: cost for cost in footer.calibration.costs} if footer.calibration is not None else {}
    iret, ret = costs.get("iretq"), costs.get("popfq-ret")
    if iret is None or ret is None:
        return None
    return Saving(
        cycles=iret.median_cycles - ret.median_cycles,
        low=iret.low_cycles - ret.high_cycles,
        high=iret.high_cycles - ret.low_cycles,
        source="calibrated on the recorded machine",
    )
