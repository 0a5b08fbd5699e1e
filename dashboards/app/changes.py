"""Where the level of a store's series changed: looked for in the background, as it takes longer than a page may."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from iretrace.analysis.changepoints import Options, find_changes
from iretrace.analysis.measures import ALL, BY_NAME, QUANTILES, name_of
from iretrace.errors import IretraceError
from iretrace.replay.contexts import N_SLOTS
from iretrace.store.notes import read_notes
from iretrace.store.series import of_store

if TYPE_CHECKING:
    from iretrace.analysis.changepoints import ChangePoint
    from iretrace.store import Store
    from iretrace.store.notes import Note
    from iretrace.store.series import Series

COLUMNS: Final = {
    "per_s": "rate",
    "to_kernel_pct": "to_kernel",
    "ret_pct": "ret",
    "saved_per_s_cycles": "saved",
    **{f"{kind}_{q.replace('.', '')}_cycles": f"{kind}_{q}" for kind in ("latency", "self") for q in QUANTILES},
}
"""Columns of the table of metrics, and the measures that comparisons and series call them."""

SLOTS: Final = {name_of(slot): slot for slot in (ALL, *range(N_SLOTS))}
"""Vectors by name."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Change:
    """A change of a series.

    Attributes:
        series: where.
        point: how.
        note: what people said of it; ``None``: nothing.
    """

    series: Series
    point: ChangePoint
    note: Note | None

    @property
    def run(self) -> str:
        """The run that it starts at."""
        return self.series.runs[self.point.index]

    @property
    def row(self) -> dict[str, Any]:
        """That run's row."""
        return self.series.rows[self.point.index]

    @property
    def worse(self) -> bool:
        """Whether it is for the worse."""
        return self.point.direction == self.series.worse

    @property
    def what(self) -> str:
        """``#PF.rate``, without what the runs have in common."""
        return self.series.name.rsplit(": ", 1)[-1]

    @property
    def vector_name(self) -> str:
        """``#PF`` or ``all``."""
        return next(self.what.removesuffix(f".{name}") for name in _LONGEST if self.what.endswith(f".{name}"))

    @property
    def measure(self) -> str:
        """``rate`` or ``latency_p99.9``."""
        return self.what.removeprefix(f"{self.vector_name}.")


_LONGEST: Final = tuple(sorted(BY_NAME, key=len, reverse=True))


class Search:
    """Looks for changes in a store as it is now, in a thread of its own.

    Attributes:
        found: the changes, when they are known; the oldest first.
        done: series that were looked at.
        of: series to look at; 0: not known yet.
        failed: whether it could not be done.
    """

    def __init__(self, store: Store, policy: str) -> None:
        self.found: list[Change] | None = None
        self.done, self.of, self.failed = 0, 0, False
        self._store, self._policy = store, policy
        self._thread = threading.Thread(target=self._work, name="changes", daemon=True)
        self._thread.start()

    def wait(self, seconds: float) -> None:
        """Wait a little: small stores are looked through at once."""
        self._thread.join(seconds)

    def _work(self) -> None:
        try:
            series, _ = of_store(self._store, policy=self._policy)
            notes = read_notes(self._store)
            self.of = len(series)
            points = find_changes([one.values for one in series], Options(), progress=self._count)
        except IretraceError:
            self.failed = True
        except Exception:  # noqa: BLE001 - the page must not wait for ever
            _log.exception("looking for changes")
            self.failed = True
        else:
            self.found = [
                Change(series=one, point=point, note=notes.of(one.name, one.runs, point.index))
                for one, found in zip(series, points, strict=True)
                for point in found
            ]
            self.found.sort(key=lambda change: (change.row["time"], change.series.name))

    def _count(self, series: int) -> None:
        self.done += series
