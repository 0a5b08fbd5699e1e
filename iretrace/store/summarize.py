"""From a trace, or from counters alone, to a run of the store."""

from __future__ import annotations

import hashlib
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np

from iretrace.errors import UsageError
from iretrace.replay import costs
from iretrace.replay.hazards import NAMES
from iretrace.replay.policies import built_in
from iretrace.replay.run import replay
from iretrace.store.count import RunCounter
from iretrace.store.run import PolicyDocument, PolicyRun, Run, RunDocument, SavingDocument

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from iretrace.footer import Footer
    from iretrace.replay.policies import Policy
    from iretrace.replay.run import PolicyCounts
    from iretrace.trace import Trace

WORKLOAD_TAG: Final = "workload"
_MAX_WORKLOAD: Final = 200
_TAIL_BYTES: Final = 1 << 16


def default_policies() -> list[Policy]:
    """The policies a run is replayed under unless told otherwise: all that come with iretrace."""
    return list(built_in().values())


def summarize(
    trace: Trace,
    policies: Sequence[Policy] | None = None,
    *,
    tags: Mapping[str, str] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Run:
    """Replay a trace and count what a store keeps, in one pass and fixed memory.

    Args:
        trace: an opened trace.
        policies: ``None``: :func:`default_policies`.
        tags: added to the trace's own, over those of the same name.
        progress: called after every batch with the number of its events.

    Raises:
        Damaged: the trace holds what it must not.
        UsageError: a policy is not a pure function, or two have the same name.
    """
    chosen = default_policies() if policies is None else list(policies)
    if len({policy.name for policy in chosen}) != len(chosen):
        raise UsageError("--policy", "the same name twice", expected="each policy once")
    footer = trace.footer
    saving = costs.saving_per_return(footer)
    counter = RunCounter(
        len(chosen),
        saving_cycles=None if saving is None else saving.cycles,
        origin=footer.window.start_tsc,
        stop=footer.window.stop_tsc,
    )
    result = replay(trace, chosen, sink=counter.add, progress=progress)
    cycles = footer.duration_cycles() or (counter.last - (counter.origin or 0)) or None
    document = describe(
        footer,
        run_id=run_id(footer, digest_of(trace.path)),
        policies=result.policies,
        duration_cycles=cycles,
        tags=tags,
    )
    document = msgspec.structs.replace(
        document,
        trace=trace.path.name,
        events=trace.n_events,
        repairs={name: int(count) for name, count in result.repairs.items()},
        notes=list(result.notes),
        cpus_seen=int(counter.cpus.sum()),
        time_origin=counter.origin or 0,
        time_widths=counter.widths().tolist(),
    )
    latency, alone = counter.histograms()
    return Run(
        document=document,
        vectors=counter.vectors,
        latency=latency,
        self_time=alone,
        depths=counter.depths(),
        times=counter.times(),
        policies=tuple(policy_run(counts, *counter.of_policy(k)) for k, counts in enumerate(result.policies)),
    )


def describe(
    footer: Footer,
    *,
    run_id: str,
    policies: Sequence[PolicyCounts],
    duration_cycles: int | None,
    tags: Mapping[str, str] | None = None,
) -> RunDocument:
    """A run's document, as far as a footer and the counts of contexts tell.

    Args:
        footer: how it was recorded.
        run_id: :func:`run_id`.
        policies: counts by context, of a replay or of counters.
        duration_cycles: length of the recording in TSC cycles; ``None``: not known.
        tags: added to the footer's own, over those of the same name.
    """
    all_tags = {**footer.tags, **(tags or {})}
    saving, khz = costs.saving_per_return(footer), footer.clock.tsc_khz
    return RunDocument(
        run=run_id,
        added_ns=time.time_ns(),
        workload=(all_tags.get(WORKLOAD_TAG) or shlex.join(footer.command))[:_MAX_WORKLOAD],
        tags=all_tags,
        filters=footer.filters.described(),
        events=footer.events,
        duration_s=duration_cycles / (khz * 1e3) if duration_cycles and khz else None,
        policies=[_policy_document(counts) for counts in policies],
        hazard_names=list(NAMES),
        saving=None
        if saving is None
        else SavingDocument(cycles=saving.cycles, low=saving.low, high=saving.high, source=saving.source),
        cost_source=costs.describe(footer),
        footer=footer,
    )


def policy_run(
    counts: PolicyCounts,
    ret_latency: NDArray[np.int64],
    ret_projected: NDArray[np.int64],
    ret_times: NDArray[np.int64] | None = None,
) -> PolicyRun:
    """What one policy decided, of the contexts met (arguments as :class:`~iretrace.store.run.PolicyRun` has them)."""
    met = np.flatnonzero(counts.counts).astype(np.uint32)
    table = counts.table
    return PolicyRun(
        name=table.policy.name,
        context=met,
        count=counts.counts[met].astype(np.int64),
        choice=table.choice[met],
        rule=table.rule[met],
        hazard=table.hazard[met],
        first_tsc=counts.first_tsc[met],
        first_cpu=counts.first_cpu[met],
        ret_latency=ret_latency,
        ret_projected=ret_projected,
        ret_times=ret_times,
    )


def run_id(footer: Footer, digest: str) -> str:
    """Name of a run: when it was recorded and a digest, so that names sort by time and a run has but one.

    Args:
        footer: how it was recorded.
        digest: at least ten characters that no other recording has.
    """
    anchors = footer.clock.anchors
    when = "undated"
    if anchors and 0 < anchors[0].realtime_ns < 1 << 62:
        when = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(anchors[0].realtime_ns // 10**9))
    return f"{when}-{digest[:10]}"


def digest_of(path: Path) -> str:
    """Digest of a trace file without reading its events: its size, and its end with footer, sizes and statistics."""
    with Path(path).open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 8))
        length = int.from_bytes(file.read(4), "little")
        file.seek(max(0, size - 8 - length, size - (1 << 26)))
        made = hashlib.blake2b(size.to_bytes(8, "little"), digest_size=16)
        while piece := file.read(_TAIL_BYTES):
            made.update(piece)
    return made.hexdigest()


def _policy_document(counts: PolicyCounts) -> PolicyDocument:
    table = counts.table
    met = np.flatnonzero(counts.counts)
    held, bits = counts.counts[met].astype(np.int64), table.hazard[met]
    found = {name: int(held[bits >> np.uint16(i) & np.uint16(1) != 0].sum()) for i, name in enumerate(NAMES)}
    return PolicyDocument(
        name=table.policy.name,
        doc=table.policy.doc,
        rules=list(table.rules),
        hazards={name: count for name, count in found.items() if count},
    )
