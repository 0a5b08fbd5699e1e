"""``iretrace replay`` of many traces with ``-o`` and ``--savings``: a file each, and sums."""

from __future__ import annotations

import json
import os
import signal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
import msgspec
import pyarrow.parquet as pq
import pytest

from iretrace import outputs
from iretrace.analysis.saved_sum import SavedSum
from iretrace.errors import OutputError, UsageError
from iretrace.fleet import FleetOptions, run_all
from iretrace.fleet_tasks import replay_document
from iretrace.footer import Process
from tests.sample_trace import write_sample
from tests.test_fleet import cluster as _cluster
from tests.test_savings import FOOTER, NEST
from tests.traces import KERNEL_CS, event, write_trace

if TYPE_CHECKING:
    from tests.conftest import RunIretrace
    from tests.test_fleet import Cluster

cluster = _cluster
SUFFIX = ".predictions.parquet"
ONE = ("--policy", "rfc2014")


@pytest.fixture
def traces(tmp_path: Path) -> list[str]:
    """Two directories with a trace of the same name each, with costs and with none."""
    names = []
    for directory in ("a", "b"):
        (tmp_path / directory).mkdir()
        names.append(str(write_sample(tmp_path / directory / "x.parquet")))
    names.append(str(write_trace(tmp_path / "b" / "y.parquet", [event(5, "entry", 14, cs=KERNEL_CS, to_kernel=True)])))
    return names


def files(directory: Path) -> list[str]:
    """All that lies in a directory, hidden files too."""
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


@pytest.mark.parametrize("way", [(), ("--jobs", "2")], ids=["serial", "jobs"])
def test_predictions_of_each(
    way: tuple[str, ...], traces: list[str], tmp_path: Path, run_iretrace: RunIretrace
) -> None:
    """A file a trace, laid out as the traces are, each as the trace alone gives it; JSON says where."""
    done = run_iretrace("replay", *traces, *ONE, "-o", "out", *way, "--json")
    assert files(tmp_path / "out") == [f"a/x{SUFFIX}", f"b/x{SUFFIX}", f"b/y{SUFFIX}"]
    for name, document in zip(traces, json.loads(done.stdout)["traces"], strict=True):
        run_iretrace("replay", name, *ONE, "-o", "alone.parquet", "--force")
        assert pq.read_table(document["predictions"]).equals(pq.read_table(tmp_path / "alone.parquet"))


def test_nothing_is_overwritten(traces: list[str], tmp_path: Path, run_iretrace: RunIretrace) -> None:
    """One output that exists stops all before any work; --force replaces it."""
    there = tmp_path / "out" / "b" / f"y{SUFFIX}"
    there.parent.mkdir(parents=True)
    there.write_text("mine")
    done = run_iretrace("replay", *traces, *ONE, "-o", "out", check=False)
    assert done.returncode == 2
    assert f"{there}: exists already; add --force" in done.stderr
    assert files(tmp_path / "out") == [f"b/y{SUFFIX}"]
    assert there.read_text() == "mine"
    done = run_iretrace("replay", *traces, *ONE, "-o", "out", "--force")
    assert "one file a trace" in done.stdout
    assert pq.read_table(there).num_rows == 1


def test_a_trace_that_fails_leaves_no_file(traces: list[str], tmp_path: Path, run_iretrace: RunIretrace) -> None:
    """It is named, the others are written, and nothing is half-written."""
    bad = tmp_path / "b" / "bad.parquet"
    bad.write_bytes(Path(traces[0]).read_bytes()[:-100])
    done = run_iretrace("replay", *traces, str(bad), *ONE, "-o", "out", "--jobs", "2", check=False)
    assert done.returncode == 2
    assert str(bad) in done.stderr
    assert files(tmp_path / "out") == [f"a/x{SUFFIX}", f"b/x{SUFFIX}", f"b/y{SUFFIX}"]


def test_one_url_is_one_file(traces: list[str], tmp_path: Path, run_iretrace: RunIretrace) -> None:
    """An object alone is a trace, and -o a file; a pattern that matches one is a pattern, and -o a directory."""
    run_iretrace("replay", f"file://{traces[2]}", *ONE, "-o", "p.parquet")
    assert pq.read_table(tmp_path / "p.parquet").num_rows == 1
    run_iretrace("replay", f"file://{tmp_path}/b/y*.parquet", *ONE, "-o", "out")
    assert files(tmp_path / "out") == [f"y{SUFFIX}"]


def test_several_policies_do_not_go_into_one_file(traces: list[str], run_iretrace: RunIretrace) -> None:
    """As for one trace."""
    done = run_iretrace("replay", *traces, "-o", "out", check=False)
    assert done.returncode == 2
    assert "holds one policy" in done.stderr


def test_where_outputs_may_not_go(traces: list[str], tmp_path: Path) -> None:
    """Over a file, over a trace, two into one, below what is not there: refused before any work."""
    known = partial(outputs.plan, many=True, suffix=SUFFIX, force=True)
    with pytest.raises(OutputError, match="is a file"):
        known(Path(traces[0]), traces)
    with pytest.raises(OutputError, match="there is no directory"):
        known(tmp_path / "none" / "out", traces)
    with pytest.raises(UsageError, match="would both become"):
        known(tmp_path / "out", ["s3://bucket/x.parquet", "gs://bucket/x.parquet"])
    with pytest.raises(OutputError, match="is one of the traces"):
        known(tmp_path / "b", [traces[2], traces[2].replace(".parquet", SUFFIX)])
    planned = known(tmp_path / "out", ["s3://bucket/../../x.parquet", "s3://bucket/a/y.parquet"])
    for name in ("s3://bucket/../../x.parquet", "s3://bucket/a/y.parquet"):
        assert planned.of(name).is_relative_to(tmp_path / "out")


def dies_once(log: str, planned: outputs.Outputs, name: str) -> dict[str, Any]:
    """Replays, and is killed before it could say so, with another output half-written."""
    document = replay_document(("rfc2014",), name, outputs=planned)
    seen = Path(log) / "seen"
    if not seen.exists():
        seen.touch()
        target = planned.of(name)
        target.with_name(f".{target.name}.1.tmp").write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)
    return document


@pytest.mark.slow
def test_a_killed_worker_loses_nothing(traces: list[str], tmp_path: Path) -> None:
    """Its file is written again rather than taken for somebody else's, and what it left half-written goes."""
    planned = outputs.plan(tmp_path / "out", traces, many=True, suffix=SUFFIX, force=False)
    for found in run_all(partial(dies_once, str(tmp_path), planned), traces, FleetOptions(jobs=2)):
        assert found.value is not None, found.error
        planned.sweep(found.name)
    assert files(tmp_path / "out") == [f"a/x{SUFFIX}", f"b/x{SUFFIX}", f"b/y{SUFFIX}"]


def test_savings_of_each_and_in_sum(traces: list[str], run_iretrace: RunIretrace) -> None:
    """Each trace's savings are those it has alone; the sums are their sums; without a cost a trace is left out."""
    serial = run_iretrace("replay", *traces, "--savings", "--json").stdout
    assert run_iretrace("replay", *traces, "--savings", "--json", "--jobs", "2").stdout == serial
    printed = json.loads(serial)
    assert printed["traces"][0] == json.loads(run_iretrace("replay", traces[0], "--savings", "--json").stdout)
    for number, total in enumerate(printed["savings"]):
        each = [trace["policies"][number]["savings"]["total"] for trace in printed["traces"]]
        assert (total["traces"], total["known"]) == (3, 2)
        assert "1 of 3 traces do not say" in total["reason"]
        for name in ("returns", "RET"):
            assert total[name] == sum(one[name] for one in each)
        for name in ("saved_cycles", "cost_low_cycles", "cost_high_cycles"):
            assert total[name] == pytest.approx(each[0][name] + each[1][name])
        assert total["share_pct"] == pytest.approx(each[0]["share_pct"])  # the same trace twice
    text = run_iretrace("replay", *traces, "--savings", *ONE).stdout
    assert "savings of rfc2014" in text
    assert "of what was recorded" in text


def test_commands_add_up_over_traces(tmp_path: Path) -> None:
    """All commands of each trace count, not only those that its own document lists."""
    total = SavedSum("rfc2014")
    for number in range(3):
        called = [Process(pid=7, comm="make"), Process(pid=1, comm=f"only-{number}")]
        path = write_trace(tmp_path / f"{number}.parquet", NEST, msgspec.structs.replace(FOOTER, processes=called))
        total.add(replay_document(("rfc2014",), str(path), savings=True))
    rows = {row["comm"]: row for row in total.document()["by_comm"]}
    assert {name: row["traces"] for name, row in rows.items()} == {"make": 3, "only-0": 1, "only-1": 1, "only-2": 1}
    assert sum(row["RET"] for row in rows.values()) == total.document()["RET"] == 12
    assert rows["make"]["saved_cycles"] == 3 * 3 * 200
    assert rows["make"]["saved_ns"] == pytest.approx(1800 * 1e3)  # a cycle is a microsecond


def test_a_cluster_does_the_same(
    cluster: Cluster, traces: list[str], tmp_path: Path, run_iretrace: RunIretrace
) -> None:
    """On Dask: the serial document, and the same files."""
    ways = {"serial": (), "dask": ("--scheduler", cluster.address)}
    printed = {
        name: json.loads(run_iretrace("replay", *traces, *ONE, "--savings", "-o", name, *way, "--json").stdout)
        for name, way in ways.items()
    }
    for document in printed.values():
        for trace in document["traces"]:
            del trace["predictions"]
    assert printed["dask"] == printed["serial"]
    assert files(tmp_path / "dask") == files(tmp_path / "serial")
    for name in files(tmp_path / "dask"):
        assert pq.read_table(tmp_path / "dask" / name).equals(pq.read_table(tmp_path / "serial" / name))


def test_objects_of_a_store(traces: list[str], tmp_path: Path) -> None:
    """Their paths behind the protocol lay out the directory."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    names = [f"memory:///fleet/{Path(name).parent.name}/{Path(name).name}" for name in traces]
    for name, path in zip(names, traces, strict=True):
        system.pipe(name, Path(path).read_bytes())
    planned = outputs.plan(tmp_path / "out", names, many=True, suffix=SUFFIX, force=False)
    for found in run_all(partial(replay_document, ("rfc2014",), outputs=planned), names, FleetOptions()):
        assert not found.error
    system.store.clear()
    assert files(tmp_path / "out") == [f"a/x{SUFFIX}", f"b/x{SUFFIX}", f"b/y{SUFFIX}"]
