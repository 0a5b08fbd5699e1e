"""The collector's memory, locked and reused while it records, so that its own page faults stay out of the trace.

What is drained goes through buffers that are there before the run (:mod:`iretrace.collect.drain`), so nothing grows.
mlockall(2) with MCL_ONFAULT keeps every page that was touched; pages that were never touched are not made present
only to be kept (libbcc brings all of LLVM along). The allocator is told to keep what is freed: by default it
unmaps every large array, and the next one would fault in page by page.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Final

_MCL_CURRENT: Final = 1
_MCL_ONFAULT: Final = 4  # Linux commit b0f205c2a308 ("mm: mlock: add mlock flags to enable VM_LOCKONFAULT usage", v4.4)

_M_TRIM_THRESHOLD: Final = -1
_M_TOP_PAD: Final = -2
_M_MMAP_MAX: Final = -4
_DEFAULTS: Final = ((_M_MMAP_MAX, 65536), (_M_TRIM_THRESHOLD, 128 << 10), (_M_TOP_PAD, 128 << 10))  # mallopt(3)
_KEPT_BYTES: Final = 1 << 30
_TOP_PAD_BYTES: Final = 1 << 20


class LockedMemory:
    """Locks what is mapped now; :meth:`release` undoes it."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.locked = False

    def lock(self) -> bool:
        """Lock, before CAP_IPC_LOCK is given up; where the kernel does not allow it, go on without and return false."""
        for parameter, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _KEPT_BYTES), (_M_TOP_PAD, _TOP_PAD_BYTES)):
            self._libc.mallopt(parameter, value)
        self.locked = self._libc.mlockall(_MCL_CURRENT | _MCL_ONFAULT) == 0
        return self.locked

    def release(self) -> None:
        """Unlock: what follows may map files larger than memory."""
        for parameter, value in _DEFAULTS:
            self._libc.mallopt(parameter, value)
        if self.locked:
            self._libc.munlockall()
            self.locked = False


def peak_bytes() -> int:
    """The most memory this process has had at a time; 0 where the kernel does not say.

    Not ``ru_maxrss``: that is carried over execve(), so that it may be the peak of whoever started this process
    (``setmax_mm_hiwater_rss()`` in ``exec_mmap()``, fs/exec.c).
    """
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0
