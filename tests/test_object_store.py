"""S3: traces and stores in a bucket give what they give on a disk, and a store that fails is told in one line, soon."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from iretrace import objects, sources
from iretrace.dashboards.app.source import Source
from iretrace.errors import InputError, Missing, OutputError, Unreachable, UsageError
from iretrace.fleet import FleetOptions, run_all
from iretrace.fleet_tasks import replay_document
from iretrace.footer import Anchor, Clock
from iretrace.redaction import redacted
from iretrace.store import open_store
from iretrace.store.location import Location
from iretrace.store.member import to_bytes
from iretrace.store.store import INDEX_AFTER, SUFFIX
from tests.s3 import KEY, SECRET, Proxy, Server, environment, nobody_listens
from tests.sample_trace import START, TSC_KHZ, events, footer
from tests.test_fleet import Cluster
from tests.test_store import make_run
from tests.traces import write_trace
from tests.waiting import PATIENCE_S, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import RunIretrace

ODD_NAMES = (
    "with space.parquet",
    "ümläut-日本.parquet",
    "a+b=c&d;e@f$g.parquet",
    "100%.parquet",
    "a%20b.parquet",
    "q?x=1.parquet",
    "[1]{2}.parquet",
    "star*.parquet",
    "hash#tag.parquet",
    "two::colons.parquet",
    "quote'\"`.parquet",
    "~.parquet",
)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """One server for all tests here."""
    started = Server()
    yield started
    started.stop()


@pytest.fixture
def bucket(server: Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """A bucket of its own, and the environment in which it is found."""
    for name, value in environment(server.endpoint).items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_MAX_ATTEMPTS", "FSSPEC_S3"):
        monkeypatch.delenv(name, raising=False)
    name = f"b{uuid.uuid4().hex[:12]}"
    server.client.create_bucket(Bucket=name)
    return name


@pytest.fixture(scope="module")
def cluster(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two workers that find the server."""
    with pytest.MonkeyPatch.context() as patched:
        for name, value in environment(server.endpoint).items():
            patched.setenv(name, value)
        started = Cluster(tmp_path_factory.mktemp("dask"))
    try:
        started.wait(2)
        yield started
    finally:
        started.stop()


@pytest.fixture
def traces(tmp_path: Path) -> list[Path]:
    """Five traces of different recordings."""
    (tmp_path / "here").mkdir()
    made = []
    for seed in range(1, 6):
        anchor = Anchor(tsc=START, realtime_ns=(1_790_000_000 + seed) * 10**9, monotonic_ns=5)
        clock = Clock(source="msr-tsc", tsc_khz=TSC_KHZ, anchors=[anchor])
        made.append(write_trace(tmp_path / "here" / f"t{seed}.parquet", events(seed), footer(clock=clock)))
    return made


@pytest.fixture
def there(server: Server, bucket: str, traces: list[Path]) -> str:
    """The same traces in the bucket; the prefix in which they lie."""
    for path in traces:
        server.put(bucket, f"runs/{path.name}", path.read_bytes())
    return f"s3://{bucket}/runs"


def without(text: str, prefix: str | Path) -> Any:
    """A JSON document, as if the traces lay nowhere."""
    return json.loads(text.replace(f"{prefix}/", ""))


def test_replays_are_those_of_local_files(
    cluster: Cluster, there: str, traces: list[Path], run_iretrace: RunIretrace
) -> None:
    """By prefix, pattern, URL; in this process, in two and on a cluster: the documents of local files."""
    here = traces[0].parent
    expected = without(run_iretrace("replay", here, "--savings", "--json").stdout, here)
    assert len(expected["traces"]) == len(traces)
    cluster_way = ("--scheduler", cluster.address)
    for named, way in (
        ([f"{there}/"], ()),
        ([there], ("--jobs", "2")),
        ([f"{there}/*.parquet"], cluster_way),
        ([f"{there}/t[1-3].parquet", f"{there}/t?.parquet"], ()),
        ([f"{there}/{path.name}" for path in traces], ("--jobs", "2")),
    ):
        done = run_iretrace("replay", *named, "--savings", "--json", *way)
        assert without(done.stdout, there) == expected
        assert not done.stderr


def test_comparisons_and_runs_are_those_of_local_files(
    cluster: Cluster, bucket: str, there: str, traces: list[Path], run_iretrace: RunIretrace
) -> None:
    """Sides, runs and what is made of a store in a bucket are those of files and a directory, by every way."""
    here = traces[0].parent

    def sides(prefix: str | Path) -> list[str]:
        return [",".join(f"{prefix}/t{i}.parquet" for i in numbers) for numbers in ((1, 2), (3, 4, 5))]

    local = run_iretrace("compare", *sides(here), "--json", check=False)
    ways: tuple[tuple[str, ...], ...] = ((), ("--jobs", "2"), ("--scheduler", cluster.address))
    for way in ways:
        remote = run_iretrace("compare", *sides(there), "--json", *way, check=False)
        assert without(remote.stdout, there) == without(local.stdout, here)
        assert remote.returncode == local.returncode

    run_iretrace("runs", "add", here, "-s", "store", "--tag", "release=6.12")
    expected = listed(run_iretrace, "store")
    assert len(expected) == len(traces)
    for number, way in enumerate(ways):
        store = f"s3://{bucket}/stores/{number}"
        added = run_iretrace("runs", "add", f"{there}/", "-s", store, "--tag", "release=6.12", "--json", *way)
        assert [one["trace"] for one in json.loads(added.stdout)["added"]] == [f"{there}/{p.name}" for p in traces]
        assert listed(run_iretrace, store) == expected
    # What is looked up by name and tag, and what is made of it.
    for verb in (
        ("runs", "show", expected[0]["run"], "--policy", "rfc2014", "--store"),
        ("compare", f"{expected[0]['run']},{expected[1]['run']}", "workload=build", "--anyway", "--store"),
        ("regress", "--json"),
    ):
        both = [run_iretrace(*verb, where, "--json", check=False) for where in ("store", store)]
        documents = [untimed(json.loads(done.stdout)) for done in both]
        assert documents[0] == documents[1], verb
        assert both[0].returncode == both[1].returncode


def listed(run_iretrace: RunIretrace, store: str) -> list[dict[str, Any]]:
    """The runs of a store, but for when they were added."""
    return [untimed(run) for run in json.loads(run_iretrace("runs", "list", store, "--json").stdout)["runs"]]


def untimed(document: dict[str, Any]) -> dict[str, Any]:
    """Without what says when and where."""
    return {key: value for key, value in document.items() if key not in ("added", "store")}


def test_a_report_of_an_object_is_that_of_the_file(
    there: str, traces: list[Path], tmp_path: Path, run_iretrace: RunIretrace
) -> None:
    """``report`` takes a URL, and compares with one."""
    for prefix, name in ((str(traces[0].parent), "local.html"), (there, "remote.html")):
        run_iretrace("report", f"{prefix}/t1.parquet", "-o", name, "--json")
    assert (tmp_path / "local.html").read_text() == (tmp_path / "remote.html").read_text()
    run_iretrace("report", f"{there}/t2.parquet", "--compare", f"{there}/t1.parquet")
    assert (tmp_path / "t2.report.html").exists()


def test_a_query_reads_objects(there: str, traces: list[Path], run_iretrace: RunIretrace) -> None:
    """``query`` over a prefix counts what it counts over the directory."""
    sql = "SELECT count(*), sum(tsc) FROM events"
    counted = [run_iretrace("query", where, sql, "--json").stdout for where in (f"{there}/", str(traces[0].parent))]
    assert counted[0] == counted[1]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names(name: str, server: Server, bucket: str, traces: list[Path]) -> None:
    """An object is found by its own name and by its prefix, whatever it is called, and is that object."""
    server.put(bucket, f"odd dir [x]/{name}", traces[1].read_bytes())
    url = f"s3://{bucket}/odd dir [x]/{name}"
    assert sources.expand([url]) == (url,)
    assert sources.expand([f"s3://{bucket}/odd dir [x]/"]) == (url,)
    assert sources.expand([f"s3://{bucket}/odd dir [x]"]) == (url,)
    with sources.local(url) as path:
        assert path.name == name
        assert path.read_bytes() == traces[1].read_bytes()
    (outcome,) = run_all(TASK, [url], FleetOptions())
    assert outcome.value is not None
    assert outcome.value["trace"]["path"] == url


def TASK(name: str) -> dict[str, Any]:  # noqa: N802 - a task, as partial() makes them elsewhere
    """What is done to each trace here."""
    return replay_document(("rfc2014",), name)


def test_an_odd_prefix_holds_a_store(bucket: str, tmp_path: Path) -> None:
    """A store may lie in a prefix of any name, or be the bucket itself."""
    run = make_run(tmp_path / "t")
    for url in (f"s3://{bucket}/a b/ü [1]*::x/", f"s3://{bucket}"):
        open_store(url, create=True).add(run)
        assert open_store(url).load(run.id).document == run.document


def test_patterns_are_those_of_a_disk(server: Server, bucket: str) -> None:
    """``*``, ``?``, ``[]`` and ``**`` match, level by level, what they match among files."""
    keys = ["a/x.parquet", "a/y.parquet", "b/x.parquet", "b/c/x.parquet", "b/c/d/z.parquet", "x.parquet", "b/c/n.txt"]
    for key in (*keys, "b/"):  # some clients mark a directory by an empty object
        server.put(bucket, key, b"")

    def matched(pattern: str) -> list[str]:
        return [name.removeprefix(f"s3://{bucket}/") for name in sources.expand([f"s3://{bucket}/{pattern}"])]

    assert matched("*.parquet") == ["x.parquet"]
    assert matched("") == ["x.parquet"]
    assert matched("*/x.parquet") == ["a/x.parquet", "b/x.parquet"]
    assert matched("b/*/?.parquet") == ["b/c/x.parquet"]
    assert matched("[!a]/**/*.parquet") == ["b/c/d/z.parquet", "b/c/x.parquet", "b/x.parquet"]
    assert matched("**/x.parquet") == ["a/x.parquet", "b/c/x.parquet", "b/x.parquet", "x.parquet"]
    for nothing in ("c/*.parquet", "*/none.parquet", "nothing/", "b/c/d/z.parquet/"):
        with pytest.raises(InputError, match="no object matches"):
            matched(nothing)


def test_listings_of_many_pages(server: Server, bucket: str) -> None:
    """A thousand objects are one page of a listing; none of those beyond it is missed."""
    keys = [f"many/runs/{number:05}{SUFFIX}" for number in range(1234)]
    for key in keys:
        server.put(bucket, key, b"")
    expected = tuple(f"s3://{bucket}/{key}" for key in keys)
    assert sources.expand([f"s3://{bucket}/many/runs/"]) == expected
    assert sources.expand([f"s3://{bucket}/many/*/*.parquet"]) == expected
    assert sources.expand([f"s3://{bucket}/many/**/*.parquet"]) == expected
    assert [entry.name for entry in Location(f"s3://{bucket}/many").list("runs")] == [Path(key).name for key in keys]


def test_a_store_sees_what_others_write(server: Server, bucket: str, tmp_path: Path) -> None:
    """Runs that others add, replace and remove are seen at the next look; nothing is written by who only reads."""
    url = f"s3://{bucket}/store"
    runs = [make_run(tmp_path / "t", seed) for seed in range(1, 4)]
    with pytest.raises(InputError, match="no such store"):
        open_store(url)
    ours, reader = open_store(url, create=True), open_store(url, create=True, readonly=True)
    assert reader.ids() == []
    ours.add(runs[0])
    reader.refresh()
    assert reader.ids() == [runs[0].id]
    server.put(bucket, f"store/runs/{runs[1].id}{SUFFIX}", to_bytes(runs[1]))  # by somebody who is not fsspec
    for store in (ours, reader):
        store.refresh()
        assert store.ids() == [runs[0].id, runs[1].id]
    with pytest.raises(OutputError, match="there already"):
        ours.add(runs[1])
    server.client.delete_object(Bucket=bucket, Key=f"store/runs/{runs[0].id}{SUFFIX}")
    with pytest.raises(Missing):
        ours.load(runs[0].id)
    with pytest.raises(InputError, match="no such run"):
        ours.remove(runs[0].id)
    ours.add(runs[0])
    ours.remove(runs[1].id)
    reader.refresh()
    assert reader.ids() == [runs[0].id]
    server.put(bucket, f"store/runs/{runs[0].id}{SUFFIX}", b"PAR1, and then nothing")
    reader.refresh()
    assert [one.name for one in reader.unreadable()] == [f"{runs[0].id}{SUFFIX}"]
    for action in (lambda: reader.add(runs[2]), lambda: reader.remove(runs[0].id)):
        with pytest.raises(UsageError, match="read only"):
            action()
    assert server.keys(bucket) == [f"store/runs/{runs[0].id}{SUFFIX}"]


def test_a_run_that_goes_between_two_requests_is_no_damage(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Listed, then removed by another, then read: it is not there, rather than unreadable; nor for the index."""
    url = f"s3://{bucket}/store"
    store = open_store(url, create=True)
    runs = [make_run(tmp_path / "t", seed) for seed in range(1, 3)]
    for run in runs:
        store.add(run)
    original = Location.list

    def then_removed(location: Location, folder: str) -> Any:
        found = original(location, folder)
        location.remove(f"runs/{runs[0].id}{SUFFIX}")
        return found

    monkeypatch.setattr(Location, "list", then_removed)
    assert store.ids() == [runs[1].id]
    assert not store.unreadable()


def test_an_index_in_a_bucket(server: Server, bucket: str, tmp_path: Path) -> None:
    """Many runs get an index, older ones go, and with or without it a store says the same."""
    import msgspec  # noqa: PLC0415

    url = f"s3://{bucket}/store"
    run, store = make_run(tmp_path / "t"), open_store(url, create=True)
    for number in range(INDEX_AFTER + 1):
        name = f"20990101T0000{number:02}Z-{number:010x}"
        copy = msgspec.structs.replace(run.document, run=name)
        store.add(type(run)(**{**run.__dict__, "document": copy}))
    before = store.metrics()
    assert store.index()
    assert len([key for key in server.keys(bucket) if key.startswith("store/index/")]) == 2
    store.add(run)
    again = open_store(url, readonly=True)
    assert len(again.ids()) == INDEX_AFTER + 2
    assert len(again.metrics()) > len(before)
    assert not again.unreadable()


def test_concurrent_adds(
    server: Server, bucket: str, there: str, traces: list[Path], run_iretrace: RunIretrace
) -> None:
    """Two processes add to one store: nothing is lost, and of the same recording exactly one says that it added it."""
    store = f"s3://{bucket}/store"
    both = [run_iretrace.start("runs", "add", f"{there}/", "-s", store, "--json") for _ in range(2)]
    documents = [json.loads(process.communicate(timeout=PATIENCE_S)[0]) for process in both]
    added = [one["trace"] for document in documents for one in document["added"]]
    assert sorted(added) == [f"{there}/{path.name}" for path in traces]
    refused = [one["error"] for document in documents for one in document["failed"]]
    assert len(refused) == len(traces)
    assert all("is there already" in error for error in refused)
    assert [process.returncode for process in both] == [2 if document["failed"] else 0 for document in documents]
    assert len(listed(run_iretrace, store)) == len(traces)
    assert len([key for key in server.keys(bucket) if key.startswith("store/runs/")]) == len(traces)


def test_one_writer_wins(server: Server, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another writes after it was looked whether the run is there: the store itself refuses, and its run stays."""
    url = f"s3://{bucket}/store"
    run, store = make_run(tmp_path / "t"), open_store(url, create=True)
    monkeypatch.setattr(store.location._fs, "exists", lambda _: False)
    name = f"runs/{run.id}{SUFFIX}"
    server.put(bucket, f"store/{name}", b"of the other")
    with pytest.raises(OutputError, match="there already"):
        store.add(run)
    assert server.read(bucket, f"store/{name}") == b"of the other"
    # The answer to our own request was lost, and the driver asked again.
    server.put(bucket, f"store/{name}", b"ours")
    assert store.location.write(name, b"ours")


def test_runs_come_and_go(bucket: str, there: str, run_iretrace: RunIretrace) -> None:
    """The verbs on a store in a bucket: tags, what is there already, removal."""
    store = f"s3://{bucket}/store"
    added = json.loads(run_iretrace("runs", "add", f"{there}/t1.parquet", "-s", store, "--tag", "a=1", "--json").stdout)
    run_iretrace("runs", "add", f"{there}/t2.parquet", "-s", store, "--tag", "a=2")
    again = run_iretrace("runs", "add", f"{there}/", "-s", store, "--json", check=False)
    assert again.returncode == 2
    assert [len(json.loads(again.stdout)[key]) for key in ("added", "failed")] == [3, 2]
    tagged = json.loads(run_iretrace("runs", "list", store, "--where", "a=1", "--json").stdout)["runs"]
    (run,) = [one["run"] for one in added["added"]]
    assert [one["run"] for one in tagged] == [run]
    assert tagged[0]["trace"] == "t1.parquet"
    run_iretrace("runs", "rm", run, "-s", store, "--yes")
    assert run_iretrace("runs", "rm", run, "-s", store, "--yes", check=False).returncode == 2
    assert len(listed(run_iretrace, store)) == 4


def test_the_dashboard_sees_new_runs(
    server: Server, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the dashboard shows of a store in a bucket is as fresh as of a directory; nothing is written."""
    monkeypatch.setattr("iretrace.dashboards.app.source.REFRESH_S", 0.0)
    url = f"s3://{bucket}/store"
    runs = [make_run(tmp_path / "t", seed) for seed in range(1, 3)]
    open_store(url, create=True).add(runs[0])
    source = Source(open_store(url, readonly=True))
    assert list(source.snapshot().runs["run"]) == [runs[0].id]
    server.put(bucket, f"store/runs/{runs[1].id}{SUFFIX}", to_bytes(runs[1]))
    assert list(source.snapshot().runs["run"]) == [one.id for one in runs]
    assert source.study(runs[1].id, "rfc2014").policy.name == "rfc2014"
    assert not [key for key in server.keys(bucket) if "/runs/" not in key]


FEW_SECONDS = 20
"""In which a store that is not there must be told, with a process's start on a busy machine; it takes two or three."""


def told(run_iretrace: RunIretrace, *arguments: str | Path, within: float, env: dict[str, str] | None = None) -> str:
    """What is said by a verb that cannot do what it should: one line, exit status 2, soon and without secrets."""
    begin = time.monotonic()
    done = run_iretrace(*arguments, check=False, env=env)
    assert time.monotonic() - begin < within
    assert done.returncode == 2, done.stdout
    lines = [line for line in done.stderr.splitlines() if not re.fullmatch(r"\d+ of \d+ could not be replayed", line)]
    assert len(lines) == 1, done.stderr
    assert SECRET not in done.stderr + done.stdout
    assert KEY not in done.stderr + done.stdout
    return lines[0]


def ways(url: str, trace: Path) -> dict[str, tuple[str | Path, ...]]:
    """Each way to meet a store."""
    return {
        "object": ("replay", f"{url}/t1.parquet"),
        "prefix": ("replay", f"{url}/"),
        "pattern": ("replay", f"{url}/*.parquet", "--jobs", "2"),
        "side": ("compare", f"{url}/t1.parquet", trace),
        "report": ("report", f"{url}/t1.parquet"),
        "add": ("runs", "add", trace, "-s", url),
        "list": ("runs", "list", url),
        "dashboard": ("dashboard", url, "--port", "0"),
    }


WAYS = tuple(ways("", Path()))


@pytest.mark.parametrize("way", WAYS)
def test_a_server_that_is_not_there(way: str, there: str, traces: list[Path], run_iretrace: RunIretrace) -> None:
    """Connections refused: told within seconds."""
    with nobody_listens() as away:
        said = told(run_iretrace, *ways(there, traces[0])[way], within=FEW_SECONDS, env=environment(away))
    assert "Could not connect" in said
    assert "AWS_ENDPOINT_URL" in said


@pytest.mark.parametrize("way", WAYS)
def test_wrong_credentials(way: str, server: Server, there: str, traces: list[Path], run_iretrace: RunIretrace) -> None:
    """403: told as such, and where credentials come from."""
    with server.asking_who():
        said = told(run_iretrace, *ways(there, traces[0])[way], within=FEW_SECONDS)
    assert "access was refused" in said
    assert "AWS_SECRET_ACCESS_KEY" in said


@pytest.mark.parametrize("way", WAYS)
def test_a_missing_bucket(way: str, bucket: str, traces: list[Path], run_iretrace: RunIretrace) -> None:
    """A bucket that is not there is not an empty one."""
    said = told(run_iretrace, *ways(f"s3://no-{bucket}/runs", traces[0])[way], within=FEW_SECONDS)
    assert "there is no such bucket" in said


@pytest.mark.parametrize("arguments", [("replay",), ("runs", "list"), ("runs", "add", "t.parquet", "-s")])
def test_a_missing_bucket_by_its_name_alone(
    arguments: tuple[str, ...], bucket: str, traces: list[Path], tmp_path: Path, run_iretrace: RunIretrace
) -> None:
    """Nor is it where the URL has no prefix."""
    traces[0].rename(tmp_path / "t.parquet")
    said = told(run_iretrace, *arguments, f"s3://no-{bucket}", within=FEW_SECONDS)
    assert "there is no such bucket" in said


def test_what_is_not_in_the_bucket(there: str, run_iretrace: RunIretrace) -> None:
    """A missing object is named, the others are done; nothing that matches is an error."""
    done = run_iretrace("replay", f"{there}/t1.parquet", f"{there}/none.parquet", "--json", check=False)
    assert done.returncode == 2
    document = json.loads(done.stdout)
    assert [one["trace"]["path"] for one in document["traces"]] == [f"{there}/t1.parquet"]
    error = f"{there}/none.parquet: there is no such object"
    assert document["failed"] == [{"trace": f"{there}/none.parquet", "error": error}]
    assert "no object matches" in told(run_iretrace, "replay", f"{there}/none*", within=FEW_SECONDS)
    assert "no such store" in told(run_iretrace, "runs", "list", f"{there}/none", within=FEW_SECONDS)
    assert "names no bucket" in told(run_iretrace, "runs", "list", "s3://", within=FEW_SECONDS)


def test_no_credentials(there: str, run_iretrace: RunIretrace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in the environment nor in a file: told, and not looked for on the network for long."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    assert "there are no credentials" in told(run_iretrace, "replay", f"{there}/", within=FEW_SECONDS)
    assert "there are no credentials" in told(run_iretrace, "runs", "list", there, within=FEW_SECONDS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("url", "remedy"),
    [("s3://bucket/x", "pip install s3fs"), ("s3a://bucket/x", "pip install s3fs"), ("gs://b/x", "pip install gcsfs")],
)
def test_a_driver_that_is_not_installed(url: str, remedy: str, tmp_path: Path) -> None:
    """Without the driver the one line says which package to install."""
    blocked = "import sys; sys.modules['s3fs'] = sys.modules['gcsfs'] = None; from iretrace.cli import main; main()"
    for verb in (("replay", url), ("runs", "list", url), ("runs", "add", tmp_path / "x.parquet", "-s", url)):
        command = [sys.executable, "-c", blocked, *map(str, verb)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=PATIENCE_S)
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"iretrace: {url}: ")
        assert line.endswith(remedy)


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go."""
    directory = tmp_path / "scratch"
    directory.mkdir()
    monkeypatch.setenv("TMPDIR", str(directory))
    return directory


def test_a_server_that_dies_in_the_middle(
    server: Server, bucket: str, traces: list[Path], scratch: Path, run_iretrace: RunIretrace
) -> None:
    """A fetch that breaks off, after which nothing answers: told soon, nothing left behind, and no part replayed."""
    server.put(bucket, "big.parquet", traces[0].read_bytes() + bytes(20 << 20))
    proxy = Proxy(server.port, cut_after=5 << 20, dies=True)
    said = told(
        run_iretrace, "replay", f"s3://{bucket}/big.parquet", within=2 * FEW_SECONDS, env=environment(proxy.endpoint)
    )
    assert proxy.cuts
    assert said.startswith(f"iretrace: s3://{bucket}/big.parquet: the store does not answer as it should")
    assert not list(scratch.iterdir())


def test_answers_that_break_off_are_asked_for_again(
    server: Server, bucket: str, traces: list[Path], scratch: Path, run_iretrace: RunIretrace
) -> None:
    """A server that ends each answer of more than so many bytes: what fits comes whole, the rest is told."""
    data = traces[0].read_bytes()
    server.put(bucket, "runs/t1.parquet", data)
    expected = run_iretrace("replay", f"s3://{bucket}/runs/t1.parquet", "--json")
    cutting = environment(Proxy(server.port, cut_after=len(data) * 2 // 3).endpoint)
    again = run_iretrace("replay", f"s3://{bucket}/runs/t1.parquet", "--json", env=cutting)
    assert json.loads(again.stdout) == json.loads(expected.stdout)
    never = environment(Proxy(server.port, cut_after=len(data) // 20).endpoint)
    said = told(run_iretrace, "replay", f"s3://{bucket}/runs/t1.parquet", within=2 * FEW_SECONDS, env=never)
    assert "the store does not answer as it should" in said
    assert not list(scratch.iterdir())


def test_a_store_that_dies_is_not_full_of_damage(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that cannot be read for a while is told as such; its runs are not unreadable, then nor later."""
    url = f"s3://{bucket}/store"
    runs = [make_run(tmp_path / "t", seed) for seed in range(1, 4)]
    writer = open_store(url, create=True)
    for run in runs:
        writer.add(run)
    store = open_store(url)
    with monkeypatch.context() as patched:
        patched.setattr(Location, "read", _away)
        with pytest.raises(Unreachable):
            store.runs()
        with pytest.raises(Unreachable):
            store.unreadable()
    assert store.ids() == [run.id for run in runs]
    assert not store.unreadable()


def _away(_: Location, name: str) -> bytes:
    raise Unreachable(name, "not now")


def test_a_truncated_object_is_damaged_by_its_own_name(
    server: Server, bucket: str, traces: list[Path], run_iretrace: RunIretrace
) -> None:
    """Half of a trace in the bucket is what half of a file is; errors name the object, and not its copy here."""
    half = traces[0].read_bytes()[:-100]
    server.put(bucket, "runs/half.parquet", half)
    server.put(bucket, "runs/empty.parquet", b"")
    server.put(bucket, "runs/text.parquet", b"no trace")
    local = traces[0].parent / "half.parquet"
    local.write_bytes(half)
    url = f"s3://{bucket}/runs/half.parquet"
    for verb in (("replay", url), ("compare", url, traces[1]), ("query", url, "SELECT 1"), ("report", url)):
        here = [str(local) if part == url else part for part in verb]
        said = told(run_iretrace, *verb, within=FEW_SECONDS)
        assert said == run_iretrace(*here, check=False).stderr.splitlines()[0].replace(str(local), url)
    document = json.loads(run_iretrace("replay", f"s3://{bucket}/runs/", "--json", check=False).stdout)
    assert [one["error"].partition(": ")[0] for one in document["failed"]] == [
        f"s3://{bucket}/runs/{name}.parquet" for name in ("empty", "half", "text")
    ]


def test_a_silent_server_is_given_up(
    server: Server, there: str, run_iretrace: RunIretrace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that accepts and never answers: fsspec's own configuration says how long that may last."""
    proxy = Proxy(server.port, silent=True)
    monkeypatch.setenv("FSSPEC_S3", json.dumps({"config_kwargs": {"read_timeout": 1, "retries": {"max_attempts": 0}}}))
    said = told(run_iretrace, "replay", f"{there}/", within=2 * FEW_SECONDS, env=environment(proxy.endpoint))
    assert "the store does not answer as it should" in said
    proxy.stop()


@pytest.mark.parametrize("way", [(), ("--jobs", "2")], ids=["serial", "jobs"])
def test_interrupted_fetches_leave_nothing(
    way: tuple[str, ...], server: Server, bucket: str, scratch: Path, run_iretrace: RunIretrace
) -> None:
    """Ctrl-C while objects are fetched: it ends soon, with one line, and their copies are gone."""
    for name in "abc":
        server.put(bucket, f"runs/{name}.parquet", bytes(6 << 20))
    proxy = Proxy(server.port, pace_s=0.05)  # some twenty seconds for each
    env = {**run_iretrace.environment(), **environment(proxy.endpoint)}
    command = run_iretrace.command("replay", f"s3://{bucket}/runs/", *way)
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=env, text=True, start_new_session=True) as process:
        until(
            lambda: any(file.stat().st_size for file in scratch.rglob("*.parquet")) and proxy.sent > 1 << 17,
            "some of the objects is here",
            process,
        )
        os.killpg(process.pid, signal.SIGINT)
        begin = time.monotonic()
        _, said = process.communicate(timeout=PATIENCE_S)
        took = time.monotonic() - begin
    assert process.returncode == 2
    assert said.splitlines() == ["", "iretrace: interrupted"]
    assert took < FEW_SECONDS
    assert not list(scratch.iterdir())
    proxy.stop()


PEAK = """
import resource, sys
from iretrace import sources
with sources.local(sys.argv[1]) as path:
    size = path.stat().st_size
print(size, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10)
"""


def test_memory_does_not_grow_with_the_object(server: Server, bucket: str, scratch: Path) -> None:
    """An object of 192 MiB is fetched in parts: little more is in memory than for a small one."""
    peaks = []
    for size in (1 << 20, 192 << 20):
        server.put(bucket, "big.parquet", bytes(size))
        command = [sys.executable, "-c", PEAK, f"s3://{bucket}/big.parquet"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        fetched, peak = map(int, done.stdout.split())
        assert fetched == size
        peaks.append(peak)
    assert peaks[1] - peaks[0] < 96 << 20
    assert not list(scratch.iterdir())


def test_no_room_is_no_fault_of_the_store(there: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is told as this machine's, with what to do about it, and the fetch is not tried again."""
    system, _ = objects.reach(there)
    tries = []

    def full(*_: Any) -> None:
        tries.append(1)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(system, "get_file", full)
    (outcome,) = run_all(TASK, [f"{there}/t1.parquet"], FleetOptions())
    assert "set TMPDIR" in outcome.error
    assert tries == [1]


def test_secrets_stay_out(server: Server, bucket: str, traces: list[Path], run_iretrace: RunIretrace) -> None:
    """Neither what is printed nor what is written holds a key, whatever URL it came by."""
    server.put(bucket, "runs/t1.parquet", traces[0].read_bytes())
    signed = server.client.generate_presigned_url("get_object", {"Bucket": bucket, "Key": "runs/t1.parquet"})
    gone = server.client.generate_presigned_url("get_object", {"Bucket": bucket, "Key": "runs/none.parquet"})
    secrets = [SECRET, KEY, *re.findall(r"(?:Signature|Credential|AWSAccessKeyId)=([^&]+)", signed + gone)]
    assert len(secrets) >= 4
    printed = []
    for verb in (
        ("runs", "add", signed, "-s", f"s3://{bucket}/store", "--json"),
        ("runs", "show", "", "-s", f"s3://{bucket}/store", "--json"),
        ("replay", signed, gone, "--json"),
        ("replay", signed, gone),
        ("compare", signed, gone),
        ("replay", f"s3://{bucket}/runs/", "-p", "rfc2014", "-o", "predictions"),
        ("runs", "list", "ftp://me:hunter2-hunter2@127.0.0.1:1/store"),
    ):
        done = run_iretrace(*verb, check=False)
        printed.append(done.stdout + done.stderr)
    assert json.loads(printed[0])["added"][0]["trace"].startswith(f"{server.endpoint}/{bucket}/runs/t1.parquet?")
    assert json.loads(printed[1])["trace"] == "t1.parquet"
    assert "hunter2" not in printed[-1]
    written = [server.read(bucket, key) for key in server.keys(bucket) if key.startswith("store/")]
    written += [path.read_bytes() for path in traces[0].parent.parent.rglob("*.predictions.parquet")]
    assert len(written) == 2
    for secret in secrets:
        assert all(secret not in text for text in printed)
        assert all(secret.encode() not in data for data in written)


def test_redaction(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passwords, signatures and the environment's keys go; the rest of a URL stays as it is."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "abc/def+0123456789")
    assert redacted("ftp://me:pass@host/x: no") == "ftp://me:***@host/x: no"
    assert redacted("https://h/x?a=1&X-Amz-Signature=0f&b=2") == "https://h/x?a=1&X-Amz-Signature=***&b=2"
    assert redacted("key abc/def+0123456789.") == "key ***."
    for name in ("s3://bucket/a:b@c/t.parquet", "runs/a=b&c.parquet", "a: b; c@d", "s3://b/q?x=1.parquet"):
        assert redacted(name) == name
