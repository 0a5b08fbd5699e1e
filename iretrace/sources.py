"""Where traces come from: paths, glob patterns and object stores, and a local file to read for each.

A name with ``://`` is fsspec's (``s3://bucket/runs/*.parquet``, ``memory://``, ``file://``); anything else is a path or
a pattern of paths. A remote trace is fetched to a temporary file while it is read, so that memory stays bounded.
"""

from __future__ import annotations

import errno
import glob
import re
import tempfile
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iretrace import objects
from iretrace.errors import InputError, IretraceError, OutputError, UsageError
from iretrace.redaction import redacted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_MAGIC = "*?["
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def expand(names: Sequence[str | Path]) -> tuple[str, ...]:
    """Traces that the names mean: patterns are matched, a directory means its ``*.parquet`` files.

    Returns:
        Names in the order given, each pattern's matches sorted, each name once.

    Raises:
        InputError: a pattern matches nothing, or an object store cannot be listed.
        UsageError: no name is given, or there is no such protocol, or its driver is not installed.
    """
    found: dict[str, None] = {}
    for name in map(str, names):
        for match in _remote(name) if "://" in name else _local(name):
            found.setdefault(match)
    if not found:
        raise UsageError("TRACE", "no trace is named", expected="at least one file, pattern or URL")
    return tuple(found)


def is_many(name: str) -> bool:
    """Whether a name may mean several traces, or one that must be fetched first."""
    return (
        "://" in name or Path(name).is_dir() or (any(letter in name for letter in _MAGIC) and not Path(name).exists())
    )


def is_one(names: Sequence[str], expanded: Sequence[str]) -> bool:
    """Whether the names meant one trace, rather than a directory or pattern in which there happened to be but one."""
    if len(names) != 1 or len(expanded) != 1:
        return False
    return names[0].rpartition("/")[2] == expanded[0].rpartition("/")[2]


def _local(name: str) -> list[str]:
    path = Path(name)
    if path.is_dir():
        matches = sorted(str(child) for child in path.glob("*.parquet"))
        if not matches:
            raise InputError(name, "no trace in this directory", expected="files called *.parquet")
        return matches
    if not any(letter in name for letter in _MAGIC) or path.exists():
        return [name]
    matches = sorted(glob.glob(name, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute patterns
    if not matches:
        raise InputError(name, "no file matches", expected="a pattern that matches traces")
    return matches


def _remote(name: str) -> list[str]:
    system, path = objects.reach(name)
    with objects.errors(name):
        kind = "directory" if name.endswith("/") else _kind(system, path)
        if kind == "directory":
            found = _match(system, path.rstrip("/"), ["*.parquet"])
        elif kind == "" and any(letter in path for letter in _MAGIC):
            parts = path.split("/")
            first = next(i for i, part in enumerate(parts) if any(letter in part for letter in _MAGIC))
            found = _match(system, "/".join(parts[:first]), parts[first:])
        else:
            return [name]  # whether it is there, says who fetches it
        matches = sorted(map(str, found))
    if not matches:
        raise InputError(name, "no object matches", expected="a prefix or pattern that matches traces")
    return [system.unstrip_protocol(match) for match in matches]


def _kind(system: Any, path: str) -> str:  # noqa: ANN401 - fsspec has no types
    """``file``, ``directory``, or empty where that cannot be said; an object may be read by who may not list."""
    try:
        return str(system.info(path)["type"])
    except FileNotFoundError as error:
        if objects.is_no_bucket(error, path):
            raise
    except PermissionError:
        pass
    return ""


def _match(system: Any, base: str, parts: Sequence[str]) -> Iterator[str]:  # noqa: ANN401
    """Objects below ``base`` that a pattern matches; fsspec's ``glob`` would leave away what could not be listed."""
    part, rest = parts[0], parts[1:]
    if part == "**":
        from fsspec.utils import glob_translate  # noqa: PLC0415

        pattern = re.compile(glob_translate("/".join([glob.escape(base), *parts])))
        yield from (found for found in system.find(base) if pattern.match(found))
        return
    for entry in _listed(system, base):
        child = entry["name"].rstrip("/")
        if child == base or not fnmatchcase(child.rpartition("/")[2], part):
            continue
        if not rest and entry["type"] == "file":
            yield child
        elif rest and entry["type"] == "directory":
            yield from _match(system, child, rest)


def _listed(system: Any, path: str) -> list[dict[str, Any]]:  # noqa: ANN401
    try:
        return list(system.ls(path, detail=True))
    except FileNotFoundError as error:
        if objects.is_no_bucket(error, path):
            raise
        return []


@contextmanager
def local(name: str) -> Iterator[Path]:
    """A local file that holds the trace of that name; what was fetched for it is deleted at the end.

    The file is called as the object is, and errors that are raised while it is used name the object.

    Raises:
        Missing: there is no such object.
        Unreachable: it could not be fetched.
        OutputError: there is no room for it here.
    """
    if "://" not in name:
        yield Path(name)
        return
    with tempfile.TemporaryDirectory(prefix="iretrace-", ignore_cleanup_errors=True) as directory:
        path = Path(directory) / objects.name_of(name)
        system, remote = objects.reach(name)
        with objects.errors(name):
            try:
                system.get_file(remote, str(path))
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    raise
                raise OutputError(
                    directory, f"has no room for {name} ({error.strerror})", remedy="set TMPDIR to a larger disk"
                ) from None
        try:
            yield path
        except IretraceError as error:
            shown = redacted(name)
            error.where = error.where.replace(str(path), shown)
            error.args = (str(error).replace(str(path), shown),)
            raise
