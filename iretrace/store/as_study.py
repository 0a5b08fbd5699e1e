"""A stored run as the study a report is made of."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from iretrace.analysis.accumulate import Accumulator
from iretrace.analysis.rates import TimeBins
from iretrace.analysis.study import Study
from iretrace.replay.contexts import N_CONTEXTS, N_SLOTS
from iretrace.replay.costs import Saving
from iretrace.replay.hazards import NAMES
from iretrace.replay.policies import IRET, Choice, Policy, built_in
from iretrace.replay.run import PolicyCounts, Result
from iretrace.replay.tables import Table
from iretrace.trace import Trace

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from iretrace.store.run import PolicyRun, Run

_T = TypeVar("_T", bound=np.generic)


class _StoredBins(TimeBins):
    """Counts over time as they were stored."""

    def __init__(self, origin: int, widths: NDArray[np.float64], counts: NDArray[np.int64]) -> None:
        super().__init__(origin, 1)
        self.last = origin + int(widths.sum())
        self._widths, self.counts = widths, counts

    def spans(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
        return np.cumsum(self._widths) - self._widths, self._widths, self.counts


def as_study(run: Run, policy: str) -> Study:
    """Everything :class:`~iretrace.analysis.study.Study` has, from what was stored (see :meth:`Run.study`)."""
    document, saved = run.document, run.document.saving
    saving = None if saved is None else Saving(cycles=saved.cycles, low=saved.low, high=saved.high, source=saved.source)
    counts = Accumulator(saving_cycles=None if saving is None else saving.cycles)
    found = run.policy(policy)
    counts.depths[:, run.vectors] = run.depths.T
    for table, held in (
        (counts.latency, run.latency),
        (counts.self_time, run.self_time),
        (counts.ret_latency, found.ret_latency),
        (counts.ret_projected, found.ret_projected),
    ):
        table[run.vectors] = held
    counts.cpus[: document.cpus_seen] = True
    if run.times is not None:
        by_slot = np.zeros((len(run.times.returns), N_SLOTS), np.int64)
        by_slot[:, run.vectors] = run.times.returns
        counts.bins = _StoredBins(document.time_origin, np.array(document.time_widths), by_slot)
    trace = Trace(path=Path(document.trace or run.id), footer=run.footer, n_events=document.events, _n_row_groups=0)
    result = Result(
        trace=trace, policies=(_counts(run, found),), repairs=dict(document.repairs), notes=tuple(document.notes)
    )
    return Study(result=result, counts=counts, saving=saving, cost_source=document.cost_source)


def _counts(run: Run, found: PolicyRun) -> PolicyCounts:
    said = next(policy for policy in run.document.policies if policy.name == found.name)
    policy = built_in().get(found.name) or Policy(
        name=found.name, doc=said.doc, rules=tuple(said.rules), decide=IRET.decide
    )
    # Bits as they were named when the run was stored, in today's places.
    hazard = np.zeros(found.hazard.shape, np.uint16)
    for bit, name in enumerate(run.document.hazard_names):
        if name in NAMES:
            hazard |= (found.hazard >> np.uint16(bit) & np.uint16(1)) << np.uint16(NAMES.index(name))
    table = Table(
        policy=policy,
        rules=tuple(said.rules),
        choice=_spread(found.context, found.choice, fill=Choice.IRET),
        rule=_spread(found.context, found.rule),
        hazard=_spread(found.context, hazard),
    )
    return PolicyCounts(
        table=table,
        counts=_spread(found.context, found.count.astype(np.uint64)),
        first_tsc=_spread(found.context, found.first_tsc),
        first_cpu=_spread(found.context, found.first_cpu),
    )


def _spread(context: NDArray[np.uint32], values: NDArray[_T], *, fill: int = 0) -> NDArray[_T]:
    found = np.full(N_CONTEXTS, fill, values.dtype)
    found[context] = values
    return found
