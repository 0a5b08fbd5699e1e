"""Giving up what a run no longer needs, once all is attached and the command is started.

Attached probes, mapped rings, counters and the statistics are held by file descriptors, and reading them asks for
nothing. Under sudo the collector becomes the invoking user, where that user can read iretrace itself and write the
target's directory; else it stays who it is. In both cases every capability goes that is not found, by trial, to be
needed for the rest, in every thread, and nothing executed later can gain one (PR_SET_NO_NEW_PRIVS).

What may be kept:

- CAP_BPF (before v5.8 CAP_SYS_ADMIN), where the kernel refuses to read the probes' counts without it: before Linux
  commit c8644cd0efe7 ("bpf: refine kernel.unprivileged_bpf_disabled behaviour", v5.19) a map could not even be read.
- CAP_KILL, to end a traced command that runs as somebody else.
- CAP_DAC_OVERRIDE, CAP_CHOWN and CAP_FOWNER, where the target's directory is not the own user's, or the trace must be
  handed to the user who ran sudo.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import stat
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import iretrace
from iretrace import _native
from iretrace.errors import MachineError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CAPABILITIES: Final = {
    "CAP_CHOWN": 0,
    "CAP_DAC_OVERRIDE": 1,
    "CAP_FOWNER": 3,
    "CAP_KILL": 5,
    "CAP_SYS_ADMIN": 21,
    "CAP_BPF": 39,
}
"""Those that may be kept, by their number (include/uapi/linux/capability.h)."""

_PR_SET_KEEPCAPS: Final = 8


@dataclass(frozen=True, kw_only=True)
class Left:
    """Who the collector is now.

    Attributes:
        uid: user id.
        capabilities: names of the capabilities it still has.
        privileged_threads: threads that kept theirs: a library's own that takes no signals.
    """

    uid: int
    capabilities: tuple[str, ...]
    privileged_threads: int


def give_up(*, target: Path, has_command: bool, can_read_counts: Callable[[], bool]) -> Left:
    """Become the invoking user if possible, and drop every capability that is not needed.

    Args:
        target: the trace that is to be written at the end.
        has_command: a command was started with the present rights and may have to be ended.
        can_read_counts: tries to read what the probes count.

    Raises:
        MachineError: the kernel refused to take a right away.
    """
    held = _held()
    keep: set[str] = set()
    user = _invoking_user(target)
    if user is not None:
        _become(*user)
        if has_command:
            keep.add("CAP_KILL")
    elif os.geteuid() == 0 and "SUDO_UID" in os.environ:
        keep |= {"CAP_CHOWN", "CAP_FOWNER", "CAP_DAC_OVERRIDE"}
    _only_here(keep & held)
    if not os.access(target.parent, os.W_OK | os.X_OK, effective_ids=True):
        keep.add("CAP_DAC_OVERRIDE")
    for name in ("CAP_BPF", "CAP_SYS_ADMIN"):
        if can_read_counts():
            break
        keep.add(name)
        _only_here(keep & held)
    stuck = _everywhere(keep & held)
    return Left(uid=os.geteuid(), capabilities=tuple(sorted(keep & held)), privileged_threads=stuck)


def _held() -> set[str]:
    """Capabilities of :data:`CAPABILITIES` that this process has."""
    text = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    mask = next((int(line.split()[1], 16) for line in text.splitlines() if line.startswith("CapPrm:")), 0)
    return {name for name, bit in CAPABILITIES.items() if mask >> bit & 1}


def _mask(names: set[str]) -> int:
    return sum(1 << CAPABILITIES[name] for name in names)


def _invoking_user(target: Path) -> tuple[int, int] | None:
    """Uid and gid of the user who ran sudo, where that user can do the rest; else ``None``."""
    try:
        uid, gid = int(os.environ["SUDO_UID"]), int(os.environ["SUDO_GID"])
    except (KeyError, ValueError):
        return None
    if os.geteuid() != 0 or uid == 0:
        return None
    with _acting_as(uid, gid):
        able = os.access(target.parent, os.W_OK | os.X_OK, effective_ids=True)
        # What is imported later must be readable, too.
        able = able and os.access(iretrace.__file__, os.R_OK, effective_ids=True)
    sticky = target.parent.stat().st_mode & stat.S_ISVTX
    if sticky and target.exists() and target.stat().st_uid != uid:
        return None
    return (uid, gid) if able else None


@contextmanager
def _acting_as(uid: int, gid: int) -> Iterator[None]:
    """With another user's effective ids, for a question to the file system."""
    groups, own_gid = os.getgroups(), os.getegid()
    os.setgroups(_groups(uid, gid))
    os.setegid(gid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(own_gid)
        os.setgroups(groups)


def _groups(uid: int, gid: int) -> list[int]:
    try:
        return os.getgrouplist(pwd.getpwuid(uid).pw_name, gid)
    except KeyError:  # a user without an entry
        return [gid]


def _become(uid: int, gid: int) -> None:
    """Change user for good, in all threads (glibc sees to that); permitted capabilities stay for now in this one."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setgroups(_groups(uid, gid))
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def _only_here(names: set[str]) -> None:
    """Make ``names`` the effective capabilities of this thread; the permitted ones stay."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this thread
    data = (ctypes.c_uint32 * 6)()
    if libc.capget(header, data) != 0:
        raise _refused()
    mask = _mask(names)
    data[0], data[3] = mask & 0xFFFFFFFF, mask >> 32
    if libc.capset(header, data) != 0:
        raise _refused()


def _everywhere(names: set[str]) -> int:
    """Make ``names`` all that any thread has or can get; number of threads that have more all the same."""
    own = threading.get_native_id()
    others = [int(path.name) for path in Path("/proc/self/task").iterdir() if int(path.name) != own]
    try:
        _native.keep_capabilities(_mask(names), others)
    except OSError:
        raise _refused() from None
    return sum(1 for tid in others if _permitted(tid) & ~_mask(names))


def _permitted(tid: int) -> int:
    try:
        text = Path(f"/proc/self/task/{tid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:  # it has ended
        return 0
    return next((int(line.split()[1], 16) for line in text.splitlines() if line.startswith("CapPrm:")), 0)


def _refused() -> MachineError:
    number = ctypes.get_errno()
    return MachineError("privileges", f"could not be given up ({os.strerror(number)})", remedy="run it with sudo")
