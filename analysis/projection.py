"""What a trace would save under policies: in all, by CPU, process and command, and traps' latency before and after.

What is counted of a trap's latency. Its measured duration runs from the entry probe to the exit probe, both of which
lie inside the trap: the trap's own return comes after the exit probe, as the CPU's delivery came before the entry
probe. *Before* is the measured duration. *After* is the measured duration less one saving for every RET nested inside
it, at any depth, and less one for its own return where that becomes a RET. The difference is what the interrupted code
would wait less; the level lacks the same unmeasured head and tail in both. A trap shorter than what it saves is put to
0 (``floored``): its own saving lies outside what was measured. Traps whose two ends were not both seen have no latency,
but what their return saves counts, for them and for the traps around them.

Returns are those of the replay, every one: also those whose exit was not seen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from iretrace.analysis import histogram
from iretrace.analysis.nesting import NestedSums
from iretrace.analysis.rates import TimeBins
from iretrace.processes import Commands
from iretrace.replay.contexts import N_SLOTS
from iretrace.replay.engine import End
from iretrace.replay.policies import Choice

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from iretrace.footer import Process
    from iretrace.replay.run import Returns

MAX_CPUS: Final = 8192
"""Most CPUs of which RETs are counted over time (Linux arch/x86/Kconfig, NR_CPUS_RANGE_END); later ones share one."""

MAX_PIDS: Final = 1 << 22
"""No pid is as large (Linux include/linux/threads.h, PID_MAX_LIMIT): larger ones are counted as this one."""

_N_CPUS: Final = 1 << 16


class Projection:
    """Counts returns under policies in memory that does not grow with the trace; give :meth:`add` every batch in turn.

    Args:
        n_policies: number of policies of the batches.
        saving_cycles: TSC cycles that a RET saves over IRET (negative: costs more); ``None``: not known, and there is
            no latency after.
        origin: TSC at which recording began; ``None``: the first batch's smallest.
        processes: their names, as the footer has them.

    Attributes:
        saving_cycles: as given.
        returns: int64, shape ``(65536,)``: returns by CPU.
        ret: int64, shape ``(n_policies, 65536)``: of these, RETs.
        erets: int64, shape ``(n_policies,)``: ERETS and ERETU.
        commands: the names of processes.
        pids: int64, shape ``(m,)``: processes seen, ascending, as often as each had names.
        pid_commands: int64, shape ``(m,)``: the name, an index into ``commands.names``; ascending in one process.
        pid_returns: int64, shape ``(m,)``: returns by process and name.
        pid_ret: int64, shape ``(m, n_policies)``: of these, RETs.
        before: int64, shape ``(N_SLOTS, histogram.N_BUCKETS)``: measured durations by slot.
        after: int64, shape ``(n_policies, N_SLOTS, histogram.N_BUCKETS)``: projected durations.
        own: int64, shape ``(n_policies, N_SLOTS)``: of the traps in ``before``, those that return by RET.
        nested: int64, same shape: RETs inside them, at any depth.
        floored: int64, same shape: projected durations put to 0.
        bins: RETs over time; ``None`` before the first batch.
    """

    def __init__(
        self,
        n_policies: int,
        *,
        saving_cycles: float | None = None,
        origin: int | None = None,
        processes: Sequence[Process] = (),
    ) -> None:
        self.saving_cycles = saving_cycles
        self.returns = np.zeros(_N_CPUS, dtype=np.int64)
        self.ret = np.zeros((n_policies, _N_CPUS), dtype=np.int64)
        self.erets = np.zeros(n_policies, dtype=np.int64)
        self.commands = Commands(processes)
        self._named_pids = np.zeros(0, dtype=np.int64)  # pid and index of the name in one number
        self.pid_returns = np.zeros(0, dtype=np.int64)
        self.pid_ret = np.zeros((0, n_policies), dtype=np.int64)
        self.before = np.zeros((N_SLOTS, histogram.N_BUCKETS), dtype=np.int64)
        self.after = np.zeros((n_policies, *self.before.shape), dtype=np.int64)
        self.nested = np.zeros((n_policies, N_SLOTS), dtype=np.int64)
        self.own = np.zeros_like(self.nested)
        self.floored = np.zeros_like(self.nested)
        self.bins: TimeBins | None = None
        self._origin = origin
        self._place = np.zeros(_N_CPUS, dtype=np.int64)  # of a CPU in the bins; 0: shared by those past MAX_CPUS
        self._places = 1
        self._sums = NestedSums(n_policies)

    def add(self, batch: Returns) -> None:
        """Count a batch; its policies are those given, in their order."""
        rows = batch.rows
        if not rows.size:
            return
        choices = [decisions.choice for decisions in batch.decisions]
        ret = np.stack([choice == Choice.RET for choice in choices], axis=1)
        self.erets += [int(np.count_nonzero(choice >= Choice.ERETS)) for choice in choices]
        cpu = rows["cpu"].astype(np.int64)
        self.returns += np.bincount(cpu, minlength=_N_CPUS)
        for k in range(len(choices)):
            self.ret[k] += np.bincount(cpu[ret[:, k]], minlength=_N_CPUS)
        pid = np.minimum(rows["pid"], MAX_PIDS)
        entered = np.where(rows["end"] == End.ORPHAN, rows["exit_tsc"], rows["entry_tsc"])
        command = self.commands.find(pid, entered)
        self._add_pids(pid.astype(np.int64) * len(self.commands.names) + command, ret)
        self._add_times(batch.tsc, cpu, ret)
        self._add_latencies(batch, ret, self._sums.add(rows, ret.astype(np.int64)))

    @property
    def pids(self) -> NDArray[np.int64]:
        """See the class."""
        return self._named_pids // len(self.commands.names)

    @property
    def pid_commands(self) -> NDArray[np.int64]:
        """See the class."""
        return self._named_pids % len(self.commands.names)

    def over_time(self, policy: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """RETs over time under one policy.

        Returns:
            Widths of the bins (TSC cycles, shape ``(n,)``) and counts by CPU, shape ``(n, places)``: columns as
            :meth:`place` says.
        """
        if self.bins is None:
            return np.zeros(0), np.zeros((0, 1), dtype=np.int64)
        _, widths, counts = self.bins.spans()
        return widths, counts.reshape(len(widths), -1, len(self.ret))[:, :, policy]

    def place(self, cpus: NDArray[np.int64]) -> NDArray[np.int64]:
        """Columns of CPUs in :meth:`over_time`; 0 holds all CPUs past :data:`MAX_CPUS` together."""
        return self._place[cpus]

    def _add_pids(self, named_pid: NDArray[np.int64], ret: NDArray[np.bool_]) -> None:
        met, index = np.unique(named_pid, return_inverse=True)
        known = np.union1d(self._named_pids, met)
        old, new = np.searchsorted(known, self._named_pids), np.searchsorted(known, met)
        returns = np.zeros(known.size, dtype=np.int64)
        rets = np.zeros((known.size, ret.shape[1]), dtype=np.int64)
        returns[old], rets[old] = self.pid_returns, self.pid_ret
        returns[new] += np.bincount(index, minlength=met.size)
        for k in range(ret.shape[1]):
            rets[new, k] += np.bincount(index[ret[:, k]], minlength=met.size)
        self._named_pids, self.pid_returns, self.pid_ret = known, returns, rets

    def _add_times(self, tsc: NDArray[np.uint64], cpu: NDArray[np.int64], ret: NDArray[np.bool_]) -> None:
        n_policies = ret.shape[1]
        if self.bins is None:
            first = int(tsc.min())
            self.bins = TimeBins(first if self._origin is None else min(first, self._origin), n_policies)
        met = np.unique(cpu)
        fresh = met[self._place[met] == 0][: MAX_CPUS + 1 - self._places]
        if fresh.size:
            self._place[fresh] = np.arange(self._places, self._places + fresh.size)
            self._places += fresh.size
            self.bins.counts = np.pad(self.bins.counts, ((0, 0), (0, fresh.size * n_policies)))
        self.bins.cover(int(tsc.max()))
        for k in range(n_policies):
            self.bins.add(tsc[ret[:, k]], self._place[cpu[ret[:, k]]] * n_policies + k)

    def _add_latencies(self, batch: Returns, ret: NDArray[np.bool_], nested: NDArray[np.int64]) -> None:
        rows = batch.rows
        timed = rows["end"] == End.EXIT
        slot = rows["slot"][timed].astype(np.int64)
        measured = rows["exit_tsc"][timed] - rows["entry_tsc"][timed]
        bucket = histogram.bucket_of(measured)
        _count(self.before, slot * histogram.N_BUCKETS + bucket)
        for k, inner in enumerate(nested[timed].T):
            own = ret[timed, k]
            self.own[k] += np.bincount(slot[own], minlength=N_SLOTS)
            np.add.at(self.nested[k], slot, inner)
            if self.saving_cycles is not None:
                projected, floored = project(measured, inner + own, self.saving_cycles)
                _count(self.after[k], slot * histogram.N_BUCKETS + histogram.bucket_of(projected))
                self.floored[k] += np.bincount(slot[floored], minlength=N_SLOTS)


def project(
    measured: NDArray[np.uint64], rets: NDArray[np.int64], saving_cycles: float
) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """Durations less what their RETs save, to the cycle, and which would have fallen below 0 (they are 0)."""
    saved = np.rint(rets * saving_cycles)
    off = np.maximum(saved, 0).astype(np.uint64)
    floored = off > measured
    left = np.where(floored, np.uint64(0), measured - np.minimum(off, measured))
    return left + np.maximum(-saved, 0).astype(np.uint64), floored


def _count(counts: NDArray[np.int64], key: NDArray[np.int64]) -> None:
    if key.size:
        counts += np.bincount(key, minlength=counts.size).reshape(counts.shape)
