"""Series of runs: from a store, one a vector and measure of runs that may be compared; or from any table."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from datetime import datetime
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from iretrace.analysis.measures import BY_NAME
from iretrace.errors import Damaged, InputError, UsageError
from iretrace.store.comparable import CONDITIONS, obstacles
from iretrace.store.schema import ANY_POLICY
from iretrace.store.store import records

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import pandas as pd
    from numpy.typing import NDArray

    from iretrace.store.store import Store

GROUP: Final = ("workload", "host", *(c.column for c in CONDITIONS if c.column != "workload"))
"""Columns of the table of runs that must be alike for runs to stand in one series."""

_COLUMNS: Final = {
    "rate": ("per_s", "up"),
    "to_kernel": ("to_kernel_pct", "down"),
    "ret": ("ret_pct", "down"),
    **{f"latency_{q}": (f"latency_{q.replace('.', '')}_cycles", "up") for q in ("p50", "p90", "p99", "p99.9")},
    **{f"self_{q}": (f"self_{q.replace('.', '')}_cycles", "up") for q in ("p50", "p90", "p99", "p99.9")},
    "saved": ("saved_per_s_cycles", "down"),
}
"""Measures by the names that compare uses: column of the table of metrics, and which way is worse."""

_OF_POLICY: Final = frozenset({"ret", "saved"})
_IDS: Final = ("id", "run", "run_id", "commit", "build", "name")
_TIMES: Final = ("time", "timestamp", "date", "datetime", "recorded")
_MAX_BYTES: Final = 1 << 28


@dataclass(frozen=True, kw_only=True)
class Series:
    """One measure over the runs that knew it, the oldest first.

    Attributes:
        name: unique among the series of a question.
        runs: names of the runs; as many as values.
        values: float64, shape ``(n,)``.
        worse: which way is worse.
        group: what the runs have in common; empty for a table's column.
        rows: the runs' rows, for tags and kernels.
        unit: of the values; empty: not known.
    """

    name: str
    runs: tuple[str, ...]
    values: NDArray[np.float64]
    worse: Literal["up", "down", "either"]
    group: dict[str, str] = field(default_factory=dict)
    rows: tuple[dict[str, Any], ...] = ()
    unit: str = ""


def of_store(store: Store, *, policy: str, only: Sequence[str] = ()) -> tuple[list[Series], list[str]]:
    """Every series of a store, and what was left out and why.

    Args:
        store: an opened store.
        policy: under which RETs and savings are.
        only: patterns of ``VECTOR.MEASURE``, ``MEASURE`` or ``VECTOR``; empty: everything.
    """
    rows = records(store.runs())
    notes = [f"{one.name} cannot be read: {one.reason}" for one in store.unreadable()]
    kept = []
    for row in rows:
        lossy = [text for text in obstacles([row], [row]) if row["run"] in text]
        notes += [f"left out: {text}" for text in dict.fromkeys(lossy)]
        kept += [] if lossy else [row]
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in kept:
        groups.setdefault(tuple(str(row[column]) for column in GROUP), []).append(row)
    metrics = store.metrics()
    found: list[Series] = []
    for key, members in groups.items():
        group = dict(zip(GROUP, key, strict=True))
        varying = [column for i, column in enumerate(GROUP) if len({other[i] for other in groups}) > 1]
        label = ", ".join(group[column] or f"no {column}" for column in varying)
        found += _of_group(metrics, members, group, f"{label}: " if label else "", policy, only)
    if only and rows and not found:
        raise UsageError(f"--only {only[0]}", "fits no series", expected="VECTOR.MEASURE, such as '#PF.latency_*'")
    return found, notes


def _of_group(  # noqa: PLR0913, PLR0917 - what makes a series
    metrics: pd.DataFrame,
    members: list[dict[str, Any]],
    group: dict[str, str],
    label: str,
    policy: str,
    only: Sequence[str],
) -> Iterator[Series]:
    names = [row["run"] for row in members]
    here = metrics[metrics["run"].isin(names)]
    for measure, (column, worse) in _COLUMNS.items():
        rows = here[here["policy"] == (policy if measure in _OF_POLICY else ANY_POLICY)]
        table = rows.pivot_table(index="run", columns=["vector", "name"], values=column, dropna=False, observed=True)
        table = table.reindex(names)
        if table.empty:
            continue
        keys: list[Any] = table.columns.to_list()
        for vector, name in keys:
            if only and not any(fnmatchcase(t, p) for p in only for t in (f"{name}.{measure}", measure, name)):
                continue
            values = table[vector, name].to_numpy(np.float64)
            if measure in ("rate", "saved"):
                # A vector that a run did not meet came at a rate of 0, where the run has a rate at all.
                values = np.where(np.isnan(values) & ~np.isnan(table[-1, "all"].to_numpy()), 0.0, values)
            known = np.flatnonzero(~np.isnan(values))
            if known.size:
                yield Series(
                    name=f"{label}{name}.{measure}",
                    runs=tuple(names[i] for i in known),
                    values=values[known],
                    worse="up" if worse == "up" else "down",
                    group=group,
                    rows=tuple(members[i] for i in known),
                    unit=BY_NAME[measure].unit,
                )


def of_csv(
    path: Path, *, id_column: str | None = None, time_column: str | None = None
) -> tuple[list[Series], list[str]]:
    """Every numeric column of a table, and which columns were left out.

    Args:
        path: a CSV file with a header: one row a run.
        id_column: what names a run; ``None``: a column called id, run, commit, build or name, else the first.
        time_column: what orders the runs; ``None``: one called time, timestamp or date, else the order of the rows.

    Raises:
        InputError: the file cannot be read, or is no such table.
        UsageError: there is no such column.
    """
    header, rows = _read(path)
    by_lower = {name.lower(): name for name in reversed(header)}
    for asked in (id_column, time_column):
        if asked is not None and asked not in header:
            raise UsageError(f"column {asked}", f"{path} has none of that name", expected=f"one of {', '.join(header)}")
    identity = id_column or next((by_lower[name] for name in _IDS if name in by_lower), header[0])
    moment = time_column or next((by_lower[name] for name in _TIMES if name in by_lower), None)
    columns = {name: [row[i] for row in rows] for i, name in enumerate(header)}
    if moment is not None:
        order = np.argsort(_times(path, moment, columns[moment]), kind="stable").tolist()
        columns = {name: [values[i] for i in order] for name, values in columns.items()}
    found, notes = [], []
    for name in header:
        if name in (identity, moment):
            continue
        values = _numbers(columns[name])
        if values is None:
            notes.append(f"column {name} is left out: it is not numeric")
            continue
        known = np.flatnonzero(~np.isnan(values))
        runs = tuple(columns[identity][i] for i in known)
        found.append(Series(name=name, runs=runs, values=values[known], worse="either"))
    if not found:
        raise InputError(path, "has no numeric column", expected="one row a run: an id, a time, numbers")
    return found, notes


def _read(path: Path) -> tuple[list[str], list[list[str]]]:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InputError(path, f"has {path.stat().st_size:,} bytes", expected=f"at most {_MAX_BYTES:,}")
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [row for row in csv.reader(file, strict=True) if row]
    except OSError as error:
        raise InputError(path, f"cannot be read ({error.strerror})", expected="a CSV file") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise Damaged(path, f"is no CSV file ({error})", expected="UTF-8, a header, one row a run") from None
    if len(rows) < 2:
        raise InputError(path, "holds no rows", expected="a header and one row a run")
    header = [name.strip() for name in rows[0]]
    if len(set(header)) < len(header):
        raise Damaged(path, "has two columns of one name", expected="a name of its own for each")
    for number, row in enumerate(rows[1:], 2):
        if len(row) != len(header):
            raise Damaged(path, f"row {number} has {len(row)} fields", expected=f"{len(header)}, as the header")
    return header, rows[1:]


def _numbers(texts: list[str]) -> NDArray[np.float64] | None:
    """Numbers, NaN where a field is empty; ``None``: a field is something else, or all are empty."""
    try:
        values = np.array([float(text) if text.strip() else np.nan for text in texts])
    except ValueError:
        return None
    values[np.isinf(values)] = np.nan
    return None if np.isnan(values).all() else values


def _times(path: Path, name: str, texts: list[str]) -> list[float]:
    try:
        return [float(text) for text in texts]
    except ValueError:
        pass
    try:
        moments = [datetime.fromisoformat(text.strip()) for text in texts]
        return [moment.timestamp() for moment in moments]
    except (ValueError, OverflowError) as error:
        raise Damaged(path, f"column {name} is no time ({error})", expected="numbers or ISO 8601 dates") from None
