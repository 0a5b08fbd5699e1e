"""A page's address: its state, read with care and written back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, urlencode

_MAX_LENGTH: Final = 4096
_MAX_INT_DIGITS: Final = 20


@dataclass(frozen=True, kw_only=True)
class State:
    """An address.

    Attributes:
        path: the page, ``/timeline``.
        values: its parameters; of repeated ones the last.
    """

    path: str
    values: dict[str, str]

    @classmethod
    def parse(cls, path: str, search: str) -> State:
        """Read an address; what is too long or malformed is as good as not there."""
        text = search.removeprefix("?")
        pairs = parse_qsl(text, max_num_fields=32) if len(text) <= _MAX_LENGTH and text.count("&") < 32 else []
        return cls(path=path, values=dict(pairs))

    def text(self, name: str, default: str = "") -> str:
        """A parameter."""
        return self.values.get(name, default)

    def number(self, name: str) -> int | None:
        """A parameter that is a whole number, which may be negative."""
        value = self.values.get(name, "")
        digits = value.removeprefix("-")
        return int(value) if digits.isascii() and digits.isdigit() and len(digits) <= _MAX_INT_DIGITS else None

    def numbers(self, name: str) -> tuple[int, ...]:
        """A parameter that lists whole numbers and ranges: ``0-3,8``; what is not understood is left out."""
        found: list[int] = []
        for part in self.values.get(name, "").split(",")[:64]:
            first, dash, last = part.strip().partition("-")
            if first.isascii() and first.isdigit() and len(first) <= 5:
                end = last if dash else first
                if end.isascii() and end.isdigit() and len(end) <= 5:
                    found += range(int(first), min(int(end), int(first) + 4095) + 1)
        return tuple(found)

    def link(self, path: str | None = None, **changes: str | int | None) -> str:
        """The address with some parameters changed (``None``: left out)."""
        values = {**self.values, **{name: None if value is None else str(value) for name, value in changes.items()}}
        return address(self.path if path is None else path, **values)


def address(path: str, **values: str | int | None) -> str:
    """An address."""
    query = urlencode({name: str(value) for name, value in values.items() if value is not None and value != ""})
    return f"{path}?{query}" if query else path
