"""A comparison on a terminal, and as Markdown."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import click

from iretrace.analysis.measures import BY_NAME, name_of
from iretrace.console import print_table, say

if TYPE_CHECKING:
    from iretrace.analysis.compare import Difference
    from iretrace.store.sides import Side

_MARKS: Final = {"worse": "▲ worse", "better": "▼ better", "same": "same", "cannot tell": "cannot tell"}
_HEADINGS: Final = ("vector", "measure", "base", "new", "change", "95 %", "p", "verdict")


def table(  # noqa: PLR0913 - the parts of one page
    sides: list[Side],
    found: list[Difference],
    against: list[str],
    notes: list[str],
    *,
    policy: str,
    min_effect: float,
    everything: bool,
) -> None:
    """Print the verdict first, then what changed, or everything."""
    from rich.table import Table  # noqa: PLC0415 - rich is for terminals

    click.echo(_headline(found, against))
    for label, side in zip(("base", "new "), sides, strict=True):
        click.echo(f"  {label} {_side(side)}")
    for text in against:
        say(f"  not comparable: {text}", "    ")
    for text in notes:
        say(f"  note: {text}", "    ")
    if not found:
        return
    shown = [one for one in found if everything or one.verdict in ("worse", "better")]
    if shown:
        rich = Table(box=None, pad_edge=False)
        for heading in _HEADINGS:
            left = heading in ("vector", "measure", "verdict")
            rich.add_column(heading, justify="left" if left else "right", no_wrap=True)
        colours = {"worse": "red", "better": "green"}
        for one in shown:
            rich.add_row(*_cells(one), style=colours.get(one.verdict))
        click.echo()
        print_table(rich)
    click.echo()
    say(_foot(found, policy, min_effect, everything=everything))


def markdown(  # noqa: PLR0913
    sides: list[Side],
    found: list[Difference],
    against: list[str],
    notes: list[str],
    *,
    policy: str,
    min_effect: float,
    everything: bool,
) -> None:
    """Print a comment for a pull request: what changed, the rest folded away."""
    lines = [f"### iretrace: {_escape(_headline(found, against))}", ""]
    lines += [f"- {label}: {_escape(_side(side))}" for label, side in zip(("base", "new"), sides, strict=True)]
    lines += [f"- **not comparable:** {_escape(text)}" for text in against]
    lines += [f"- note: {_escape(text)}" for text in notes]
    changed = [one for one in found if one.verdict in ("worse", "better")]
    rest = [one for one in found if one not in changed]
    if changed:
        lines += ["", *_rows(changed)]
    if rest and everything:
        lines += ["", *_rows(rest)]
    elif rest:
        lines += ["", f"<details><summary>{len(rest)} others</summary>", "", *_rows(rest), "", "</details>"]
    if found:
        lines += ["", f"<sub>{_escape(_foot(found, policy, min_effect, everything=True))}</sub>"]
    click.echo("\n".join(lines))


def _rows(found: list[Difference]) -> list[str]:
    rows = ["| " + " | ".join(_HEADINGS) + " |", "|---|---|--:|--:|--:|--:|--:|---|"]
    return rows + ["| " + " | ".join(_escape(cell) for cell in _cells(one)) + " |" for one in found]


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def _headline(found: list[Difference], against: list[str]) -> str:
    if against and not found:
        return "not compared"
    counts = {verdict: sum(one.verdict == verdict for one in found) for verdict in _MARKS}
    said = f"{counts['worse']} worse, {counts['better']} better, {counts['same']} the same, "
    return said + f"{counts['cannot tell']} cannot be told"


def _side(side: Side) -> str:
    hosts = sorted({row["host"] or "unknown host" for row in side.rows})
    kernels = sorted({row["kernel"] or "unknown kernel" for row in side.rows})
    runs = "1 run" if len(side.runs) == 1 else f"{len(side.runs)} runs"
    return f"{side.named}: {runs}, {', '.join(hosts)}, Linux {', '.join(kernels)}"


def _cells(one: Difference) -> tuple[str, ...]:
    measure = BY_NAME[one.measure]
    interval = "" if math.isnan(one.low_pct) else f"{_pct(one.low_pct)} to {_pct(one.high_pct)}"
    verdict = _MARKS[one.verdict]
    if one.verdict in ("worse", "better") and one.new < one.base:
        verdict = verdict.replace("▲", "▼")
    elif one.verdict in ("worse", "better"):
        verdict = verdict.replace("▼", "▲")
    p = "" if math.isnan(one.p) else "<0.001" if one.p < 0.001 else f"{one.p:.3f}"
    return (
        name_of(one.vector),
        one.measure,
        _value(one.base, measure.unit),
        _value(one.new, measure.unit),
        "" if math.isnan(one.change_pct) else _pct(one.change_pct),
        interval,
        p,
        verdict + (f": {one.reason}" if one.reason else ""),
    )


def _value(value: float, unit: str) -> str:
    if math.isnan(value):
        return "unknown"
    return f"{value:,.0f} {unit}" if abs(value) >= 100 else f"{value:.3g} {unit}"


def _pct(value: float) -> str:
    return f"{value:+.1f} %" if abs(value) < 1000 else f"{value:+,.0f} %"


def _foot(found: list[Difference], policy: str, min_effect: float, *, everything: bool) -> str:
    tested = sum(not math.isnan(one.p) for one in found)
    hidden = "" if everything else " --all shows the others."
    return (
        f"RETs and savings under {policy}; p corrected for {tested} measures (Holm); changes under {min_effect:g} % do "
        f"not count.{hidden}"
    )
