"""What the dashboard shows: a store's runs, and the traces of those whose files the operator named.

A browser names runs; a run's trace is looked for among the files found in the operator's directories when their name
is the one that the run's document says, and taken only if it is that recording. No path comes from an address.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from iretrace.analysis.timeline import Timeline, open_timeline
from iretrace.errors import InputError, IretraceError, UsageError
from iretrace.replay.policies import built_in
from iretrace.store import open_store
from iretrace.store.summarize import digest_of, run_id
from iretrace.trace import open_trace

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence

    import pandas as pd

    from iretrace.analysis.study import Study
    from iretrace.dashboards.app.changes import Search
    from iretrace.replay.policies import Policy
    from iretrace.store import Run, Store, Unreadable

REFRESH_S: Final = 3.0
"""How old what is shown of the store may be."""

KEEP_S: Final = 120.0
"""The same on a page about one run, which does not change: zooming should not wait for the whole store."""

_PATIENCE_S: Final = 0.3
_MAX_FILES: Final = 100_000
_HELD: Final = 8

K = TypeVar("K", bound="Hashable")
V = TypeVar("V")


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A store at one moment.

    Attributes:
        runs: :meth:`iretrace.store.Store.runs`.
        metrics: :meth:`iretrace.store.Store.metrics`.
        unreadable: members that could not be read.
        taken: :func:`time.monotonic`, in seconds.
    """

    runs: pd.DataFrame
    metrics: pd.DataFrame
    unreadable: tuple[Unreadable, ...]
    taken: float

    def row(self, run: str) -> pd.Series:
        """The row of a run.

        Raises:
            InputError: there is no such run.
        """
        found = self.runs[self.runs["run"] == run]
        if found.empty:
            raise InputError(f"run {run}", _why_not(run, self.unreadable))
        return found.iloc[0]


@dataclass(kw_only=True)
class Job:
    """A timeline that is being indexed, or that is ready.

    Attributes:
        events: events of the trace.
        done: events indexed so far.
        timeline: when it is ready.
        error: why it will not be.
        seconds: how long it took to open or index it.
    """

    events: int
    done: int = 0
    timeline: Timeline | None = None
    error: IretraceError | None = None
    seconds: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)


class Source:
    """A store, read only, and traces.

    Args:
        store: an opened store.
        directories: where traces may lie; all ``.parquet`` files below them.
        traces: traces of known runs.
        cache: where indices are kept; ``None``: the user's cache directory.
        name: what is shown, for headings.
    """

    def __init__(
        self,
        store: Store,
        *,
        directories: Sequence[Path] = (),
        traces: Mapping[str, Path] | None = None,
        cache: Path | None = None,
        name: str = "",
    ) -> None:
        self.store, self.name = store, name or str(store.location)
        self._directories, self._traces, self._cache = tuple(directories), dict(traces or {}), cache
        self._lock = threading.RLock()
        self._snapshot: Snapshot | None = None
        self._runs: _Held[str, Run] = _Held(_HELD)
        self._jobs: _Held[tuple[str, str], Job] = _Held(_HELD)
        self._searches: _Held[tuple[str, int], Search] = _Held(_HELD)

    def snapshot(self, run: str = "") -> Snapshot:
        """The store as it is, or was a few seconds ago; of a page about a run that is known, a few minutes ago."""
        with self._lock:
            old = self._snapshot
            known = old is not None and bool(run) and bool((old.runs["run"] == run).any())
            if old is None or time.monotonic() - old.taken > (KEEP_S if known else REFRESH_S):
                self.store.refresh()
                old = self._snapshot = Snapshot(
                    runs=self.store.runs(),
                    metrics=self.store.metrics(),
                    unreadable=tuple(self.store.unreadable()),
                    taken=time.monotonic(),
                )
            return old

    def run(self, run: str) -> Run:
        """Everything of a run.

        Raises:
            InputError: there is none of that name, or it cannot be read.
        """
        self.snapshot(run).row(run)
        with self._lock:
            return self._runs.get(run, lambda: self.store.load(run))

    def study(self, run: str, policy: str) -> Study:
        """A run as the report's sections take it.

        Raises:
            InputError: there is no such run.
            UsageError: it was not replayed under that policy.
        """
        return self.run(run).study(policy)

    def trace(self, run: str) -> Path | None:
        """Where the trace of a run lies; ``None``: not among the files that were named."""
        row = self.snapshot(run).row(run)
        known = self._traces.get(run)
        if known is not None:
            return known
        for path in self._files(str(row["trace"])):
            try:
                found = run_id(open_trace(path).footer, digest_of(path))
            except (IretraceError, OSError):
                continue
            if found == run:
                self._traces[run] = path
                return path
        return None

    def timeline(self, run: str, policy: str) -> Job | None:
        """The timeline of a run, which begins to be indexed if nobody has asked before; ``None``: no trace.

        Raises:
            InputError: there is no such run, or its trace is not what it was.
            UsageError: there is no such policy.
        """
        chosen = built_in().get(policy)
        if chosen is None:
            raise UsageError(f"policy {policy}", "is not built in", expected=f"one of {', '.join(built_in())}")
        path = self.trace(run)
        if path is None:
            return None
        with self._lock:
            return self._jobs.get((run, policy), lambda: self._begin(path, chosen))

    def changes(self, policy: str) -> Search:
        """Where the store's series change, under a policy; looked for anew where the runs are others than before."""
        from iretrace.dashboards.app.changes import Search  # noqa: PLC0415 - scipy, for two pages

        snapshot = self.snapshot()
        key = (policy, hash(tuple(snapshot.runs["run"])))
        with self._lock:
            fresh = key not in self._searches
            # A store of its own: this one may be read anew meanwhile.
            search = self._searches.get(key, lambda: Search(open_store(self.store.location.url, readonly=True), policy))
        if fresh:
            search.wait(_PATIENCE_S)
        return search

    def _begin(self, path: Path, policy: Policy) -> Job:
        trace = open_trace(path)
        job = Job(events=trace.n_events)

        def count(events: int) -> None:
            job.done += events

        def work() -> None:
            begin = time.perf_counter()
            try:
                timeline = open_timeline(trace, policy, directory=self._cache, progress=count)
            except IretraceError as error:
                job.error = error
            except Exception as error:  # noqa: BLE001 - a thread that dies would leave the page waiting for ever
                job.error = InputError(path.name, f"could not be indexed ({type(error).__name__})")
            else:
                job.seconds, job.timeline = time.perf_counter() - begin, timeline

        thread = threading.Thread(target=work, name="timeline", daemon=True)
        thread.start()
        thread.join(0.5)  # one that is in the cache is shown at once
        return job

    def _files(self, name: str) -> Iterator[Path]:
        seen = 0
        for directory in self._directories:
            for folder, _, files in os.walk(directory):
                seen += len(files)
                if seen > _MAX_FILES:
                    return
                if name in files and name.endswith(".parquet"):
                    yield Path(folder, name)


class _Held(Generic[K, V]):
    """The values used last."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: OrderedDict[K, V] = OrderedDict()

    def __contains__(self, key: K) -> bool:
        return key in self._values

    def get(self, key: K, make: Callable[[], V]) -> V:
        if key in self._values:
            self._values.move_to_end(key)
        else:
            self._values[key] = make()
            while len(self._values) > self._most:
                self._values.popitem(last=False)
        return self._values[key]


def _why_not(run: str, unreadable: Sequence[Unreadable]) -> str:
    for member in unreadable:
        if member.name.removesuffix(".parquet") == run:
            return f"cannot be read: {member.reason}"
    return "there is no such run in this store"
