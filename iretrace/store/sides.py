"""What a side of a comparison names: traces, runs of a store, or all runs of a store with some tag."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iretrace import sources
from iretrace.errors import UsageError
from iretrace.redaction import redacted
from iretrace.store import aggregated
from iretrace.store.rows import run_row
from iretrace.store.store import open_store, records
from iretrace.store.summarize import summarize
from iretrace.trace import open_trace

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from iretrace.replay.policies import Policy
    from iretrace.store.run import Run

    Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
    Replay = Callable[[Sequence[str]], list[Run]]


@dataclass(frozen=True, kw_only=True)
class Side:
    """One side.

    Attributes:
        named: as it was asked for.
        runs: at least one.
        rows: their rows of the table of runs.
    """

    named: str
    runs: tuple[Run, ...]
    rows: tuple[dict[str, Any], ...]


def find_side(named: str, store: str, policy: Policy, replay: Replay) -> Side:
    """The runs that a side names.

    Args:
        named: parts with commas between them; each a trace (a path, a pattern or a URL), the name of a run of the store
            (or its beginning or end), or ``KEY=VALUE``: all runs of the store with that tag or column.
        store: where runs are looked up.
        policy: under which traces are replayed.
        replay: from names of traces to their runs, in that order.

    Raises:
        InputError: a trace or run that is not there or cannot be read.
        UsageError: no run has that tag, or a run was not replayed under the policy.
    """
    runs: list[Run] = []
    for part in (part.strip() for part in named.split(",")):
        if not part:
            raise UsageError(named, "names nothing between two commas", expected="traces or runs")
        runs += _find(part, store, replay)
    unique = {run.id: run for run in runs}
    if len(unique) < len(runs):
        raise UsageError(named, "names the same recording twice", expected="repeats, each recorded for itself")
    for run in runs:
        run.policy(policy.name)
    return Side(named=redacted(named), runs=tuple(runs), rows=tuple(_row(run) for run in runs))


def _find(part: str, where: str, replay: Replay) -> list[Run]:
    key, equals, value = part.partition("=")
    path = Path(part)
    if path.exists() or "://" in part or any(letter in part for letter in "*?[") or part.endswith(".parquet"):
        return replay(sources.expand([part]))
    store = open_store(where)
    if not equals:
        return [store.load(store.find(part))]
    rows = records(store.runs())
    names = [row["run"] for row in rows if row["tags"].get(key, str(row.get(key, ""))) == value]
    if not names:
        raise UsageError(
            part, f"no run of {where} has that", expected="a tag or column", remedy=f"iretrace runs list {where}"
        )
    return [store.load(name) for name in names]


def replaying(policy: Policy, progress: Progress) -> Replay:
    """Replays traces one after another in this process; ``progress`` shows how far a trace of so many events is."""

    def replay(names: Sequence[str]) -> list[Run]:
        runs = []
        for name in names:
            with sources.local(name) as path:
                if aggregated.is_run(path):
                    runs.append(aggregated.read(path))
                    continue
                trace = open_trace(path)
                with progress(f"reading {redacted(name)}", trace.n_events) as advance:
                    runs.append(summarize(trace, [policy], progress=advance))
        return runs

    return replay


def _row(run: Run) -> dict[str, Any]:
    return run_row(run.document, int(run.policies[0].count.sum()))
