"""One run of a store: its document and its counts (:mod:`iretrace.store.member`: how they lie in a file).

A run can be made of a trace (:func:`iretrace.store.summarize.summarize`) or of counters alone: contexts with their
counts and histograms of durations are enough, what was not counted stays ``None`` or empty.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from iretrace.footer import Count, Footer
from iretrace.replay.contexts import SHIFT, Target
from iretrace.store.schema import STORE_SCHEMA

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from iretrace.analysis.study import Study


class SavingDocument(msgspec.Struct, frozen=True, kw_only=True):
    """What one RET saves over IRET, in TSC cycles, as known when the run was added."""

    cycles: float
    low: float
    high: float
    source: str = ""


class PolicyDocument(msgspec.Struct, frozen=True, kw_only=True):
    """A policy the run was replayed under."""

    name: str
    doc: str = ""
    rules: list[str] = []
    hazards: dict[str, Count] = {}
    """Returns by hazard, those that occurred."""


class RunDocument(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about a run that is not a row."""

    schema: Count = STORE_SCHEMA
    run: str
    added_ns: Count = 0
    source: str = "trace"
    """``trace``, or ``aggregate``: counted without events."""
    trace: str = ""
    """File name of the trace."""
    workload: str = ""
    tags: dict[str, str] = {}
    filters: str = ""
    """What the recording was limited to, in words; empty: nothing."""
    events: Count = 0
    duration_s: float | None = None
    policies: list[PolicyDocument] = []
    hazard_names: list[str] = []
    """Names of the bits of ``context_hazard``."""
    saving: SavingDocument | None = None
    cost_source: str = ""
    """Where the saving comes from, or why it is not known."""
    repairs: dict[str, Count] = {}
    notes: list[str] = []
    cpus_seen: Count = 0
    time_origin: Count = 0
    """TSC at which the first time bin begins."""
    time_widths: list[float] = []
    """Widths of the time bins in TSC cycles; empty: there are none."""
    footer: Footer = Footer()

    def recorded_ns(self) -> int | None:
        """Wall-clock time at which recording began, in ns since 1970; ``None``: not known."""
        anchors = self.footer.clock.anchors
        return anchors[0].realtime_ns if anchors and anchors[0].realtime_ns > 0 else None


@dataclass(frozen=True, kw_only=True)
class Times:
    """Counts over time, shape ``(n, v)``: time bins by the vectors of the run.

    Attributes:
        returns: returns.
        known: returns of which it is known where they go.
        to_kernel: of these, to the kernel.
        latency: latencies; ``self_time`` likewise.
        latency_below: shape ``(n, v, 4)``: of these, those in the bucket of the run's own quantile
            (:data:`iretrace.store.schema.QUANTILES`) or below; ``self_below`` likewise.
        all_latency_below: shape ``(n, 4)``: of all vectors' latencies, those in the bucket of their common quantile or
            below; ``all_self_below`` likewise.
    """

    returns: NDArray[np.int64]
    known: NDArray[np.int64]
    to_kernel: NDArray[np.int64]
    latency: NDArray[np.int64]
    latency_below: NDArray[np.int64]
    self_time: NDArray[np.int64]
    self_below: NDArray[np.int64]
    all_latency_below: NDArray[np.int64]
    all_self_below: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class PolicyRun:
    """What one policy decided; contexts ascending, arrays of shape ``(c,)``.

    Attributes:
        name: the policy.
        context: uint32, contexts met (:mod:`iretrace.replay.contexts`).
        count: int64, returns.
        choice: uint8, a :class:`~iretrace.replay.policies.Choice`.
        rule: uint8, index into the document's rules of the policy.
        hazard: uint16, bits of :data:`iretrace.replay.hazards.NAMES`.
        first_tsc: uint64, TSC of the first such return; 0: not known.
        first_cpu: uint16, its CPU.
        ret_latency: int64, ``(v, N_BUCKETS)``: latencies of what becomes RET.
        ret_projected: likewise less what nested RETs save; zeros where no saving is known.
        ret_times: int64, ``(n, v)``: RETs over time; ``None``: not counted.
    """

    name: str
    context: NDArray[np.uint32]
    count: NDArray[np.int64]
    choice: NDArray[np.uint8]
    rule: NDArray[np.uint8]
    hazard: NDArray[np.uint16]
    first_tsc: NDArray[np.uint64]
    first_cpu: NDArray[np.uint16]
    ret_latency: NDArray[np.int64]
    ret_projected: NDArray[np.int64]
    ret_times: NDArray[np.int64] | None = None

    @property
    def slot(self) -> NDArray[np.int64]:
        """Vector of each context (256: a device)."""
        return (self.context >> SHIFT).astype(np.int64) // len(Target)

    @property
    def target(self) -> NDArray[np.int64]:
        """:class:`~iretrace.replay.contexts.Target` of each context."""
        return (self.context >> SHIFT).astype(np.int64) % len(Target)


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run.

    Attributes:
        document: everything that is not counts; ``document.footer`` is the trace's footer.
        vectors: int64, shape ``(v,)``: vectors met (256: a device whose vector was not seen), ascending.
        latency: int64, ``(v, histogram.N_BUCKETS)``: TSC cycles from entry to exit, where both were seen.
        self_time: likewise, without nested traps.
        depths: int64, ``(v, 129)``: returns by the number of traps below.
        times: counts over time; ``None``: not counted.
        policies: one a policy, at least one.
    """

    document: RunDocument
    vectors: NDArray[np.int64]
    latency: NDArray[np.int64]
    self_time: NDArray[np.int64]
    depths: NDArray[np.int64]
    times: Times | None
    policies: tuple[PolicyRun, ...]

    @property
    def id(self) -> str:
        """Name in the store."""
        return self.document.run

    @property
    def footer(self) -> Footer:
        """How it was recorded."""
        return self.document.footer

    def policy(self, name: str) -> PolicyRun:
        """The counts of a policy.

        Raises:
            UsageError: the run was not replayed under it.
        """
        from iretrace.errors import UsageError  # noqa: PLC0415

        for found in self.policies:
            if found.name == name:
                return found
        known = ", ".join(policy.name for policy in self.policies)
        raise UsageError(f"policy {name}", f"run {self.id} was not replayed under it", expected=f"one of {known}")

    def study(self, policy: str) -> Study:
        """The run as :func:`iretrace.analysis.study.study` would have given it: what reports are made of."""
        from iretrace.store.as_study import as_study  # noqa: PLC0415

        return as_study(self, policy)
