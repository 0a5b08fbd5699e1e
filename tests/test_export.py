"""Exports: other tools' own readers find the same traps, nested as they were, and what each policy decides."""

from __future__ import annotations

import io
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import pyperf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as pb

import iretrace
from benchmarks import traces as recipes
from iretrace.exporters import chrome, perfetto, pyperf_suite, tables
from iretrace.exporters.timeline import Nests, Rate, clock_of, distinct
from iretrace.footer import Anchor, Clock, Footer, Loss, Window
from iretrace.replay import run
from iretrace.replay.policies import by_name
from iretrace.trace import open_trace
from iretrace.traps import return_table
from tests.conftest import ROOT, RunIretrace
from tests.strategies import loose_events, nested_events
from tests.traces import KERNEL_CS, event, write_trace

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from iretrace.trace import Trace

SAMPLE = ROOT / "samples" / "mixed.parquet"
POLICIES = [by_name("iret"), by_name("rfc2014"), by_name("fred")]


def exported(trace: Trace) -> tuple[int, bytes]:
    """A trace as Perfetto's protobuf."""
    file = io.BytesIO()
    return perfetto.export(trace, POLICIES, file), file.getvalue()


def slices(data: bytes) -> Iterator[dict[str, Any]]:
    """Slices of a Perfetto trace by its official messages and a stack a track, in the order of time and file."""
    trace = pb.Trace()
    trace.ParseFromString(data)
    names: dict[int, str] = {}
    tracks: dict[int, str] = {}
    events = []
    for packet in trace.packet:
        names.update({item.iid: item.name for item in packet.interned_data.event_names})
        if packet.HasField("track_descriptor"):
            tracks[packet.track_descriptor.uuid] = packet.track_descriptor.name
        if (packet.HasField("track_event") and 1 in packet.track_event.category_iids) or (
            packet.HasField("track_event") and packet.track_event.type == pb.TrackEvent.TYPE_SLICE_END
        ):
            events.append(packet)
    events.sort(key=lambda packet: packet.timestamp)  # stable, as Perfetto's
    stacks: dict[int, list[dict[str, Any]]] = {}
    for packet in events:
        what, stack = packet.track_event, stacks.setdefault(packet.track_event.track_uuid, [])
        if what.type == pb.TrackEvent.TYPE_SLICE_END:
            top = stack.pop()
            yield {**top, "end": packet.timestamp}
            continue
        found = {
            "track": tracks[what.track_uuid],
            "name": names[what.name_iid],
            "ts": packet.timestamp,
            "end": packet.timestamp,
            "depth": len(stack),
        }
        if what.type == pb.TrackEvent.TYPE_SLICE_BEGIN:
            stack.append(found)
        else:
            yield found
    for stack in stacks.values():
        yield from ({**left, "end": None} for left in stack)


def expected(trace: Trace) -> list[dict[str, Any]]:
    """The same by the traps' own table."""
    clock = clock_of(trace)

    def ns(tsc: int) -> int:
        return int(clock.ns(np.array([tsc], np.uint64))[0])

    found = []
    for row in iretrace.open(trace.path).traps().to_dict("records"):
        begin = row["exit_tsc"] if row["end"] == "orphan" else row["entry_tsc"]
        end = {"exit": row["exit_tsc"], "open": None}.get(row["end"], begin)
        found.append(
            {
                "track": f"CPU {row['cpu']}",
                "name": row["name"],
                "ts": ns(begin),
                "end": None if end is None else ns(end),
            }
        )
    return found


def counted(rows: Any) -> Counter[tuple[Any, ...]]:
    """Rows as a multiset, without what only one of the two has."""
    return Counter((row["track"], row["name"], row["ts"], row["end"]) for row in rows)


@settings(deadline=None, max_examples=40)
@given(events=st.one_of(loose_events(), nested_events()).filter(bool), khz=st.sampled_from([None, 1e3, 2.5e6, 4e9]))
@pytest.mark.slow
def test_any_trace_decodes_to_its_traps(
    tmp_path_factory: pytest.TempPathFactory, events: list[dict[str, Any]], khz: float | None
) -> None:
    """Decoded by the official schema and a stack, a trap is where it was, whatever collapses to one nanosecond."""
    footer = Footer(kernel_cs=KERNEL_CS, clock=Clock(tsc_khz=khz))
    trace = open_trace(write_trace(tmp_path_factory.mktemp("any") / "t.parquet", events, footer))
    n, data = exported(trace)
    found = list(slices(data))
    assert len(found) == n
    assert counted(found) == counted(expected(trace))


def test_whole_nests_keep_their_order_in_one_nanosecond(tmp_path: Path) -> None:
    """Nested traps that begin and end in the same nanosecond stay nested."""
    events = [
        event(100, "entry", 0xEC),
        event(101, "entry", 14),
        event(102, "entry", 2),
        event(103, "exit", 2),
        event(104, "exit", 14),
        event(105, "exit", 0xEC),
    ]
    footer = Footer(kernel_cs=KERNEL_CS, clock=Clock(tsc_khz=1e9))  # a cycle is a picosecond
    found = list(slices(exported(open_trace(write_trace(tmp_path / "t.parquet", events, footer)))[1]))
    assert {row["name"]: row["depth"] for row in found} == {"timer": 0, "#PF": 1, "NMI": 2}


def test_a_nest_is_given_whole(tmp_path: Path) -> None:
    """Traps inside one that is still open wait for it; nothing is lost or doubled."""
    recipes.write(tmp_path / "t.parquet", 20_000)
    trace = open_trace(tmp_path / "t.parquet")
    nests = Nests()
    given_ = []
    for batch in run.returns(trace, POLICIES):
        for start in range(0, len(batch.rows), 700):
            part = run.Returns(
                rows=batch.rows[start : start + 700],
                decisions=tuple(
                    run.Decisions(
                        table=d.table, nest=d.nest[start : start + 700], context=d.context[start : start + 700]
                    )
                    for d in batch.decisions
                ),
            )
            whole = nests.feed(part)
            last = dict(zip(whole.rows["cpu"].tolist(), whole.rows["depth"].tolist(), strict=True))
            assert not any(last.values())
            given_.append(whole.rows)
    rest = nests.rest()
    total = sum(map(len, given_)) + (0 if rest is None else len(rest.rows))
    assert total == len(iretrace.open(trace.path).traps())


@given(
    messages=st.lists(st.integers(0, 2**40), min_size=1, max_size=4),
    packets=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2**63 - 1)), max_size=30),
)
def test_assembled_packets_are_perfettos(messages: list[int], packets: list[tuple[int, int]]) -> None:
    """Packets put together by numpy parse as those that Perfetto's classes would write."""
    made = [pb.TracePacket(trusted_packet_sequence_id=1) for _ in messages]
    for packet, uuid in zip(made, messages, strict=True):
        packet.track_event.track_uuid = uuid
    which = np.array([index % len(messages) for index, _ in packets], np.intp)
    stamps = np.array([ns for _, ns in packets], np.int64)
    parsed = pb.Trace()
    parsed.ParseFromString(perfetto.assemble([one.SerializeToString() for one in made], which, stamps))
    assert [(p.timestamp, p.track_event.track_uuid) for p in parsed.packet] == [
        (ns, messages[index % len(messages)]) for index, ns in packets
    ]


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.integers(0, 2)), min_size=1))
def test_distinct_rows(rows: list[tuple[int, bool, int]]) -> None:
    """Each row points to one equal to it, and no two of those are equal."""
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    first, which = distinct(columns)
    assert [rows[i] for i in first[which]] == rows
    assert len({rows[i] for i in first}) == len(first)


@given(st.lists(st.integers(0, 10**14), min_size=1, max_size=50))
def test_rates_count_everything(times: list[int]) -> None:
    """However long it lasts, each is counted, near its time."""
    rate = Rate(0)
    for ns in times:
        rate.add(np.array([ns]))
    assert rate.counts.sum() == len(times)
    assert set(np.flatnonzero(rate.counts)) == {ns // rate.width_ns for ns in times}


def test_clock_is_the_machines_where_it_has_an_anchor(tmp_path: Path) -> None:
    """With an anchor time is CLOCK_MONOTONIC; without a frequency a cycle is a nanosecond from the start."""
    anchor = Anchor(tsc=1_000, realtime_ns=10**18, monotonic_ns=5_000)
    events = [event(3_000, "entry", 14), event(5_000, "entry", 14)]
    footer = Footer(clock=Clock(tsc_khz=2e6, anchors=[anchor]))
    known = clock_of(open_trace(write_trace(tmp_path / "a.parquet", events, footer)))
    assert known.ns(np.array([3_000, 5_000], np.uint64)).tolist() == [6_000, 7_000]
    unknown = clock_of(open_trace(write_trace(tmp_path / "b.parquet", events)))
    assert unknown.ns(np.array([3_000, 5_000], np.uint64)).tolist() == [0, 2_000]
    assert not unknown.known


def test_chrome_holds_every_trap(tmp_path: Path) -> None:
    """The JSON parses; complete events, beginnings and instants are the traps, with what the policies say."""
    events = [
        event(1000, "exit", 0xFD, cpu=1, to_kernel=True),
        event(2000, "entry", 0xEC, to_kernel=True),
        event(2500, "entry", 14, to_kernel=True),
        event(2750, "exit", 14, to_kernel=True),
        event(4001, "exit", 0xEC, to_kernel=True),
        event(5000, "entry", 2, to_kernel=True),
    ]
    footer = Footer(kernel_cs=KERNEL_CS, clock=Clock(tsc_khz=1e6), losses=[Loss(cause="ring-full", count=3)])
    file = io.BytesIO()
    assert chrome.export(open_trace(write_trace(tmp_path / "t.parquet", events, footer)), POLICIES, file) == 4
    document = json.loads(file.getvalue())
    traps = [e for e in document["traceEvents"] if e["ph"] != "M"]
    assert {(e["name"], e["ph"], e["tid"] - 1, e["ts"], e.get("dur")) for e in traps} == {
        ("reschedule", "i", 1, 0.0, None),
        ("timer", "X", 0, 1.0, 2.001),
        ("#PF", "X", 0, 1.5, 0.25),
        ("NMI", "B", 0, 4.0, None),
    }
    (timer,) = (e for e in traps if e["name"] == "timer")
    assert timer["args"]["rfc2014"] == {"decision": "RET", "rule": "non-ist", "nest_count": 0}
    assert timer["args"]["fred"]["decision"] == "ERETS"
    assert document["otherData"]["losses"] == [{"cause": "ring-full", "cpu": None, "count": 3}]


def test_events_as_csv_come_back(tmp_path: Path, run_iretrace: RunIretrace) -> None:
    """What export writes as CSV, import reads: the same events."""
    run_iretrace("export", SAMPLE, "--format", "csv", "-o", "e.csv")
    run_iretrace("import", "--format", "csv", "e.csv", "-o", "back.parquet")
    first, second = iretrace.open(SAMPLE), iretrace.open(tmp_path / "back.parquet")
    assert first.events().astype(str).equals(second.events().astype(str))


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("table", ["traps", "decisions"])
def test_tables_are_the_replays(table: str, kind: str) -> None:
    """Plain tables hold the rows that a replay gives."""
    trace = open_trace(SAMPLE)
    file = io.BytesIO()
    n = tables.export(trace, POLICIES, file, table=table, kind=kind)
    whole = [
        row for batch in run.returns(trace, POLICIES) for row in return_table(batch, None).slice(0, 50).to_pylist()
    ]
    assert n == len(iretrace.open(SAMPLE).traps())
    file.seek(0)
    if kind == "parquet":
        found = pq.read_table(file).slice(0, 50).to_pylist()
        saved = {name for name in found[0] if name.startswith("saved_cycles")} | set()
        for mine, theirs in zip(found, whole[:50], strict=True):
            assert {k: v for k, v in mine.items() if k not in saved} == {
                k: v for k, v in theirs.items() if k in mine and k not in saved
            }
        assert any(name.startswith("decision.") for name in found[0]) == (table == "decisions")
    else:
        assert len(file.read().splitlines()) == n + 1


def test_pyperf_reads_its_suite(tmp_path: Path) -> None:
    """Values are mean self times by class and part of the window; pyperf loads and compares them."""
    path = tmp_path / "t.parquet"
    recipes.write(path, 50_000)
    trace = open_trace(path)
    file = io.BytesIO()
    n = pyperf_suite.export(trace, [], file)
    (tmp_path / "s.json").write_bytes(file.getvalue())
    suite = pyperf.BenchmarkSuite.load(str(tmp_path / "s.json"))
    assert len(suite) == n
    traps = iretrace.open(path).traps().dropna(subset=["self_cycles"])
    for benchmark in suite:
        mine = traps[traps["name"] == benchmark.get_name()]["self_cycles"]
        loops = [one.get_metadata()["loops"] for one in benchmark.get_runs()]
        assert sum(loops) == len(mine)
        seconds = sum(v * k for v, k in zip(benchmark.get_values(), loops, strict=True))
        assert seconds == pytest.approx(float(mine.sum()) / 2e9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "pyperf"], "frequency"),
        (["--format", "perfetto", "--table", "traps"], "--table"),
        (["-o", "x.unknown"], "--format"),
        (["-o", "there.csv"], "--force"),
        (["--policy", "nobody"], "nobody"),
    ],
)
def test_what_cannot_be_done_is_told(
    tmp_path: Path, arguments: list[str], message: str, run_iretrace: RunIretrace
) -> None:
    """One line, exit status 2, and no file."""
    (tmp_path / "there.csv").write_text("mine")
    trace = write_trace(tmp_path / "t.parquet", [event(1, "entry", 14)])
    done = run_iretrace("export", trace, *arguments, check=False)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"there.csv", "t.parquet"}
    assert (tmp_path / "there.csv").read_text() == "mine"


def test_losses_are_in_the_timeline(tmp_path: Path) -> None:
    """A recorded loss is an event of its own, with its meaning."""
    footer = Footer(losses=[Loss(cause="ring-full", count=7, cpu=1)], window=Window(start_tsc=0, stop_tsc=10))
    _, data = exported(open_trace(write_trace(tmp_path / "t.parquet", [event(1, "entry", 14)], footer)))
    trace = pb.Trace()
    trace.ParseFromString(data)
    names = {item.iid: item.name for packet in trace.packet for item in packet.interned_data.event_names}
    assert "LOSS ring-full" in names.values()
