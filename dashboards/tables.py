"""HTML tables from frames and from pairs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from iretrace.dashboards.html import Child, Safe, clip, join, tag
from iretrace.dashboards.numbers import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

MAX_ROWS: Final = 3200
"""More rows than any figure has points; bounds the report whatever a trace's footer lists."""

_MAX_LISTED: Final = 100
"""Rows of text shown: they come from a trace's footer."""

_WORDS: Final = 24
"""A longer text gets a column wide enough to read."""


_NUMBER: Final = re.compile(r"[<>]?\s?[-+\u2212]?\d[\d.,\s]*([a-zA-Zµ%][a-zA-Z/]*|1/s)?")
"""What :mod:`iretrace.dashboards.numbers` writes."""

_TAG: Final = re.compile("<[^>]*>")

_NOT_NUMBERS: Final = frozenset({"", UNKNOWN, "unknown", "none found"})


@dataclass(frozen=True)
class Column:
    """A column of an HTML table.

    Attributes:
        key: column of the frame.
        heading: its heading, with the unit.
        show: from a value to text; ``None``: the value is text.
    """

    key: str
    heading: str
    show: Callable[[Any], Child] | None = None


def of_frame(frame: pd.DataFrame, columns: Sequence[Column], caption: str) -> Safe:
    """A table of a frame's rows; columns with ``show`` are numbers and set flush right."""
    head = [tag("th", c.heading, scope="col", class_="n" if c.show else None) for c in columns]
    shown = frame.head(MAX_ROWS)
    cells = [[_cell(c, value) for value in shown[c.key]] for c in columns]
    rows = [tag("tr", *row) for row in zip(*cells, strict=True)]
    if len(frame) > MAX_ROWS:
        rows.append(tag("tr", tag("td", f"… and {len(frame) - MAX_ROWS} rows more", colspan=len(columns))))
    return tag("table", tag("caption", caption, class_="unseen"), tag("thead", tag("tr", *head)), tag("tbody", *rows))


def _cell(column: Column, value: Any) -> Safe:  # noqa: ANN401 - a frame's value
    if column.show is None:
        return tag("td", value if isinstance(value, Safe) else clip(value))
    return tag("td", "" if pd.isna(value) else column.show(value), class_="n")


def rows(headings: Sequence[str], body: Iterable[Sequence[Child]], caption: str) -> Safe:
    """A table of rows of text; strings are clipped and escaped, and not all of very many rows are shown.

    Columns of nothing but numbers, with or without a unit, are set flush right.
    """
    kept: list[list[str]] = []
    left = 0
    for row in body:
        if len(kept) < _MAX_LISTED:
            kept.append([cell if isinstance(cell, Safe) else clip(cell) for cell in row])
        else:
            left += 1
    number = [_is_numeric([row[index] for row in kept]) for index in range(len(headings))]
    listed = [tag("tr", *map(_text_cell, row, number)) for row in kept]
    if left:
        listed.append(tag("tr", tag("td", f"… and {left} more", colspan=len(headings))))
    head = tag(
        "tr", *(tag("th", h, scope="col", class_="n" if n else None) for h, n in zip(headings, number, strict=True))
    )
    table = tag("table", tag("caption", caption, class_="unseen"), tag("thead", head), tag("tbody", *listed))
    return scrolling(table, caption)


def _is_numeric(cells: Sequence[str]) -> bool:
    numbers = [cell for cell in cells if cell not in _NOT_NUMBERS]
    return bool(numbers) and all(_NUMBER.fullmatch(cell) and not isinstance(cell, Safe) for cell in numbers)


def _text_cell(shown: str, number: bool) -> Safe:  # noqa: FBT001 - of two parallel lists
    length = len(_TAG.sub("", shown))
    return tag("td", shown, class_="n" if number else "words" if length > _WORDS else None)


def scrolling(table: Safe, label: str) -> Safe:
    """A table in a region of its own that scrolls sideways (and where it is long, up and down), by keyboard too."""
    return tag("div", table, class_="scroll", tabindex="0", role="region", aria_label=label)


def facts(pairs: Iterable[tuple[str, Child]]) -> Safe:
    """A list of names and values."""
    return tag(
        "dl",
        *(
            join(tag("dt", name), tag("dd", value if isinstance(value, Safe) else clip(value)))
            for name, value in pairs
            if value not in (None, "")
        ),
        class_="facts",
    )
