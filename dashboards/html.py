"""Building HTML so that nothing gets in unescaped.

Only :func:`tag` and :func:`join` make :class:`Safe` text; any other string that is put into an element is escaped.
Host names, tags, hooks and symbols of a trace are untrusted, and so is the name of a policy.
"""

from __future__ import annotations

import html
from typing import Final

NARROW_SPACE: Final = "\u202f"
"""Holds a number to its unit (:mod:`iretrace.dashboards.numbers`)."""

MAX_TEXT: Final = 400
"""Longer strings of a trace are cut: the report's size must not depend on what a file says."""

_VOID: Final = frozenset({"meta", "br", "hr", "input", "col"})


class Safe(str):
    """Text that is HTML already."""

    __slots__ = ()


Child = str | int | None


def tag(name: str, *children: Child, **attributes: str | int | bool | None) -> Safe:
    """An element; ``None`` children are skipped.

    Attributes: ``class_`` becomes ``class``, ``aria_label`` becomes ``aria-label``; ``True`` stands alone, ``False``
    and ``None`` are left out.
    """
    parts = [f"<{name}"]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key_html = key.rstrip("_").replace("_", "-")
        parts.append(f" {key_html}" if value is True else f' {key_html}="{html.escape(str(value))}"')
    parts.append(">")
    if name in _VOID:
        return Safe("".join(parts))
    parts.append(join(*children))
    parts.append(f"</{name}>")
    return Safe("".join(parts))


def join(*children: Child) -> Safe:
    """Children one after the other, each escaped unless it is :class:`Safe`."""
    return Safe("".join(text(child) for child in children if child is not None))


def text(value: str | int) -> Safe:
    """A value as HTML text."""
    return value if isinstance(value, Safe) else Safe(html.escape(str(value)))


def clip(value: object) -> str:
    """A string of a trace in readable length, without control characters."""
    clean = "".join(c if c.isprintable() or c == NARROW_SPACE else " " for c in str(value)[: MAX_TEXT + 1])
    return clean if len(clean) <= MAX_TEXT else clean[: MAX_TEXT - 1] + "…"


def for_plotly(value: object) -> str:
    """A string of a trace as a label: plotly reads ``<b>``, ``<a>`` and entities in labels."""
    return html.escape(clip(value), quote=False)


def script_json(document: str) -> Safe:
    """A JSON document that can stand inside ``<script>``: no ``</script>``, no ``<!--``, no line separators."""
    for character in "<>&\u2028\u2029":
        document = document.replace(character, f"\\u{ord(character):04x}")
    return Safe(document)
