"""The report's section on what was recorded, how, and what was lost."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Final

from iretrace.dashboards import numbers, tables
from iretrace.dashboards.html import Safe, clip, join, tag
from iretrace.dashboards.page import Section
from iretrace.losses import BY_NAME
from iretrace.vectors import vector_name

if TYPE_CHECKING:
    from collections.abc import Iterable

    from iretrace.analysis.study import Study
    from iretrace.footer import Footer, Loss, TrapClass

_CLOCKS: Final = {
    "msr-tsc": "the CPU's own time stamp counter, read in the probes",
    "ktime": "the kernel's monotonic clock, converted to TSC cycles with the anchors in the trace",
    "import": "the time stamps of an imported table",
}

_HYPERVISORS: Final = {"": "none, or not known", "unnamed": "one that gives no name"}

_CPUS_LISTED: Final = 8
"""CPUs with the most losses, listed for each cause."""

_LISTED: Final = 64
"""Names listed in a line."""


def section(study: Study) -> Section:
    """What was recorded and what was lost."""
    footer = study.footer
    return Section(
        id="recorded",
        title="What was recorded, and what was lost",
        body=join(
            _losses(footer),
            tag("h3", "The machine"),
            tables.facts(_machine(footer)),
            tag("h3", "The recording"),
            tables.facts(_recording(study)),
            tag("h3", "What each class of trap shows on this kernel"),
            _classes(footer),
            _hooks(footer),
            _mitigations(footer),
        ),
    )


def _machine(footer: Footer) -> list[tuple[str, str]]:
    cpu = footer.cpu
    numbered = [("family", cpu.family), ("model", cpu.model), ("stepping", cpu.stepping)]
    identity = ", ".join([cpu.vendor, *(f"{name} {value}" for name, value in numbered if value is not None)])
    microcode = f", microcode {cpu.microcode}" if cpu.microcode else ""
    fred = {
        None: numbers.UNKNOWN,
        True: "on: events come by FRED, not by the IDT",
        False: "off: events come by the IDT",
    }
    return [
        ("Host", footer.host.name or numbers.UNKNOWN),
        ("Kernel", " ".join(filter(None, [footer.host.kernel, footer.host.machine])) or numbers.UNKNOWN),
        ("CPU", cpu.name or numbers.UNKNOWN),
        ("CPU model", (identity + microcode).strip(", ")),
        ("CPUs online", numbers.count(len(cpu.online)) if cpu.online else numbers.UNKNOWN),
        ("Hypervisor", _HYPERVISORS.get(footer.host.hypervisor or "", footer.host.hypervisor or "")),
        ("FRED", fred[footer.fred]),
        ("IST stacks", _ist(footer)),
        ("Tags", _few(f"{key}={value}" for key, value in footer.tags.items())),
    ]


def _ist(footer: Footer) -> str:
    if footer.idt is None:
        return "not recorded (no IDT in the trace)"
    return _few(f"{vector_name(gate.vector)} {gate.ist}" for gate in footer.idt if gate.ist) or "none"


def _recording(study: Study) -> list[tuple[str, str]]:
    footer, clock = study.footer, study.footer.clock
    overhead = footer.overhead
    cost = [
        f"{numbers.duration_ns(overhead.ns_per_event)} an event" if overhead.ns_per_event is not None else "",
        f"{numbers.percent(overhead.cpu_pct)} of all CPU time" if overhead.cpu_pct is not None else "",
        f"{numbers.percent(overhead.collector_cpu_pct)} of one CPU to drain and write"
        if overhead.collector_cpu_pct is not None
        else "",
    ]
    return [
        ("Trace", study.result.trace.path.name),
        ("Events", numbers.count(study.result.trace.n_events)),
        ("Began", _began(study)),
        ("Length", _length(study)),
        ("Ended by", footer.window.ended_by),
        ("Command", " ".join(map(str, footer.command[:_LISTED]))),
        ("Clock", _CLOCKS.get(clock.source, numbers.UNKNOWN)),
        ("TSC", f"{numbers.short(study.tsc_khz * 1e3)}Hz" if study.tsc_khz else f"frequency {numbers.UNKNOWN}"),
        ("Clock error", _clock_error(study)),
        ("The probes' own cost", ", ".join(filter(None, cost)) or numbers.UNKNOWN),
    ]


def _began(study: Study) -> str:
    anchors, start = study.footer.clock.anchors, study.footer.window.start_tsc
    if not anchors or study.tsc_khz is None or start is None:
        return ""
    anchor = anchors[0]
    try:
        began = datetime.fromtimestamp((anchor.realtime_ns + (start - anchor.tsc) * 1e6 / study.tsc_khz) / 1e9, UTC)
    except (OverflowError, ValueError, OSError):  # an untrusted file
        return ""
    return f"{began:%Y-%m-%d %H:%M:%S} UTC"


def _length(study: Study) -> str:
    if study.duration_s is None:
        return numbers.UNKNOWN
    exact = "" if study.footer.duration_cycles() is not None else " (from the first to the last return)"
    return numbers.duration_ns(study.duration_s * 1e9) + exact


def _clock_error(study: Study) -> str:
    error, khz = study.footer.clock.error_cycles, study.tsc_khz
    if error is None:
        return numbers.UNKNOWN
    in_ns = f" ({numbers.duration_ns(error * 1e6 / khz)})" if khz else ""
    return f"at most {numbers.cycles(error)}{in_ns}"


def _classes(footer: Footer) -> Safe:
    shown = sorted(footer.classes, key=lambda c: c.entry is None and c.exit is None)  # what no hook sees comes last
    if not shown:
        return tag("p", "The trace does not say which classes of trap its hooks could see.")
    return join(
        tag(
            "p",
            "A class without an exit hook shows when a trap came but not how long it took; a class without a frame "
            "shows no flags and no return address.",
        ),
        tables.rows(
            ("Class", "Entry seen by", "Exit seen by", "Frame from", "What is missing"),
            (
                (_named(c), c.entry or "nothing", c.exit or "nothing", c.frame or "nothing", c.lacks or "nothing")
                for c in shown
            ),
            "Classes of trap",
        ),
    )


def _named(trap_class: TrapClass) -> Safe:
    vectors = _few(vector_name(vector) for vector in trap_class.vectors)
    more = join(tag("br"), vectors) if vectors and vectors != trap_class.name else None
    return join(tag("strong", clip(trap_class.name)), more)


def _hooks(footer: Footer) -> Safe | None:
    if not footer.hooks:
        return None
    attached = sum(hook.attached for hook in footer.hooks)
    table = tables.rows(
        ("Hook", "Attached", "Measured runs", "Time a run", "Skipped"),
        (
            (
                hook.name,
                "yes" if hook.attached else f"no: {hook.reason or 'reason not recorded'}",
                numbers.count(hook.runs),
                numbers.duration_ns(hook.run_ns / hook.runs) if hook.runs else "not measured",
                numbers.count(hook.recursion_misses),
            )
            for hook in footer.hooks
        ),
        "Hooks",
    )
    return tag("details", tag("summary", f"{attached} of {numbers.plural(len(footer.hooks), 'hook')} attached"), table)


def _mitigations(footer: Footer) -> Safe | None:
    if not footer.mitigations:
        return None
    table = tables.rows(("Vulnerability", "State"), footer.mitigations.items(), "Mitigations in force")
    return tag("details", tag("summary", "Mitigations in force"), table)


def _losses(footer: Footer) -> Safe:
    if not footer.losses:
        return tag("p", "No loss of events was recorded: every event that a probe saw is in the trace.")
    by_cause: dict[str, list[Loss]] = {}
    for loss in footer.losses:
        by_cause.setdefault(loss.cause, []).append(loss)
    rows = [
        (tag("code", cause), _how_many(losses), _on_cpus(losses), BY_NAME[cause].doc, BY_NAME[cause].remedy)
        for cause, losses in by_cause.items()
    ]
    table = tables.rows(("Cause", "Count", "On CPU", "Meaning", "Remedy"), rows, "Losses by cause and CPU")
    if not footer.is_lossy():
        return join(tag("p", "No trap is missing; some were recorded with less detail."), table)
    lost = footer.lost_events()
    what = f"{numbers.plural(lost, 'event')} lost" if lost else "An unknown number of events is lost"
    return join(
        tag(
            "div",
            tag(
                "p",
                tag("strong", f"{what}."),
                " Every count below is too low by what is missing, and a trap whose "
                "entry or exit was lost is repaired or counted without a duration.",
            ),
            class_="notice warn",
            role="note",
        ),
        table,
    )


def _how_many(losses: list[Loss]) -> str:
    total = sum(loss.count for loss in losses)
    return numbers.count(total) if total else numbers.UNKNOWN


def _on_cpus(losses: list[Loss]) -> str:
    worst = sorted((loss for loss in losses if loss.cpu is not None), key=lambda loss: -loss.count)
    listed = [f"{loss.cpu}: {numbers.count(loss.count)}" for loss in worst[:_CPUS_LISTED]]
    more = len(worst) - _CPUS_LISTED
    return ", ".join([*listed, f"and {more} CPUs more"] if more > 0 else listed) or "not by CPU"


def _few(names: Iterable[str]) -> str:
    listed = list(islice(names, _LISTED + 1))
    shown = [clip(name) for name in listed[:_LISTED]]
    return ", ".join([*shown, "…"] if len(listed) > _LISTED else shown)
