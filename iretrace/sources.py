"""Where traces come from: paths, glob patterns and object stores, and a local file to read for each.

A name with ``://`` is fsspec's (``s3://bucket/runs/*.parquet``, ``memory://``, ``file://``); anything else is a path or
a pattern of paths. A remote trace is fetched to a temporary file while it is read, so that memory stays bounded.
"""

from __future__ import annotations

import glob
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from iretrace.errors import InputError, Unreachable, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_MAGIC = "*?["


def expand(names: Sequence[str | Path]) -> tuple[str, ...]:
    """Traces that the names mean: patterns are matched, a directory means its ``*.parquet`` files.

    Returns:
        Names in the order given, each pattern's matches sorted, each name once.

    Raises:
        InputError: a pattern matches nothing, or an object store cannot be listed.
        UsageError: no name is given, or there is no such protocol.
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
    import fsspec  # noqa: PLC0415 - most traces are local

    protocol = name.partition("://")[0]
    try:
        system, path = fsspec.url_to_fs(name)
        if any(letter in path for letter in _MAGIC):
            matches = sorted(map(str, system.glob(path)))
        elif system.isdir(path):
            matches = sorted(map(str, system.glob(path.rstrip("/") + "/*.parquet")))
        else:
            return [name]
        return [system.unstrip_protocol(match) for match in matches] or _nothing(name)
    except (ValueError, ImportError) as error:
        raise UsageError(
            name, f"protocol {protocol!r} cannot be used ({error})", remedy="pip install the fsspec driver it needs"
        ) from None
    except InputError:
        raise
    except Exception as error:  # noqa: BLE001 - each store has exceptions of its own
        raise InputError(name, f"could not be listed ({_short(error)})", expected="a store within reach") from None


def _nothing(name: str) -> list[str]:
    raise InputError(name, "no object matches", expected="a prefix or pattern that matches traces")


@contextmanager
def local(name: str) -> Iterator[Path]:
    """A local file that holds the trace of that name; what was fetched for it is deleted at the end.

    Raises:
        InputError: there is no such object.
        Unreachable: it could not be fetched.
    """
    if "://" not in name:
        yield Path(name)
        return
    import fsspec  # noqa: PLC0415

    handle, temporary = tempfile.mkstemp(prefix="iretrace-", suffix=".parquet")
    os.close(handle)
    try:
        try:
            system, path = fsspec.url_to_fs(name)
            system.get_file(path, temporary)
        except FileNotFoundError:
            raise InputError(name, "there is no such object") from None
        except Exception as error:  # noqa: BLE001 - each store has exceptions of its own
            raise Unreachable(name, f"could not be fetched ({_short(error)})") from None
        yield Path(temporary)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
