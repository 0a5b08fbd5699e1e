"""What processes are called, as perf.data tells it: each new name, and whose copy each new process is.

Layout: ``include/uapi/linux/perf_event.h`` (``PERF_RECORD_COMM``, ``PERF_RECORD_FORK``). perf names the threads there
are when it begins, at time 0. The records of the CPUs lie one behind the other, so they are put in order at the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from iretrace.footer import Loss, Process
from iretrace.importers import perf_header
from iretrace.processes import in_order, readable

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from iretrace.importers.cursor import Cursor

COMM: Final = 3
FORK: Final = 7

MAX_NAMES: Final = 1 << 15
"""More are counted as lost."""
_MAX_RECORDS: Final = 1 << 18
_COMM_BYTES: Final = 64
"""More than the kernel's 16, which perf pads."""
_U32_MAX: Final = 0xFFFFFFFF
_BEHIND_TIME: Final = (
    perf_header.SAMPLE_ID,
    perf_header.SAMPLE_STREAM_ID,
    perf_header.SAMPLE_CPU,
    perf_header.SAMPLE_IDENTIFIER,
)


class Tasks:
    """Gathers the records."""

    def __init__(self) -> None:
        self._records: list[tuple[int, int, int, int | bytes]] = []  # time, process, thread, its parent or its name
        self._lost = 0

    def take(self, kind: int, cursor: Cursor, sample_type: int) -> None:
        """Take a record.

        Args:
            kind: :data:`COMM` or :data:`FORK`.
            cursor: behind its header.
            sample_type: tells what its end holds; 0: nothing.
        """
        pid = cursor.u32()
        if kind == COMM:
            tid = cursor.u32()
            ends = 8 * sum(bool(sample_type & bit) for bit in (perf_header.SAMPLE_TID, perf_header.SAMPLE_TIME))
            ends += 8 * sum(bool(sample_type & bit) for bit in _BEHIND_TIME)
            text = bytes(cursor.take(max(cursor.left - ends, 0)))
            what: int | bytes = text.split(b"\0", 1)[0][:_COMM_BYTES]
            time = 0
            if sample_type & perf_header.SAMPLE_TIME:
                cursor.take(8 if sample_type & perf_header.SAMPLE_TID else 0)
                time = cursor.u64()
        else:
            cursor.u32()  # the parent's process
            tid, what, time = cursor.u32(), cursor.u32(), cursor.u64()
        if len(self._records) == _MAX_RECORDS:
            self._lost += 1
        elif pid and pid != _U32_MAX:
            self._records.append((time, pid, tid, what))

    def named(
        self, met: NDArray[np.bool_], to_tsc: Callable[[NDArray[np.uint64]], NDArray[np.uint64]]
    ) -> tuple[list[Process], list[Loss]]:
        """The names of processes, and what of them was not kept.

        Args:
            met: by number (the last stands for all larger ones), whether a trap is in that process: others' names are
                of no use to a trace.
            to_tsc: perf's time to the trace's.
        """
        self._records.sort(key=lambda record: record[0])
        of_thread: dict[int, bytes] = {}
        of_process: dict[int, bytes] = {}
        found: list[tuple[int, int, bytes]] = []
        lost = self._lost
        for time, pid, tid, what in self._records:
            comm = what if isinstance(what, bytes) else of_thread.get(what)
            if comm is None:
                continue
            of_thread[tid] = comm
            if tid != pid or of_process.get(pid) == comm or not met[min(pid, len(met) - 1)]:
                continue
            of_process[pid] = comm
            if len(found) < MAX_NAMES:
                found.append((time, pid, comm))
            else:
                lost += 1
        since = to_tsc(np.array([time for time, _, _ in found], np.uint64)).tolist()
        processes = in_order(
            Process(pid=pid, comm=readable(comm), since_tsc=tsc if time else None)
            for (time, pid, comm), tsc in zip(found, since, strict=True)
        )
        return processes, [Loss(cause="process-names", count=lost)] if lost else []
