"""The page of the trap timeline: from the whole recording to a single nested trap."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from iretrace.analysis.timeline import MAX_CPUS, MIN_SPAN
from iretrace.dashboards import numbers, tables
from iretrace.dashboards.app.page import (
    Page,
    choice,
    chosen_policy,
    chosen_run,
    empty_store,
    run_choice,
    run_label,
)
from iretrace.dashboards.figures import time_text
from iretrace.dashboards.html import Safe, clip, join, tag
from iretrace.dashboards.page import Figures
from iretrace.dashboards.tables import Column
from iretrace.dashboards.theme import DECISIONS
from iretrace.dashboards.timeline import axis_unit, full_height, precise, timeline
from iretrace.dashboards.words import DECISIONS as MEANINGS
from iretrace.replay.policies import built_in

if TYPE_CHECKING:
    import pandas as pd

    from iretrace.analysis.timeline import Timeline, View
    from iretrace.dashboards.app.source import Job, Source
    from iretrace.dashboards.app.state import State

BINS: Final = 240
_LISTED: Final = 300
_TOLD: Final = "bars are single traps, nested ones on top of those they interrupted; a mark without length is a trap "


def page(source: Source, state: State) -> Page:
    """The timeline of a run whose trace is at hand."""
    snapshot = source.snapshot(state.text("id"))
    run = chosen_run(snapshot, state)
    if not run:
        return empty_store()
    row = snapshot.row(run)
    policy = chosen_policy(list(row["policies"]), state)
    choices = tag(
        "div",
        run_choice(snapshot, run, drops="at span cpus"),
        choice("Policy", "policy", [(name, name) for name in built_in()], policy),
        class_="choices",
    )
    job = source.timeline(run, policy)
    if job is None:
        return Page(title="Trap timeline", subtitle=run_label(row), body=join(choices, _no_trace(str(row["trace"]))))
    if job.error is not None:
        raise job.error
    if job.timeline is None:
        return Page(title="Trap timeline", subtitle=run_label(row), body=join(choices, _building(job)), again=True)
    return _shown(state, row, job, job.timeline, choices)


def _no_trace(name: str) -> Safe:
    return tag(
        "div",
        tag(
            "p", "A store keeps summaries; single traps are in the trace, ", tag("code", clip(name or "not named")), "."
        ),
        tag("p", "Name the directory where it lies: ", tag("code", "iretrace dashboard STORE --traces DIR"), "."),
        class_="notice",
    )


def _building(job: Job) -> Safe:
    done = min(job.done, job.events)
    return join(
        tag(
            "p",
            f"The index of this trace is being built, once: {numbers.count(done)} of "
            f"{numbers.count(job.events)} events ({numbers.share(done, job.events)}).",
            role="status",
        ),
        tag("progress", value=done, max=job.events, aria_label="Events indexed"),
    )


def _shown(state: State, row: pd.Series, job: Job, line: Timeline, choices: Safe) -> Page:
    khz = line.trace.footer.clock.tsc_khz
    at, span = state.number("at"), state.number("span")
    start = line.start if at is None else line.start + at
    stop = line.stop if span is None else start + max(span, MIN_SPAN)
    begin = time.perf_counter()
    view = line.view(start, stop, cpus=state.numbers("cpus"), bins=BINS)
    took = time.perf_counter() - begin
    figures = Figures()
    scale, _ = axis_unit(view.stop - view.start, khz)
    plot = timeline(view, khz, origin=line.start)
    figure = figures.add(
        "timeline",
        _title(view, line, khz),
        _caption(view, khz),
        plot=plot,
        data=_table(view, khz),
        summary=f"Timeline of {len(view.cpus)} CPUs: {numbers.short(view.n_traps)} traps in "
        f"{time_text(view.stop - view.start, khz)}, by decision.",
    )
    told = f"{'Indexed' if job.done else 'Index opened'} in {numbers.duration_ns(job.seconds * 1e9)}"
    return Page(
        title="Trap timeline",
        subtitle=run_label(row),
        body=join(
            choices,
            _cpu_choice(line, view),
            _buttons(state, line, view),
            tag("div", figure, data_at=view.start - line.start, data_cycles_per=f"{1 / scale!r}"),
            tag(
                "p",
                f"{told} ({numbers.count(line.trace.n_events)} events, {numbers.size(line.index.nbytes)} in memory); "
                f"this stretch was looked up in {numbers.duration_ns(took * 1e9)}.",
                class_="quiet",
            ),
        ),
        figures=figures,
    )


def _title(view: View, line: Timeline, khz: float | None) -> str:
    span = time_text(view.stop - view.start, khz)
    if (view.start, view.stop) == (line.start, line.stop):
        return f"The whole recording, {span}"
    return f"{span} from {precise(view.start - line.start, khz)} on"


def _caption(view: View, khz: float | None) -> str:
    if view.kind == "traps":
        made = [name for name in DECISIONS if (view.frame["decision"] == name).any()]
        head = f"{numbers.plural(len(view.frame), 'trap')}: {_TOLD}whose exit no hook saw. "
    else:
        made = [name for name in DECISIONS if view.frame[name].any()]
        head = (
            f"About {numbers.short(view.n_traps)} returns, counted: a full lane is {full_height(view, khz)}. "
            "Drag over a stretch to see it closer, until single traps appear. "
        )
    return head + "; ".join(f"{name}: {MEANINGS[name]}" for name in made) + "."


def _buttons(state: State, line: Timeline, view: View) -> Safe:
    span = view.stop - view.start
    middle = view.start + span // 2

    def to(label: str, key: str, start: int, length: int) -> Safe:
        a, b = line.clip(start, start + length)
        if (a, b) == (view.start, view.stop):
            return tag("a", label, tag("kbd", key), aria_disabled="true", role="link")
        href = state.link(at=a - line.start, span=b - a)
        return tag("a", label, tag("kbd", key), href=href, data_key=_KEYS.get(key, key))

    whole = line.stop - line.start
    return tag(
        "div",
        to("Closer", "+", middle - span // 8, span // 4),
        to("Farther", "-", middle - 2 * span, 4 * span),
        to("Earlier", "←", view.start - span // 2, span),
        to("Later", "→", view.start + span // 2, span),
        to("Whole recording", "0", line.start, whole),
        class_="buttons",
        role="group",
        aria_label="Move in time",
    )


_KEYS: Final = {"←": "ArrowLeft", "→": "ArrowRight"}


def _cpu_choice(line: Timeline, view: View) -> Safe | None:
    if len(line.cpus) == 1:
        return None
    shown = ",".join(str(cpu) for cpu in view.cpus)
    groups = [line.cpus[i : i + MAX_CPUS] for i in range(0, len(line.cpus), MAX_CPUS)]
    options = [(",".join(map(str, group)), f"CPUs {group[0]} to {group[-1]}") for group in groups]
    options += [(str(cpu), f"CPU {cpu}") for cpu in line.cpus[:256]]
    if shown not in dict(options):
        options.insert(0, (shown, f"CPUs {shown}"))
    return tag("div", choice("CPUs", "cpus", options, shown), class_="choices")


def _table(view: View, khz: float | None) -> Safe:
    if view.kind == "traps":
        columns = [
            Column("entry_tsc", "After the start", lambda c: time_text(c, khz)),
            Column("cpu", "CPU", numbers.count),
            Column("name", "Vector"),
            Column("depth", "Traps below", numbers.count),
            Column("duration_cycles", "Duration", lambda c: time_text(c, khz)),
            Column("decision", "Return by"),
            Column("rule", "Rule"),
            Column("target", "To"),
            Column("hazards", "Hazards"),
            Column("pid", "Process", lambda pid: str(int(pid))),
        ]
        return tables.of_frame(view.frame.head(_LISTED), columns, "Traps of this stretch")
    by_cpu = view.frame.groupby("cpu", as_index=False)[list(DECISIONS)].sum()
    used = [name for name in DECISIONS if by_cpu[name].any()]
    columns = [Column("cpu", "CPU", numbers.count), *(Column(name, name, numbers.count) for name in used)]
    return tables.of_frame(by_cpu, columns, "Returns of this stretch by CPU")
