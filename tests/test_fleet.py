"""Many files: the same results in this process, in several and on a Dask cluster; failures are told, nothing lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
import pytest

from iretrace import fleet, sources
from iretrace.errors import Damaged, InputError, MachineError, Unreachable, UsageError
from iretrace.fleet import FleetOptions, run_all
from iretrace.fleet_tasks import replay_document
from tests.conftest import ROOT, TESTED, RunIretrace
from tests.traces import KERNEL_CS, event, write_trace
from tests.waiting import PATIENCE_S, until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow  # nearly all start processes

TASK = partial(replay_document, ("iret", "rfc2014"))
WAYS = [FleetOptions(), FleetOptions(jobs=2)]


@pytest.fixture
def traces(tmp_path: Path) -> list[str]:
    """Seven small traces, of which no two have the same counts."""
    names = []
    for number in range(7):
        events = [event(1000 + 10 * i, "entry", 14, cs=KERNEL_CS, to_kernel=True) for i in range(number + 1)]
        names.append(str(write_trace(tmp_path / f"t{number}.parquet", events)))
    return names


@pytest.mark.parametrize("options", WAYS, ids=["serial", "jobs"])
def test_results_come_in_order(options: FleetOptions, traces: list[str]) -> None:
    """Whichever is done first, the results are the serial ones, in the order of the names."""
    order = [traces[i] for i in (6, 0, 5, 1, 4, 2, 3)]
    outcomes = list(run_all(TASK, order, options))
    assert [outcome.name for outcome in outcomes] == order
    assert [outcome.value for outcome in outcomes] == [TASK(name) for name in order]


@pytest.mark.parametrize("options", WAYS, ids=["serial", "jobs"])
def test_a_bad_file_is_told_and_stops_nothing(options: FleetOptions, traces: list[str], tmp_path: Path) -> None:
    """What is no trace, or not there, is an error of one line among the results."""
    bad = tmp_path / "bad.parquet"
    bad.write_bytes(b"nothing")
    outcomes = list(run_all(TASK, [traces[0], str(bad), "/none.parquet", traces[1]], options))
    assert [outcome.value is None for outcome in outcomes] == [False, True, True, False]
    assert str(bad) in outcomes[1].error
    assert "no such file" in outcomes[2].error
    assert "\n" not in outcomes[1].error + outcomes[2].error


def shaky(log: str, failure: str, name: str) -> str:
    """A task that fails, or dies, the first time that it meets a name."""
    seen = Path(log) / name
    if not seen.exists():
        seen.touch()
        if failure == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        raise Unreachable(name, "not now") if failure == "away" else RuntimeError("not now")
    return name.upper()


@pytest.mark.parametrize(("failure", "jobs"), [("away", 1), ("away", 2), ("raises", 1), ("raises", 2), ("dies", 2)])
def test_what_may_pass_is_tried_again(failure: str, jobs: int, tmp_path: Path) -> None:
    """Unreachable stores, unforeseen errors and dead workers: the file is done again, and nothing is lost."""
    names = ["a", "b", "c", "d", "e"]
    outcomes = list(run_all(partial(shaky, str(tmp_path), failure), names, FleetOptions(jobs=jobs, retries=5)))
    assert [outcome.value for outcome in outcomes] == ["A", "B", "C", "D", "E"]


def done_by(log: str, name: str) -> int:
    """A task that says who did it, and notes that it is done."""
    (Path(log) / name).touch()
    return os.getpid()


def test_a_worker_that_dies_between_two_tasks(tmp_path: Path) -> None:
    """Its death is first seen when the next task is given out: that one is done by another worker."""
    outcomes = run_all(partial(done_by, str(tmp_path)), list("abcdefghijklmnop"), FleetOptions(jobs=2))
    first = next(outcomes).value
    assert first is not None
    until(lambda: len(list(tmp_path.iterdir())) >= 2 * fleet.AHEAD, "what was given out is done")
    os.kill(first, signal.SIGKILL)
    until(lambda: not Path(f"/proc/{first}").exists(), "the pool has seen that it died")
    rest = [outcome.value for outcome in outcomes]
    assert len(rest) == 15
    assert None not in rest
    assert first != rest[-1]


def fatal(name: str) -> str:
    """A task whose worker dies of one name, always."""
    if name == "c":
        time.sleep(0.2)  # no wait: so that others are likely to be under way
        os.kill(os.getpid(), signal.SIGKILL)
    return name


def test_a_file_that_kills_is_found_out() -> None:
    """One that kills its worker each time is told; the others are done."""
    outcomes = list(run_all(fatal, list("abcdefgh"), FleetOptions(jobs=2, retries=1)))
    assert [outcome.value for outcome in outcomes] == ["a", "b", None, "d", "e", "f", "g", "h"]
    assert "its worker died" in outcomes[2].error


def never(log: str, name: str) -> str:
    """A task whose error is the file's own."""
    with (Path(log) / "tries").open("a") as file:
        file.write("x")
    raise Damaged(name, "off")


def test_errors_of_a_file_are_not_tried_again(tmp_path: Path) -> None:
    """A damaged file stays damaged."""
    (outcome,) = run_all(partial(never, str(tmp_path)), ["a"], FleetOptions(retries=3))
    assert outcome.error == "a: off"
    assert (tmp_path / "tries").read_text() == "x"


def test_few_results_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks are given out as results are taken: a slow reader does not fill memory."""
    begun = []

    def note(name: str) -> str:
        begun.append(name)
        return name

    outcomes = run_all(note, [str(i) for i in range(100)], FleetOptions())
    next(iter(outcomes))
    assert len(begun) == 1
    monkeypatch.setattr(fleet, "AHEAD", 2)
    with pytest.raises(UsageError, match="other processes"):
        run_all(lambda name: name, ["a"], FleetOptions(jobs=2))


@pytest.fixture
def memory() -> Iterator[Any]:
    """Fsspec's store in memory, emptied."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()


def test_object_stores(memory: Any, traces: list[str]) -> None:
    """Prefixes and patterns of a store are listed, and its objects replayed as the files they are copies of."""
    for path in traces[:3]:
        memory.pipe(f"/fleet/{Path(path).name}", Path(path).read_bytes())
    for name in ("memory://fleet", "memory://fleet/", "memory://fleet/*.parquet"):
        assert sources.expand([name]) == tuple(f"memory:///fleet/t{i}.parquet" for i in range(3)), name
    found = [outcome.value for outcome in run_all(TASK, sources.expand(["memory://fleet"]), FleetOptions())]
    for document, path in zip(found, traces, strict=False):
        assert document is not None
        expected = TASK(path)
        expected["trace"]["path"] = document["trace"]["path"]
        assert document == expected
    with pytest.raises(InputError, match="no object matches"):
        sources.expand(["memory://fleet/none*.parquet"])
    with pytest.raises(InputError, match="no such object"), sources.local("memory://fleet/none.parquet"):
        pass


def test_replay_of_many(traces: list[str], tmp_path: Path, run_iretrace: RunIretrace) -> None:
    """The verb: the serial document by every way; a bad file makes the exit status 2 and is named."""
    serial = json.loads(run_iretrace("replay", *traces, "--json").stdout)
    assert [one["trace"]["path"] for one in serial["traces"]] == traces
    assert serial["traces"][3] == json.loads(run_iretrace("replay", traces[3], "--json").stdout)
    assert json.loads(run_iretrace("replay", *traces, "--jobs", "2", "--json").stdout) == serial
    listed = json.loads(run_iretrace("replay", tmp_path / "t*.parquet", "--json").stdout)
    assert listed == serial
    url = json.loads(run_iretrace("replay", f"file://{tmp_path}/t*.parquet", "--json").stdout)
    assert [one["policies"] for one in url["traces"]] == [one["policies"] for one in serial["traces"]]
    (tmp_path / "bad.parquet").write_text("no")
    done = run_iretrace("replay", tmp_path, "--jobs", "2", check=False)
    assert done.returncode == 2
    assert "bad.parquet" in done.stderr
    assert done.stdout.count("rfc2014") == 8
    assert "1 of 8 could not be replayed" in done.stderr


def test_runs_add_and_compare_of_many(traces: list[str], tmp_path: Path, run_iretrace: RunIretrace) -> None:
    """A store filled by two processes is the one filled by one; so is a comparison."""
    (tmp_path / "bad.parquet").write_text("no")
    one = run_iretrace("runs", "add", "-s", "one", *traces, "--json")
    two = run_iretrace("runs", "add", "-s", "two", str(tmp_path), "--jobs", "2", "--json", check=False)
    assert two.returncode == 2
    added = [json.loads(done.stdout) for done in (one, two)]
    assert added[0]["added"] == added[1]["added"]
    assert [item["trace"] for item in added[1]["failed"]] == [str(tmp_path / "bad.parquet")]
    sides = [",".join(traces[:3]), ",".join(traces[3:6])]
    serial = run_iretrace("compare", *sides, "--anyway", "--json", check=False)
    several = run_iretrace("compare", *sides, "--anyway", "--json", "--jobs", "2", check=False)
    assert serial.stdout == several.stdout
    assert serial.returncode == several.returncode
    missing = run_iretrace("compare", traces[0], f"{traces[1]},{tmp_path / 'bad.parquet'}", "--jobs", "2", check=False)
    assert missing.returncode == 2
    assert missing.stderr.startswith(f"iretrace: {tmp_path / 'bad.parquet'}: ")


def _dask(*arguments: str) -> subprocess.Popen[bytes]:
    # The iretrace that is tested, and the tests, whose functions the workers unpickle.
    search = f"{TESTED}{os.pathsep}{ROOT}"
    environment = {**os.environ, "PYTHONPATH": search, "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "5"}
    command = [sys.executable, "-m", "dask", *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


class Cluster:
    """A scheduler and workers on loopback, in processes of their own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        told = directory / "scheduler.json"
        where = ("--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(told))
        self._scheduler = _dask("scheduler", *where, "--no-dashboard", "--no-show")
        until(lambda: told.exists() and told.read_text().endswith("}"), "its address is told", self._scheduler)
        self.address = json.loads(told.read_text())["address"]
        self.workers = [self.worker(), self.worker()]

    def worker(self) -> subprocess.Popen[bytes]:
        """Start one more, without a nanny that would start it again."""
        where = ("--local-directory", str(self._directory))
        limits = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--host", "127.0.0.1", *where)
        return _dask("worker", self.address, *limits)

    def wait(self, workers: int) -> None:
        """Until so many workers are there."""
        from distributed import Client  # noqa: PLC0415 - an extra

        connect: Any = Client
        with connect(self.address, timeout=PATIENCE_S, set_as_default=False) as client:
            client.wait_for_workers(workers, timeout=PATIENCE_S)

    def stop(self) -> None:
        """End what was started here."""
        for process in (*self.workers, self._scheduler):
            process.kill()
            process.wait()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Two workers on loopback; Dask is among what developing needs, so that it is no reason to skip."""
    started = Cluster(tmp_path)
    try:
        started.wait(2)
        yield started
    finally:
        started.stop()


def slow(log: str, name: str) -> str:
    """A task that lasts, and says by whom it is done."""
    with (Path(log) / "log").open("a") as file:
        file.write(f"{os.getpid()} {name}\n")
    time.sleep(0.3)  # no wait: how long it lasts
    return name * 2


def test_a_cluster_gives_the_serial_results(
    cluster: Cluster, traces: list[str], tmp_path: Path, run_iretrace: RunIretrace
) -> None:
    """On Dask as in one process, errors too; then a worker is killed in the middle, and nothing is lost."""
    serial = json.loads(run_iretrace("replay", *traces, "--json").stdout)
    spread = run_iretrace("replay", *traces, "--scheduler", cluster.address, "--json")
    assert json.loads(spread.stdout) == serial
    options = FleetOptions(scheduler=cluster.address)
    (outcome,) = run_all(TASK, ["/none.parquet"], options)
    assert "no such file" in outcome.error

    names = [f"n{i}" for i in range(16)]
    # A function of this module the workers could not import; distributed sends one that it cannot name by value.
    import cloudpickle  # noqa: PLC0415 - comes with distributed

    cloudpickle.register_pickle_by_value(sys.modules[__name__])

    def workers() -> set[str]:
        return set((tmp_path / "log").read_text().split()[::2])

    outcomes = []
    for found in run_all(partial(slow, str(tmp_path)), names, options):
        outcomes.append(found)
        if len(outcomes) >= 3 and len(workers()) == 2 and cluster.workers[0].poll() is None:
            cluster.workers[0].kill()
            cluster.workers[0].wait()
    assert cluster.workers[0].poll() is not None
    assert [found.value for found in outcomes] == [name * 2 for name in names]
    done = (tmp_path / "log").read_text().split()
    assert len(workers()) == 2  # both had worked
    assert set(done[1::2]) == set(names)


def _until_one_has_all_that_is_left(address: str) -> None:
    """Until one worker has tasks, and the other has done its own."""
    from distributed import Client  # noqa: PLC0415 - an extra

    connect: Any = Client
    with connect(address, timeout=PATIENCE_S, set_as_default=False) as client:

        def one() -> bool:
            return sorted(bool(tasks) for tasks in client.processing().values()) == [False, True]

        until(one, "one worker has tasks and the other has none")


def test_runs_and_comparisons_on_a_cluster_are_the_serial_ones(
    cluster: Cluster, traces: list[str], tmp_path: Path, run_iretrace: RunIretrace
) -> None:
    """Runs and a comparison of sets, on Dask as in one process; a worker that dies with its tasks changes nothing."""
    there = ("--scheduler", cluster.address, "--json")
    sides = [",".join(traces[:3]), ",".join(traces[3:6])]
    serial = run_iretrace("compare", *sides, "--anyway", "--json", check=False)
    spread = run_iretrace("compare", *sides, "--anyway", *there, check=False)
    assert (spread.stdout, spread.returncode) == (serial.stdout, serial.returncode)

    one = run_iretrace("runs", "add", "-s", "one", *traces, "--json")
    cluster.workers[0].send_signal(signal.SIGSTOP)  # it is given tasks, and does none
    command = run_iretrace.command("runs", "add", "-s", str(tmp_path / "two"), *traces, *there)
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=run_iretrace.environment()) as adding:
        _until_one_has_all_that_is_left(cluster.address)
        cluster.workers[0].kill()
        two = json.loads(adding.communicate(timeout=PATIENCE_S)[0])
    assert two["added"] == json.loads(one.stdout)["added"]
    assert len(two["added"]) == len(traces)
    assert two["failed"] == []


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "nonsense://x"])
def test_no_cluster_there(address: str) -> None:
    """An address at which nothing answers is an error of one line."""
    with pytest.raises((MachineError, UsageError), match=address) as caught:
        list(run_all(TASK, ["a"], FleetOptions(scheduler=address)))
    assert "\n" not in str(caught.value)
