"""Making hooks run on purpose, harmlessly, so that one which never would is found out.

An attach that succeeds may never fire: the compiler may have inlined the function everywhere it is called.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import time
from typing import TYPE_CHECKING, Final

from iretrace import _native

if TYPE_CHECKING:
    from collections.abc import Callable

_TIMER_SLEEPS: Final = 10
_TIMER_SECONDS: Final = 0.001


def _sleep() -> None:
    """Wake by timer interrupts; give up the CPU meanwhile."""
    for _ in range(_TIMER_SLEEPS):
        time.sleep(_TIMER_SECONDS)


def _touch() -> None:
    """A page fault of user mode, and one of the kernel's on a user page."""
    for write in (lambda page: page.__setitem__(0, 1), _fill_from_kernel):
        with contextlib.closing(mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)) as page:
            write(page)


def _fill_from_kernel(page: mmap.mmap) -> None:
    zero = os.open("/dev/zero", os.O_RDONLY)
    try:
        os.readv(zero, [page])
    finally:
        os.close(zero)


def _raise(vector: int) -> Callable[[], None]:
    def run() -> None:
        _native.raise_trap(vector)

    return run


STIMULI: Final[dict[str, Callable[[], None]]] = {
    "timer": _sleep,
    "switch": _sleep,
    "page fault": _touch,
    "system call": lambda: os.close(os.dup(1)),
    "#BP": _raise(3),
    "#UD": _raise(6),
    "#GP": _raise(13),
    "#MF": _raise(16),
}
"""By name. What is not here cannot be provoked for sure without harm: an NMI, a machine check, a #DF, device
interrupts, IPIs (an idle CPU that polls gets none), the kernel's own #UD and #GP."""


def provoke() -> frozenset[str]:
    """Run every stimulus; returns the names of those that were given."""
    for stimulus in dict.fromkeys(STIMULI.values()):
        stimulus()
    return frozenset(STIMULI)
