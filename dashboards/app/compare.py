"""The page that compares two runs, or a run with the runs before it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from iretrace.analysis.compare import MIN_EFFECT_PCT, compare
from iretrace.dashboards import comparison, numbers
from iretrace.dashboards.app.page import (
    Page,
    choice,
    chosen_policy,
    chosen_run,
    empty_store,
    run_choice,
    run_label,
    run_link,
    when,
)
from iretrace.dashboards.html import Safe, join, tag
from iretrace.dashboards.page import Figures
from iretrace.store import records
from iretrace.store.comparable import CONDITIONS, obstacles, remarks

if TYPE_CHECKING:
    import pandas as pd

    from iretrace.analysis.compare import Difference
    from iretrace.dashboards.app.source import Snapshot, Source
    from iretrace.dashboards.app.state import State

REPEATS: Final = 8
"""Runs before it that a run is compared with."""


def page(source: Source, state: State) -> Page:
    """``id`` is the new run, ``base`` the one before or ``before``: several of the same kind recorded before."""
    snapshot = source.snapshot()
    new = chosen_run(snapshot, state)
    if not new:
        return empty_store()
    row = snapshot.row(new)
    alike = _before(snapshot, row)
    asked = state.text("base", "before" if len(alike) > 1 else str(alike[-1]) if alike else "")
    base = alike if asked == "before" else [asked] if asked else []
    policy = chosen_policy(list(row["policies"]), state)
    choices = tag(
        "div",
        _base_choice(snapshot, asked, len(alike)),
        run_choice(snapshot, new, label="New", drops="base"),
        choice("Policy", "policy", [(name, name) for name in row["policies"]], policy),
        class_="choices",
    )
    if not base:
        body = join(choices, tag("p", "There is no run of the same kind before this one; choose a base."))
        return Page(title="Compare", subtitle=run_label(row), body=body)
    rows = [_row(snapshot, name) for name in base], [_row(snapshot, new)]
    against = obstacles(*rows)
    anyway = state.text("anyway") == "yes"
    figures = Figures()
    found: list[Difference] = []
    if anyway or not against:
        found = compare([source.run(name) for name in base], [source.run(new)], policy=policy)
    one_each = [comparison.ONE_EACH] if len(base) == 1 and base != [new] else []
    made = comparison.section(
        comparison.Comparison(
            found=found,
            base=_named(snapshot, base),
            new=_named(snapshot, [new]),
            against=against,
            notes=[*remarks([*rows[0], *rows[1]]), *one_each],
            policy=policy,
            min_effect_pct=MIN_EFFECT_PCT,
        ),
        figures,
    )
    ask = None
    if against and not anyway:
        ask = tag("div", tag("a", "Compare them all the same", href=state.link(anyway="yes")), class_="buttons")
    return Page(title="Compare", subtitle=run_label(row), body=join(choices, made.body, ask), figures=figures)


def _before(snapshot: Snapshot, row: pd.Series) -> list[str]:
    """The last runs before a run that are of its kind: the same host, and nothing that forbids comparing."""
    runs = snapshot.runs
    here = (runs["host"] == row["host"]) & (runs["time"] < row["time"])
    for condition in CONDITIONS:
        here &= runs[condition.column] == row[condition.column]
    return [str(name) for name in runs.loc[here & ~runs["lossy"], "run"].tail(REPEATS)]


def _base_choice(snapshot: Snapshot, asked: str, n_alike: int) -> Safe:
    label = f"the {numbers.plural(n_alike, 'run')} of its kind before" if n_alike > 1 else ""
    first = [("before", label)] if label else []
    runs = [(str(run["run"]), run_label(run)) for run in records(snapshot.runs.iloc[::-1].head(400))]
    if asked and asked not in dict([*first, *runs]):
        runs.insert(0, (asked, asked))
    return choice("Base", "base", [*first, *runs], asked, drops="anyway")


def _row(snapshot: Snapshot, run: str) -> dict[str, Any]:
    return {str(key): value for key, value in snapshot.row(run).to_dict().items()}


def _named(snapshot: Snapshot, runs: list[str]) -> Safe:
    links = [run_link(run, run_label(snapshot.row(run))) for run in runs]
    if len(links) == 1:
        return links[0]
    fold = tag("summary", f"{numbers.plural(len(runs), 'run')}, the newest of {when(snapshot.row(runs[-1])['time'])}")
    return tag("details", fold, *(tag("div", link) for link in links))
