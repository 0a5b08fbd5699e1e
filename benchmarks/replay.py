"""What a replay costs beside reading its columns, and how its memory grows with the trace.

Usage: python -m benchmarks.replay [EVENTS]
"""

from __future__ import annotations

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
from iretrace.trace import open_trace

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from iretrace.replay.policies import Policy

EVENTS = 10_000_000
ROUNDS = 7

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
        path, longer, small = (Path(directory) / name for name in ("trace", "longer", "small"))
        traces.write(path, events)
        traces.write(longer, 4 * events)
        traces.write(small, 1000)
        return [*_speed(path), *_memory(path, longer), *_start(small)]


def _speed(path: Path) -> list[Row]:
    trace = open_trace(path)

    def read() -> None:
        with pq.ParquetFile(path, memory_map=True) as file:
            for group in range(file.metadata.num_row_groups):
                file.read_row_group(group, columns=list(COLUMNS))

    def under(chosen: Sequence[Policy]) -> Callable[[], object]:
        return lambda: document(replay(trace, chosen))

    runs = [read, under([policies.RFC2014]), under(_FIVE)]
    for warm_up in runs:
        warm_up()
    alone, one, five = alternate(ROUNDS, *(_timed(work) for work in runs))
    added = [(a - b) / trace.n_events * 1e9 for a, b in zip(one, alone, strict=True)]
    how = f"{ROUNDS} alternations, {trace.n_events:,} events"
    return [
        Row(what="pyarrow reads the columns of a replay", goal="", measured=spread(alone, " s"), how=how),
        Row(what="replay under one policy", goal="", measured=spread(one, " s"), how=how),
        Row(what="ratio of the two", goal="≤ 1.5", measured=spread(_ratios(one, alone)), how=how),
        Row(what="added for each event", goal="", measured=spread(added, " ns"), how=how),
        Row(what="five policies beside one", goal="≤ 1.6", measured=spread(_ratios(five, one)), how=how),
    ]


def _memory(path: Path, longer: Path) -> list[Row]:
    def peak(trace: Path) -> Callable[[], float]:
        command = [sys.executable, "-c", _PEAK, str(trace)]
        return lambda: float(subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout)

    short, long = alternate(3, peak(path), peak(longer))
    how = "3 alternations, anonymous memory"
    return [
        Row(what="peak memory of a replay", goal="", measured=spread(short, " MiB"), how=how),
        Row(
            what="ratio of peak memory, four times the events", goal="", measured=spread(_ratios(long, short)), how=how
        ),
    ]


def _start(small: Path) -> list[Row]:
    def process(command: list[str]) -> Callable[[], object]:
        return lambda: subprocess.run(command, check=True, capture_output=True, cwd=ROOT)

    needed, whole = alternate(
        ROUNDS,
        _timed(process([sys.executable, "-c", "import pyarrow.parquet"])),
        _timed(process(iretrace("replay", small, "--json"))),
    )
    how = f"{ROUNDS} alternations, whole processes"
    return [
        Row(what="python -c 'import pyarrow.parquet'", goal="", measured=spread(needed, " s"), how=how),
        Row(what="iretrace replay of a small trace", goal="", measured=spread(whole, " s"), how=how),
    ]


def _timed(work: Callable[[], object]) -> Callable[[], float]:
    def seconds() -> float:
        begin = time.perf_counter()
        work()
        return time.perf_counter() - begin

    return seconds


def _ratios(over: Sequence[float], under: Sequence[float]) -> list[float]:
    """Of runs side by side: their median is steadier than the ratio of medians."""
    return [a / b for a, b in zip(over, under, strict=True)]


if __name__ == "__main__":
    for row in run(int(sys.argv[1]) if len(sys.argv) > 1 else EVENTS):
        print(f"{row.what}: {row.measured}  [goal {row.goal or 'none'}; {row.how}]")
