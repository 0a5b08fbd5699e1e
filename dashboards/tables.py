"""HTML tables from frames and from pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from iretrace.dashboards.html import Child, Safe, clip, join, tag

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

MAX_ROWS: Final = 3200
"""More rows than any figure has points; bounds the report whatever a trace's footer lists."""

_MAX_LISTED: Final = 100
"""Rows of text shown: they come from a trace's footer."""

_WORDS: Final = 24
"""A longer text gets a column wide enough to read."""


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
    """A table of rows of text; strings are clipped and escaped, and not all of very many rows are shown."""
    listed: list[Safe] = []
    left = 0
    for row in body:
        if len(listed) < _MAX_LISTED:
            listed.append(tag("tr", *(_text_cell(c) for c in row)))
        else:
            left += 1
    if left:
        listed.append(tag("tr", tag("td", f"… and {left} more", colspan=len(headings))))
    head = tag("tr", *(tag("th", heading, scope="col") for heading in headings))
    table = tag("table", tag("caption", caption, class_="unseen"), tag("thead", head), tag("tbody", *listed))
    return scrolling(table, caption)


def _text_cell(value: Child) -> Safe:
    shown = value if isinstance(value, Safe) else clip(value)
    return tag("td", shown, class_="words" if len(shown) > _WORDS else None)


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
