"""What the dashboard takes: the timeline of a long trace at every zoom, and the overview of two thousand runs.

The application is served by a process of its own and asked over HTTP, as a browser asks it.

Usage: python -m benchmarks.dashboards [--events N]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks import stores, traces
from benchmarks.common import ROOT, Row, spread
from benchmarks.memory import own_mib
from iretrace.trace import open_trace

if TYPE_CHECKING:
    from collections.abc import Iterator

EVENTS: Final = 100_000_000
RUNS: Final = 2_000
STEPS: Final = 3
"""Each stretch is so many times shorter than the one before."""

LOOKS: Final = 4
"""Places looked at with every length."""

# Serves a store, and one trace as that of its newest run; a summary of so long a trace would take minutes to make.
_SERVE = """
import sys
from pathlib import Path
from werkzeug.serving import make_server
from iretrace.commands.dashboard_ import quiet_handler
from iretrace.dashboards.app.server import create
from iretrace.dashboards.app.source import Source
from iretrace.store import open_store
store = open_store(sys.argv[1], readonly=True)
traces = {store.ids()[-1]: Path(sys.argv[2])} if len(sys.argv) > 2 else {}
source = Source(store, traces=traces, cache=Path(sys.argv[1]) / "cache")
server = make_server("127.0.0.1", 0, create(source).server, threaded=True, request_handler=quiet_handler())
print(server.server_port, flush=True)
server.serve_forever()
"""


def run(events: int = EVENTS) -> list[Row]:
    """Timeline, then overview."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        trace = directory / "long.parquet"
        traces.write(trace, events)
        stores.fill(directory / "one", 1)
        stores.fill(directory / "many", RUNS, hosts=stores.HOSTS, seed=1)
        return [*_timeline(directory / "one", trace), *_overview(directory / "many")]


def _timeline(store: Path, trace: Path) -> list[Row]:
    opened = open_trace(trace)
    khz = opened.footer.clock.tsc_khz or 1e6
    length = (opened.footer.window.stop_tsc or 0) - 1
    with _served(str(store), str(trace)) as server:
        begin = time.perf_counter()
        while "is being built" in server.ask("/timeline", ""):
            time.sleep(0.2)
        built = time.perf_counter() - begin
        index = server.peak
        (file,) = (store / "cache").glob("*.npz")
        worst: dict[str, float] = {}
        all_looks: list[float] = []
        cpu: list[float] = []
        random_ = random.Random(3)  # noqa: S311 - places to look at
        span = length
        while span > 100:
            looks, used = [], server.cpu_ms()
            for _ in range(LOOKS):
                at = random_.randrange(0, length - span + 1)
                begin = time.perf_counter()
                answer = server.ask("/timeline", f"?at={at}&span={span}")
                looks.append(1e3 * (time.perf_counter() - begin))
                if "plot-timeline" not in answer:
                    raise ValueError(f"no timeline at {at}, {span}")
            worst[f"{span / khz:.3g} ms"] = max(looks)
            cpu.append((server.cpu_ms() - used) / LOOKS)
            all_looks += looks
            span //= STEPS
        slowest = max(worst, key=lambda length: worst[length])
        how = f"{opened.n_events:,} events; over HTTP, with the figure"
        return [
            Row(what="timeline: index built", goal="", measured=f"{built:.1f} s", how=f"{how}; one replay"),
            Row(
                what="its file",
                goal="bounded",
                measured=f"{file.stat().st_size / 1e6:.1f} MB",
                how="compressed by none",
            ),
            Row(
                what="slowest answer of any zoom",
                goal="≤ 300 ms",
                measured=f"{worst[slowest]:.0f} ms",
                how=f"{how}; {len(worst)} lengths from all to 100 cycles, {LOOKS} places each; at {slowest}",
            ),
            Row(what="answers of all zooms", goal="", measured=spread(all_looks, " ms"), how=how),
            Row(what="CPU time of an answer, by length", goal="", measured=spread(cpu, " ms"), how="all threads"),
            Row(what="peak memory, building", goal="< 2048 MiB", measured=f"{index:.0f} MiB", how="anonymous"),
            Row(what="peak memory, zooming", goal="< 2048 MiB", measured=f"{server.peak:.0f} MiB", how="anonymous"),
        ]


def _overview(store: Path) -> list[Row]:
    with _served(str(store)) as server:
        begin = time.perf_counter()
        server.ask("/", "")
        first = time.perf_counter() - begin
        later = []
        for _ in range(5):
            time.sleep(4)  # what is held of the store is older than that by then
            begin = time.perf_counter()
            server.ask("/", "")
            later.append(time.perf_counter() - begin)
        return [
            Row(
                what="overview of a store, first", goal="", measured=f"{first:.2f} s", how=f"{RUNS:,} runs, imports too"
            ),
            Row(
                what="overview of a store, read anew", goal="≤ 1 s", measured=spread(later, " s"), how=f"{RUNS:,} runs"
            ),
            Row(what="peak memory", goal="< 2048 MiB", measured=f"{server.peak:.0f} MiB", how="anonymous"),
        ]


class _Server:
    """A served dashboard.

    Attributes:
        peak: most memory that it took of its own, in MiB.
    """

    def __init__(self, port: int, pid: int = 0) -> None:
        self._pid = pid
        self._url = f"http://127.0.0.1:{port}/_dash-update-component"
        self.peak = 0.0

    def cpu_ms(self) -> float:
        """CPU time that the server has used (proc(5), utime and stime): other people's work is not in it."""
        fields = Path(f"/proc/{self._pid}/stat").read_text().rsplit(")", 1)[1].split()
        return 1e3 * (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def ask(self, path: str, search: str) -> str:
        """What the browser would get for an address."""
        said: dict[str, Any] = {
            "output": "..page.children...again.max_intervals..",
            "outputs": [{"id": "page", "property": "children"}, {"id": "again", "property": "max_intervals"}],
            "inputs": [
                {"id": "url", "property": "pathname", "value": path},
                {"id": "url", "property": "search", "value": search},
                {"id": "again", "property": "n_intervals", "value": 0},
            ],
            "changedPropIds": ["url.pathname"],
        }
        request = urllib.request.Request(  # noqa: S310 - our own server
            self._url, json.dumps(said).encode(), {"Content-Type": "application/json"}, method="POST"
        )
        with urllib.request.urlopen(request, timeout=600) as answer:  # noqa: S310 - our own server
            found: bytes = answer.read()
        return found.decode()


@contextmanager
def _served(*arguments: str) -> Iterator[_Server]:
    process = subprocess.Popen([sys.executable, "-c", _SERVE, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if process.stdout is None:
        raise ValueError("no pipe")
    done = threading.Event()
    try:
        server = _Server(int(re.sub(r"\D", "", process.stdout.readline())), process.pid)

        def watch() -> None:
            while not done.wait(0.02):
                server.peak = max(server.peak, own_mib(process.pid))

        watcher = threading.Thread(target=watch)
        watcher.start()
        yield server
    finally:
        done.set()
        process.terminate()
        process.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=EVENTS, metavar="N", help="events of the trace")
    for row in run(parser.parse_args().events):
        print(f"{row.what}: {row.measured}  [goal {row.goal or 'none'}; {row.how}]")
