"""Between ``collect --aggregate`` and the run store: a policy as tables for BPF, and BPF's counters as a run."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from iretrace.analysis import histogram
from iretrace.collect.counters import BUCKETS, CONTEXTS, N_SLOTS, VECTORS, Tables
from iretrace.errors import InputError
from iretrace.replay import contexts
from iretrace.replay.engine import Pairing
from iretrace.replay.policies import NestCounter, built_in
from iretrace.replay.run import PolicyCounts
from iretrace.replay.tables import enumerate_policy, ist_vectors
from iretrace.store.member import from_bytes, to_bytes
from iretrace.store.run import Run
from iretrace.store.schema import RUN_KEY
from iretrace.store.summarize import WORKLOAD_TAG, describe, policy_run, run_id

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from iretrace.footer import Footer
    from iretrace.replay.policies import Policy

SOURCE: Final = "aggregate"

_UP, _DOWN, _CLEAR, _NOT_SELF = 1, 2, 4, 8  # bpf/aggregate.h
_N_DEPTHS: Final = 129


def tables_of(footer: Footer, policy: Policy) -> Tables:
    """A policy enumerated over every context, and how its nest counter and this machine's hooks go, by slot.

    Raises:
        UsageError: the policy is not a pure function from contexts to choices.
    """
    table, pairing, counter = enumerate_policy(policy, ist_vectors(footer)), Pairing.from_footer(footer), policy.counter
    exitless, effects = np.zeros(N_SLOTS, np.uint8), np.zeros(N_SLOTS, np.uint8)
    for slot, vector in enumerate(VECTORS.tolist()):
        if vector in pairing.exitless:
            exitless[slot] = 7
        elif vector in pairing.kernel_exitless:
            exitless[slot] = 1 << contexts.Target.KERNEL
        effects[slot] = (
            _UP * (vector in counter.up)
            | _DOWN * (vector in counter.down)
            | _CLEAR * (vector in counter.clear)
            | _NOT_SELF * (vector in counter.up and not counter.count_self)
        )
    choice = table.choice.reshape(contexts.N_SLOTS, CONTEXTS)[VECTORS]
    return Tables(exitless=exitless, effects=effects, choice=np.ascontiguousarray(choice))


def to_run(footer: Footer, counts: NDArray[np.void], policy: Policy) -> Run:
    """Counters as a run of the store.

    What other policies decide follows from the same contexts, where they have the same nest counter or none.

    Args:
        footer: how it was counted.
        counts: array of :data:`iretrace.collect.counters.AGGREGATE`, one a CPU.
        policy: the one that was loaded.
    """
    by_context = np.zeros((contexts.N_SLOTS, CONTEXTS), np.uint64)
    by_context[VECTORS] = counts["cells"]["count"].sum(axis=0)
    vectors = np.flatnonzero(by_context.sum(axis=1)).astype(np.int64)
    all_latency = np.zeros((contexts.N_SLOTS, histogram.N_BUCKETS), np.int64)
    all_latency[VECTORS, :BUCKETS] = counts["latency"].sum(axis=0).astype(np.int64)
    latency = all_latency[vectors]
    first = footer.window.start_tsc or 0
    decided = []
    for other in {policy.name: policy, **built_in()}.values():
        if other.counter in (policy.counter, NestCounter()):
            held = by_context.reshape(-1).copy()
            if other.counter != policy.counter:  # it has no counter: nothing is ever nested
                nested = np.flatnonzero(contexts.every().nested)
                held[nested - contexts.NESTED] += held[nested]
                held[nested] = 0
            table = enumerate_policy(other, ist_vectors(footer))
            met = held > 0
            decided.append(
                PolicyCounts(
                    table=table,
                    counts=held,
                    first_tsc=np.where(met, np.uint64(first), np.uint64(0)),
                    first_cpu=np.zeros(held.shape, np.uint16),
                )
            )
    nothing = np.zeros_like(latency)
    digest = hashlib.blake2b(counts.tobytes() + footer.to_json(), digest_size=16).hexdigest()
    document = describe(
        footer, run_id=run_id(footer, digest), policies=decided, duration_cycles=footer.duration_cycles()
    )
    document = msgspec.structs.replace(
        document,
        source=SOURCE,
        cpus_seen=int((counts["cells"]["count"].sum(axis=(1, 2)) > 0).sum()),
        notes=[
            *footer.limits(),
            "Counted without events: no self times, no depths, no course over time.",
        ],
        repairs={"orphan_exit": int(counts["orphans"].sum()), "implied_exit": int(counts["overwritten"].sum())},
    )
    return Run(
        document=document,
        vectors=vectors,
        latency=latency,
        self_time=nothing,
        depths=np.zeros((len(vectors), _N_DEPTHS), np.int64),
        times=None,
        policies=tuple(policy_run(one, nothing, nothing) for one in decided),
    )


def write(path: Path, run: Run) -> None:
    """Write a run as a file of its own."""
    path.write_bytes(to_bytes(run))


def is_run(path: Path) -> bool:
    """Whether a file is a run, as ``collect --aggregate`` writes and a store keeps, and not a trace."""
    try:
        metadata = pq.read_metadata(path).metadata or {}
    except (pa.ArrowException, OSError, UnicodeDecodeError):
        return False
    return RUN_KEY in metadata


def read(path: Path) -> Run:
    """Read a run's file.

    Raises:
        InputError: it cannot be read.
        Damaged: it is not a run.
        SchemaTooNew: written by a newer iretrace.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(path, f"cannot be read ({error.strerror})", expected="a run") from None
    return from_bytes(data, str(path))


def tagged(run: Run, tags: Mapping[str, str]) -> Run:
    """The run with more tags, over those of the same name."""
    together = {**run.document.tags, **tags}
    workload = tags.get(WORKLOAD_TAG, run.document.workload)
    return replace(run, document=msgspec.structs.replace(run.document, tags=together, workload=workload))
