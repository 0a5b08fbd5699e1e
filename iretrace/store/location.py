"""Where a store lies: a directory, or a prefix of an object store through fsspec; only what a store needs of either.

Files are immutable and have names of their own. Locally a file is written beside itself and linked into place, so
that no reader meets half of one; object stores make an object visible when it is whole.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from iretrace.errors import InputError, OutputError

if TYPE_CHECKING:
    from collections.abc import Iterator

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
        InputError: fsspec does not know the protocol, or lacks what it needs.
    """

    def __init__(self, url: str | Path) -> None:
        import fsspec  # noqa: PLC0415 - only for those who use a store
        from fsspec.implementations.local import LocalFileSystem  # noqa: PLC0415

        self.url = str(url)
        try:
            self._fs, self._root = fsspec.url_to_fs(self.url)
        except (ValueError, ImportError, OSError) as error:
            raise InputError(
                self.url, f"cannot be reached ({_short(error)})", expected="a directory, or a URL that fsspec knows"
            ) from None
        self.local = Path(self._root) if isinstance(self._fs, LocalFileSystem) else None

    def __str__(self) -> str:
        return self.url

    def exists(self) -> bool:
        """Whether there is something there; an object store's empty prefix is not."""
        with self._errors(""):
            return bool(self._fs.exists(self._root))

    def list(self, folder: str) -> list[Entry]:
        """Files of a folder, by name; none where there is no such folder.

        Raises:
            InputError: it cannot be read.
        """
        if self.local is not None:
            return _list_local(self.local / folder)
        with self._errors(folder):
            self._fs.invalidate_cache(self._path(folder))
            try:
                found = self._fs.ls(self._path(folder), detail=True)
            except FileNotFoundError:
                return []
        entries = [_entry(one) for one in found if one.get("type") == "file"]
        return sorted((one for one in entries if _is_ours(one.name)), key=lambda one: one.name)

    def read(self, name: str) -> bytes:
        """A file's content.

        Raises:
            InputError: it cannot be read, or is gone.
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
        try:
            if self.local is not None:
                return _write_local(self.local / name, data)
            if self._fs.exists(self._path(name)):
                return False
            self._fs.pipe_file(self._path(name), data)
        except OSError as error:
            raise OutputError(
                f"{self.url}/{name}", f"could not be written ({_short(error)})", remedy="choose another store"
            ) from None
        return True

    def remove(self, name: str) -> bool:
        """Remove a file; False where it was gone already.

        Raises:
            OutputError: it cannot be removed.
        """
        try:
            if self.local is not None:
                (self.local / name).unlink()
            else:
                self._fs.rm_file(self._path(name))
        except FileNotFoundError:
            return False
        except OSError as error:
            raise OutputError(f"{self.url}/{name}", f"could not be removed ({_short(error)})") from None
        return True

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    @contextlib.contextmanager
    def _errors(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            where = f"{self.url}/{name}" if name else self.url
            raise InputError(where, f"cannot be read ({_short(error)})", expected="a store of runs") from None


def _short(error: BaseException) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())[:160] or type(error).__name__


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
