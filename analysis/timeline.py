"""Looking at a stretch of a trace, however long or short: counts over time, or every trap where they are few.

The answer to a question takes about as long at every zoom: far out the counts of the index are read off at the
edges of the bins, near in at most :data:`MAX_DETAIL_EVENTS` events are replayed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import pandas as pd

from iretrace.analysis.frames import CHOICES
from iretrace.analysis.timeline_detail import Detail
from iretrace.analysis.timeline_file import load_or_build
from iretrace.replay import contexts, hazards
from iretrace.replay.contexts import Target
from iretrace.replay.engine import End
from iretrace.replay.policies import DEVICE
from iretrace.vectors import vector_name

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from iretrace.analysis.timeline_index import Index
    from iretrace.replay.policies import Policy
    from iretrace.trace import Trace

MAX_DETAIL_EVENTS: Final = 1 << 19
MAX_TRAPS: Final = 1000
"""Traps that are still shown one by one."""

MAX_CPUS: Final = 16
"""CPUs that are shown together."""

MIN_SPAN: Final = 64
"""Shortest stretch, in TSC cycles."""

_TARGETS: Final = {Target.KERNEL: "kernel", Target.OTHER: "user", Target.UNKNOWN: "unknown"}


@dataclass(frozen=True, kw_only=True)
class View:
    """A stretch of time on some CPUs.

    Attributes:
        start: first TSC.
        stop: one past the last TSC.
        cpus: CPUs, ascending.
        kind: ``traps``: ``frame`` has one row a trap; ``counts``: one row a bin and CPU.
        frame: of traps: ``cpu``, ``entry_tsc``, ``end_tsc`` (float64 TSC cycles after ``start``), ``name``,
            ``depth``, ``decision``, ``rule``, ``hazards`` (text), ``target``, ``end`` (how its end was found), ``pid``,
            ``duration_cycles`` and ``self_cycles`` (NaN: not known). Of counts: ``cpu``, ``start`` and ``width``
            (TSC cycles, after the view's ``start``) and one column a decision (float64: bins cut cells).
        n_traps: traps in it; float where cells were cut.
    """

    start: int
    stop: int
    cpus: tuple[int, ...]
    kind: Literal["traps", "counts"]
    frame: pd.DataFrame
    n_traps: float


class Timeline:
    """An indexed trace under one policy.

    Args:
        trace: an opened trace.
        policy: how to choose the return instruction.
        index: of that trace under that policy.

    Attributes:
        start: TSC at which the recording began.
        stop: one past its end.
        cpus: CPUs with returns, ascending.
    """

    def __init__(self, trace: Trace, policy: Policy, index: Index) -> None:
        window = trace.footer.window
        first, last = int(index.first[0]), int(index.first[-1])
        self.index = index
        self.start: int = min(first, _near(window.start_tsc, first, last) or first)
        self.stop: int = max(last, (_near(window.stop_tsc, first, last) or 0) + 1)
        self.trace = trace
        self._detail = Detail(trace, policy, index)
        self._sums = _Sums(index)
        self.cpus: tuple[int, ...] = tuple(int(cpu) for cpu in self._sums.cpus)

    def view(self, start: int, stop: int, *, cpus: Sequence[int] = (), bins: int = 400) -> View:
        """Look at a stretch; what lies outside of the recording is cut off.

        Args:
            start: first TSC.
            stop: one past the last TSC.
            cpus: which CPUs; empty: the first :data:`MAX_CPUS`.
            bins: number of bins where traps are counted.

        Raises:
            Damaged: the trace cannot be read any more.
        """
        start, stop = self.clip(start, stop)
        chosen = tuple(sorted(set(cpus) & set(self.cpus)))[:MAX_CPUS] or self.cpus[:MAX_CPUS]
        edges = np.array([start, stop - 1], dtype=np.uint64)
        first, last = self.index.block_of(edges).tolist()
        # Where the index tells as much as there are bins, it is not worth a replay.
        fine = self._sums.cells_between(start, stop) >= bins / 2
        if not fine and self.index.events[first : last + 1].sum() <= MAX_DETAIL_EVENTS:
            traps = self._detail.traps(start, stop)
            traps = traps[np.isin(traps["cpu"], chosen)]
            if len(traps) <= MAX_TRAPS:
                frame = trap_frame(traps, start, self.index.rules)
                return View(start=start, stop=stop, cpus=chosen, kind="traps", frame=frame, n_traps=len(traps))
            counts = _counted(traps, start, stop, chosen, bins)
        else:
            counts = self._sums.between(start, stop, chosen, bins)
        frame = count_frame(counts, (stop - start) / bins, chosen)
        return View(start=start, stop=stop, cpus=chosen, kind="counts", frame=frame, n_traps=float(counts.sum()))

    def clip(self, start: int, stop: int) -> tuple[int, int]:
        """A stretch within the recording, at least :data:`MIN_SPAN` long where the recording is."""
        span = min(max(stop - start, MIN_SPAN), self.stop - self.start)
        start = min(max(start, self.start), self.stop - span)
        return start, start + span


def open_timeline(
    trace: Trace, policy: Policy, *, directory: Path | None = None, progress: Callable[[int], None] | None = None
) -> Timeline:
    """A trace's timeline, its index from the cache or built (:func:`iretrace.analysis.timeline_file.load_or_build`).

    Raises:
        Damaged: the trace holds what it must not.
    """
    index, _ = load_or_build(trace, policy, directory=directory, progress=progress)
    return Timeline(trace, policy, index)


def _near(tsc: int | None, first: int, last: int) -> int | None:
    """A window's edge if it is believable: within thrice the length of what was recorded."""
    length = 3 * (last - first)
    return tsc if tsc is not None and first - length <= tsc <= last + length else None


class _Sums:
    """Returns before each cell, by CPU: the number in any stretch is a difference of two of them."""

    def __init__(self, index: Index) -> None:
        cpu = index.key & 0xFFFF
        order = np.argsort(cpu, kind="stable")
        self.cpus, heads = np.unique(cpu[order], return_index=True)
        tails = np.append(heads[1:], len(order))
        cell = (index.key >> 16)[order]
        block = cell // index.cells
        width = (index.first[1:] - index.first[:-1]).astype(np.float64) / index.cells
        self._origin = int(index.first[0])
        begin = (index.first[:-1] - index.first[0]).astype(np.float64)
        self._begin, self._end, self._cells = begin, float(index.first[-1] - index.first[0]), index.cells
        self._start = begin[block] + (cell - block * index.cells) * width[block]
        self._width = width[block]
        self._counts = index.counts[order]
        self._before = np.zeros((len(order) + 1, self._counts.shape[1]), dtype=np.int64)
        np.cumsum(self._counts, axis=0, out=self._before[1:])
        self._of = {int(c): (int(a), int(b)) for c, a, b in zip(self.cpus, heads, tails, strict=True)}

    def cells_between(self, start: int, stop: int) -> float:
        """Number of cells in a stretch."""
        edges = np.append(self._begin, self._end)
        blocks = np.interp([start - self._origin, stop - self._origin], edges, np.arange(len(edges)))
        return float(blocks[1] - blocks[0]) * self._cells

    def between(self, start: int, stop: int, cpus: Sequence[int], bins: int) -> NDArray[np.float64]:
        """Returns by CPU, bin and choice; a cell's are spread evenly over it."""
        edges = start - self._origin + np.linspace(0, stop - start, bins + 1)
        found = np.zeros((len(cpus), bins, self._counts.shape[1]))
        for place, cpu in enumerate(cpus):
            head, tail = self._of[cpu]
            at = np.searchsorted(self._start[head:tail], edges, side="right") - 1 + head
            inside = np.maximum(at, head)
            part = np.clip((edges - self._start[inside]) / self._width[inside], 0.0, 1.0)[:, None]
            found[place] = np.diff(self._before[inside] + part * self._counts[inside], axis=0)
        return found


def _counted(traps: NDArray[Any], start: int, stop: int, cpus: Sequence[int], bins: int) -> NDArray[np.float64]:
    """Returns by CPU, bin and choice, of traps that are at hand."""
    at = np.where(traps["end"] == End.EXIT, traps["end_tsc"], traps["entry_tsc"])
    traps, at = (column[(at >= np.uint64(start)) & (at < np.uint64(stop))] for column in (traps, at))
    place = np.searchsorted(np.array(cpus), traps["cpu"])
    bin_ = np.minimum(((at - np.uint64(start)).astype(np.float64) * (bins / (stop - start))).astype(np.int64), bins - 1)
    flat = np.bincount(
        (place * bins + bin_) * len(CHOICES) + traps["choice"], minlength=len(cpus) * bins * len(CHOICES)
    )
    return flat.reshape(len(cpus), bins, len(CHOICES)).astype(np.float64)


def count_frame(counts: NDArray[np.float64], width: float, cpus: Sequence[int]) -> pd.DataFrame:
    """Counts by CPU, bin and choice as a frame: ``cpu``, ``start``, ``width`` and the decisions."""
    bins = counts.shape[1]
    columns: dict[str, Any] = {
        "cpu": np.repeat(np.array(cpus, dtype=np.int64), bins),
        "start": np.tile(np.arange(bins) * width, len(cpus)),
        "width": width,
    }
    for index, name in enumerate(CHOICES):
        columns[name] = counts[:, :, index].ravel()
    return pd.DataFrame(columns)


def trap_frame(traps: NDArray[Any], start: int, rules: Sequence[str]) -> pd.DataFrame:
    """Traps for people (columns: see :class:`View`)."""
    target = contexts.decode(traps["context"]).target
    # Unsigned and wrapping, then signed: a TSC may be beyond int64, a distance is not.
    entry, end = ((traps[name] - np.uint64(start)).view(np.int64) for name in ("entry_tsc", "end_tsc"))
    timed = traps["end"] == End.EXIT
    return pd.DataFrame(
        {
            "cpu": traps["cpu"].astype(np.int64),
            "entry_tsc": entry.astype(np.float64),
            "end_tsc": end.astype(np.float64),
            "name": [vector_name(None if slot == DEVICE else int(slot)) for slot in traps["slot"]],
            "depth": traps["depth"].astype(np.int64),
            "decision": [CHOICES[choice] for choice in traps["choice"]],
            "rule": [rules[rule] for rule in traps["rule"]],
            "hazards": [hazards.names(int(bits)) or "" for bits in traps["hazard"]],
            "target": [_TARGETS[Target(int(t))] for t in target],
            "end": [End(int(end)).name.lower() for end in traps["end"]],
            "pid": traps["pid"].astype(np.int64),
            "duration_cycles": np.where(timed, (end - entry).astype(np.float64), np.nan),
            "self_cycles": np.where(traps["self_known"], traps["self_cycles"].astype(np.float64), np.nan),
        }
    )
