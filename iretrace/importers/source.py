"""Opening what is imported: a file or standard input, whose errors name it."""

from __future__ import annotations

import io
import os
import stat
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from iretrace.errors import InputError
from iretrace.importers.registry import HEAD_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import BinaryIO


@dataclass(frozen=True, kw_only=True)
class Source:
    """An opened input.

    Attributes:
        path: its name, ``-`` for standard input.
        file: from its first byte; buffered.
        head: its first bytes.
        size: bytes in all; ``None``: it is a pipe.
    """

    path: Path
    file: BinaryIO
    head: bytes
    size: int | None


class _Checked(io.RawIOBase):
    """Bytes of a file, whose failures are the input's (not the output's, whose block they would surface in)."""

    def __init__(self, fd: int, path: Path) -> None:
        self._fd = fd
        self._path = path

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            return os.lseek(self._fd, offset, whence)
        except (OSError, OverflowError) as error:
            raise InputError(self._path, f"cannot be read at {offset} ({error})", expected="an intact file") from None

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - a buffer of any kind
        try:
            if hasattr(os, "readv"):  # not on Windows; it spares a copy
                return os.readv(self._fd, [buffer])
            data = os.read(self._fd, len(buffer))
        except OSError as error:
            raise InputError(self._path, f"cannot be read ({error.strerror})", expected="a file") from None
        buffer[: len(data)] = data
        return len(data)


@contextmanager
def opened(path: Path) -> Iterator[Source]:
    """Open a file, or standard input where the path is ``-``.

    Raises:
        InputError: it cannot be read.
    """
    piped = str(path) == "-"
    try:
        fd = os.dup(sys.stdin.fileno()) if piped else os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    except OSError as error:
        raise InputError(path, f"cannot be read ({error.strerror})", expected="a file") from None
    try:
        status = os.fstat(fd)
        if stat.S_ISDIR(status.st_mode):
            raise InputError(path, "is a directory", expected="a file (of perf record --threads: its data files)")
        file = io.BufferedReader(_Checked(fd, path), HEAD_BYTES)
        head = b""
        while len(head) < HEAD_BYTES:  # a pipe gives little at a time
            longer = file.peek(HEAD_BYTES)
            if len(longer) <= len(head):
                break
            head = longer
        yield Source(path=path, file=file, head=head, size=status.st_size if stat.S_ISREG(status.st_mode) else None)
    finally:
        os.close(fd)


def read_into(file: BinaryIO, room: memoryview) -> int:
    """Fill ``room`` from a file; bytes read, fewer only at its end."""
    done = 0
    while done < len(room):
        n = file.readinto(room[done:])  # type: ignore[attr-defined]
        if not n:
            break
        done += n
    return done
