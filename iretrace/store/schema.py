"""The tables of a store, declared once, as data: runs, metrics, and what else a member holds.

A member is one Parquet file: its rows are the metrics (one a policy and vector) with the details beside them in list
columns, its key-value metadata under ``iretrace-run`` the run's document (:class:`iretrace.store.run.RunDocument`).
"""

from __future__ import annotations

from typing import Final

import pyarrow as pa

from iretrace import trace
from iretrace.schema import Column, arrow_schema

STORE_SCHEMA: Final = 1
RUN_KEY: Final = trace.RUN_KEY

ALL: Final = -1
"""``vector`` of a row over all vectors."""

ANY_POLICY: Final = ""
"""``policy`` of the rows that no policy has a say in: rates, targets, durations."""

RUN_COLUMNS: Final = (
    Column(name="run", type=pa.string(), doc="the run's name: when it was recorded (UTC) and a digest"),
    Column(
        name="time", type=pa.timestamp("us", tz="UTC"), doc="when it was recorded, or added where nothing says when"
    ),
    Column(name="added", type=pa.timestamp("us", tz="UTC"), doc="when it was added to the store"),
    Column(name="workload", type=pa.string(), doc="tag workload, or the command that was traced; empty: not known"),
    Column(name="host", type=pa.string(), doc="host name"),
    Column(name="kernel", type=pa.string(), doc="kernel release"),
    Column(name="cpu", type=pa.string(), doc="CPU by name; comparisons go by cpu_id"),
    Column(name="cpu_id", type=pa.string(), doc="vendor/family/model/stepping, and the hypervisor"),
    Column(name="cpus", type=pa.int32(), doc="CPUs online"),
    Column(name="clock", type=pa.string(), doc="source of the time stamps"),
    Column(name="tsc_khz", type=pa.float64(), nullable=True, unit="kHz", doc="TSC frequency"),
    Column(name="filters", type=pa.string(), doc="what the recording was limited to, in words; empty: nothing"),
    Column(name="source", type=pa.string(), doc="trace, or aggregate (counted without events)"),
    Column(name="trace", type=pa.string(), doc="file name of the trace"),
    Column(name="tags", type=pa.map_(pa.string(), pa.string()), doc="the user's own words"),
    Column(name="events", type=pa.int64(), doc="events recorded"),
    Column(name="returns", type=pa.int64(), doc="returns judged"),
    Column(name="duration_s", type=pa.float64(), nullable=True, unit="s", doc="length of the recording"),
    Column(name="lossy", type=pa.bool_(), doc="whether traps are known or suspected to be missing"),
    Column(name="lost_events", type=pa.int64(), doc="traps known to be missing"),
    Column(name="losses", type=pa.map_(pa.string(), pa.int64()), doc="counts by cause of loss"),
    Column(name="calibrated", type=pa.bool_(), doc="whether the return paths were timed on the recorded machine"),
    Column(name="saving_cycles", type=pa.float64(), nullable=True, unit="TSC cycles", doc="what one RET saves"),
    Column(name="saving_low_cycles", type=pa.float64(), nullable=True, unit="TSC cycles", doc="its interval's low end"),
    Column(name="saving_high_cycles", type=pa.float64(), nullable=True, unit="TSC cycles", doc="its high end"),
    Column(name="policies", type=pa.list_(pa.string()), doc="policies it was replayed under"),
    Column(name="hazards", type=pa.map_(pa.string(), pa.int64()), doc="returns with a hazard, by policy"),
)

QUANTILES: Final = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}

_COUNTS: Final = (
    ("returns", "returns judged"),
    ("to_kernel", "of these, to the kernel"),
    ("to_unknown", "of these, nothing told where to"),
    ("ret", "returns by RET"),
    ("iret", "returns by IRET"),
    ("erets", "returns by ERETS"),
    ("eretu", "returns by ERETU"),
    ("timed", "traps whose entry and exit were seen"),
)

_MEASURES: Final = (
    ("per_s", "1/s", "returns a second"),
    ("to_kernel_pct", "%", "share of returns that go to the kernel, of those known"),
    ("ret_pct", "%", "share of returns by RET"),
    *((f"latency_{q}_cycles", "TSC cycles", f"time from entry to exit, {q}") for q in QUANTILES),
    *((f"self_{q}_cycles", "TSC cycles", f"the same without nested traps, {q}") for q in QUANTILES),
    ("saved_cycles", "TSC cycles", "projected saving over the recording"),
    ("saved_low_cycles", "TSC cycles", "the same, by the low end of what a RET saves"),
    ("saved_high_cycles", "TSC cycles", "the same, by the high end"),
    ("saved_per_s_cycles", "TSC cycles/s", "projected saving a second"),
)

METRIC_COLUMNS: Final = (
    Column(name="run", type=pa.string(), doc="the run's name"),
    Column(name="policy", type=pa.string(), doc="policy; empty in rows that no policy has a say in"),
    Column(name="vector", type=pa.int16(), doc="0-255; 256: a device interrupt whose vector was not seen; -1: all"),
    Column(name="name", type=pa.string(), doc="the vector's name; all"),
    *(Column(name=name, type=pa.int64(), nullable=True, doc=doc) for name, doc in _COUNTS),
    *(Column(name=name, type=pa.float64(), nullable=True, unit=unit, doc=doc) for name, unit, doc in _MEASURES),
)

MEASURES: Final = tuple(name for name, _, _ in _MEASURES)
"""Metrics that make a series: everything in ``metrics`` that does not grow with the length of a run but ``saved_*``."""

_U16: Final = pa.list_(pa.uint16())
_I64: Final = pa.list_(pa.int64())

DETAIL_COLUMNS: Final = (
    Column(name="depth_returns", type=_I64, nullable=True, doc="returns by the number of traps below on the stack"),
    Column(name="latency_bucket", type=_U16, nullable=True, doc="buckets of the latency histogram that are not 0"),
    Column(name="latency_count", type=_I64, nullable=True, doc="their counts"),
    Column(name="self_bucket", type=_U16, nullable=True, doc="likewise without nested traps"),
    Column(name="self_count", type=_I64, nullable=True, doc="their counts"),
    Column(name="time_returns", type=_I64, nullable=True, doc="returns by time bin"),
    Column(name="time_to_kernel", type=_I64, nullable=True, doc="of these, to the kernel"),
    Column(name="time_known", type=_I64, nullable=True, doc="returns of which it is known where they go"),
    Column(name="time_latency", type=_I64, nullable=True, doc="latencies by time bin"),
    Column(name="time_latency_below", type=_I64, nullable=True, doc="those at most p50, then p90, p99, p99.9"),
    Column(name="time_self", type=_I64, nullable=True, doc="self times by time bin"),
    Column(name="time_self_below", type=_I64, nullable=True, doc="those at most p50, then p90, p99, p99.9"),
    Column(name="time_ret", type=_I64, nullable=True, doc="returns by RET by time bin"),
    Column(name="ret_bucket", type=_U16, nullable=True, doc="latency histogram of what becomes RET"),
    Column(name="ret_count", type=_I64, nullable=True, doc="its counts"),
    Column(name="projected_bucket", type=_U16, nullable=True, doc="the same less what nested RETs save"),
    Column(name="projected_count", type=_I64, nullable=True, doc="its counts"),
    Column(name="context", type=pa.list_(pa.uint32()), nullable=True, doc="contexts met (iretrace.replay.contexts)"),
    Column(name="context_count", type=_I64, nullable=True, doc="returns by context"),
    Column(name="context_choice", type=pa.list_(pa.uint8()), nullable=True, doc="the choice there"),
    Column(name="context_rule", type=pa.list_(pa.uint8()), nullable=True, doc="the rule, by its number in the policy"),
    Column(name="context_hazard", type=_U16, nullable=True, doc="bits of hazards, in the document's order"),
    Column(name="context_tsc", type=pa.list_(pa.uint64()), nullable=True, doc="TSC of the first return"),
    Column(name="context_cpu", type=_U16, nullable=True, doc="its CPU"),
)

RUN_SCHEMA: Final = arrow_schema(RUN_COLUMNS)
METRIC_SCHEMA: Final = arrow_schema(METRIC_COLUMNS)
MEMBER_SCHEMA: Final = arrow_schema((*METRIC_COLUMNS, *DETAIL_COLUMNS))
