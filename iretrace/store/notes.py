"""What people said of changes: kept in the store, so that a known shift is not news every morning."""

from __future__ import annotations

import getpass
import hashlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from iretrace.errors import IretraceError, OutputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from iretrace.store.store import Store

NOTES: Final = "notes"
WITHIN: Final = 2
"""Runs by which a change may be found elsewhere when more runs have come, and still be the one that was meant."""

_SUFFIX: Final = ".json"
_MAX_BYTES: Final = 1 << 16


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """A change that is known.

    Attributes:
        run: the run it starts at.
        series: pattern of the names of series (as in a shell); ``*``: all that change there.
        text: what people should know.
        by: who said it.
        at_ns: when, in ns since 1970.
    """

    schema: int = 1
    run: str
    series: str = "*"
    text: str
    by: str = ""
    at_ns: int = 0


@dataclass(frozen=True, kw_only=True)
class Notes:
    """Notes of a store; those that could not be read, by name with the reason."""

    notes: tuple[Note, ...]
    unreadable: tuple[str, ...]

    def of(self, series: str, runs: Sequence[str], index: int) -> Note | None:
        """The note on a change of a series, if there is one: its run, or one at most :data:`WITHIN` runs away."""
        from fnmatch import fnmatchcase  # noqa: PLC0415

        near = runs[max(0, index - WITHIN) : index + WITHIN + 1]
        return next((note for note in self.notes if note.run in near and fnmatchcase(series, note.series)), None)


def read_notes(store: Store) -> Notes:
    """All notes of a store."""
    notes, bad = [], []
    for entry in store.location.list(NOTES):
        if not entry.name.endswith(_SUFFIX):
            continue
        try:
            if entry.size > _MAX_BYTES:
                bad.append(f"{NOTES}/{entry.name}: has {entry.size:,} bytes")
                continue
            notes.append(msgspec.json.decode(store.location.read(f"{NOTES}/{entry.name}"), type=Note))
        except (msgspec.DecodeError, UnicodeDecodeError, IretraceError) as error:
            bad.append(f"{NOTES}/{entry.name}: {error}")
    return Notes(notes=tuple(notes), unreadable=tuple(bad))


def add_note(store: Store, *, run: str, series: str, text: str) -> str:
    """Keep a note; one on the same run and series is replaced. Gives the file's name.

    Raises:
        OutputError: it cannot be written.
    """
    store.check_writable()
    name = _name(run, series)
    store.location.remove(name)
    note = Note(run=run, series=series, text=text, by=_user(), at_ns=time.time_ns())
    if not store.location.write(name, msgspec.json.encode(note)):
        raise OutputError(f"{store.location}/{name}", "appeared meanwhile", remedy="try again")
    return name


def remove_note(store: Store, *, run: str, series: str) -> bool:
    """Forget a note; False where there was none."""
    store.check_writable()
    return store.location.remove(_name(run, series))


def _name(run: str, series: str) -> str:
    return f"{NOTES}/{run}-{hashlib.blake2b(series.encode(), digest_size=5).hexdigest()}{_SUFFIX}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may not know its user
        return ""
