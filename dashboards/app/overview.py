"""The first page: what is in the store, what changed, what is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from iretrace.dashboards import numbers, tables
from iretrace.dashboards.app.changes import COLUMNS, SLOTS
from iretrace.dashboards.app.page import (
    DEFAULT_POLICY,
    Page,
    chosen_policy,
    empty_store,
    run_link,
    unreadable_notice,
    when,
)
from iretrace.dashboards.app.state import address
from iretrace.dashboards.html import Safe, clip, join, tag

if TYPE_CHECKING:
    import pandas as pd

    from iretrace.dashboards.app.changes import Change, Search
    from iretrace.dashboards.app.source import Snapshot, Source
    from iretrace.dashboards.app.state import State

_ALL: Final = -1
_NEWEST: Final = 25
_LARGEST: Final = 3


def page(source: Source, state: State) -> Page:
    """The store at a glance."""
    snapshot = source.snapshot()
    if snapshot.runs.empty:
        empty = empty_store()
        return Page(title=empty.title, body=join(unreadable_notice(snapshot), empty.body))
    policy = chosen_policy([DEFAULT_POLICY], state)
    runs, search = snapshot.runs, source.changes(policy)
    body = join(
        unreadable_notice(snapshot),
        tag("dl", *_tiles(snapshot), class_="tiles"),
        tag("h2", "What changed"),
        _changes(search, policy),
        tag("h2", "Lost events"),
        _losses(runs),
        tag("h2", "The newest runs"),
        _newest(snapshot, policy),
    )
    return Page(title="Overview", body=body, again=pending(search))


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


def pending(search: Search) -> bool:
    """Whether changes are still being looked for."""
    return search.found is None and not search.failed


def _changes(search: Search, policy: str) -> Safe:
    if search.failed:
        return tag("p", "Changes could not be looked for; iretrace regress says why.", class_="quiet")
    if search.found is None:
        how_far = f" ({numbers.count(search.done)} of {numbers.count(search.of)} series)" if search.of else ""
        return tag("p", f"Being looked for{how_far} …", class_="quiet", role="status")
    news = [change for change in search.found if change.note is None]
    known = [change for change in search.found if change.note is not None]
    parts: list[Safe] = []
    if news:
        parts.append(_by_run(news, policy, "Changes by the run they start at, the newest first"))
    else:
        parts.append(tag("p", f"No series of {search.of} changed its level" + (" unnoticed." if known else ".")))
    if known:
        fold = tag("summary", f"{numbers.plural(len(known), 'change')} that somebody has acknowledged")
        parts.append(tag("details", fold, _by_run(known, policy, "Acknowledged changes")))
    return join(*parts)


def _by_run(changes: list[Change], policy: str, caption: str) -> Safe:
    runs: dict[str, list[Change]] = {}
    for change in reversed(changes):
        runs.setdefault(change.run, []).append(change)
    rows = []
    for run, mine in list(runs.items())[:_NEWEST]:
        row = mine[0].row
        mine.sort(key=lambda change: (not change.worse, -abs(change.point.change_pct)))
        worse = sum(change.worse for change in mine)
        verdicts = [
            tag("span", f"{n} {name}", class_=f"badge {name}")
            for name, n in (("worse", worse), ("better", len(mine) - worse))
            if n
        ]
        notes = dict.fromkeys(clip(change.note.text) for change in mine if change.note)
        rows.append(
            (
                join(run_link(run, when(row["time"]), policy=policy), *_commit(row["tags"])),
                clip(f"{row['host']} · {row['workload']}")[:70],
                join(*(join(verdict, " ") for verdict in verdicts)),
                join(*_largest(mine, policy), *(join(tag("br"), f"Note: {note}") for note in notes)),
            )
        )
    more = len(runs) - _NEWEST
    note = tag("p", f"… and at {numbers.plural(more, 'older run')}.", class_="quiet") if more > 0 else None
    heads = ("Starts at (UTC)", "Host and workload", "Measures", "The largest")
    return join(tables.rows(heads, rows, caption), note)


def _commit(tags: object) -> list[Safe]:
    value = dict(tags).get("commit") if isinstance(tags, dict) else None
    return [join(tag("br"), "commit ", tag("code", clip(value)[:16]))] if value else []


def _largest(changes: list[Change], policy: str) -> list[Safe]:
    made = []
    for change in changes[:_LARGEST]:
        href = trend_address(change, policy)
        text = f"{clip(change.what)} {numbers.change(change.point.change_pct)}"
        made.append(
            join(tag("a", text, href=href), "; " if change is not changes[min(len(changes), _LARGEST) - 1] else "")
        )
    return made


def trend_address(change: Change, policy: str) -> str:
    """The trend that shows a change."""
    column = next(column for column, measure in COLUMNS.items() if measure == change.measure)
    slot = SLOTS.get(change.vector_name, _ALL)
    group = change.series.group
    return address(
        "/trend", measure=column, vector=slot, policy=policy, host=group.get("host"), workload=group.get("workload")
    )


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
