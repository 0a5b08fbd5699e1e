"""A store of runs: reading, adding, removing; safe with several writers, and whatever lies in it.

``runs/NAME.parquet`` are the members, one immutable file a run, and the only truth: a run is there when its file is,
and gone when it is not. ``index/`` holds the rows of many members in two files, so that two thousand runs need not be
opened one by one; it is derived, says of which files it was made, and what it says of a file that is gone or has
changed since is left out. Losing it costs time only. A new index is written under a new name before older ones are
removed, so that writers need no lock. ``notes/`` holds what people said of changes (:mod:`iretrace.store.notes`).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from iretrace.errors import (
    Damaged,
    InputError,
    IretraceError,
    Missing,
    OutputError,
    SchemaTooNew,
    Unreachable,
    UsageError,
)
from iretrace.store.location import Entry, Location
from iretrace.store.member import MAX_BYTES, from_bytes, parquet, read_member, to_bytes
from iretrace.store.rows import run_row
from iretrace.store.schema import ALL, METRIC_SCHEMA, RUN_SCHEMA, STORE_SCHEMA

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Future
    from pathlib import Path

    import duckdb
    import pandas as pd

    from iretrace.store.run import Run

RUNS: Final = "runs"
INDEX: Final = "index"
SUFFIX: Final = ".parquet"

INDEX_AFTER: Final = 16
"""A new index is worth its writing when this many runs, or a twentieth of all, are in none."""

_STAMPS_KEY: Final = b"iretrace-members"
_RUNS_END: Final = f".runs{SUFFIX}"
_METRICS_END: Final = f".metrics{SUFFIX}"
_THREADS: Final = 8


@dataclass(frozen=True, kw_only=True)
class Unreadable:
    """A member that could not be read.

    Attributes:
        name: its file name.
        reason: in one line.
    """

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """Rows of readable members, and why others are not."""

    runs: pa.Table
    metrics: pa.Table
    unreadable: tuple[Unreadable, ...]


@dataclass(frozen=True, kw_only=True)
class _Read:
    """One member as read: its rows, or why there are none; neither where it was removed after it was listed."""

    entry: Entry
    run: dict[str, Any] | None = None
    metrics: pa.Table | None = None
    reason: str = ""
    lasting: bool = True
    """Whether reading the same file again would tell the same."""


class Store:
    """An opened store; use :func:`open_store`.

    Attributes:
        location: where it lies.
        readonly: nothing is written, no index either.
    """

    def __init__(self, location: Location, *, readonly: bool) -> None:
        self.location = location
        self.readonly = readonly
        self._rows: _Rows | None = None
        self._listing: list[Entry] | None = None
        self._cache: dict[tuple[str, str], _Read] = {}
        self._answered = False

    def runs(self) -> pd.DataFrame:
        """One row a run, the oldest first; columns are :data:`iretrace.store.schema.RUN_COLUMNS`.

        Maps (``tags``, ``losses``, ``hazards``) come as dicts, ``policies`` as lists.
        """
        frame: pd.DataFrame = self._load().runs.to_pandas(maps_as_pydicts="lossy", use_threads=False)
        frame["policies"] = [list(value) for value in frame["policies"]]
        return frame

    def metrics(self) -> pd.DataFrame:
        """One row a run, policy and vector; columns are :data:`iretrace.store.schema.METRIC_COLUMNS`.

        Rows of ``policy`` "" hold what no policy has a say in (rates, targets, durations), rows of a policy what it
        decides; ``vector`` -1 is over all vectors. :func:`long_form` makes one row a value of it. Runs come in the
        order of :meth:`runs`. What is not known is NaN.
        """
        frame: pd.DataFrame = self._load().metrics.to_pandas(use_threads=False)
        return frame

    def unreadable(self) -> list[Unreadable]:
        """Members that could not be read (truncated, of a newer schema, of zero bytes), each with the reason."""
        return list(self._load().unreadable)

    def ids(self) -> list[str]:
        """Names of all readable runs, the oldest first."""
        return [str(name) for name in self._load().runs.column("run").to_pylist()]

    def find(self, text: str) -> str:
        """The name of the one run that begins or ends with ``text``.

        Raises:
            InputError: none does, or several do, or it is one that cannot be read.
        """
        known = self.ids()
        found = [name for name in known if name == text] or [
            name for name in known if name.startswith(text) or name.endswith(text)
        ]
        if len(found) == 1:
            return found[0]
        for member in self.unreadable():
            if member.name.removesuffix(SUFFIX) == text:
                raise InputError(f"{self.location}/{RUNS}/{member.name}", member.reason)
        what = f"{len(found)} runs match ({', '.join(found[:3])}, …)" if found else "there is no such run"
        raise InputError(f"run {text}", what, expected="the name of one", remedy=f"iretrace runs list {self.location}")

    def load(self, run: str) -> Run:
        """Everything of one run (its whole name).

        Raises:
            InputError: there is no such run, or it cannot be read.
        """
        if "/" in run or "\\" in run or run.startswith("."):
            raise InputError(f"run {run!r}", "is no name of a run", remedy=f"iretrace runs list {self.location}")
        name = f"{RUNS}/{run}{SUFFIX}"
        data = self.location.read(name)
        if len(data) > MAX_BYTES:
            raise Damaged(f"{self.location}/{name}", f"has {len(data):,} bytes", expected=f"at most {MAX_BYTES:,}")
        return from_bytes(data, f"{self.location}/{name}")

    def connect(self) -> duckdb.DuckDBPyConnection:
        """A DuckDB connection of one's own with the tables ``runs`` and ``metrics`` (in memory; the store is not open).

        Maps are MAPs there: ``SELECT run, tags['commit'] FROM runs``.
        """
        import duckdb  # noqa: PLC0415 - only for those who ask

        rows = self._load()
        connection = duckdb.connect(":memory:", config={"enable_external_access": "false"})
        connection.register("runs", rows.runs)
        connection.register("metrics", rows.metrics)
        return connection

    def add(self, run: Run) -> str:
        """Write a run; gives its name.

        Raises:
            OutputError: it is there already, or cannot be written.
        """
        self.check_writable()
        name = f"{RUNS}/{run.id}{SUFFIX}"
        if not self.location.write(name, to_bytes(run)):
            raise OutputError(
                f"{self.location}",
                f"run {run.id} is there already (the same recording)",
                remedy=f"to replace it: iretrace runs rm {run.id} --store {self.location}",
            )
        self.refresh()
        return run.id

    def remove(self, run: str) -> None:
        """Remove a run by its whole name; a member that cannot be read too.

        Raises:
            InputError: there is no such run.
            OutputError: it cannot be removed.
        """
        self.check_writable()
        if "/" in run or "\\" in run or run.startswith(".") or not self.location.remove(f"{RUNS}/{run}{SUFFIX}"):
            raise InputError(f"run {run}", "there is no such run", remedy=f"iretrace runs list {self.location}")
        self.refresh()

    def check_writable(self) -> None:
        """Refuse what could not be written, as far as that can be told without writing.

        Raises:
            UsageError: the store was opened to be read only.
            InputError: an object store does not answer, refuses access, or has no such bucket.
            OutputError: the directory is not writable.
        """
        if self.readonly:
            raise UsageError(str(self.location), "the store was opened to be read only")
        if not self._answered:
            self.location.check()
            self._answered = True
        folder = self.location.local
        while folder is not None and not folder.exists():
            folder = folder.parent
        if folder is not None and not os.access(folder, os.W_OK | os.X_OK):
            raise OutputError(folder, "is not writable by you", remedy="choose another store")

    def refresh(self) -> None:
        """Forget what was listed: runs that were added since are seen."""
        self._rows = self._listing = None

    def index(self) -> bool:
        """Write an index of all runs if many are in none; True where one was written."""
        if self.readonly:
            return False
        entries = self._entries()
        stems = self._index_stems()
        held = self._read_index(stems, entries)
        missing = len(entries) - len(held[2])
        if missing < max(INDEX_AFTER, len(entries) // 20):
            return False
        rows = self._load()
        self._write_index(rows, {entry.name: entry.stamp for entry in entries}, stems)
        return True

    def _entries(self) -> list[Entry]:
        if self._listing is None:
            listed = self.location.list(RUNS)
            self._listing = [entry for entry in listed if entry.name.endswith(SUFFIX)]
        return self._listing

    def _load(self) -> _Rows:
        if self._rows is None:
            entries = self._entries()
            runs, metrics, held = self._read_index(self._index_stems(), entries)
            fresh = self._read_members([entry for entry in entries if entry.name not in held])
            good = [one for one in fresh if one.run is not None and one.metrics is not None]
            runs = pa.concat_tables([runs, pa.Table.from_pylist([one.run for one in good], RUN_SCHEMA)])
            metrics = pa.concat_tables([metrics, *(one.metrics for one in good if one.metrics is not None)])
            # By time; of equal times by name, so that the order is the same everywhere.
            order = (
                runs.select(["time", "run"])
                .to_pandas(use_threads=False)
                .sort_values(["time", "run"], kind="stable")
                .index
            )
            bad = [Unreadable(name=one.entry.name, reason=one.reason) for one in fresh if one.reason]
            runs = runs.take(pa.array(order.to_numpy()))
            self._rows = _Rows(runs=runs, metrics=_in_order(metrics, runs), unreadable=tuple(bad))
        return self._rows

    def _read_members(self, entries: Sequence[Entry]) -> list[_Read]:
        """Members, as far as they were not read before."""
        found = {}
        for entry, fetch in self._fetched([one for one in entries if (one.name, one.stamp) not in self._cache]):
            read = found[entry.name] = self._read_one(entry, fetch)
            if read.lasting:
                self._cache[entry.name, entry.stamp] = read
        return [found.get(entry.name) or self._cache[entry.name, entry.stamp] for entry in entries]

    def _fetched(self, wanted: Sequence[Entry]) -> Iterator[tuple[Entry, Callable[[], bytes]]]:
        """Members, and what gives the content of each or raises why there is none."""
        if self.location.local is not None:
            yield from ((entry, partial(self._fetch, entry)) for entry in wanted)
            return
        # Object stores answer slowly but to many at once. Only bytes are fetched in threads: Arrow's allocator
        # (mimalloc in pyarrow 25 and 26) crashes if its first allocation is in a thread that ends (arrow#50471).
        pool = ThreadPoolExecutor(_THREADS)
        try:
            under_way: deque[tuple[Entry, Future[bytes]]] = deque()
            for entry in wanted:
                under_way.append((entry, pool.submit(self._fetch, entry)))
                if len(under_way) == 2 * _THREADS:  # more would only be held in memory
                    first, future = under_way.popleft()
                    yield first, future.result
            yield from ((entry, future.result) for entry, future in under_way)
        finally:
            pool.shutdown(cancel_futures=True)

    def _fetch(self, entry: Entry) -> bytes:
        where = f"{self.location}/{RUNS}/{entry.name}"
        if entry.size > MAX_BYTES:
            raise Damaged(where, f"has {entry.size:,} bytes", expected=f"at most {MAX_BYTES:,}")
        return self.location.read(f"{RUNS}/{entry.name}")

    def _read_one(self, entry: Entry, fetch: Callable[[], bytes]) -> _Read:
        where = f"{self.location}/{RUNS}/{entry.name}"
        try:
            document, metrics = read_member(fetch(), where, METRIC_SCHEMA.names)
            if f"{document.run}{SUFFIX}" != entry.name:
                raise Damaged(where, f"says it is run {document.run[:80]!r}", expected="the run of its name")
            whole = [
                row["returns"]
                for row in metrics.select(["policy", "vector", "returns"]).to_pylist()
                if row["policy"] == "" and row["vector"] == ALL
            ]
            return _Read(entry=entry, run=_checked(run_row(document, whole[0] if whole else 0)), metrics=metrics)
        except Unreachable:  # the store's, not this member's
            raise
        except Missing:
            return _Read(entry=entry, lasting=False)
        except IretraceError as error:
            reason = "; ".join([error.found, *([f"expected {error.expected}"] if error.expected else [])])
            return _Read(entry=entry, reason=reason, lasting=isinstance(error, Damaged | SchemaTooNew))
        except (pa.ArrowException, OverflowError, ValueError) as error:
            return _Read(entry=entry, reason=f"values out of range ({error})"[:200])

    def _index_stems(self) -> list[str]:
        """Indices, the newest first."""
        names = [entry.name for entry in self.location.list(INDEX)]
        return sorted((name.removesuffix(_RUNS_END) for name in names if name.endswith(_RUNS_END)), reverse=True)

    def _read_index(self, stems: list[str], entries: list[Entry]) -> tuple[pa.Table, pa.Table, set[str]]:
        """Rows of the first index that can be read, of members that are still as they were; and those members."""
        now = {entry.name: entry.stamp for entry in entries}
        for stem in stems:
            # One that is damaged, or that another writer has just removed, is as good as none.
            with contextlib.suppress(InputError, pa.ArrowException, ValueError, KeyError, OSError):
                runs, stamps = self._read_index_table(f"{INDEX}/{stem}{_RUNS_END}", RUN_SCHEMA)
                metrics, _ = self._read_index_table(f"{INDEX}/{stem}{_METRICS_END}", METRIC_SCHEMA)
                held = {name for name, stamp in stamps.items() if now.get(name) == stamp}
                if len(held) < len(stamps):
                    kept = pa.array([name.removesuffix(SUFFIX) for name in held], pa.string())
                    runs, metrics = _only(runs, kept), _only(metrics, kept)
                return runs, metrics, held
        return RUN_SCHEMA.empty_table(), METRIC_SCHEMA.empty_table(), set()

    def _read_index_table(self, name: str, schema: pa.Schema) -> tuple[pa.Table, dict[str, str]]:
        import msgspec  # noqa: PLC0415

        with pq.ParquetFile(pa.BufferReader(self.location.read(name))) as file:
            raw = (file.metadata.metadata or {}).get(_STAMPS_KEY, b"")
            document = msgspec.json.decode(raw, type=dict[str, Any])
            if document.get("schema") != STORE_SCHEMA:
                raise Damaged(name, "an index of another schema")
            stamps = msgspec.convert(document["members"], dict[str, str])
            return file.read(use_threads=False).select(schema.names).cast(schema), stamps

    def _write_index(self, rows: _Rows, stamps: dict[str, str], older: list[str]) -> None:
        import msgspec  # noqa: PLC0415

        held = {f"{run}{SUFFIX}" for run in rows.runs.column("run").to_pylist()}
        good = {name: stamp for name, stamp in stamps.items() if name in held}
        key = {_STAMPS_KEY: msgspec.json.encode({"schema": STORE_SCHEMA, "members": good})}
        stem = f"{time.time_ns():020d}-{os.getpid()}-{secrets.token_hex(4)}"
        # What makes the index count comes last.
        for end, table in ((_METRICS_END, rows.metrics), (_RUNS_END, rows.runs)):
            self.location.write(f"{INDEX}/{stem}{end}", parquet(table, key))
        for old in older:
            for end in (_RUNS_END, _METRICS_END):
                with contextlib.suppress(OutputError):
                    self.location.remove(f"{INDEX}/{old}{end}")


def _checked(row: dict[str, Any]) -> dict[str, Any]:
    """Refuse here, where the member can be named, what the table of all runs would refuse."""
    pa.Table.from_pylist([row], RUN_SCHEMA)
    return row


def _only(table: pa.Table, runs: pa.Array) -> pa.Table:
    import pyarrow.compute as pc  # noqa: PLC0415

    return table.filter(pc.is_in(table.column("run"), value_set=runs))


def _in_order(metrics: pa.Table, runs: pa.Table) -> pa.Table:
    """Metrics in the order of the runs, and within a run as they were."""
    import pyarrow.compute as pc  # noqa: PLC0415

    at = pc.index_in(metrics.column("run"), value_set=runs.column("run").combine_chunks())
    return metrics.take(pc.array_sort_indices(at.combine_chunks() if isinstance(at, pa.ChunkedArray) else at))


def open_store(url: str | Path, *, readonly: bool = False, create: bool = False) -> Store:
    """Open a store.

    Args:
        url: directory, or URL of an object-store prefix that fsspec knows (``s3://``, ``gs://``, ``memory://``, …).
        readonly: never write, not even an index.
        create: a store that is not there yet is as good as an empty one.

    Raises:
        InputError: there is nothing there, or it is no directory, or no store, or cannot be reached.
        UsageError: fsspec does not know the protocol, or its driver is not installed.
    """
    location = Location(url)
    if location.local is not None and location.local.exists() and not location.local.is_dir():
        raise InputError(url, "is a file", expected="the directory of a store")
    if not create and not location.list(RUNS):
        if not location.exists():
            raise InputError(
                url, "there is no such store", remedy="make one with: iretrace runs add TRACE --store STORE"
            )
        if location.local is not None and any(location.local.iterdir()) and not (location.local / RUNS).is_dir():
            raise InputError(
                url,
                f"is no store of runs (it has no {RUNS}/)",
                remedy="make one with: iretrace runs add TRACE --store STORE",
            )
    return Store(location, readonly=readonly)


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of a frame as dicts."""
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]


def long_form(metrics: pd.DataFrame) -> pd.DataFrame:
    """One row a value that is known: columns ``run``, ``policy``, ``vector``, ``name``, ``metric``, ``value``.

    Args:
        metrics: of :meth:`Store.metrics`.
    """
    heads = ["run", "policy", "vector", "name"]
    frame = metrics.melt(heads, [c for c in metrics.columns if c not in heads], "metric", "value")
    return frame.dropna(subset=["value"]).reset_index(drop=True)
