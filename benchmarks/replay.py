"""What a replay costs beside reading its columns and beside ``perf script``, and how its memory grows with the trace.

Usage: python -m benchmarks.replay [--events N] (root and perf, for perf script)
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq

from benchmarks import traces
from benchmarks.common import ROOT, Row, alternate, iretrace, spread
from iretrace.replay import policies
from iretrace.replay.engine import COLUMNS
from iretrace.replay.run import replay
from iretrace.replay.summary import document
from iretrace.schema import ROW_GROUP_EVENTS
from iretrace.trace import open_trace

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from iretrace.replay.policies import Policy

EVENTS = 10_000_000
ROUNDS = 7
FAULTS = 1_000_000
HEAVY = ("pandas", "plotly", "rich", "scipy")

_FIVE = (
    policies.IRET,
    policies.RFC2014,
    policies.RFC2014_REVIEWED,
    policies.RFC2014_HOST_IST,
    policies.FRED,
)

# Without the pages of the mapped trace, which the kernel can take back at any time.
_PEAK = """
import sys, threading
from pathlib import Path
from iretrace.replay import policies
from iretrace.replay.run import replay
from iretrace.trace import open_trace
peak, done = 0, threading.Event()
def watch():
    global peak
    while not done.wait(0.002):
        lines = Path("/proc/self/status").read_text().splitlines()
        peak = max(peak, next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")))
watcher = threading.Thread(target=watch)
watcher.start()
replay(open_trace(sys.argv[1]), [policies.RFC2014])
done.set()
watcher.join()
print(peak / 1024)
"""


def run(events: int = EVENTS) -> list[Row]:
    """Speed, memory and start, each side by side with what it is compared to."""
    with tempfile.TemporaryDirectory() as directory:
        path, shorter, data = (Path(directory) / name for name in ("trace", "shorter", "perf.data"))
        traces.repeat(path, events)
        traces.repeat(shorter, events // 10)
        # The fewer rounds, the longer each of them.
        rounds = ROUNDS if events <= EVENTS else 3
        return [*_speed(path, rounds), *_memory(shorter, path), *_perf_script(shorter, data), *_start()]


def _speed(path: Path, rounds: int) -> list[Row]:
    trace = open_trace(path)
    columns = list(COLUMNS)

    def by_row_group() -> None:
        with pq.ParquetFile(path, memory_map=True) as file:
            for group in range(file.metadata.num_row_groups):
                file.read_row_group(group, columns=columns)

    def by_batch() -> None:
        with pq.ParquetFile(path, memory_map=True) as file:
            for _ in file.iter_batches(ROW_GROUP_EVENTS, columns=columns):
                pass

    def whole() -> None:
        pq.read_table(path, columns=columns, memory_map=True)

    def under(chosen: Sequence[Policy]) -> Callable[[], object]:
        return lambda: document(replay(trace, chosen))

    # A whole table of a long trace would not fit into memory.
    ways = [by_row_group, by_batch, *([whole] if trace.n_events <= EVENTS else [])]
    runs = [under([policies.RFC2014]), under(_FIVE), *ways]
    for warm_up in runs:
        warm_up()
    cpu: list[list[float]] = [[] for _ in runs]
    one, five, *reads = alternate(rounds, *(_timed(work, cpu[k]) for k, work in enumerate(runs)))
    alone = min(reads, key=statistics.median)
    of_cpu = _ratios(cpu[0], cpu[2 + reads.index(alone)])
    added = [(a - b) / trace.n_events * 1e9 for a, b in zip(one, alone, strict=True)]
    each = [a / trace.n_events * 1e9 for a in one]
    fastest = ways[reads.index(alone)].__name__.replace("_", " ")
    how = f"{rounds} alternations, {trace.n_events:,} events"
    return [
        Row(
            what="pyarrow reads the columns of a replay",
            goal="",
            measured=spread(alone, " s"),
            how=f"{how}; {fastest}, the fastest of {len(ways)} ways",
        ),
        Row(what="replay under one policy", goal="", measured=spread(one, " s"), how=how),
        Row(what="ratio of the two", goal="≤ 1.3", measured=spread(_ratios(one, alone)), how=how),
        Row(what="the same in CPU time", goal="", measured=spread(of_cpu), how="tells less of what else is running"),
        Row(what="replay, for each event", goal="", measured=spread(each, " ns"), how=how),
        Row(what="of it, added to reading", goal="", measured=spread(added, " ns"), how=how),
        Row(what="five policies beside one", goal="≤ 1.6", measured=spread(_ratios(five, one)), how=how),
    ]


def _memory(path: Path, longer: Path) -> list[Row]:
    def peak(trace: Path) -> Callable[[], float]:
        command = [sys.executable, "-c", _PEAK, str(trace)]
        return lambda: float(subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout)

    short, long = alternate(3, peak(path), peak(longer))
    how = f"3 alternations, anonymous memory; {open_trace(longer).n_events:,} events"
    return [
        Row(what="peak memory of a replay", goal="", measured=spread(long, " MiB"), how=how),
        Row(what="beside that of a tenth of the events", goal="", measured=spread(_ratios(long, short)), how=how),
    ]


def _perf_script(trace: Path, data: Path) -> list[Row]:
    """Text of a million recorded page faults, beside a replay of a trace that long; whole processes."""
    storm = data.with_name("storm")
    subprocess.run(["gcc", "-O2", "-o", storm, ROOT / "benchmarks" / "storm.c"], check=True)
    record = [
        "perf",
        "record",
        "-q",
        "-e",
        "exceptions:page_fault_user",
        "-a",
        "-o",
        str(data),
        "--",
        str(storm),
        str(FAULTS),
    ]
    subprocess.run(record, check=True, capture_output=True)
    script = ["perf", "script", "-i", str(data)]
    text = subprocess.run(script, check=True, capture_output=True).stdout
    perf_events, events = text.count(b"\n"), open_trace(trace).n_events
    perf, ours = alternate(3, _timed(_process(script)), _timed(_process(iretrace("replay", trace, "--json"))))
    perf_ns = [seconds / perf_events * 1e9 for seconds in perf]
    our_ns = [seconds / events * 1e9 for seconds in ours]
    how = "3 alternations, whole processes"
    return [
        Row(
            what="perf script, for each event", goal="", measured=spread(perf_ns, " ns"), how=f"{perf_events:,} events"
        ),
        Row(what="iretrace replay, for each event", goal="", measured=spread(our_ns, " ns"), how=f"{events:,} events"),
        Row(what="ratio of the two", goal="", measured=spread(_ratios(perf_ns, our_ns)), how=how),
    ]


def _start() -> list[Row]:
    needed, whole = alternate(
        ROUNDS,
        _timed(_process([sys.executable, "-c", "import pyarrow.parquet"])),
        _timed(_process(iretrace("replay", traces.SAMPLE, "--json"))),
    )
    imported = subprocess.run(
        [sys.executable, "-X", "importtime", *iretrace("replay", traces.SAMPLE, "--json")[1:]],
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
    ).stderr
    packages = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in imported.splitlines()}
    heavy = ", ".join(sorted(packages & set(HEAVY))) or "none"
    how = f"{ROUNDS} alternations, whole processes"
    return [
        Row(what="python -c 'import pyarrow.parquet'", goal="", measured=spread(needed, " s"), how=how),
        Row(what="iretrace replay samples/mixed.parquet", goal="< 1 s", measured=spread(whole, " s"), how=how),
        Row(what=f"of {', '.join(HEAVY)} it imports", goal="none", measured=heavy, how="python -X importtime"),
    ]


def _process(command: list[str]) -> Callable[[], object]:
    return lambda: subprocess.run(command, check=True, capture_output=True, cwd=ROOT)


def _timed(work: Callable[[], object], cpu: list[float] | None = None) -> Callable[[], float]:
    """Run it and give the seconds; the CPU seconds of this process go to ``cpu``."""

    def seconds() -> float:
        begin, begin_cpu = time.perf_counter(), time.process_time()
        work()
        if cpu is not None:
            cpu.append(time.process_time() - begin_cpu)
        return time.perf_counter() - begin

    return seconds


def _ratios(over: Sequence[float], under: Sequence[float]) -> list[float]:
    """Of runs side by side: their median is steadier than the ratio of medians."""
    return [a / b for a, b in zip(over, under, strict=True)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--events", type=int, default=EVENTS, metavar="N", help="events of the trace, 10 million if not given"
    )
    for row in run(parser.parse_args().events):
        print(f"{row.what}: {row.measured}  [goal {row.goal or 'none'}; {row.how}]")
