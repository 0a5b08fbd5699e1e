"""What all importers share: the options, the sorted way into the trace, and the account of what was read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from iretrace import _native
from iretrace import footer as footers
from iretrace.collect.hooks import CLASSES
from iretrace.errors import Damaged
from iretrace.importers import mapping
from iretrace.importers.mapping import Tally

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

    from numpy.typing import NDArray

    from iretrace.importers.sorting import Sorter

_TOLD: Final = 5
_VECTOR_KEYS: Final = 1 << 10
_N_PIDS: Final = 1 << 22
"""Linux include/linux/threads.h, PID_MAX_LIMIT."""
_NS_PER_MS: Final = 1_000_000
_TSC_MAX: Final = 2.0**64 - 2048


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """What a foreign file cannot say of itself.

    Attributes:
        kernel_cs: the kernel's 64-bit code segment selector.
        nmi_text: [low, high) ranges of the NMI entry and exit code, in the space of ``ip``.
        tsc_khz: TSC frequency, where known: times in nanoseconds become cycles by it.
        strict: stop at the first record that cannot be read, instead of counting it.
    """

    kernel_cs: int = 0x10
    nmi_text: tuple[tuple[int, int], ...] = ()
    tsc_khz: float | None = None
    strict: bool = False


@dataclass(kw_only=True)
class Job:
    """One import under way.

    Attributes:
        path: the file, for messages.
        options: what the user said.
        sorter: takes the rows.
        progress: called with bytes read and bytes in all (``None``: not known).
        cpu: of a file that does not name its CPU: which it is.
        tally: records by event.
        malformed: records that could not be read.
        told: where the first of them are, and what is wrong.
        notes: what else the user should know.
        losses: what the file says was lost when it was recorded.
        met: by number (the last stands for all larger ones), whether a row is of that process.
    """

    path: Path
    options: ImportOptions
    sorter: Sorter
    progress: Callable[[int, int | None], None] = lambda _done, _total: None
    cpu: int = 0
    tally: Tally = field(default_factory=Tally)
    malformed: int = 0
    told: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    losses: list[footers.Loss] = field(default_factory=list)
    met: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(_N_PIDS, np.bool_))
    _seen: NDArray[np.uint64] = field(default_factory=lambda: np.zeros(_VECTOR_KEYS, np.uint64))
    _first: int | None = None
    _last: int | None = None

    def add(self, rows: NDArray[np.void]) -> None:
        """Take rows, ``tsc`` in cycles; they are copied."""
        if len(rows):
            rows = np.ascontiguousarray(rows)
            self.prepare(rows)
            self._account(rows)
            self.sorter.add(rows)

    def took(self, rows: NDArray[np.void]) -> None:
        """Take rows that were written to the beginning of :meth:`Sorter.room`, one or more."""
        self.prepare(rows)
        self.sorter.took(len(rows), self._account(rows))

    def prepare(self, rows: NDArray[np.void]) -> None:
        """What a job of another kind does with every row before it is counted, in place; here nothing."""

    def _account(self, rows: NDArray[np.void]) -> int:
        """Count rows; the smallest TSC among them."""
        first, last = _native.rows_account(rows, self._seen, self.met)
        self._first = first if self._first is None else min(self._first, first)
        self._last = last if self._last is None else max(self._last, last)
        return int(first)

    def bad(self, where: str, found: str, *, count: int = 1) -> None:
        """A record cannot be read: count it, or stop.

        Args:
            where: its offset or line.
            found: what is wrong.
            count: how many records it stands for.

        Raises:
            Damaged: the user asked to be strict.
        """
        if self.options.strict:
            raise Damaged(self.path, f"{where}: {found}", remedy="without --strict it is counted and left out")
        self.malformed += count
        if len(self.told) < _TOLD:
            self.told.append(f"{where}: {found}")

    def seen(self) -> set[tuple[int | None, str, str]]:
        """(vector, phase, hook) of what rows were taken; the hook is not told apart."""
        found: set[tuple[int | None, str, str]] = set()
        for key in np.flatnonzero(self._seen).tolist():
            vector = key & 0xFF if key >> 9 else None
            found.add((vector, "exit" if key >> 8 & 1 else "entry", ""))
        return found

    def footer(
        self,
        tool: str,
        clock: footers.Clock,
        classes: list[footers.TrapClass],
        **more: object,
    ) -> footers.Footer:
        """The trace's footer, from the account.

        Raises:
            Damaged: no event was found.
        """
        if not self.sorter.n_rows:
            found = "holds no trap event"
            if self.tally.events:
                names = sorted(self.tally.events, key=lambda name: -self.tally.events[name])
                found += f" (but {', '.join(f'{self.tally.events[name]:,} {name}' for name in names[:4])})"
            if self.told:
                found += f"; {self.malformed:,} records could not be read, the first at {self.told[0]}"
            raise Damaged(self.path, found, expected="events of irq_vectors, exceptions, irq or nmi")
        losses = list(self.losses)
        if self.malformed:
            losses.append(footers.Loss(cause="malformed", count=self.malformed))
        fields: dict[str, object] = {
            "tool": tool,
            "events": self.sorter.n_rows,
            "kernel_cs": self.options.kernel_cs,
            "nmi_text": list(self.options.nmi_text),
            "clock": clock,
            "classes": classes,
            "losses": losses,
            "window": footers.Window(start_tsc=self._first, stop_tsc=self._last, ended_by="end of input"),
            **more,
        }
        return footers.Footer(**fields)  # type: ignore[arg-type]


def classes_of(seen: Collection[tuple[int | None, str, str]], recorded: Collection[str]) -> list[footers.TrapClass]:
    """Classes of trap, from what was seen and from the tracepoints that were recorded, fired or not.

    Args:
        seen: :meth:`Job.seen`.
        recorded: names of tracepoints.
    """
    named: set[tuple[int | None, str, str]] = set()
    for item in CLASSES:
        for phase, hook in item.tracepoints:
            if hook.target in recorded:
                named.update((vector, phase, hook.target) for vector in item.vectors or (None,))
    known = {(vector, phase) for vector, phase, _ in named}
    others = {(vector, phase, "tracepoint") for vector, phase, _ in seen if (vector, phase) not in known}
    return mapping.classes(named | others)


def cycles(nanoseconds: NDArray[np.uint64], khz: float) -> NDArray[np.uint64]:
    """Nanoseconds as cycles of a clock; what would not fit in 64 bits is cut off."""
    whole, rest = np.divmod(nanoseconds, np.uint64(_NS_PER_MS))
    values = whole.astype(np.float64) * khz + rest.astype(np.float64) * (khz / _NS_PER_MS)
    result: NDArray[np.uint64] = np.minimum(values, _TSC_MAX).astype(np.uint64)
    return result


def ns_clock(options: ImportOptions, what: str) -> footers.Clock:
    """The footer's clock for a file whose times are nanoseconds.

    Args:
        options: whether the TSC's frequency was given.
        what: whose nanoseconds they are.
    """
    if options.tsc_khz is not None:
        note = f"{what} in nanoseconds, multiplied by the frequency given with --tsc-khz: its zero is not the TSC's"
        return footers.Clock(source="import", tsc_khz=options.tsc_khz, note=note)
    note = f"{what} in nanoseconds, taken as cycles of a 1 GHz clock: give --tsc-khz to compare with costs in cycles"
    return footers.Clock(source="import", tsc_khz=1e6, note=note)
