"""From the counts of a replay to what is printed: numbers by vector, rule and hazard, savings, and the JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from iretrace.replay import contexts, costs, hazards
from iretrace.replay.contexts import N_SLOTS, Target
from iretrace.replay.policies import DEVICE, Choice
from iretrace.vectors import vector_name

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from iretrace.footer import Footer
    from iretrace.replay.run import PolicyCounts, Result

SCHEMA: Final = 1
MAX_EXAMPLES: Final = 3


@dataclass(frozen=True, kw_only=True)
class VectorSummary:
    """Returns from one vector.

    Attributes:
        vector: x86 vector; ``None`` for device interrupts whose vector the hook could not see.
        name: as people write it.
        returns: number of returns.
        to_kernel: of these, to the kernel's CS.
        choices: number of returns by :class:`~iretrace.replay.policies.Choice`, in its order.
        saved_cycles: projected; ``None`` where no cost is known.
    """

    vector: int | None
    name: str
    returns: int
    to_kernel: int
    choices: tuple[int, ...]
    saved_cycles: float | None


@dataclass(frozen=True, kw_only=True)
class Example:
    """The first return of a context that has a hazard."""

    tsc: int
    cpu: int
    context: str


@dataclass(frozen=True, kw_only=True)
class Saved:
    """What a policy would save over IRET everywhere.

    Attributes:
        cycles: TSC cycles over the whole trace.
        low: lower end of the interval.
        high: upper end of the interval.
        ns: the same in nanoseconds; ``None`` where the TSC's frequency is not known.
        cpu_pct: percent of the time of all CPUs; ``None`` where the window or the CPUs are not known.
    """

    cycles: float
    low: float
    high: float
    ns: float | None
    cpu_pct: float | None


@dataclass(frozen=True, kw_only=True)
class PolicySummary:
    """One policy over a trace.

    Attributes:
        policy: its name.
        returns: number of returns.
        to_kernel: of these, to the kernel's CS.
        choices: number of returns by :class:`~iretrace.replay.policies.Choice`, in its order.
        by_rule: number of returns by rule, every rule, in the order in which they are asked.
        by_vector: ascending, device interrupts last.
        saved: ``None`` where no cost is known.
        hazards: number of returns by hazard, every hazard.
        examples: by hazard that occurred, at most :data:`MAX_EXAMPLES`, by TSC.
    """

    policy: str
    returns: int
    to_kernel: int
    choices: tuple[int, ...]
    by_rule: dict[str, int]
    by_vector: tuple[VectorSummary, ...]
    saved: Saved | None
    hazards: dict[str, int]
    examples: dict[str, tuple[Example, ...]]


def summarize(result: Result) -> tuple[PolicySummary, ...]:
    """A summary of every policy of a replay."""
    return tuple(_summarize(counts, result.trace.footer) for counts in result.policies)


def saving_of_ret(footer: Footer, choices: NDArray[np.int64]) -> costs.Saving | None:
    """What a RET saves, where that is all that need be known: FRED's returns have no known cost."""
    if choices[Choice.ERETS] or choices[Choice.ERETU]:
        return None
    return costs.saving_per_return(footer)


def _summarize(policy: PolicyCounts, footer: Footer) -> PolicySummary:
    table, fields = policy.table, contexts.every()
    seen = policy.counts.nonzero()[0]
    counts = policy.counts[seen].astype(np.int64)
    by_slot = _sum_by(
        fields.slot[seen].astype(np.intp) * len(Choice) + table.choice[seen], counts, (N_SLOTS, len(Choice))
    )
    to_kernel = _sum_by(fields.slot[seen].astype(np.intp), counts * (fields.target[seen] == Target.KERNEL), (N_SLOTS,))
    by_rule = _sum_by(table.rule[seen].astype(np.intp), counts, (len(table.rules),))
    choices = by_slot.sum(axis=0)
    saving = saving_of_ret(footer, choices)
    vectors = tuple(
        VectorSummary(
            vector=None if s == DEVICE else int(s),
            name=vector_name(None if s == DEVICE else int(s)),
            returns=int(by_slot[s].sum()),
            to_kernel=int(to_kernel[s]),
            choices=tuple(int(n) for n in by_slot[s]),
            saved_cycles=None if saving is None else float(by_slot[s, Choice.RET] * saving.cycles),
        )
        for s in by_slot.sum(axis=1).nonzero()[0]
    )
    has = {name: (table.hazard[seen] >> i & 1).astype(bool) for i, name in enumerate(hazards.NAMES)}
    return PolicySummary(
        policy=table.policy.name,
        returns=int(counts.sum()),
        to_kernel=int(to_kernel.sum()),
        choices=tuple(int(n) for n in choices),
        by_rule=dict(zip(table.rules, by_rule.tolist(), strict=True)),
        by_vector=vectors,
        saved=None if saving is None else _saved(saving, int(choices[Choice.RET]), footer),
        hazards={name: int(counts[where].sum()) for name, where in has.items()},
        examples={name: _examples(policy, seen[where]) for name, where in has.items() if where.any()},
    )


def _sum_by(key: NDArray[np.intp], counts: NDArray[np.int64], shape: tuple[int, ...]) -> NDArray[np.int64]:
    total = np.zeros(int(np.prod(shape)), np.int64)
    np.add.at(total, key, counts)
    return total.reshape(shape)


def _saved(saving: costs.Saving, rets: int, footer: Footer) -> Saved:
    cycles = rets * saving.cycles
    khz, window, cpus = footer.clock.tsc_khz, footer.duration_cycles(), len(footer.cpu.online)
    return Saved(
        cycles=cycles,
        low=rets * saving.low,
        high=rets * saving.high,
        ns=cycles / khz * 1e6 if khz is not None else None,
        cpu_pct=cycles / (window * cpus) * 100 if window is not None and cpus else None,
    )


def _examples(policy: PolicyCounts, where: NDArray[np.intp]) -> tuple[Example, ...]:
    first = where[np.argsort(policy.first_tsc[where], kind="stable")][:MAX_EXAMPLES]
    return tuple(
        Example(tsc=int(policy.first_tsc[i]), cpu=int(policy.first_cpu[i]), context=contexts.describe(int(i)))
        for i in first
    )


def document(result: Result) -> dict[str, Any]:
    """The JSON document of ``iretrace replay --json``."""
    return {
        "schema": SCHEMA,
        "trace": _trace(result),
        "policies": [_policy(summary, result.repairs) for summary in summarize(result)],
    }


def _trace(result: Result) -> dict[str, Any]:
    footer = result.trace.footer
    duration, khz = footer.duration_cycles(), footer.clock.tsc_khz
    return {
        "path": str(result.trace.path),
        "events": result.trace.n_events,
        "kernel": footer.host.kernel,
        "cpu": footer.cpu.name,
        "cpus_online": len(footer.cpu.online) or None,
        "tsc_khz": khz,
        "duration_cycles": duration,
        "duration_ns": duration / khz * 1e6 if duration is not None and khz is not None else None,
        "losses": msgspec.to_builtins(footer.losses),
        "saving": costs.describe(footer),
        "notes": list(result.notes),
    }


def _choices(counts: tuple[int, ...]) -> dict[str, int]:
    """RET and IRET always; what only FRED has, where it occurs."""
    named = {choice.name.lower(): counts[choice] for choice in Choice}
    if not (named["erets"] or named["eretu"]):
        del named["erets"], named["eretu"]
    return named


def _policy(summary: PolicySummary, repairs: dict[str, int]) -> dict[str, Any]:
    saved = summary.saved
    return {
        "policy": summary.policy,
        "returns": summary.returns,
        **_choices(summary.choices),
        "by_rule": summary.by_rule,
        "by_vector": [
            {
                "vector": row.vector,
                "name": row.name,
                "returns": row.returns,
                "to_kernel": row.to_kernel,
                **_choices(row.choices),
                "saved_cycles": row.saved_cycles,
            }
            for row in summary.by_vector
        ],
        "saved_cycles": None if saved is None else saved.cycles,
        "saved_cycles_ci": None if saved is None else [saved.low, saved.high],
        "saved_ns": None if saved is None else saved.ns,
        "saved_cpu_pct": None if saved is None else saved.cpu_pct,
        "hazards": summary.hazards,
        "hazard_examples": {
            name: [{"tsc": e.tsc, "cpu": e.cpu, "context": e.context} for e in examples]
            for name, examples in summary.examples.items()
        },
        "unpaired": repairs,
    }
