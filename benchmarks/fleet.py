"""Replaying many traces: time per event from 1 to 1 000 files, and two workers against one.

Usage: python -m benchmarks.fleet
"""

from __future__ import annotations

import os
import tempfile
import time
from functools import partial
from pathlib import Path

from benchmarks import traces
from benchmarks.common import Row, alternate, spread
from iretrace import fleet
from iretrace.fleet import FleetOptions, run_all
from iretrace.fleet_tasks import replay_document

SIZES = (1, 10, 100, 1000)
EVENTS = 100_000
BIG_EVENTS = 2_000_000
BIG_FILES = 100
ROUNDS = 3
TASK = partial(replay_document, ("iret", "rfc2014"))


def run() -> list[Row]:
    """One file a task, as the verbs do it; files are links to one, so that all are in the page cache."""
    with tempfile.TemporaryDirectory(prefix="iretrace-fleet-") as place:
        directory = Path(place)
        return [_growth(directory), *_workers(directory)]


def _links(directory: Path, what: str, n_events: int, n_files: int) -> list[str]:
    first = directory / f"{what}-0.parquet"
    traces.write(first, n_events)
    for number in range(1, n_files):
        os.link(first, directory / f"{what}-{number}.parquet")
    return [str(directory / f"{what}-{number}.parquet") for number in range(n_files)]


def _seconds(names: list[str], options: FleetOptions) -> float:
    begin = time.perf_counter()
    for outcome in run_all(TASK, names, options):
        if outcome.error:
            raise RuntimeError(outcome.error)
    return time.perf_counter() - begin


def _growth(directory: Path) -> Row:
    names = _links(directory, "small", EVENTS, max(SIZES))
    _seconds(names[:3], FleetOptions())  # imports
    # In turn: a size a contender, the small ones several times so that each figure is of about a second or more.
    figures = alternate(
        3,
        *(
            lambda n=n: (
                sum(_seconds(names[:n], FleetOptions()) for _ in range(max(1, 30 // n)))
                / (max(1, 30 // n) * n * EVENTS)
                * 1e9
            )
            for n in SIZES
        ),
    )
    measured = "; ".join(f"{n}: {spread(each, ' ns')}" for n, each in zip(SIZES, figures, strict=True))
    return Row(what="time per event by number of files, serial", goal="flat", measured=measured, how="3 alternations")


def _workers(directory: Path) -> list[Row]:
    names = _links(directory, "big", BIG_EVENTS, BIG_FILES)
    cpus = sorted(os.sched_getaffinity(0))[:2]
    one, two = alternate(ROUNDS, lambda: pool_seconds(names, cpus[:1]), lambda: pool_seconds(names, cpus))
    speedup = [a / b for a, b in zip(one, two, strict=True)]
    how = f"{BIG_FILES} files of {BIG_EVENTS:,} events, a CPU a worker, {ROUNDS} alternations, their start included"
    return [
        Row(what="two workers against one", goal="≥ 1.8", measured=spread(speedup, " times"), how=how),
        Row(what="one worker", goal="", measured=spread(one, " s"), how=how),
    ]


def pool_seconds(names: list[str], cpus: list[int]) -> float:
    """A worker for each CPU, and only those CPUs for all of them.

    One replay uses more than one CPU where it may (it reads ahead in a thread), so that without this two workers on two
    CPUs would be held against one that has both.
    """
    before = os.sched_getaffinity(0)
    begin = time.perf_counter()
    os.sched_setaffinity(0, cpus)
    try:
        outcomes = fleet._in_processes(partial(fleet.attempt, TASK, 0), names, FleetOptions(jobs=len(cpus)))  # noqa: SLF001
        for outcome in outcomes:
            if outcome.error:
                raise RuntimeError(outcome.error)
    finally:
        os.sched_setaffinity(0, before)
    return time.perf_counter() - begin


if __name__ == "__main__":
    for row in run():
        print(f"{row.what}: {row.measured}  [goal {row.goal or 'none'}; {row.how}]")
