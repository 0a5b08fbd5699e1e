"""The first page: what is in the store, what changed, what is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from iretrace.dashboards import numbers, tables
from iretrace.dashboards.app.page import (
    DEFAULT_POLICY,
    Page,
    chosen_policy,
    empty_store,
    run_link,
    unreadable_notice,
    when,
)
from iretrace.dashboards.html import Safe, clip, join, tag

if TYPE_CHECKING:
    import pandas as pd

    from iretrace.dashboards.app.source import Snapshot, Source
    from iretrace.dashboards.app.state import State

_ALL: Final = -1
_NEWEST: Final = 25


def page(source: Source, state: State) -> Page:
    """The store at a glance."""
    snapshot = source.snapshot()
    if snapshot.runs.empty:
        empty = empty_store()
        return Page(title=empty.title, body=join(unreadable_notice(snapshot), empty.body))
    policy = chosen_policy([DEFAULT_POLICY], state)
    runs = snapshot.runs
    body = join(
        unreadable_notice(snapshot),
        tag("dl", *_tiles(snapshot), class_="tiles"),
        tag("h2", "Lost events"),
        _losses(runs),
        tag("h2", "The newest runs"),
        _newest(snapshot, policy),
    )
    return Page(title="Overview", body=body)


def _tiles(snapshot: Snapshot) -> list[Safe]:
    runs = snapshot.runs
    lossy = int(runs["lossy"].sum())
    return [
        _tile("Runs", numbers.count(len(runs)), f"the newest of {when(runs['time'].iloc[-1])} UTC"),
        _tile("Hosts", numbers.count(runs["host"].nunique()), numbers.plural(runs["kernel"].nunique(), "kernel")),
        _tile("Returns judged", numbers.short(float(runs["returns"].sum())), ""),
        _tile("Runs with losses", numbers.count(lossy), numbers.share(lossy, len(runs)), warn=lossy > 0),
        _tile("Cannot be read", numbers.count(len(snapshot.unreadable)), "", warn=bool(snapshot.unreadable)),
    ]


def _tile(name: str, value: str, more: str, *, warn: bool = False) -> Safe:
    small = tag("small", more) if more else None
    return tag("div", tag("dt", name), tag("dd", value, small), class_="warn" if warn else None)


def _losses(runs: pd.DataFrame) -> Safe:
    lossy = runs[runs["lossy"]].iloc[::-1]
    if lossy.empty:
        return tag("p", "No run is known to have lost any.")
    rows = []
    for record in lossy.head(_NEWEST).to_dict("records"):
        causes = ", ".join(f"{clip(cause)} {numbers.count(n)}" for cause, n in dict(record["losses"]).items() if n)
        lost = int(record["lost_events"])
        share = numbers.share(lost, lost + int(record["events"])) if lost else "an unknown number"
        rows.append((run_link(str(record["run"])), str(record["host"]), numbers.count(lost), share, causes))
    head = ("Run", "Host", "Lost events", "Of all", "Causes")
    more = len(lossy) - _NEWEST
    note = tag("p", f"… and {numbers.plural(more, 'older run')} with losses.", class_="quiet") if more > 0 else None
    return join(tables.rows(head, rows, "Runs that lost events, the newest first"), note)


def _newest(snapshot: Snapshot, policy: str) -> Safe:
    metrics = snapshot.metrics[snapshot.metrics["vector"] == _ALL]
    newest = snapshot.runs.iloc[::-1].head(_NEWEST)
    metrics = metrics[metrics["run"].isin(newest["run"])]
    shared = metrics[metrics["policy"] == ""].set_index("run")
    decided = metrics[metrics["policy"] == policy].set_index("run")
    rows = []
    for record in newest.to_dict("records"):
        run = str(record["run"])
        rows.append(
            (
                run_link(run, when(record["time"]), policy=policy),
                clip(record["host"]),
                clip(record["workload"])[:60],
                _value(shared, run, "per_s", numbers.short),
                _value(shared, run, "to_kernel_pct", numbers.percent),
                _value(decided, run, "ret_pct", numbers.percent),
                _value(decided, run, "saved_per_s_cycles", numbers.cycles),
                numbers.count(dict(record["hazards"]).get(policy) or 0),
                numbers.count(int(record["lost_events"])),
            )
        )
    head = (
        "Recorded (UTC)",
        "Host",
        "Workload",
        "Returns a second",
        "To the kernel",
        "By RET",
        "Saving a second",
        "Hazards",
        "Lost",
    )
    return join(
        tag("p", f"RET share, saving and hazards are those of the policy {clip(policy)}."),
        tables.rows(head, rows, "The newest runs"),
    )


def _value(frame: pd.DataFrame, run: str, column: str, show: object) -> str:
    if run not in frame.index or not callable(show):
        return numbers.UNKNOWN
    return str(show(float(frame[column].loc[run])))
