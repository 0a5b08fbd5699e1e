"""The tables of ``iretrace query``, declared once, and the rows of those that come from a trace's footer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from iretrace.losses import BY_NAME
from iretrace.replay import costs
from iretrace.schema import EVENT_COLUMNS, Column, arrow_schema
from iretrace.traps import DECISION_COLUMNS, TRAP_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from iretrace.footer import Footer
    from iretrace.trace import Trace


@dataclass(frozen=True, kw_only=True)
class QueryTable:
    """One table.

    Attributes:
        name: as SQL names it.
        doc: what a row is, one line.
        columns: in order.
    """

    name: str
    doc: str
    columns: tuple[Column, ...]


TRACE: Final = Column(name="trace", type=pa.string(), doc="the trace, as it was named")
TRAP: Final = Column(name="trap", type=pa.uint64(), doc="number of the trap in its trace, in the order of ends")

EVENTS: Final = QueryTable(name="events", doc="one row an event, as recorded", columns=(TRACE, *EVENT_COLUMNS))
TRAPS: Final = QueryTable(
    name="traps", doc="one row a trap: an entry and its exit, paired", columns=(TRACE, TRAP, *TRAP_COLUMNS)
)
DECISIONS: Final = QueryTable(
    name="decisions",
    doc="one row a trap and policy (--policy): how the trap would return; the trap's own columns with it",
    columns=(
        TRACE,
        TRAP,
        Column(name="policy", type=pa.string(), doc="name of the policy"),
        *DECISION_COLUMNS,
        *TRAP_COLUMNS,
    ),
)
LOSSES: Final = QueryTable(
    name="losses",
    doc="one row a recorded loss",
    columns=(
        TRACE,
        Column(name="cause", type=pa.string(), doc="name of the cause"),
        Column(name="severity", type=pa.string(), doc="events (traps are missing), detail (a field is) or info"),
        Column(name="stage", type=pa.string(), doc="where it happens: record, write or import"),
        Column(name="cpu", type=pa.uint16(), nullable=True, doc="logical CPU; null: not of one CPU"),
        Column(name="count", type=pa.uint64(), doc="how many"),
        Column(name="doc", type=pa.string(), doc="what the cause means"),
        Column(name="remedy", type=pa.string(), doc="what to do about it"),
    ),
)
META: Final = QueryTable(
    name="meta",
    doc="one row a trace: how and where it was recorded",
    columns=(
        TRACE,
        Column(name="events", type=pa.uint64(), doc="number of events"),
        Column(name="host", type=pa.string(), doc="the machine's name; empty: not known"),
        Column(name="kernel", type=pa.string(), doc="kernel release; empty: not known"),
        Column(name="hypervisor", type=pa.string(), nullable=True, doc="null: bare metal, or not known"),
        Column(name="cpu_name", type=pa.string(), doc="the processor's name; empty: not known"),
        Column(name="vendor", type=pa.string(), doc="the processor's vendor, by CPUID"),
        Column(name="family", type=pa.int64(), nullable=True, doc="by CPUID"),
        Column(name="model", type=pa.int64(), nullable=True, doc="by CPUID"),
        Column(name="stepping", type=pa.int64(), nullable=True, doc="by CPUID"),
        Column(name="microcode", type=pa.string(), doc="its revision; empty: not known"),
        Column(name="cpus_online", type=pa.int64(), nullable=True, doc="logical CPUs; null: not known"),
        Column(name="fred", type=pa.bool_(), nullable=True, doc="whether FRED delivered the events"),
        Column(name="clock", type=pa.string(), doc="where the TSC column comes from: msr-tsc, ktime, import"),
        Column(name="tsc_khz", type=pa.float64(), nullable=True, unit="kHz", doc="frequency of the TSC"),
        Column(name="start_tsc", type=pa.uint64(), nullable=True, unit="TSC cycles", doc="when recording began"),
        Column(name="stop_tsc", type=pa.uint64(), nullable=True, unit="TSC cycles", doc="when recording ended"),
        Column(name="duration_s", type=pa.float64(), nullable=True, unit="s", doc="length of the recorded window"),
        Column(name="ended_by", type=pa.string(), doc="what ended the recording; empty: not known"),
        Column(name="lost_events", type=pa.uint64(), doc="traps known to be missing"),
        Column(name="command", type=pa.list_(pa.string()), doc="the command that was traced; empty: none"),
        Column(name="tags", type=pa.map_(pa.string(), pa.string()), doc="the user's own: tags['build']"),
        Column(
            name="saved_per_ret_cycles",
            type=pa.float64(),
            nullable=True,
            unit="TSC cycles",
            doc="what one RET saves over one IRET; null: no cost is known",
        ),
        Column(name="footer", type=pa.string(), doc="all of the footer, as JSON: footer->>'$.clock.source'"),
    ),
)

TABLES: Final = (EVENTS, TRAPS, DECISIONS, LOSSES, META)


def loss_table(traces: Iterable[tuple[str, Trace]]) -> pa.Table:
    """Rows of :data:`LOSSES`."""
    rows = [
        {
            "trace": name,
            "cause": loss.cause,
            "severity": BY_NAME[loss.cause].severity,
            "stage": BY_NAME[loss.cause].stage,
            "cpu": loss.cpu,
            "count": min(loss.count, 2**64 - 1),
            "doc": BY_NAME[loss.cause].doc,
            "remedy": BY_NAME[loss.cause].remedy,
        }
        for name, trace in traces
        for loss in trace.footer.losses
    ]
    return pa.Table.from_pylist(rows, schema=arrow_schema(LOSSES.columns))


def meta_table(traces: Iterable[tuple[str, Trace]]) -> pa.Table:
    """Rows of :data:`META`."""
    rows = [_meta(name, trace.n_events, trace.footer) for name, trace in traces]
    return pa.Table.from_pylist(rows, schema=arrow_schema(META.columns))


def _meta(name: str, n_events: int, footer: Footer) -> dict[str, Any]:
    cpu, host, clock, cycles = footer.cpu, footer.host, footer.clock, footer.duration_cycles()
    saving = costs.saving_per_return(footer)
    return {
        "trace": name,
        "events": n_events,
        "host": host.name,
        "kernel": host.kernel,
        "hypervisor": host.hypervisor,
        "cpu_name": cpu.name,
        "vendor": cpu.vendor,
        "family": _int64(cpu.family),
        "model": _int64(cpu.model),
        "stepping": _int64(cpu.stepping),
        "microcode": cpu.microcode,
        "cpus_online": len(cpu.online) or None,
        "fred": footer.fred,
        "clock": clock.source,
        "tsc_khz": clock.tsc_khz,
        "start_tsc": footer.window.start_tsc,
        "stop_tsc": footer.window.stop_tsc,
        "duration_s": None if cycles is None or clock.tsc_khz is None else cycles / clock.tsc_khz / 1e3,
        "ended_by": footer.window.ended_by,
        "lost_events": min(footer.lost_events(), 2**64 - 1),
        "command": footer.command,
        "tags": list(footer.tags.items()),
        "saved_per_ret_cycles": None if saving is None else saving.cycles,
        "footer": footer.to_json().decode(),
    }


def _int64(value: int | None) -> int | None:
    """A number that a strange footer may have made too large for a column."""
    return value if value is None or -(2**63) <= value < 2**63 else None
