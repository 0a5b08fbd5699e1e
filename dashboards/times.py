"""The report's sections on time: latency, self time, nesting, and what would be saved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from iretrace.analysis import frames, histogram, savings
from iretrace.dashboards import figures, numbers, tables
from iretrace.dashboards.figures import time_text
from iretrace.dashboards.headline import interval
from iretrace.dashboards.html import Safe, clip, join, tag
from iretrace.dashboards.page import Figures, Section
from iretrace.dashboards.tables import Column
from iretrace.processes import IDLE, UNKNOWN
from iretrace.vectors import vector_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from iretrace.analysis.study import Study
    from iretrace.analysis.totals import Totals

_SHOWN_COMMANDS = 15


def latency(study: Study, page: Figures) -> Section:
    """How long traps take, as a whole and without what nested in them."""
    counts = study.counts
    body = [_without_exit(study)]
    if counts.latency.any():
        body += [
            _distribution(
                study,
                page,
                counts.latency,
                ("latency-all", "Time from entry to exit", "time from entry to exit"),
                "A curve that passes 50 % at 2 µs says that half of these traps took at most 2 µs. Far to the left is "
                "fast; a long way from 90 % to 100 % is a long tail.",
            ),
            tag("h3", "Percentiles of the time from entry to exit"),
            _quantiles(study, counts.latency, "Time from entry to exit"),
            *_self_time(study, page),
            tag(
                "p",
                "A percentile is left out where there are too few traps for it. Percentiles are read from a histogram "
                f"and are right within {100 * histogram.RELATIVE_ERROR:.1f} %. "
                "The probes sit inside the entry and exit code, so the first and last instructions are not in these "
                "times, but the probes' own time is.",
            ),
        ]
    else:
        body.append(tag("p", "No trap has both ends in this trace, so there are no durations to show."))
    return Section(id="latency", title="How long traps take", body=join(*body))


def _self_time(study: Study, page: Figures) -> list[Safe | None]:
    counts = study.counts
    if (counts.self_time == counts.latency).all():
        return [tag("p", "No trap came inside these, so their self time is the same.")]
    if not counts.self_time.any():
        return [tag("p", "Time without nested traps is not known here: it was not counted.")]
    figure = _distribution(
        study,
        page,
        counts.self_time,
        ("latency-self", "Self time", "time without nested traps"),
        "The same without the time that other traps took which came in between on the same CPU, "
        "where both ends of those were seen.",
    )
    return [figure, tag("h3", "Percentiles of the self time"), _quantiles(study, counts.self_time, "Self time")]


def _without_exit(study: Study) -> Safe | None:
    lacking = [c for c in study.footer.classes if c.exit is None and c.entry is not None]
    if not lacking:
        return None
    items = []
    for c in lacking[:20]:
        vectors = ", ".join(vector_name(v) for v in c.vectors[:20])
        named = f" ({vectors})" if vectors and vectors != c.name else ""
        items.append(tag("li", tag("strong", clip(c.name), named), f": {clip(c.lacks)}" if c.lacks else ""))
    return join(tag("p", "These have no exit hook on this kernel, and so no duration:"), tag("ul", *items))


def _distribution(
    study: Study, page: Figures, table: NDArray[Any], names: tuple[str, str, str], caption: str
) -> Safe | None:
    id_, title, what = names
    frame = frames.distribution(table)
    if frame.empty:
        return None
    n_vectors = frame["vector"].nunique()
    more = f" The table has the other {n_vectors - 6} vectors." if n_vectors > 6 else ""
    columns = [
        Column("name", "Vector"),
        Column("cycles", f"At most ({_unit(study)})", _time(study)),
        Column("traps", "Traps", numbers.count),
        Column("share_pct", "Share so far", numbers.percent),
    ]
    return page.add(
        id_,
        title,
        caption + more,
        plot=figures.distribution(frame, study.tsc_khz, what=what),
        data=tables.of_frame(frame, columns, f"{title}: cumulative distribution by vector"),
        summary=f"Curves: {what}, share of traps, by vector, logarithmic time axis.",
    )


def _quantiles(study: Study, table: NDArray[Any], title: str) -> Safe:
    names = [*frames.QUANTILES, "max"]
    columns = [Column("name", "Vector"), Column("traps", "Traps", numbers.count)]
    columns += [Column(name, name, _time(study)) for name in names]
    return tables.scrolling(tables.of_frame(frames.durations(table), columns, title), f"{title}: percentiles")


def nesting(study: Study, page: Figures) -> Section:
    """How deep traps nest."""
    if study.only_counted:
        why = "Counted without events: how deep traps nest was not kept."
        return Section(id="nesting", title="How traps nest", body=tag("p", why))
    frame = frames.depths(study.counts)
    columns = [
        Column("depth", "Traps below", numbers.count),
        Column("returns", "Traps", numbers.count),
        Column("vectors", "Which"),
    ]
    nested = int(frame["returns"].iloc[1:].sum())
    came = numbers.plural(nested, "trap") if nested else "no trap"
    return Section(
        id="nesting",
        title="How traps nest",
        body=page.add(
            "nesting-depth",
            "Traps that were below on the same CPU's stack",
            f"A trap that interrupts another trap's handler has one below it. Here "
            f"{came} came inside another. Each step on the axis is ten times more.",
            plot=figures.depth(frame),
            data=tables.of_frame(frame, columns, "Traps by nesting depth"),
            summary=f"Bars: traps by nesting depth, from none to {len(frame) - 1} below.",
        ),
    )


def saved(study: Study, totals: Totals, page: Figures) -> Section:
    """What the policy would save."""
    return Section(
        id="savings",
        title="What would be saved",
        body=join(
            tag("p", f"{_sentence(clip(study.cost_source))}.", class_="notice"),
            _nothing(study, totals),
            _total_table(totals) if totals.saved_cycles is not None and totals.ret else None,
            _by_vector(study, totals, page),
            _before_after(study, page),
            _by_command(study),
        ),
    )


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _nothing(study: Study, totals: Totals) -> Safe | None:
    if study.saving is None or totals.ret:
        return None
    return tag("p", f"Under the policy {clip(study.policy.name)} nothing returns by RET, so there is nothing to save.")


def _total_table(totals: Totals) -> Safe:
    rows = []
    shown = (
        ("TSC cycles in the whole recording", totals.saved_cycles, numbers.short),
        ("TSC cycles per second", totals.saved_cycles_per_s, numbers.short),
        ("CPU time per second", totals.saved_ns_per_s, numbers.duration_ns),
        ("Share of the time of all CPUs", totals.saved_pct, numbers.percent),
    )
    for name, estimate, show in shown:
        if estimate is not None:
            rows.append((name, show(estimate.value), f"{show(estimate.low)} to {show(estimate.high)}"))
    return tables.rows(("Projected saving", "Estimate", "Interval"), rows, "Projected saving, all vectors together")


def _by_vector(study: Study, totals: Totals, page: Figures) -> Safe | None:
    frame = savings.by_vector(study.by_vector, study.saving, totals.duration_s)
    if frame.empty:
        return None
    khz = study.tsc_khz or 1.0
    frame = frame.assign(
        ns_per_s=frame["saved_per_s"] * 1e6 / khz, pct=frame["saved_per_s"] / (khz * 10 * totals.n_cpus)
    )
    columns = [
        Column("name", "Vector"),
        Column("RET", "Returns by RET", numbers.count),
        Column("saved_per_s", "Cycles per second", numbers.short),
        Column("low_per_s", "at least", numbers.short),
        Column("high_per_s", "at most", numbers.short),
        Column("ns_per_s", "CPU time per second", numbers.duration_ns),
        Column("pct", "Of all CPU time", numbers.percent),
    ]
    within = f" All together {interval(totals.saved_pct)} of the time of all CPUs." if totals.saved_pct else ""
    return page.add(
        "savings-by-vector",
        "Projected saving by trap",
        f"The cycles that RET in place of IRET would save in one second of a run like this one; the thin line is the "
        f"interval of the cost, not of the workload.{within}",
        plot=figures.savings(frame),
        data=tables.of_frame(frame, columns, "Projected saving by vector"),
        summary="Bars with intervals: projected saving in TSC cycles per second by vector.",
    )


def _by_command(study: Study) -> Safe | None:
    """The commands whose interrupted processes would wait less."""
    frame = None if study.commands is None else study.commands.frame(study.saving)
    if frame is None or frame.empty:
        return None
    rows = []
    cycles = study.duration_s * study.tsc_khz * 1e3 if study.duration_s and study.tsc_khz else None
    for comm, ret, saving in frame[["comm", "RET", "saved_cycles"]].head(_SHOWN_COMMANDS).itertuples(index=False):
        name = {IDLE: "idle", UNKNOWN: "not known"}.get(comm, comm)
        known = study.saving is not None
        share = numbers.percent(100 * saving / cycles) if known and cycles else "unknown"
        rows.append((name, numbers.count(ret), numbers.short(saving) if known else "unknown", share))
    left = len(frame) - len(rows)
    note = f" The {left:,} commands with fewest are left out." if left else ""
    return join(
        tag("h3", "Projected saving by command"),
        tag("p", f"What the interrupted process was called at that moment; most returns by RET first.{note}"),
        tables.rows(("Command", "Returns by RET", "Cycles in all", "Of one CPU's time"), rows, "Saving by command"),
    )


def _before_after(study: Study, page: Figures) -> Safe | None:
    frame = savings.medians(study.counts)
    if study.saving is None or frame.empty:
        return None
    frame = frame.assign(change_cycles=frame["projected_cycles"] - frame["now_cycles"])
    columns = [
        Column("name", "Vector"),
        Column("traps", "Traps", numbers.count),
        Column("now_cycles", "Median now", _time(study)),
        Column("projected_cycles", "Projected", _time(study)),
        Column("change_cycles", "Change", _time(study)),
        Column("change_pct", "Change", numbers.change),
    ]
    return page.add(
        "before-after",
        "Median time from entry to exit, now and as projected",
        "Only traps whose return would become RET and whose both ends were seen. What nested traps save is taken off, "
        "and what the trap's own return saves: it comes just after the exit probe, and the interrupted code waits for "
        "it too.",
        plot=figures.before_after(frame, study.tsc_khz),
        data=tables.of_frame(frame, columns, "Median time by vector, now and projected"),
        summary="Pairs of bars: median time now and projected, by vector.",
    )


def _unit(study: Study) -> str:
    return "TSC cycles" if study.tsc_khz is None else "time"


def _time(study: Study) -> Callable[[Any], str]:
    return lambda cycles: time_text(cycles, study.tsc_khz)
