"""The report's first section: the answer in two sentences and six numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from iretrace.dashboards import numbers
from iretrace.dashboards.html import Safe, clip, join, tag
from iretrace.dashboards.numbers import THIN
from iretrace.dashboards.page import Section

if TYPE_CHECKING:
    from iretrace.analysis.study import Study
    from iretrace.analysis.totals import Estimate, Totals


def section(study: Study, totals: Totals) -> Section:
    """The answer."""
    notes = [tag("div", tag("p", note), class_="notice", role="note") for note in study.result.notes]
    return Section(
        id="answer",
        title="The answer",
        body=join(
            tag("p", " ".join(sentences(study, totals)), class_="lead"),
            tag("dl", *_tiles(totals), class_="tiles"),
            _loss_notice(totals),
            *notes,
        ),
    )


def sentences(study: Study, totals: Totals) -> list[str]:
    """The answer in words: what was seen, what could change, what it would save, what stands against it."""
    host = clip(study.footer.host.name) or "a machine without a name"
    cpu = clip(study.footer.cpu.name)
    time = f" in {numbers.duration_ns(totals.duration_s * 1e9)}" if totals.duration_s else ""
    machine = f"{host} ({cpu}, {numbers.plural(totals.n_cpus, 'CPU')})" if cpu else host
    use = f"{numbers.share(totals.ret, totals.returns)} could use RET"
    if totals.erets:
        use = f"{numbers.share(totals.erets, totals.returns)} would use ERETS"
    return [
        (
            f"Of {numbers.plural(totals.returns, 'return')} from traps recorded{time} on {machine}, "
            f"{numbers.share(totals.to_kernel, totals.returns)} go back to the kernel, and {use} by the policy "
            f"{clip(study.policy.name)}."
        ),
        _saving(study, totals),
        _against(study, totals),
    ]


def _saving(study: Study, totals: Totals) -> str:
    if totals.erets:
        return "What that would save is not known: there is no cost of ERETS."
    if not totals.ret:
        return "No return would use RET, so there is no RET saving to project."
    if study.saving is None:
        return f"What that would save is not known: {clip(study.cost_source)}."
    per_s, ns, pct = totals.saved_cycles_per_s, totals.saved_ns_per_s, totals.saved_pct
    if per_s is None or ns is None or pct is None:
        cycles = numbers.cycles(study.saving.cycles)
        return (
            f"Each would save {cycles}; how many that is per second is not known, because the TSC's frequency is not."
        )
    verb = "save" if per_s.value >= 0 else "cost"
    return (
        f"That would {verb} {numbers.cycles(abs(per_s.value))} a second, which is "
        f"{numbers.duration_ns(abs(ns.value))} of CPU time in every second or "
        f"{numbers.percent(abs(pct.value))} of the time of all CPUs ({interval(pct)})."
    )


def interval(estimate: Estimate) -> str:
    """An estimate's interval in percent: ``between 0.01 % and 0.02 %``."""
    return f"between {numbers.percent(estimate.low)} and {numbers.percent(estimate.high)}"


def _against(study: Study, totals: Totals) -> str:
    kinds = list(study.hazards.loc[study.hazards["returns"] > 0, "name"])
    listed = ", ".join([*kinds[:3], "…"] if len(kinds) > 3 else kinds)
    found = f"{numbers.plural(totals.hazardous, 'hazard')} found ({listed})"
    hazards = found if totals.hazardous else "No hazard was found"
    return f"{hazards}; {_lost(totals)}."


def _lost(totals: Totals) -> str:
    if not totals.lossy:
        return "no events were lost"
    return f"{numbers.plural(totals.lost, 'event')} lost" if totals.lost else "an unknown number of events is lost"


def _tiles(totals: Totals) -> list[Safe]:
    pct, ns = totals.saved_pct, totals.saved_ns_per_s
    unknown = f"{numbers.share(totals.to_unknown, totals.returns)} not known" if totals.to_unknown else ""
    decided = ("Could use RET", totals.ret) if not totals.erets else ("Would use ERETS", totals.erets)
    saved = "Saving of CPU time" if pct is None or pct.value >= 0 else "Cost in CPU time"
    return [
        _tile("Returns", numbers.short(totals.returns), f"on {numbers.plural(totals.n_cpus, 'CPU')}"),
        _tile("Go to the kernel", numbers.share(totals.to_kernel, totals.returns), unknown),
        _tile(decided[0], numbers.share(decided[1], totals.returns), numbers.plural(decided[1], "return")),
        _tile(
            saved,
            numbers.UNKNOWN if pct is None else numbers.percent(abs(pct.value)),
            "" if ns is None else f"{numbers.duration_ns(abs(ns.value))}{THIN}a second",
        ),
        _tile("Hazards", numbers.short(totals.hazardous), "found in returns", warn=totals.hazardous > 0),
        _tile(
            "Lost events",
            numbers.short(totals.lost) if totals.lost or not totals.lossy else numbers.UNKNOWN,
            "",
            warn=totals.lossy,
        ),
    ]


def _tile(name: str, value: str, more: str, *, warn: bool = False) -> Safe:
    small = tag("small", more) if more else None
    return tag("div", tag("dt", name), tag("dd", value, small), class_="warn" if warn else None)


def _loss_notice(totals: Totals) -> Safe | None:
    if not totals.lossy:
        return None
    lost = _lost(totals)
    return tag(
        "div",
        tag(
            "p",
            tag("strong", f"{lost[0].upper()}{lost[1:]}. "),
            "Counts and rates are too low by what is missing; see ",
            tag("a", "what was lost, where, and the remedy", href="#recorded"),
            ".",
        ),
        class_="notice warn",
        role="note",
    )
