"""What a replay costs beside reading its columns, and how its memory grows with the trace.

Usage: python benchmarks/replay.py [--events 10000000] [--rounds 7] [--dir DIR]

Times in alternation, because absolute times drift: (a) pyarrow alone reading the columns that a replay needs,
(b) a replay under one policy from Parquet to summary, (c) the same under five policies. Then the peak of
anonymous memory of a process that replays the trace, and one four times as long, and the whole of
``iretrace replay`` on a small trace beside the import of pyarrow.parquet.
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
import traces

from iretrace.replay import policies
from iretrace.replay.engine import COLUMNS
from iretrace.replay.run import replay
from iretrace.replay.summary import document
from iretrace.trace import open_trace

if TYPE_CHECKING:
    from collections.abc import Callable

_PEAK = """
import sys, threading, time
from pathlib import Path
from iretrace.replay import policies
from iretrace.replay.run import replay
from iretrace.trace import open_trace
peak, done = 0, threading.Event()
def anonymous_kb():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))
def watch():
    global peak
    while not done.wait(0.002):
        peak = max(peak, anonymous_kb())
watcher = threading.Thread(target=watch)
before = anonymous_kb()
watcher.start()
replay(open_trace(sys.argv[1]), [policies.RFC2014])
done.set()
watcher.join()
print(before, peak)
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.dir) as directory:
        path, longer, small = (Path(directory) / name for name in ("trace", "longer", "small"))
        traces.write(path, options.events)
        traces.write(longer, 4 * options.events)
        traces.write(small, 1000)
        _speed(path, options.rounds)
        _memory(path, longer)
        _start(small, options.rounds)


def _speed(path: Path, rounds: int) -> None:
    trace = open_trace(path)
    five = [policies.IRET, policies.RFC2014, policies.RFC2014_REVIEWED, policies.RFC2014_HOST_IST, policies.FRED]
    runs: dict[str, Callable[[], object]] = {
        "read": lambda: _read(path),
        "one policy": lambda: document(replay(trace, [policies.RFC2014])),
        "five policies": lambda: document(replay(trace, five)),
    }
    seconds = _alternate(runs, rounds)
    print(f"{trace.n_events:,} events, {path.stat().st_size / trace.n_events:.1f} bytes each")
    for name, times in seconds.items():
        median = statistics.median(times)
        print(f"{name:14} {median:.3f} s  {median / trace.n_events * 1e9:6.1f} ns/event  best {min(times):.3f} s")
    _ratio("one policy / read", seconds["one policy"], seconds["read"])
    _ratio("five policies / one", seconds["five policies"], seconds["one policy"])


def _read(path: Path) -> None:
    with pq.ParquetFile(path, memory_map=True) as file:
        for group in range(file.metadata.num_row_groups):
            file.read_row_group(group, columns=list(COLUMNS))


def _alternate(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each run, a warm-up apart."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(rounds + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if i:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def _ratio(label: str, over: list[float], under: list[float]) -> None:
    """Ratios of runs side by side: their median is steadier than the ratio of medians."""
    ratios = [a / b for a, b in zip(over, under, strict=True)]
    print(f"{label}: {statistics.median(ratios):.2f} (best against best {min(over) / min(under):.2f})")


def _memory(path: Path, longer: Path) -> None:
    grown = []
    for trace in (path, longer):
        done = subprocess.run([sys.executable, "-c", _PEAK, trace], check=True, capture_output=True, text=True)
        before, peak = (int(word) / 1024 for word in done.stdout.split())
        grown.append(peak)
        print(f"peak of anonymous memory: {peak:.0f} MB ({before:.0f} MB before) for {open_trace(trace).n_events:,}")
    print(f"four times the trace / once: {grown[1] / grown[0]:.2f}")


def _start(small: Path, rounds: int) -> None:
    def run(*arguments: str | Path) -> Callable[[], object]:
        return lambda: subprocess.run([sys.executable, *arguments], check=True, capture_output=True)

    seconds = _alternate(
        {
            "import pyarrow.parquet": run("-c", "import pyarrow.parquet"),
            "iretrace replay --json": run("-m", "iretrace", "replay", small, "--json"),
        },
        rounds,
    )
    for name, times in seconds.items():
        print(f"{name}: {statistics.median(times):.2f} s")
    _ratio("iretrace replay / import", *reversed(list(seconds.values())))


if __name__ == "__main__":
    main()
