"""Writing files: never over an existing one without leave, never half, and owned by the person who asked.

A target is written beside itself under a temporary name and renamed when whole. Under sudo the file is given
to the invoking user (``SUDO_UID``/``SUDO_GID``).
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from iretrace.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def check_target(target: Path, *, force: bool) -> None:
    """Refuse a target that exists (without ``force``), is no ordinary file, or whose directory cannot be written.

    Raises:
        OutputError: with the remedy.
    """
    if str(target) == "-":
        raise OutputError(target, "would be standard output", expected="a file name")
    try:
        target.stat()
    except PermissionError:
        raise OutputError(target, "its directory is not open to you", remedy="choose another -o") from None
    except OSError:
        pass  # it is not there, or what follows says why
    if target.is_dir():
        raise OutputError(target, "is a directory", expected="a file name")
    if target.exists() and not target.is_file():  # a rename would put a file in the place of /dev/null
        raise OutputError(target, "is a device, a pipe or a socket", expected="the name of an ordinary file")
    if target.exists() and not force:
        raise OutputError(target, "exists already", remedy="add --force to replace it, or choose another -o")
    parent = target.parent
    if not parent.is_dir():
        raise OutputError(target, f"there is no directory {parent}", remedy=f"mkdir -p {parent}")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(target, f"the directory {parent} is not writable by you", remedy="choose another -o")


def give_to_invoking_user(path: Path) -> None:
    """Under sudo, hand the file to the user who ran sudo; elsewhere do nothing."""
    uid, gid = os.environ.get("SUDO_UID"), os.environ.get("SUDO_GID")
    if uid is None or gid is None or sys.platform == "win32" or os.geteuid() != 0:
        return
    try:
        os.chown(path, int(uid), int(gid), follow_symlinks=False)
    except (OSError, ValueError) as error:
        raise OutputError(path, f"could not be given to user {uid} ({error})") from None


@contextmanager
def replacing(target: Path, *, force: bool) -> Iterator[Path]:
    """Give a temporary path beside ``target``; on success it becomes ``target``, on failure it vanishes.

    Raises:
        OutputError: the target exists, or the file system refused (full, read-only).
    """
    check_target(target, force=force)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        give_to_invoking_user(temporary)
        _publish(temporary, target, force=force)
    except OSError as error:
        raise OutputError(
            target, f"could not be written ({error.strerror or error})", remedy="free space or choose another -o"
        ) from None
    finally:
        temporary.unlink(missing_ok=True)


def _publish(temporary: Path, target: Path, *, force: bool) -> None:
    """Rename into place; without ``force`` a target that appeared meanwhile is not replaced."""
    if force:
        temporary.replace(target)
        return
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise OutputError(target, "appeared meanwhile", remedy="add --force to replace it") from None
    except OSError:  # a file system without hard links
        temporary.rename(target)
