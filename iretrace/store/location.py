"""Where a store lies: a directory, or a prefix of an object store through fsspec; only what a store needs of either.

Files are immutable and have names of their own. Locally a file is written beside itself and linked into place, so
that no reader meets half of one; object stores make an object visible when it is whole, and most can refuse to replace
one that is there.
"""

from __future__ import annotations

import contextlib
import errno
import inspect
import os
import secrets
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar

from iretrace import objects
from iretrace.errors import InputError, Missing, OutputError
from iretrace.redaction import redacted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")

_TEMPORARY = ".tmp"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A file: its name, and a text that changes when its content does (size, and time or ETag)."""

    name: str
    size: int
    stamp: str


class Location:
    """A directory or prefix.

    Args:
        url: path, or URL that fsspec knows.

    Raises:
        UsageError: fsspec does not know the protocol, or lacks what it needs.
    """

    def __init__(self, url: str | Path) -> None:
        from fsspec.implementations.local import LocalFileSystem  # noqa: PLC0415 - only for those who use a store

        self.url = str(url)
        if "://" in self.url:
            self._fs, self._root = objects.reach(self.url)
        else:
            self._fs = LocalFileSystem()
            self._root = str(self._fs._strip_protocol(self.url))  # noqa: SLF001 - a leading ~
        self.local = Path(self._root) if isinstance(self._fs, LocalFileSystem) else None

    def __str__(self) -> str:
        return redacted(self.url)

    def exists(self) -> bool:
        """Whether there is something there; an object store's empty prefix is not."""
        with self._errors(""):
            return bool(self._fs.exists(self._root))

    def check(self) -> None:
        """Ask an object store whether it answers, and has the bucket; an empty prefix is as good as a full one.

        Raises:
            InputError: it does not answer, refuses access, or has no such bucket.
        """
        if self.local is not None:
            return
        with self._errors(""):
            self._if_there(self._root, lambda: self._fs.info(self._root))

    def list(self, folder: str) -> list[Entry]:
        """Files of a folder, by name; none where there is no such folder.

        Raises:
            InputError: it cannot be read.
        """
        if self.local is not None:
            return _list_local(self.local / folder)
        path = self._path(folder)
        with self._errors(folder):
            self._fs.invalidate_cache(path)
            found = self._if_there(path, lambda: self._fs.ls(path, detail=True)) or []
        entries = [_entry(one) for one in found if one.get("type") == "file"]
        return sorted((one for one in entries if _is_ours(one.name)), key=lambda one: one.name)

    def read(self, name: str) -> bytes:
        """A file's content.

        Raises:
            Missing: it is gone.
            InputError: it cannot be read.
        """
        with self._errors(name):
            if self.local is not None:
                return (self.local / name).read_bytes()
            return bytes(self._fs.cat_file(self._path(name)))

    def write(self, name: str, data: bytes) -> bool:
        """Write a new file, whole or not at all.

        Returns:
            False where a file of this name is there already; it is left as it is.

        Raises:
            OutputError: it cannot be written.
        """
        with self._errors(name, "written"):
            if self.local is not None:
                return _write_local(self.local / name, data)
            return not self._fs.exists(self._path(name)) and self._create(name, data)

    def _create(self, name: str, data: bytes) -> bool:
        """Write an object that was not there a moment ago; the store says whether another writer was faster."""
        path = self._path(name)
        if "mode" in inspect.signature(self._fs.pipe_file).parameters:
            try:
                self._fs.pipe_file(path, data, mode="create")
            except FileExistsError:
                # It may be ours: when the answer was lost, the driver asked again.
                return bytes(self._fs.cat_file(path)) == data
            except OSError as error:
                if error.errno != errno.ENOSYS:  # NotImplemented: an S3 without conditions
                    raise
            else:
                return True
        self._fs.pipe_file(path, data)
        return True

    def remove(self, name: str) -> bool:
        """Remove a file; False where it was gone already.

        Raises:
            OutputError: it cannot be removed.
        """
        with self._errors(name, "removed"):
            if self.local is not None:
                try:
                    (self.local / name).unlink()
                except FileNotFoundError:
                    return False
            elif not self._fs.exists(self._path(name)):  # S3 removes what is not there, too
                return False
            else:
                self._fs.rm_file(self._path(name))
        return True

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def _if_there(self, path: str, ask: Callable[[], T]) -> T | None:
        """What the store says; ``None`` where there is nothing of that name in the bucket."""
        try:
            return ask()
        except FileNotFoundError as error:
            if objects.is_no_bucket(error, path):
                raise
            return None

    @contextlib.contextmanager
    def _errors(self, name: str, done: str = "") -> Iterator[None]:
        """Errors of reading, or of what else is ``done``, as iretrace's."""
        where = f"{self.url}/{name}" if name else self.url
        if self.local is None:
            with objects.errors_of_writing(where, done) if done else objects.errors(where):
                yield
            return
        try:
            yield
        except FileNotFoundError as error:
            if done:
                raise OutputError(where, f"could not be {done} ({_short(error)})") from None
            raise Missing(where, f"cannot be read ({_short(error)})", expected="a store of runs") from None
        except OSError as error:
            if done:
                raise OutputError(
                    where, f"could not be {done} ({_short(error)})", remedy="choose another store"
                ) from None
            raise InputError(where, f"cannot be read ({_short(error)})", expected="a store of runs") from None


def _short(error: OSError) -> str:
    return " ".join((error.strerror or str(error)).split())[:160] or type(error).__name__


def _is_ours(name: str) -> bool:
    return not name.startswith(".")


def _entry(found: dict[str, Any]) -> Entry:
    stamp = found.get("ETag") or found.get("etag") or found.get("LastModified") or found.get("updated") or ""
    size = int(found.get("size") or 0)
    return Entry(name=PurePosixPath(found["name"]).name, size=size, stamp=f"{size} {stamp}".strip())


def _list_local(folder: Path) -> list[Entry]:
    entries = []
    try:
        with os.scandir(folder) as found:
            for one in found:
                # A link could lead out of the store.
                if _is_ours(one.name) and one.is_file(follow_symlinks=False):
                    status = one.stat(follow_symlinks=False)
                    stamp = f"{status.st_size} {status.st_mtime_ns}"
                    entries.append(Entry(name=one.name, size=status.st_size, stamp=stamp))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(folder, f"cannot be read ({_short(error)})", expected="a store of runs") from None
    return sorted(entries, key=lambda one: one.name)


def _write_local(target: Path, data: bytes) -> bool:
    from iretrace.output import give_to_invoking_user  # noqa: PLC0415

    made = [folder for folder in (target.parent, target.parent.parent) if not folder.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    for folder in made:
        give_to_invoking_user(folder)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}{_TEMPORARY}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        give_to_invoking_user(temporary)
        try:
            os.link(temporary, target)
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links
            if target.exists():
                return False
            temporary.rename(target)
    finally:
        temporary.unlink(missing_ok=True)
    return True
