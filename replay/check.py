"""All that may be wrong with a trace, and with policies on it: losses, repairs, hazards, assumptions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from iretrace.losses import BY_NAME
from iretrace.replay import contexts, hazards
from iretrace.replay.examples import Moment, stacks_at
from iretrace.replay.observe import MAX_EXAMPLES, observe
from iretrace.replay.policies import DEVICE
from iretrace.replay.run import replay
from iretrace.vectors import vector_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from iretrace.replay.examples import Stack
    from iretrace.replay.observe import Finding
    from iretrace.replay.policies import Policy
    from iretrace.replay.repairs import Repair
    from iretrace.replay.run import PolicyCounts
    from iretrace.trace import Trace

SCHEMA: Final = 1


@dataclass(frozen=True, kw_only=True)
class Found:
    """One hazard of one policy.

    Attributes:
        name: one of :data:`iretrace.replay.hazards.NAMES`.
        count: returns that have it.
        by_vector: of these, how many by name of the trap, most first.
        examples: the first of each kind of return that has it, by TSC, at most a few.
    """

    name: str
    count: int
    by_vector: dict[str, int]
    examples: tuple[Moment, ...]


@dataclass(frozen=True, kw_only=True)
class PolicyFound:
    """One policy: its name, the returns of the trace, and the hazards that some of them have."""

    policy: str
    returns: int
    hazards: tuple[Found, ...]


@dataclass(frozen=True, kw_only=True)
class Check:
    """A checked trace.

    Attributes:
        trace: which.
        lost: number of losses of events by cause (0 where the number is not known).
        repairs: every kind, in the engine's order.
        policies: one a policy, in the order in which they were given.
        findings: one a claim of the mail, without those that were not to be checked.
        stacks: the stack of traps at every moment of the examples.
        notes: what a reader of the numbers must know, one sentence each.
    """

    trace: Trace
    lost: dict[str, int]
    repairs: tuple[Repair, ...]
    policies: tuple[PolicyFound, ...]
    findings: tuple[Finding, ...]
    stacks: dict[Moment, Stack]
    notes: tuple[str, ...]

    @property
    def unexplained(self) -> tuple[Repair, ...]:
        """Repairs that mean that something is wrong."""
        return tuple(repair for repair in self.repairs if repair.unexplained)

    @property
    def violated(self) -> tuple[Finding, ...]:
        """Assumptions that the trace shows not to hold."""
        return tuple(finding for finding in self.findings if finding.outcome == "violated")

    @property
    def ok(self) -> bool:
        """Nothing is wrong, as far as the trace shows."""
        return not (self.lost or self.unexplained or self.violated or any(p.hazards for p in self.policies))


def check(
    trace: Trace,
    policies: Sequence[Policy],
    *,
    drop: Iterable[str] = (),
    progress: Callable[[int], None] | None = None,
) -> Check:
    """Check a trace under policies.

    Args:
        trace: an opened trace.
        policies: at least one.
        drop: names of claims (:data:`iretrace.replay.claims.CLAIMS`) that are not to be checked.
        progress: called after every batch with the number of its events; the trace is gone through twice, and once
            more as far as examples need.

    Raises:
        Damaged: the trace holds what it must not.
        UsageError: a policy is not a pure function from contexts to choices.
    """
    result = replay(trace, policies, progress=progress)
    observation = observe(trace, progress=progress)
    found = tuple(_policy(counts) for counts in result.policies)
    dropped = frozenset(drop)
    findings = tuple(finding for finding in observation.findings if finding.claim.name not in dropped)
    moments = [moment for policy in found for hazard in policy.hazards for moment in hazard.examples]
    moments += [moment for finding in findings for moment in finding.examples]
    lost: dict[str, int] = {}
    for loss in trace.footer.losses:
        if BY_NAME[loss.cause].severity == "events":
            lost[loss.cause] = lost.get(loss.cause, 0) + loss.count
    return Check(
        trace=trace,
        lost=lost,
        repairs=observation.repairs,
        policies=found,
        findings=findings,
        stacks=stacks_at(trace, moments),
        notes=result.notes,
    )


def _policy(counts: PolicyCounts) -> PolicyFound:
    bits = counts.table.hazard
    found = []
    for i, name in enumerate(hazards.NAMES):
        cells = np.flatnonzero((bits >> i & 1).astype(np.bool_) & (counts.counts != 0))
        if cells.size:
            found.append(_hazard(name, cells, counts))
    return PolicyFound(policy=counts.table.policy.name, returns=int(counts.counts.sum()), hazards=tuple(found))


def _hazard(name: str, cells: NDArray[np.intp], counts: PolicyCounts) -> Found:
    slots = contexts.every().slot[cells]
    by_slot = {int(slot): int(counts.counts[cells[slots == slot]].sum()) for slot in np.unique(slots)}
    first = np.argsort(counts.first_tsc[cells], kind="stable")[:MAX_EXAMPLES]
    return Found(
        name=name,
        count=sum(by_slot.values()),
        by_vector={
            vector_name(None if slot == DEVICE else slot): count
            for slot, count in sorted(by_slot.items(), key=lambda item: -item[1])
        },
        examples=tuple(
            Moment(tsc=int(counts.first_tsc[cells[i]]), cpu=int(counts.first_cpu[cells[i]]), slot=int(slots[i]))
            for i in first
        ),
    )


def document(found: Check) -> dict[str, Any]:
    """The JSON document of ``iretrace check --json``."""

    def shown(moments: Iterable[Moment]) -> list[dict[str, Any]]:
        return [
            {
                "tsc": moment.tsc,
                "cpu": moment.cpu,
                "stack": [trap.to_json() for trap in found.stacks.get(moment, ())],
            }
            for moment in moments
        ]

    return {
        "schema": SCHEMA,
        "trace": str(found.trace.path),
        "ok": found.ok,
        "losses": [
            {**msgspec.to_builtins(loss), "severity": BY_NAME[loss.cause].severity}
            for loss in found.trace.footer.losses
        ],
        "repairs": {
            repair.name: {"count": repair.count, "unexplained": repair.unexplained} for repair in found.repairs
        },
        "policies": [
            {
                "policy": policy.policy,
                "returns": policy.returns,
                "hazards": [
                    {
                        "name": hazard.name,
                        "count": hazard.count,
                        "by_vector": hazard.by_vector,
                        "examples": shown(hazard.examples),
                    }
                    for hazard in policy.hazards
                ],
            }
            for policy in found.policies
        ],
        "assumptions": [
            {
                "name": finding.claim.name,
                "sentence": finding.claim.sentence,
                "outcome": finding.outcome,
                "observed": finding.observed,
                "violations": finding.violations,
                "examples": shown(finding.examples),
                "why": finding.why,
            }
            for finding in found.findings
        ],
        "notes": list(found.notes),
    }
