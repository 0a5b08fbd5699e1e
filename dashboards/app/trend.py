"""The page of a measure over all runs, and where it changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pandas as pd

from iretrace.dashboards import numbers, tables
from iretrace.dashboards.app.changes import COLUMNS, SLOTS
from iretrace.dashboards.app.overview import pending
from iretrace.dashboards.app.page import DEFAULT_POLICY, Page, choice, empty_store, run_link, when
from iretrace.dashboards.app.state import address
from iretrace.dashboards.html import Safe, clip, join, tag
from iretrace.dashboards.page import Figures
from iretrace.dashboards.trend import trend, value_text
from iretrace.store.schema import ALL, ANY_POLICY, MEASURES, METRIC_COLUMNS

if TYPE_CHECKING:
    from iretrace.dashboards.app.changes import Change, Search
    from iretrace.dashboards.app.source import Snapshot, Source
    from iretrace.dashboards.app.state import State

DEFAULT_MEASURE: Final = "per_s"
_COLUMNS: Final = {column.name: column for column in METRIC_COLUMNS if column.name in MEASURES}
_LISTED: Final = 200


def page(source: Source, state: State) -> Page:
    """One measure of one vector under one policy, of the runs of a host and workload or of all."""
    snapshot = source.snapshot()
    if snapshot.runs.empty:
        return empty_store()
    measure = state.text("measure", DEFAULT_MEASURE)
    column = _COLUMNS.get(measure, _COLUMNS[DEFAULT_MEASURE])
    vector = state.number("vector")
    vector = ALL if vector is None else vector
    policy = state.text("policy", "rfc2014") if _decided(snapshot, column.name) else ANY_POLICY
    frame = _points(snapshot, column.name, vector, policy, state)
    choices = tag(
        "div",
        choice("Measure", "measure", [(c.name, c.doc) for c in _COLUMNS.values()], column.name),
        choice("Vector", "vector", _vectors(snapshot), str(vector)),
        choice("Policy", "policy", [(name, name) for name in _policies(snapshot)], policy) if policy else None,
        choice("Host", "host", _distinct(snapshot, "host", "every host"), state.text("host")),
        choice("Workload", "workload", _distinct(snapshot, "workload", "every workload"), state.text("workload")),
        class_="choices",
    )
    if frame.empty:
        return Page(title="Trend", body=join(choices, tag("p", "No run has a value of this.")))
    figures = Figures()
    search = source.changes(policy or DEFAULT_POLICY)
    mine = _changes(search, column.name, vector, set(frame["run"]))
    changes = pd.DataFrame(
        [(change.row["time"], *_said(change)) for change in mine], columns=["time", "verdict", "text"]
    )
    plot = figures.add(
        "trend",
        f"{column.doc[0].upper()}{column.doc[1:]}",
        f"{numbers.plural(len(frame), 'run')}, one point each; a click on a point leads to its run. "
        + _found(search, mine),
        plot=trend(frame, changes, what=column.doc, unit=column.unit),
        data=_table(frame, column.unit),
        summary=f"Lines: {column.doc} over time, by host and workload.",
    )
    return Page(
        title="Trend",
        body=join(choices, plot, _change_table(mine, column.unit) if mine else None),
        figures=figures,
        again=pending(search),
    )


def _changes(search: Search, column: str, vector: int, runs: set[str]) -> list[Change]:
    """The changes of what is shown."""
    measure = COLUMNS.get(column)
    return [
        change
        for change in search.found or []
        if change.measure == measure and SLOTS.get(change.vector_name) == vector and change.run in runs
    ]


def _said(change: Change) -> tuple[str, str]:
    verdict = "other" if change.note else "worse" if change.worse else "better"
    arrow = "▲" if change.point.direction == "up" else "▼"
    return verdict, f"{arrow} {numbers.change(change.point.change_pct)} {'known' if change.note else verdict}"


def _found(search: Search, mine: list[Change]) -> str:
    if pending(search):
        return "Changes of the level are being looked for."
    if search.failed:
        return "Changes of the level could not be looked for."
    return f"Upright lines: {numbers.plural(len(mine), 'change')} of the level." if mine else "No change of the level."


def _change_table(changes: list[Change], unit: str) -> Safe:
    rows = []
    for change in reversed(changes):
        point = change.point
        verdict = "worse" if change.worse else "better"
        rows.append(
            (
                run_link(change.run, when(change.row["time"])),
                clip(f"{change.row['host']} · {change.row['workload']}")[:70],
                f"{value_text(point.before, unit)} → {value_text(point.after, unit)}",
                numbers.change(point.change_pct),
                "<0.001" if point.p < 0.001 else f"{point.p:.3f}",
                tag("span", verdict, class_=f"badge {verdict}"),
                clip(change.note.text) if change.note else "",
            )
        )
    heads = ("Starts at (UTC)", "Host and workload", "Level", "Change", "p", "Verdict", "Note")
    return join(tag("h2", "Changes of the level"), tables.rows(heads, rows, "Changes, the newest first"))


def _decided(snapshot: Snapshot, measure: str) -> bool:
    """Whether a policy has a say in a measure."""
    shared = snapshot.metrics.loc[snapshot.metrics["policy"] == ANY_POLICY, measure]
    return bool(shared.isna().all())


def _points(snapshot: Snapshot, measure: str, vector: int, policy: str, state: State) -> pd.DataFrame:
    metrics = snapshot.metrics
    here = metrics[(metrics["vector"] == vector) & (metrics["policy"] == policy)][["run", measure]]
    runs = snapshot.runs
    for name in ("host", "workload"):
        if state.text(name):
            runs = runs[runs[name] == state.text(name)]
    frame = runs.merge(here, on="run").rename(columns={measure: "value"}).dropna(subset=["value"])
    series = [
        " · ".join(part for part in (str(host), str(workload)[:40]) if part) or "not named"
        for host, workload in zip(frame["host"], frame["workload"], strict=True)
    ]
    told = [
        f"{when(time)} · {clip(host)} · kernel {clip(kernel)}{_tagged(tags)}"
        for time, host, kernel, tags in zip(frame["time"], frame["host"], frame["kernel"], frame["tags"], strict=True)
    ]
    return frame.assign(
        series=series, told=told, href=[address("/run", id=run, policy=policy) for run in frame["run"]]
    )[["run", "time", "series", "value", "told", "href", "host", "workload", "kernel"]]


def _tagged(tags: object) -> str:
    if not isinstance(tags, dict):
        return ""
    shown = [f"{clip(key)}={clip(value)}" for key, value in list(tags.items())[:4] if key != "workload"]
    return "".join(f" · {text}" for text in shown)


def _vectors(snapshot: Snapshot) -> list[tuple[str, str]]:
    met = snapshot.metrics.groupby(["vector", "name"], as_index=False)[["returns"]].sum()
    met = met.sort_values("returns", ascending=False, kind="stable")
    rest = [(str(vector), str(name)) for vector, name in zip(met["vector"], met["name"], strict=True) if vector != ALL]
    return [(str(ALL), "all together"), *rest]


def _policies(snapshot: Snapshot) -> list[str]:
    return list(dict.fromkeys(name for names in snapshot.runs["policies"] for name in names))


def _distinct(snapshot: Snapshot, column: str, every: str) -> list[tuple[str, str]]:
    return [("", every), *((str(value), str(value)[:60]) for value in sorted(set(snapshot.runs[column])) if value)]


def _table(frame: pd.DataFrame, unit: str) -> Safe:
    rows = [
        (
            run_link(str(row["run"]), when(row["time"])),
            row["host"],
            row["workload"][:60],
            value_text(row["value"], unit),
        )
        for row in frame.iloc[::-1].head(_LISTED).to_dict("records")
    ]
    return tables.rows(("Recorded (UTC)", "Host", "Workload", "Value"), rows, "Runs and their values, the newest first")
