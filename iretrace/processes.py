"""Names of processes: from the number and the moment of a trap to the command that was interrupted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from iretrace.footer import Process

UNKNOWN: Final = ""
"""Name of a process of which none is known."""

IDLE: Final = "swapper"
"""What the kernel calls its idle tasks, but for the CPU's number; all of them have pid 0."""

ARROW: Final = " → "
"""Between the names of a process that changed its name."""


def readable(comm: bytes) -> str:
    """A name as the kernel keeps it, as text: on one line, whatever it holds."""
    return "".join(letter if letter.isprintable() else "?" for letter in comm.decode(errors="replace"))


def in_order(processes: Iterable[Process]) -> list[Process]:
    """Names by pid and in the order of time; of two from the same moment the later told one stays."""
    last = {(process.pid, process.since_tsc or 0): process for process in processes}
    return [last[key] for key in sorted(last)]


class Commands:
    """Finds names for many traps at once.

    Args:
        processes: the footer's.

    Attributes:
        names: every name, :data:`UNKNOWN` first, then :data:`IDLE`.
    """

    def __init__(self, processes: Sequence[Process]) -> None:
        known = [process for process in in_order(processes) if process.pid]
        self._known = known
        self.names = (UNKNOWN, IDLE, *sorted({process.comm for process in known} - {UNKNOWN, IDLE}))
        number = {name: k for k, name in enumerate(self.names)}
        since = np.array([process.since_tsc or 0 for process in known], np.uint64)
        self._moments = np.unique(since[since > 0])
        self._pids = np.array([0, *(process.pid for process in known)], np.int64)
        ranks = np.append(0, np.searchsorted(self._moments, since, side="right"))
        self._keys = self._pids * (self._moments.size + 1) + ranks
        self._index = np.array([number[IDLE], *(number[process.comm] for process in known)], np.int64)

    def of_pid(self) -> dict[int, str]:
        """What each process was called in the course of the trace, ``sh → gcc`` where it changed."""
        chains: dict[int, list[str]] = {0: [IDLE]}
        for process in self._known:
            chains.setdefault(process.pid, []).append(process.comm or "?")
        return {pid: ARROW.join(chain) for pid, chain in chains.items()}

    def find(self, pid: NDArray[np.uint32], tsc: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Index into :attr:`names` of what each process was called.

        Args:
            pid: processes, shape (n,).
            tsc: when, same shape.
        """
        wanted = pid.astype(np.int64)
        ranks = np.searchsorted(self._moments, tsc, side="right")
        at = np.searchsorted(self._keys, wanted * (self._moments.size + 1) + ranks, side="right") - 1
        return np.where(self._pids[at] == wanted, self._index[at], 0)
