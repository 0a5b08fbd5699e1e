"""The page of policies: what each would do with one run's returns, and what stands against it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from iretrace.analysis import frames
from iretrace.dashboards import figures as drawn
from iretrace.dashboards import numbers, tables
from iretrace.dashboards.app.page import Page, chosen_run, empty_store, run_choice, run_label, run_link
from iretrace.dashboards.html import Safe, clip, join, tag
from iretrace.dashboards.page import Figures
from iretrace.dashboards.tables import Column
from iretrace.dashboards.theme import DECISIONS
from iretrace.replay.hazards import HAZARDS

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from iretrace.dashboards.app.source import Source
    from iretrace.dashboards.app.state import State
    from iretrace.store import Run

_ALL: Final = -1
_VECTORS: Final = 40


def page(source: Source, state: State) -> Page:
    """Every policy that a run was replayed under."""
    snapshot = source.snapshot(state.text("id"))
    name = chosen_run(snapshot, state)
    if not name:
        return empty_store()
    row, run = snapshot.row(name), source.run(name)
    metrics = snapshot.metrics[snapshot.metrics["run"] == name]
    figures = Figures()
    frame = _decided(metrics, run)
    made = [choice for choice in DECISIONS if frame[choice].any()]
    plot = figures.add(
        "decisions-by-policy",
        "How each policy would return from the same traps",
        "Each bar is every return of the run.",
        plot=drawn.decisions(frame, what="returns"),
        data=tables.of_frame(
            frame,
            [
                Column("name", "Policy"),
                Column("returns", "Returns", numbers.count),
                *(Column(c, c, numbers.count) for c in made),
            ],
            "Decisions by policy",
        ),
        summary="Stacked bars: share of returns by decision and policy.",
    )
    body = join(
        tag("div", run_choice(snapshot, name), class_="choices"),
        _overview(frame, run, name),
        plot,
        tag("h2", "Hazards by policy"),
        _hazards(run),
        tag("h2", "RET share by vector"),
        _by_vector(metrics, run),
    )
    return Page(title="What each policy would do here", subtitle=run_label(row), body=body, figures=figures)


def _decided(metrics: pd.DataFrame, run: Run) -> pd.DataFrame:
    order = [policy.name for policy in run.policies]
    whole = metrics[(metrics["vector"] == _ALL) & metrics["policy"].isin(order)].set_index("policy").loc[order]
    whole = whole.reset_index().rename(columns={c.lower(): c for c in frames.CHOICES})
    whole["name"] = whole["policy"]
    counts = [*frames.CHOICES, "returns"]
    whole[counts] = whole[counts].fillna(0).astype("int64")
    return whole


def _overview(frame: pd.DataFrame, run: Run, name: str) -> Safe:
    rows = []
    documents = {policy.name: policy for policy in run.document.policies}
    for record in frame.to_dict("records"):
        policy = str(record["policy"])
        hazards = sum(documents[policy].hazards.values())
        rows.append(
            (
                run_link(name, policy, policy=policy),
                numbers.share(record["RET"] + record["ERETS"], record["returns"]),
                _saved(record),
                numbers.count(hazards) if hazards else "none found",
                documents[policy].doc,
            )
        )
    heads = ("Policy", "By RET or ERETS", "Projected saving a second", "Returns with a hazard", "What it is")
    return tables.rows(heads, rows, "Policies on this run")


def _saved(record: Mapping[Hashable, Any]) -> str:
    mean, total = record["saved_per_s_cycles"], record["saved_cycles"]
    if not isinstance(mean, float) or pd.isna(mean) or not isinstance(total, float):
        return numbers.UNKNOWN
    if not total:
        return "0"
    low, high = (mean * float(str(record[name])) / total for name in ("saved_low_cycles", "saved_high_cycles"))
    return f"{numbers.cycles(mean)} ({numbers.short(low)} to {numbers.short(high)})"


def _hazards(run: Run) -> Safe:
    policies = run.document.policies
    found = [hazard for hazard in HAZARDS if any(policy.hazards.get(hazard.name) for policy in policies)]
    if not found:
        return tag("p", "None was found under any of them. That is no proof: a run holds only what happened in it.")
    rows = [
        (
            join(tag("code", hazard.name), tag("br"), hazard.severity),
            *(numbers.count(policy.hazards.get(hazard.name, 0)) for policy in policies),
            hazard.doc,
        )
        for hazard in found
    ]
    return tables.rows(
        ("Hazard", *(clip(policy.name) for policy in policies), "Meaning"), rows, "Returns with a hazard by policy"
    )


def _by_vector(metrics: pd.DataFrame, run: Run) -> Safe:
    names = [policy.name for policy in run.policies]
    shared = metrics[(metrics["policy"] == "") & (metrics["vector"] != _ALL)].sort_values("returns", ascending=False)
    each = metrics[metrics["policy"].isin(names)].copy()
    each["share"] = 100 * (each["ret"] + each["erets"]) / each["returns"]
    wide = each.pivot_table(index="vector", columns="policy", values="share", aggfunc="first")
    rows = [
        (
            str(record["name"]),
            numbers.count(int(record["returns"])),
            *(_percent(wide, record["vector"], name) for name in names),
        )
        for record in shared.head(_VECTORS).to_dict("records")
        if record["vector"] in wide.index
    ]
    return tables.rows(("Vector", "Returns", *map(clip, names)), rows, "Share of returns by RET or ERETS, by vector")


def _percent(wide: pd.DataFrame, vector: int, policy: str) -> str:
    return numbers.percent(float(wide[policy].get(vector, float("nan"))))
