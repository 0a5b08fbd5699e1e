"""``iretrace regress``."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from iretrace.commands.store_option import DEFAULT, VARIABLE
from iretrace.errors import EXIT_FOUND, EXIT_OK, UsageError

if TYPE_CHECKING:
    from iretrace.analysis.changepoints import ChangePoint
    from iretrace.store import Store
    from iretrace.store.notes import Note, Notes
    from iretrace.store.series import Series

DEFAULT_POLICY = "rfc2014"


@dataclass(frozen=True, kw_only=True)
class Change:
    """A change of a series, with what is known of it.

    Attributes:
        series: where.
        point: how it changes.
        worse: whether that is for the worse; ``None``: nobody said which way is.
        note: what people said of it.
        recent: whether it is among the runs asked about.
    """

    series: Series
    point: ChangePoint
    worse: bool | None
    note: Note | None
    recent: bool

    @property
    def counts(self) -> bool:
        """Whether the exit status shall say so."""
        return self.worse is not False and self.note is None and self.recent


@click.command(
    epilog="""\b
Examples:
  iretrace regress runs/
  iretrace regress runs/ --only 'all.*' --last 5
  iretrace regress runs/ --ack 20261124T101500Z-5c1f08a2b9 --note 'new compiler, wanted'
  iretrace regress --csv results.csv --worse up --json | jq '.series[] | select(.change_points != [])'

\b
A series is one measure of one vector over runs that may be compared (same workload, host, CPU, clock and filters).
Exit status: 0 nothing got worse, 1 something did that nobody acknowledged, 2 it could not be done.
"""
)
@click.argument("url", metavar="[STORE]", required=False, envvar=VARIABLE)
@click.option(
    "--csv", "table", type=click.Path(path_type=Path), help="Take a table: a row a run; an id, a time, numbers."
)
@click.option("--id", "id_column", metavar="COLUMN", help="What names a run in the table.")
@click.option("--time", "time_column", metavar="COLUMN", help="What orders the runs in the table.")
@click.option(
    "--worse", type=click.Choice(["up", "down", "either"]), default="either", show_default=True, help="In the table."
)
@click.option(
    "-p", "--policy", default=DEFAULT_POLICY, show_default=True, metavar="NAME", help="Whose RETs and savings."
)
@click.option("--only", multiple=True, metavar="PATTERN", help="Only such VECTOR.MEASURE, VECTOR, MEASURE or column.")
@click.option("--min-segment", default=4, show_default=True, type=click.IntRange(2), help="Fewest runs at one level.")
@click.option(
    "--min-effect", default=2.0, show_default=True, type=click.FloatRange(0), metavar="PCT", help="Least change."
)
@click.option(
    "--alpha",
    default=0.03,
    show_default=True,
    type=click.FloatRange(0, 0.5, min_open=True),
    help="Chance of a false alarm.",
)
@click.option("--last", type=click.IntRange(1), metavar="N", help="Only what starts in the last N runs counts.")
@click.option("--ack", metavar="RUN", help="Acknowledge the changes that start at this run; needs --note.")
@click.option("--note", metavar="TEXT", help="What people should know of it.")
@click.option("--unack", metavar="RUN", help="Take an acknowledgement back.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(  # noqa: PLR0913 - one parameter an option
    *,
    url: str | None,
    table: Path | None,
    id_column: str | None,
    time_column: str | None,
    worse: Literal["up", "down", "either"],
    policy: str,
    only: tuple[str, ...],
    min_segment: int,
    min_effect: float,
    alpha: float,
    last: int | None,
    ack: str | None,
    note: str | None,
    unack: str | None,
    as_json: bool,
) -> int:
    """Say where the level of a series of runs changed, by how much, and at which run it began.

    docs/regress.md says how, and how often it is wrong.
    """
    from iretrace.analysis.changepoints import Options, find_changes  # noqa: PLC0415 - heavy imports wait for the verb
    from iretrace.console import progress  # noqa: PLC0415
    from iretrace.store import open_store  # noqa: PLC0415
    from iretrace.store.notes import Notes, read_notes  # noqa: PLC0415
    from iretrace.store.series import of_csv, of_store  # noqa: PLC0415

    if table is not None and (ack or unack):
        raise UsageError("--ack", "keeps its note in a store, and a table is none", expected="STORE")
    notes = Notes(notes=(), unreadable=())
    if table is not None:
        series, remarks = of_csv(table, id_column=id_column, time_column=time_column)
        series = [_turned(one, worse) for one in series if _wanted(one.name, only)]
    else:
        store = open_store(url or DEFAULT)
        if ack or unack:
            _acknowledge(store, ack, unack, note, only)
        series, remarks = of_store(store, policy=policy, only=only)
        notes = read_notes(store)
        remarks += [f"note cannot be read: {text}" for text in notes.unreadable]
    options = Options(min_segment=min_segment, min_effect_pct=min_effect, alpha=alpha)
    with progress("looking for changes", len(series)) as advance:
        points = find_changes([one.values for one in series], options, progress=advance)
    changes = [[_change(one, point, notes, last) for point in found] for one, found in zip(series, points, strict=True)]
    if as_json:
        click.echo(json.dumps(document(series, changes, remarks), indent=2))
    else:
        from iretrace.commands.regress_text import show  # noqa: PLC0415 - rich is for terminals

        show(series, changes, remarks, options)
    return EXIT_FOUND if any(change.counts for found in changes for change in found) else EXIT_OK


def _wanted(name: str, only: tuple[str, ...]) -> bool:
    from fnmatch import fnmatchcase  # noqa: PLC0415

    return not only or any(fnmatchcase(name, pattern) for pattern in only)


def _turned(series: Series, worse: Literal["up", "down", "either"]) -> Series:
    from dataclasses import replace  # noqa: PLC0415

    return replace(series, worse=worse)


def _change(series: Series, point: ChangePoint, notes: Notes, last: int | None) -> Change:
    return Change(
        series=series,
        point=point,
        worse=None if series.worse == "either" else point.direction == series.worse,
        note=notes.of(series.name, series.runs, point.index),
        recent=last is None or point.index >= len(series.values) - last,
    )


def _acknowledge(store: Store, ack: str | None, unack: str | None, note: str | None, only: tuple[str, ...]) -> None:
    from iretrace.store.notes import add_note, remove_note  # noqa: PLC0415

    patterns = [f"*{pattern}*" for pattern in only] or ["*"]
    if ack is not None:
        if not note:
            raise UsageError("--ack", "without a note nobody will know why", remedy="add --note 'what it is'")
        run = store.find(ack)
        for pattern in patterns:
            add_note(store, run=run, series=pattern, text=note)
        click.echo(f"changes that start at {run} are acknowledged: {note}", err=True)
    if unack is not None:
        run = store.find(unack)
        if not sum(remove_note(store, run=run, series=pattern) for pattern in patterns):
            raise UsageError(f"--unack {unack}", "was not acknowledged", expected="as it was, with the same --only")


def document(series: list[Series], changes: list[list[Change]], remarks: list[str]) -> dict[str, Any]:
    """The JSON document: every series, those without changes too."""
    return {
        "schema": 1,
        "notes": remarks,
        "series": [
            {
                "name": one.name,
                "points": len(one.values),
                "worse": one.worse,
                "group": one.group,
                "change_points": [_point(change) for change in found],
            }
            for one, found in zip(series, changes, strict=True)
        ],
    }


def _point(change: Change) -> dict[str, Any]:
    series, point = change.series, change.point
    row = series.rows[point.index] if series.rows else None
    return {
        "index": point.index,
        "run": series.runs[point.index],
        "direction": point.direction,
        "change_pct": None if math.isnan(point.change_pct) else point.change_pct,
        "p": point.p,
        "before": point.before,
        "after": point.after,
        "worse": change.worse,
        "tags": dict(row["tags"]) if row else {},
        "kernel": row["kernel"] if row else None,
        "acknowledged": change.note.text if change.note else None,
        "counts": change.counts,
    }
