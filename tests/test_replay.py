"""Whole replays: the mail's oracle, hand-written traces for every rule and hazard, the JSON contract, predictions."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings

from iretrace.errors import Damaged, UsageError
from iretrace.footer import Calibration, Clock, Cost, Cpu, Footer, Host, Loss, TrapClass, Window
from iretrace.replay import costs, policies, summary
from iretrace.replay.ahead import reading, reading_ahead
from iretrace.replay.engine import End, Pairing
from iretrace.replay.policies import DEVICE, Choice
from iretrace.replay.predictions import PredictionWriter
from iretrace.replay.run import replay, returns
from iretrace.schema import EVENT_SCHEMA, FOOTER_KEY, PREDICTION_SCHEMA
from iretrace.trace import open_trace
from tests import strategies
from tests.oracle_2014 import decide_all
from tests.strategies import BP, DB, DF, IPI, KERNEL_SP, MC, NM, NMI, NMI_TEXT, PF, SS, TIMER, USER_SP
from tests.traces import IF, KERNEL_CS, USER_CS, InMemory, event, table, write_trace

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from iretrace.replay.policies import Policy
    from iretrace.replay.summary import PolicySummary
    from iretrace.trace import Trace

TF, RF = 1 << 8, 1 << 16
TO_KERNEL = {"cs": KERNEL_CS, "ip": 0xFFFF_FFFF_8100_0000, "flags": 0x2, "sp": KERNEL_SP}
TO_USER = {"cs": USER_CS, "ip": 0x55_0000, "flags": IF, "sp": USER_SP}
FOOTER = Footer(kernel_cs=KERNEL_CS, nmi_text=list(NMI_TEXT))


def trap(vector: int | None, *inner: list[dict[str, Any]], **frame: Any) -> list[dict[str, Any]]:
    """Entry, what happens inside, exit; the frame (to kernel code unless given) is that of the exit."""
    frame = {**TO_KERNEL, **frame}
    return [event(0, "entry", vector), *(row for rows in inner for row in rows), event(0, "exit", vector, **frame)]


def at_times(*traps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Events one after the other: TSC 100, 110, 120, …."""
    rows = [row for rows in traps for row in rows]
    return [{**row, "tsc": 100 + 10 * i} for i, row in enumerate(rows)]


def summaries(
    path: Path, events: Sequence[dict[str, Any]], *chosen: Policy, footer: Footer = FOOTER
) -> tuple[PolicySummary, ...]:
    """Replay a written trace."""
    return summary.summarize(replay(open_trace(write_trace(path, events, footer)), chosen))


def in_memory(events: Sequence[dict[str, Any]], footer: Footer) -> Trace:
    """Events as a trace."""
    return InMemory(table(events), footer, group=7)  # type: ignore[return-value]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(events=strategies.nested_events())
@pytest.mark.slow
def test_replay_says_what_the_mail_says(events: list[dict[str, Any]]) -> None:
    """On well-formed nests, at any depth with any CS, the replay is the plain program written from the mail."""
    found = []
    for batch in returns(in_memory(events, FOOTER), [policies.RFC2014]):
        (decision,) = batch.decisions
        assert (batch.rows["end"] == End.EXIT).all()
        found += [
            (int(tsc), Choice(int(choice)).name, decision.table.rules[rule], int(nest))
            for tsc, choice, rule, nest in zip(batch.tsc, decision.choice, decision.rule, decision.nest, strict=True)
        ]
    assert sorted(found) == decide_all(events, NMI_TEXT)


def test_every_rule_of_the_mail_on_a_trace(tmp_path: Path) -> None:
    """One trap for each way through the algorithm; the counts by rule and the choices are known by hand."""
    events = at_times(
        trap(PF, **TO_USER),  # target-cs
        trap(NMI, trap(DB), trap(BP), trap(MC), trap(MC, ip=0x1000), trap(PF)),  # db-bp RET twice, mc both ways
        trap(NMI, **TO_USER),  # target-cs comes before nmi
        trap(NM),
        trap(DF),
        trap(SS),
        trap(DB),
        trap(MC, trap(BP)),  # nested by the #MC: RET
        trap(BP),  # and not nested after it: IRET
        trap(TIMER, trap(IPI)),
        trap(None),
        trap(PF, cs=0x18),  # a CS that is not the standard one, though its CPL is 0
    )
    (found,) = summaries(tmp_path / "t", events, policies.RFC2014)
    assert found.by_rule == {
        "target-cs": 3,
        "nmi": 1,
        "nm": 1,
        "df-ss": 2,
        "db-bp": 5,
        "mc": 3,
        "non-ist": 4,
    }
    rets = {row.name: row.choices[Choice.RET] for row in found.by_vector}
    assert rets == {
        "#DB": 1,
        "NMI": 0,
        "#BP": 2,
        "#NM": 0,
        "#DF": 0,
        "#SS": 0,
        "#PF": 1,
        "#MC": 1,
        "timer": 1,
        "reschedule": 1,
        "device": 1,
    }
    assert found.by_vector[-1].vector is None
    assert (found.returns, found.choices) == (19, (8, 11, 0, 0))


def test_the_count_that_judges_is_the_one_before_the_exit(tmp_path: Path) -> None:
    """A #MC in an NMI takes one away, the NMI's end clears, and nothing goes below zero."""
    events = at_times(trap(NMI, trap(MC), trap(DB)), trap(DB), trap(MC), trap(MC, trap(NMI), trap(DB)), trap(DB))
    trace = open_trace(write_trace(tmp_path / "t", events, FOOTER))
    (batch,) = returns(trace, [policies.RFC2014])
    assert list(zip(batch.rows["slot"].tolist(), batch.decisions[0].nest.tolist(), strict=True)) == [
        (MC, 2),
        (DB, 1),
        (NMI, 1),
        (DB, 0),
        (MC, 1),
        (NMI, 2),
        (DB, 0),  # the NMI cleared what the #MC had counted: the mail's counter forgets it
        (MC, 0),
        (DB, 0),
    ]


def test_the_reviewed_count_leaves_the_returning_trap_out(tmp_path: Path) -> None:
    """A lone #DB has no IST stack as its target; one inside another has."""
    events = at_times(trap(DB), trap(DB, trap(BP)), trap(NMI, trap(MC)))
    trace = open_trace(write_trace(tmp_path / "t", events, FOOTER))
    (batch,) = returns(trace, [policies.RFC2014_REVIEWED])
    (decision,) = batch.decisions
    assert decision.nest.tolist() == [0, 1, 0, 1, 0]
    assert [Choice(int(c)).name for c in decision.choice] == ["IRET", "RET", "IRET", "RET", "IRET"]


HAZARDOUS = [
    ("iret-in-nmi", policies.RFC2014, [trap(NMI, trap(MC))], 1),
    ("iret-in-nmi", policies.RFC2014_REVIEWED, [trap(NMI, trap(MC))], 0),
    ("iret-in-nmi", policies.FRED, [trap(NMI, trap(PF))], 0),
    ("iret-in-nmi", policies.IRET, [trap(NMI, trap(PF)), trap(PF)], 1),
    ("ret-invalid-stack", policies.RFC2014, [trap(PF, sp=USER_SP), trap(PF), trap(PF, **TO_USER)], 1),
    ("ret-invalid-stack", policies.IRET, [trap(PF, sp=USER_SP)], 0),
    ("ret-tf", policies.RFC2014, [trap(NMI, trap(DB, flags=TF)), trap(DB, flags=TF)], 1),
    ("ret-rf", policies.RFC2014, [trap(PF, flags=RF), trap(DB, flags=RF)], 1),
    ("nmi-nested", policies.RFC2014, [trap(NMI, trap(PF, trap(NMI))), trap(NMI)], 1),
    ("if-in-nmi", policies.RFC2014, [trap(NMI, trap(PF, flags=IF), trap(PF), trap(PF, **TO_USER))], 1),
    (
        "cs-changed-in-nmi",
        policies.RFC2014,
        [trap(NMI, trap(PF, **TO_USER), trap(PF, cs=0x18)), trap(PF, **TO_USER)],
        2,
    ),
]


@pytest.mark.parametrize(("name", "policy", "traps", "expected"), HAZARDOUS)
def test_hazards_on_traces(
    tmp_path: Path, name: str, policy: Policy, traps: list[list[dict[str, Any]]], expected: int
) -> None:
    """Each hazard is counted where it happens, by the machine's state and the choice made."""
    (found,) = summaries(tmp_path / "t", at_times(*traps), policy)
    assert found.hazards[name] == expected


def test_an_nmi_in_an_nmi_is_the_reviews_bug(tmp_path: Path) -> None:
    """On one CPU it nested; on another it is an NMI of its own."""
    events = at_times(
        [event(0, "entry", NMI), event(0, "entry", PF), event(0, "entry", NMI, cpu=1), event(0, "entry", NMI)],
        [event(0, "exit", NMI), event(0, "exit", NMI, cpu=1), event(0, "exit", PF), event(0, "exit", NMI)],
    )
    (found,) = summaries(tmp_path / "t", events, policies.RFC2014)
    assert found.hazards["nmi-nested"] == 1
    (example,) = found.examples["nmi-nested"]
    assert (example.tsc, example.cpu, example.context) == (140, 0, "NMI to unknown, nested, NMI on stack")


def test_an_nmi_that_returns_by_ret_stays_masked(tmp_path: Path) -> None:
    """No built-in policy does it; a user's own may, and RET to user mode too."""
    mine = replace(policies.IRET, name="mine", rules=("r",), decide=lambda _: (Choice.RET, "r"))
    (found,) = summaries(tmp_path / "t", at_times(trap(NMI), trap(PF, **TO_USER)), mine)
    assert {name: n for name, n in found.hazards.items() if n} == {"nmi-masked": 1, "ret-other-cs": 1}


def test_examples_are_the_first_by_tsc(tmp_path: Path) -> None:
    """At most three contexts are shown, each at its first return."""
    events = at_times(*(trap(vector, flags=RF) for vector in (TIMER, PF, TIMER, IPI, 0, PF)))
    (found,) = summaries(tmp_path / "t", events, policies.RFC2014)
    assert found.hazards["ret-rf"] == 6
    assert [(e.tsc, e.context.split()[0]) for e in found.examples["ret-rf"]] == [
        (110, "timer"),
        (130, "#PF"),
        (170, "reschedule"),
    ]


def test_frame_of_the_exit_then_of_the_entry(tmp_path: Path) -> None:
    """The frame judged is the one saved at exit; what its hook does not see is taken from the entry."""
    events = at_times(
        [event(0, "entry", PF, **TO_USER), event(0, "exit", PF, **TO_KERNEL)],
        [event(0, "entry", PF, **TO_KERNEL), event(0, "exit", PF)],
        [event(0, "entry", PF, **TO_KERNEL), event(0, "exit", PF, to_kernel=False)],
        [event(0, "entry", PF), event(0, "exit", PF)],
    )
    result = replay(open_trace(write_trace(tmp_path / "t", events, FOOTER)), [policies.RFC2014])
    (found,) = summary.summarize(result)
    assert found.by_rule["non-ist"] == found.by_rule["target-cs"] == 2
    assert result.repairs["unknown_target"] == 1


def test_kernel_cs_not_recorded(tmp_path: Path) -> None:
    """Without it to_kernel tells, and without that the privilege level; the result says so."""
    events = at_times(
        [event(0, "entry", PF, cs=0x60), event(0, "exit", PF)],
        [event(0, "entry", PF, cs=0x60, to_kernel=False), event(0, "exit", PF)],
        [event(0, "entry", PF, cs=0x33), event(0, "exit", PF)],
    )
    result = replay(open_trace(write_trace(tmp_path / "t", events, Footer())), [policies.RFC2014])
    (found,) = summary.summarize(result)
    assert found.to_kernel == 1
    assert "privilege level 0" in result.notes[0]


def test_ist_assumption_is_noted(tmp_path: Path) -> None:
    """A policy that asks for IST stacks on a trace without an IDT: the reader must know."""
    trace = open_trace(write_trace(tmp_path / "t", at_times(trap(PF)), FOOTER))
    assert replay(trace, [policies.RFC2014, policies.IRET]).notes == ()
    (note,) = replay(trace, [policies.RFC2014_HOST_IST, policies.RFC2014]).notes
    assert "rfc2014-host-ist took the mail's list" in note
    assert "rfc2014," not in note


def test_classes_say_who_has_no_exit() -> None:
    """An entry hook without an exit hook makes a point of a trap, unless another class sees its exits."""
    footer = Footer(
        classes=[
            TrapClass(name="#PF", vectors=[14], entry="e"),
            TrapClass(name="#DB user", vectors=[1], entry="e"),
            TrapClass(name="#DB kernel", vectors=[1], entry="e", exit="x"),
            TrapClass(name="#DE", vectors=[0], entry="e", exit="x", exits_to="user"),
            TrapClass(name="#DF", vectors=[8]),
            TrapClass(name="device", entry="e"),
            TrapClass(name="other", entry="e"),
        ],
        losses=[Loss(cause="ring-full", count=1)],
    )
    assert Pairing.from_footer(footer) == Pairing(
        exitless=frozenset({14, DEVICE}), kernel_exitless=frozenset({0}), lossy=True
    )


CALIBRATED = Footer(
    kernel_cs=KERNEL_CS,
    host=Host(kernel="6.18.0"),
    cpu=Cpu(name="CPU", online=[0, 1]),
    clock=Clock(tsc_khz=2_000_000.0),
    mitigations={"retbleed": "Not affected"},
    calibration=Calibration(
        costs=[
            Cost(path="iretq", median_cycles=300, low_cycles=290, high_cycles=310),
            Cost(path="popfq-ret", median_cycles=50, low_cycles=40, high_cycles=60),
        ]
    ),
    window=Window(start_tsc=0, stop_tsc=10_000),
    classes=[TrapClass(name="#PF", vectors=[14], entry="page_fault")],
    losses=[Loss(cause="frame-unread", cpu=1, count=2)],
)

GOLDEN: dict[str, Any] = {
    "policy": "rfc2014",
    "returns": 4,
    "ret": 2,
    "iret": 2,
    "by_rule": {"target-cs": 1, "nmi": 1, "nm": 0, "df-ss": 0, "db-bp": 0, "mc": 0, "non-ist": 2},
    "by_vector": [
        {"vector": 2, "name": "NMI", "returns": 1, "to_kernel": 1, "ret": 0, "iret": 1, "saved_cycles": 0.0},
        {"vector": 14, "name": "#PF", "returns": 2, "to_kernel": 1, "ret": 1, "iret": 1, "saved_cycles": 250.0},
        {"vector": None, "name": "device", "returns": 1, "to_kernel": 1, "ret": 1, "iret": 0, "saved_cycles": 250.0},
    ],
    "saved_cycles": 500.0,
    "saved_cycles_ci": [460.0, 540.0],
    "saved_ns": 250.0,
    "saved_cpu_pct": 2.5,
    "hazards": {
        "iret-in-nmi": 0,
        "nmi-masked": 0,
        "ret-invalid-stack": 0,
        "ret-other-cs": 0,
        "ret-tf": 0,
        "ret-rf": 0,
        "nmi-nested": 0,
        "if-in-nmi": 1,
        "cs-changed-in-nmi": 0,
    },
    "hazard_examples": {
        "if-in-nmi": [{"tsc": 120, "cpu": 0, "context": "#PF to kernel, nested, IF, NMI on stack"}],
    },
    "unpaired": {
        "entry_without_exit_hook": 2,
        "implied_exit": 0,
        "orphan_exit": 0,
        "open_at_end": 0,
        "stack_overflow": 0,
        "unknown_target": 0,
    },
}


def golden_trace(path: Path) -> Path:
    """A small trace with a known document."""
    events = at_times(
        [event(0, "entry", PF, **TO_USER)],
        [
            event(0, "entry", NMI, **TO_KERNEL),
            event(0, "entry", PF, **{**TO_KERNEL, "flags": IF}),
            event(0, "exit", NMI),
        ],
        [event(0, "entry", None, irq=16, **TO_KERNEL), event(0, "exit", None, irq=16)],
    )
    return write_trace(path, events, CALIBRATED)


def test_document(tmp_path: Path) -> None:
    """The JSON contract, whole."""
    path = golden_trace(tmp_path / "t.parquet")
    document = summary.document(replay(open_trace(path), [policies.RFC2014]))
    assert json.loads(json.dumps(document)) == {
        "schema": 1,
        "trace": {
            "path": str(path),
            "events": 6,
            "kernel": "6.18.0",
            "cpu": "CPU",
            "cpus_online": 2,
            "tsc_khz": 2_000_000.0,
            "duration_cycles": 10_000,
            "duration_ns": 5000.0,
            "losses": [{"cause": "frame-unread", "cpu": 1, "count": 2}],
            "saving": document["trace"]["saving"],
            "notes": [],
        },
        "policies": [GOLDEN],
    }
    assert document["trace"]["saving"].startswith("RET saves 250.0 [230.0, 270.0] TSC cycles a return")


def test_no_cost_is_no_saving(tmp_path: Path) -> None:
    """Without a known cost every saving is null, and so it is for FRED's returns."""
    events = at_times(trap(PF))
    trace = open_trace(write_trace(tmp_path / "t", events, FOOTER))
    (found,) = summary.document(replay(trace, [policies.RFC2014]))["policies"]
    assert found["saved_cycles"] is found["saved_cycles_ci"] is found["saved_ns"] is found["saved_cpu_pct"] is None
    assert found["by_vector"][0]["saved_cycles"] is None
    trace = open_trace(golden_trace(tmp_path / "g"))
    (found,) = summary.document(replay(trace, [policies.FRED]))["policies"]
    assert (found["ret"], found["iret"], found["erets"], found["eretu"]) == (0, 0, 3, 1)
    assert found["saved_cycles"] is None


def test_many_policies_are_each_alone(tmp_path: Path) -> None:
    """A summary does not depend on which other policies run with it."""
    events = at_times(trap(NMI, trap(DB), trap(MC)), trap(DB, trap(BP)), trap(PF, **TO_USER), trap(TIMER, flags=RF))
    chosen = list(policies.built_in().values())
    together = summaries(tmp_path / "a", events, *chosen)
    alone = [summaries(tmp_path / f"b{i}", events, policy)[0] for i, policy in enumerate(chosen)]
    assert list(together) == alone


def test_predictions_are_the_summary_row_by_row(tmp_path: Path) -> None:
    """The file of rows: its schema, its order, its values."""
    trace = open_trace(golden_trace(tmp_path / "t.parquet"))
    saving = costs.saving_per_return(trace.footer)
    with PredictionWriter(tmp_path / "p.parquet", saving) as writer:
        replay(trace, [policies.RFC2014], sink=writer.write)
    found = pq.read_table(tmp_path / "p.parquet")
    assert found.schema.names == PREDICTION_SCHEMA.names
    rows = [
        (100, 0, 14, "IRET", "target-cs", 0, None, 0.0),
        (120, 0, 14, "RET", "non-ist", 1, "if-in-nmi", 250.0),
        (130, 0, 2, "IRET", "nmi", 1, None, 0.0),
        (150, 0, None, "RET", "non-ist", 0, None, 250.0),
    ]
    assert [tuple(row.values()) for row in found.to_pylist()] == rows


def test_predictions_without_a_cost(tmp_path: Path) -> None:
    """No cost, no saving; several hazards of a return stand together."""
    events = at_times([event(0, "entry", NMI), *trap(PF, flags=IF | RF, sp=USER_SP)])
    trace = open_trace(write_trace(tmp_path / "t", events, FOOTER))
    with PredictionWriter(tmp_path / "p", None) as writer:
        replay(trace, [policies.RFC2014], sink=writer.write)
    first, last = pq.read_table(tmp_path / "p").to_pylist()
    assert (first["hazard"], first["saved_cycles"]) == ("ret-invalid-stack,ret-rf,if-in-nmi", None)
    assert (last["tsc"], last["decision"], last["hazard"]) == (100, "IRET", None)


def test_no_policy_is_a_usage_error(tmp_path: Path) -> None:
    """There is nothing to replay for."""
    trace = open_trace(golden_trace(tmp_path / "t"))
    with pytest.raises(UsageError, match="no policy given"):
        replay(trace, [])


def test_what_the_reader_finds_wrong_reaches_the_caller(tmp_path: Path) -> None:
    """An error in the reading thread is the replay's error, after what was good before it."""
    trace = open_trace(golden_trace(tmp_path / "t"))

    class Broken(InMemory):
        def dealt(self, columns: Sequence[str], n: int) -> list[Iterator[pa.RecordBatch | None]]:
            return [self.broken(columns, n)]

        def broken(self, columns: Sequence[str], n: int) -> Iterator[pa.RecordBatch | None]:
            yield from trace.dealt(columns, n)[0]
            raise Damaged("t", "broken")

    with pytest.raises(Damaged, match="t: broken"):
        replay(Broken(table([]), FOOTER, group=7), [policies.IRET])  # type: ignore[arg-type]


def test_reading_ahead_stops_with_its_reader() -> None:
    """Items come in order; a reader that leaves early ends the thread, and it never ran far ahead."""
    made = []

    def items() -> Iterator[int]:
        for i in range(100):
            made.append(i)
            yield i

    with reading_ahead(items()) as found:
        assert list(found) == list(range(100))
    made.clear()
    with reading_ahead(items(), depth=1) as found:
        assert next(found) == 0
    assert len(made) <= 4


def write_groups(path: Path, *groups: list[int]) -> Trace:
    """A trace of timer entries at these times, a row group each."""
    with pq.ParquetWriter(path, EVENT_SCHEMA) as writer:
        for tsc in groups:
            writer.write_table(pa.concat_tables([table([event(t, "entry", TIMER)]) for t in tsc]).combine_chunks())
        writer.add_key_value_metadata({FOOTER_KEY.decode(): FOOTER.to_json().decode()})
    return open_trace(path)


@pytest.mark.parametrize("n", [1, 2, 5, 6])
def test_several_readers_keep_the_order(tmp_path: Path, n: int) -> None:
    """Row groups read at once, however many and however small, come one after the other as in the file."""
    trace = write_groups(tmp_path / "t", *([10 * k + i for i in range(1 + k % 3)] for k in range(n)))
    with reading(trace, ("tsc", "cpu")) as batches:
        read = [tsc for batch in batches for tsc in batch.column("tsc").to_pylist()]
    assert read == pq.read_table(trace.path).column("tsc").to_pylist()
    assert read == [tsc for batch in trace.batches(("tsc",)) for tsc in batch.column("tsc").to_pylist()]


@pytest.mark.parametrize("groups", [([1, 2], [1]), ([5], [6], [4]), ([5], [4], [6]), ([1], [3, 2])])
def test_time_that_falls_between_readers(tmp_path: Path, groups: tuple[list[int], ...]) -> None:
    """No reader sees what another one read: that time does not fall is checked where their batches meet, too."""
    with pytest.raises(Damaged, match="the tsc column falls"):
        replay(write_groups(tmp_path / "t", *groups), [policies.IRET])


def test_large_row_groups_are_taken_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of a batch are bounded whatever the size of the file's row groups."""
    monkeypatch.setattr("iretrace.replay.run.ROW_GROUP_EVENTS", 3)
    trace = open_trace(write_trace(tmp_path / "t", at_times(*(trap(PF) for _ in range(10))), FOOTER))
    batches = list(returns(trace, [policies.IRET]))
    assert max(batch.rows.size for batch in batches) <= 3
    assert sum(batch.rows.size for batch in batches) == 10
    assert (np.concatenate([batch.rows["end"] for batch in batches]) == End.EXIT).all()
