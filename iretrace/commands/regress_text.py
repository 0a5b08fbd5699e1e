"""Changes of series on a terminal."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import click
from rich.markup import escape
from rich.table import Table

from iretrace.console import print_table, say

if TYPE_CHECKING:
    from iretrace.analysis.changepoints import Options
    from iretrace.commands.regress_ import Change
    from iretrace.store.series import Series


def show(series: list[Series], changes: list[list[Change]], remarks: list[str], options: Options) -> None:
    """The verdict first, then every change: what counts, then the others."""
    flat = sorted((one for found in changes for one in found), key=lambda one: (not one.counts, one.series.name))
    counted = sum(one.counts for one in flat)
    short = sum(len(one.values) < 2 * options.min_segment for one in series)
    longest = max((len(one.values) for one in series), default=0)
    verdict = "nothing can be told" if series and short == len(series) else "nothing got worse"
    if counted:
        verdict = f"{counted} {'change counts' if counted == 1 else 'changes count'}"
    click.echo(f"{verdict}: {len(series)} series of up to {longest} runs, {len(flat)} changes in all")
    for text in remarks:
        say(f"  note: {text}", "    ")
    if short:
        say(
            f"  note: {short} series are shorter than {2 * options.min_segment} runs: nothing can be told of them",
            "    ",
        )
    if not flat:
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("", "series"):
        table.add_column(heading)
    for heading in ("before", "after", "change", "p"):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("starts at", "tags", "note"):
        table.add_column(heading)
    for one in flat:
        table.add_row(*(escape(cell) for cell in _cells(one)), style="red" if one.counts else None)
    click.echo()
    print_table(table)


def _cells(change: Change) -> tuple[str, ...]:
    point, series = change.point, change.series
    arrow = "▲" if point.direction == "up" else "▼"
    row = series.rows[point.index] if series.rows else None
    tags = " ".join(f"{key}={value}" for key, value in row["tags"].items() if key != "workload") if row else ""
    verdict = {True: "worse", False: "better", None: ""}[change.worse]
    said = f"known: {change.note.text}" if change.note else "" if change.recent else "before the last runs"
    return (
        f"{arrow} {verdict}".strip(),
        series.name,
        _value(point.before, series.unit),
        _value(point.after, series.unit),
        "from 0" if math.isnan(point.change_pct) else f"{point.change_pct:+.1f} %",
        f"{point.p:.2g}",
        series.runs[point.index],
        tags,
        said,
    )


def _value(value: float, unit: str) -> str:
    shown = f"{value:,.0f}" if abs(value) >= 1e5 else f"{value:,.6g}"
    return f"{shown} {unit}".rstrip()
