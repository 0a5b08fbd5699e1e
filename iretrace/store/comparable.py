"""What must be alike for two runs to be compared, and what a reader must be told where it is not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One thing that must be alike.

    Attributes:
        column: of the table of runs.
        name: for people.
        doc: why.
    """

    column: str
    name: str
    doc: str


CONDITIONS: Final = (
    Condition(column="cpu_id", name="CPU", doc="cycles of another CPU or hypervisor are other cycles"),
    Condition(column="clock", name="clock", doc="another clock has other errors"),
    Condition(column="filters", name="filters", doc="other traps were recorded"),
    Condition(column="workload", name="workload", doc="another workload takes other traps"),
)
"""Runs that differ in one of these are not compared unless somebody says so."""

FEW_LOST_PCT: Final = 0.5
"""Runs that lost at most so many of their events are compared, with a remark."""


def obstacles(base: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]]) -> list[str]:
    """Why runs should not be compared, one sentence each; empty: they can be.

    Args:
        base: rows of the table of runs.
        new: likewise.
    """
    found = []
    for condition in CONDITIONS:
        sides = [sorted({str(row[condition.column]) for row in side}) for side in (base, new)]
        if sides[0] != sides[1] or len(sides[0]) > 1:
            before, after = (" and ".join(spoken(value) for value in side) for side in sides)
            what = f"{before} against {after}" if before != after else f"{before} on each side"
            found.append(f"{condition.name} differs: {what} ({condition.doc})")
    return found + _once(_lost(row) for row in [*base, *new] if row["lossy"] and not _few(row))


def remarks(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What does not stand in the way of a comparison and must be told all the same, one sentence each."""
    return _once(_lost(row) for row in rows if row["lossy"] and _few(row))


def spoken(value: str) -> str:
    """A value of one of the conditions, for people."""
    known = value.removesuffix(" on unnamed")
    return (known + " on an unnamed hypervisor" if known != value else value) or "nothing"


def _once(sentences: Iterable[str]) -> list[str]:
    """A run may be on both sides."""
    return list(dict.fromkeys(sentences))


def _few(row: Mapping[str, Any]) -> bool:
    """Whether the number of events lost is known, and small."""
    return bool(0 < row["lost_events"] <= FEW_LOST_PCT / 100 * row["events"])


def _lost(row: Mapping[str, Any]) -> str:
    if not row["lost_events"]:
        return f"{row['run']} lost an unknown number of events (what is missing may be what changed)"
    share = 100 * row["lost_events"] / max(row["events"] + row["lost_events"], 1)
    return f"{row['run']} lost {row['lost_events']:,} events, {share:.2g} % (what is missing may be what changed)"
