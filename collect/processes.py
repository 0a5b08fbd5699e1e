"""What processes are called while a trace is recorded.

The probes know a process by its number, and a number says nothing once the process is gone. So the kernel tells of
each new name (``execve`` and ``prctl`` alike) and of each end, with the name until then; what was there before and
what forked without a name of its own is looked up in /proc when recording begins and when it ends. That way a process
that renamed itself and a number that was given again each keep the names they had at each moment.

Clock: that of the events. Known error: the first name of a process that got the number of one that had ended in the
same recording counts from that end, since forks are not watched.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from iretrace.collect.wire import PROCESS_ENDED, PROCESS_RENAMED
from iretrace.footer import Loss, Process
from iretrace.processes import in_order, readable

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_NAMES: Final = 1 << 15
"""More are counted as lost."""

_MAX_PIDS: Final = 1 << 22  # Linux include/linux/threads.h, PID_MAX_LIMIT
_INITIAL_NAMESPACE: Final = "pid:[4026531836]"  # Linux include/linux/proc_ns.h, PROC_PID_INIT_INO


class ProcessNames:
    """Gathers names; :meth:`take`, :meth:`look_up` and :meth:`met` in the order of time.

    Args:
        proc: where /proc is mounted.
    """

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc
        self._names: dict[int, list[Process]] = {}
        self._ended: dict[int, int] = {}  # TSC at which the last process of this number ended
        self._looked_up: set[int] = set()  # whose only name is from /proc, at an unknown moment
        self._met = np.zeros(_MAX_PIDS, np.bool_)
        self._fresh: list[Process] = []
        self._count = self._lost = 0

    def take(self, records: NDArray[np.void]) -> None:
        """What the probes told.

        Args:
            records: array of :data:`iretrace.collect.wire.PROCESS_EVENT`, shape (n,), ``tsc`` already absolute.
        """
        for tsc, pid, _cpu, what, _reserved, before, after in records[np.argsort(records["tsc"])].tolist():
            if what == PROCESS_RENAMED:
                self._was_called(pid, before)
                self._is_called(pid, after, tsc)
            elif what == PROCESS_ENDED:
                self._was_called(pid, before)
                self._ended[pid] = tsc
            elif (comm := self._comm(str(pid))) is not None:
                self._is_called(pid, comm, tsc)

    def look_up(self) -> None:
        """Read /proc for every process of which no name is known.

        Not in a namespace where processes have other numbers than the kernel's own.
        """
        try:
            if (self._proc / "self/ns/pid").readlink().name != _INITIAL_NAMESPACE:
                return
            pids = [entry.name for entry in self._proc.iterdir() if entry.name.isdigit()]
        except OSError:
            return
        for pid in pids:
            if int(pid) in self._names and int(pid) not in self._ended:
                continue
            comm = self._comm(pid)
            if comm is None:
                continue
            if int(pid) not in self._names:
                self._looked_up.add(int(pid))
            self._was_called(int(pid), comm)

    def met(self, pids: NDArray[np.uint32]) -> None:
        """Processes that were interrupted: names of others are of no use to a trace."""
        self._met[np.minimum(pids, _MAX_PIDS - 1)] = True

    def fresh(self) -> list[Process]:
        """Names since the last call."""
        fresh, self._fresh = self._fresh, []
        return fresh

    def of_trace(self) -> list[Process]:
        """The names of all processes that were met."""
        return in_order(
            name for pid, names in self._names.items() if pid < _MAX_PIDS and self._met[pid] for name in names
        )

    def losses(self) -> list[Loss]:
        """Names that were too many."""
        return [Loss(cause="process-names", count=self._lost)] if self._lost else []

    def _was_called(self, pid: int, comm: bytes) -> None:
        """What a process was called before a moment at which it is known to have been there."""
        if pid in self._ended:
            self._is_called(pid, comm, self._ended.pop(pid))
        elif pid not in self._names:
            self._is_called(pid, comm, None)
        elif pid in self._looked_up:  # renamed between the first probe and /proc
            self._names[pid] = []
            self._is_called(pid, comm, None)

    def _is_called(self, pid: int, comm: bytes, since_tsc: int | None) -> None:
        names = self._names.get(pid, [])
        text = readable(comm)
        if names and names[-1].comm == text:
            return
        if self._count == MAX_NAMES:
            self._lost += 1
            return
        self._count += 1
        name = Process(pid=pid, comm=text, since_tsc=since_tsc)
        self._names[pid] = [*names, name]
        self._fresh.append(name)

    def _comm(self, pid: str) -> bytes | None:
        try:
            return (self._proc / pid / "comm").read_bytes().rstrip(b"\n")
        except OSError:
            return None
