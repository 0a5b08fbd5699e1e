"""Numbers as people read them: ``12 345``, ``1.2 M``, ``3.4 µs``, ``7.9 %``."""

from __future__ import annotations

import math
from typing import Final

from iretrace.dashboards.html import NARROW_SPACE

THIN: Final = NARROW_SPACE
"""Groups digits and holds a number to its unit."""

UNKNOWN: Final = "not known"

_MINUS: Final = "\u2212"
_LARGE: Final = ((1e12, "T"), (1e9, "G"), (1e6, "M"))
_TIMES: Final = ((1e9, "s"), (1e6, "ms"), (1e3, "µs"), (1.0, "ns"))


def count(value: float) -> str:
    """A count, exact, its digits in groups of three."""
    return f"{round(value):,}".replace(",", THIN)


def short(value: float | None) -> str:
    """A count or a rate in three digits: ``845``, ``12 345``, ``1.23 M``."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    for unit, letter in _LARGE:
        if abs(value) >= unit * 0.9995:
            return f"{_three(value / unit)}{THIN}{letter}"
    return _three(value) if abs(value) < 1000 else count(value)


def duration_ns(value: float | None) -> str:
    """A time given in ns, in the unit that suits it."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    for unit, name in _TIMES:
        if abs(value) >= unit * 0.9995:
            return f"{_three(value / unit)}{THIN}{name}"
    return f"{_three(value)}{THIN}ns"


def percent(value: float | None) -> str:
    """A percentage; what rounds to 0 or 100 but is not says so."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    if 0 < value < 0.00001:
        return f"<{THIN}0.00001{THIN}%"
    if 99.95 <= value < 100:
        return f">{THIN}99.9{THIN}%"
    shown = _three(value) if abs(value) < 1 else f"{value:.1f}".removesuffix(".0")
    return f"{shown}{THIN}%"


def size(n_bytes: float) -> str:
    """A size given in bytes."""
    for unit, letter in (*_LARGE, (1e3, "k")):
        if n_bytes >= unit * 0.9995:
            return f"{_three(n_bytes / unit)}{THIN}{letter}B"
    return f"{_three(n_bytes)}{THIN}B"


def change(pct: float | None) -> str:
    """A relative change with its sign: ``-3.1 %``, ``+0.2 %``."""
    if pct is None or not math.isfinite(pct):
        return UNKNOWN
    if abs(pct) >= 1000:
        shown = f"{pct:+,.0f}".replace(",", THIN)
    else:
        shown = f"{pct:+.1f}" if abs(pct) >= 0.1 else f"{pct:+.2f}" if abs(pct) >= 0.005 else f"{pct:+.0f}"
    return f"{shown.replace('-', _MINUS)}{THIN}%"


def share(part: float, whole: float) -> str:
    """A part of a whole as a percentage."""
    return percent(100 * part / whole if whole else None)


def cycles(value: float | None) -> str:
    """TSC cycles."""
    return UNKNOWN if value is None or not math.isfinite(value) else f"{short(value)}{THIN}cycles"


def plural(n: int, one: str, many: str = "") -> str:
    """``1 hazard``, ``12 345 hazards``."""
    return f"{count(n)}{THIN}{one if n == 1 else many or one + 's'}"


def _three(value: float) -> str:
    """Three significant digits, without an exponent or trailing zeros after a point."""
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value)) + 1e-9))
    rounded = f"{value:.{min(digits, 6)}f}"
    return rounded.rstrip("0").rstrip(".") if "." in rounded else rounded
