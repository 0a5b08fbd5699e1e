"""From a run to its rows: one of the table of runs, one a policy and vector of the table of metrics."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from iretrace.analysis import histogram
from iretrace.replay.contexts import Target
from iretrace.replay.policies import DEVICE, Choice
from iretrace.store.schema import ALL, ANY_POLICY, QUANTILES
from iretrace.vectors import vector_name

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from iretrace.footer import Footer
    from iretrace.store.run import PolicyRun, Run, RunDocument

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_AT = np.array(list(QUANTILES.values()))


def cpu_id(footer: Footer) -> str:
    """What must be equal for cycles to be comparable: vendor, family, model, stepping, and the hypervisor."""
    cpu = footer.cpu
    numbers = "/".join("?" if n is None else str(n) for n in (cpu.family, cpu.model, cpu.stepping))
    return f"{cpu.vendor or '?'}/{numbers}" + (f" on {footer.host.hypervisor}" if footer.host.hypervisor else "")


def run_row(document: RunDocument, returns: int) -> dict[str, Any]:
    """The row of a run in the table of runs.

    Args:
        document: the run's document.
        returns: returns judged (of the row over all vectors).
    """
    footer, saving = document.footer, document.saving
    recorded, added = document.recorded_ns(), _time(document.added_ns)
    losses: dict[str, int] = {}
    for loss in footer.losses:
        losses[loss.cause] = losses.get(loss.cause, 0) + loss.count
    return {
        "run": document.run,
        "time": added if recorded is None else _time(recorded),
        "added": added,
        "workload": document.workload,
        "host": footer.host.name,
        "kernel": footer.host.kernel,
        "cpu": footer.cpu.name,
        "cpu_id": cpu_id(footer),
        "cpus": len(footer.cpu.online) or document.cpus_seen,
        "clock": footer.clock.source,
        "tsc_khz": footer.clock.tsc_khz,
        "filters": document.filters,
        "source": document.source,
        "trace": document.trace,
        "tags": list(document.tags.items()),
        "events": document.events,
        "returns": returns,
        "duration_s": document.duration_s,
        "lossy": footer.is_lossy(),
        "lost_events": footer.lost_events(),
        "losses": list(losses.items()),
        "calibrated": footer.calibration is not None,
        "saving_cycles": None if saving is None else saving.cycles,
        "saving_low_cycles": None if saving is None else saving.low,
        "saving_high_cycles": None if saving is None else saving.high,
        "policies": [policy.name for policy in document.policies],
        "hazards": [(policy.name, sum(policy.hazards.values())) for policy in document.policies],
    }


def _time(ns: int) -> datetime:
    try:
        return _EPOCH + timedelta(microseconds=ns // 1000)
    except OverflowError:  # a file may say anything
        return datetime.max.replace(tzinfo=UTC)


def metric_rows(run: Run) -> list[dict[str, Any]]:
    """The rows of the table of metrics: rows of no policy first, then the policies'; each begins with all vectors."""
    rows = _shared(run)
    for policy in run.policies:
        rows += _of_policy(run, policy)
    return rows


def _shared(run: Run) -> list[dict[str, Any]]:
    first = run.policies[0]
    returns, kernel, unknown = (
        _by_vector(run, first, where) for where in (None, first.target == Target.KERNEL, first.target == Target.UNKNOWN)
    )
    latency = np.concatenate([run.latency.sum(axis=0, keepdims=True), run.latency])
    alone = np.concatenate([run.self_time.sum(axis=0, keepdims=True), run.self_time])
    latencies, selves = histogram.quantiles(latency, _AT), histogram.quantiles(alone, _AT)
    rows = []
    for i, row in enumerate(_heads(run, ANY_POLICY)):
        known = returns[i] - unknown[i]
        row |= {
            "returns": returns[i],
            "to_kernel": kernel[i],
            "to_unknown": unknown[i],
            "timed": int(latency[i].sum()),
            "per_s": returns[i] / seconds if (seconds := _seconds(run, row["vector"])) else None,
            "to_kernel_pct": 100 * kernel[i] / known if known else None,
        }
        for j, q in enumerate(QUANTILES):
            row[f"latency_{q}_cycles"] = _number(latencies[i, j])
            row[f"self_{q}_cycles"] = _number(selves[i, j])
        rows.append(row)
    return rows


def _seconds(run: Run, vector: int) -> float | None:
    """How long traps of a vector were recorded; all of them: how long the run was."""
    seconds = run.document.duration_s
    if seconds is None or vector == ALL:
        return seconds
    return seconds * run.footer.recorded_share(None if vector == DEVICE else vector)


def _of_policy(run: Run, policy: PolicyRun) -> list[dict[str, Any]]:
    returns = _by_vector(run, policy, None)
    choices = {choice: _by_vector(run, policy, policy.choice == choice) for choice in Choice}
    # What ERETS and ERETU cost, nobody has told.
    fred = bool(choices[Choice.ERETS][0] or choices[Choice.ERETU][0])
    saving = None if fred else run.document.saving
    rows = []
    for i, row in enumerate(_heads(run, policy.name)):
        ret = choices[Choice.RET][i]
        row |= {choice.name.lower(): choices[choice][i] for choice in Choice}
        row["returns"] = returns[i]
        row["ret_pct"] = 100 * ret / returns[i] if returns[i] else None
        if saving is not None:
            row["saved_cycles"] = ret * saving.cycles
            row["saved_low_cycles"], row["saved_high_cycles"] = ret * saving.low, ret * saving.high
            seconds = _seconds(run, row["vector"])
            row["saved_per_s_cycles"] = ret * saving.cycles / seconds if seconds else None
        rows.append(row)
    return rows


def _heads(run: Run, policy: str) -> list[dict[str, Any]]:
    names = [(ALL, "all")] + [(int(v), vector_name(None if v == DEVICE else int(v))) for v in run.vectors]
    return [{"run": run.id, "policy": policy, "vector": vector, "name": name} for vector, name in names]


def _by_vector(run: Run, policy: PolicyRun, where: NDArray[np.bool_] | None) -> list[int]:
    """Returns in all, then by vector of the run."""
    count = policy.count if where is None else policy.count * where
    by_vector = np.zeros(max(int(run.vectors[-1]) if run.vectors.size else 0, DEVICE) + 1, np.int64)
    np.add.at(by_vector, policy.slot, count)
    return [int(count.sum()), *by_vector[run.vectors].tolist()]


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
