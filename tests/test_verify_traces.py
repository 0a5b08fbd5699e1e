"""Counterexamples as traces: the replay shows the hazard that the checker found."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from iretrace.footer import Footer, Gate
from iretrace.replay import hazards
from iretrace.replay.assumptions import DEFAULT
from iretrace.replay.checker import explore
from iretrace.replay.fixed import ASSUMES, RFC2014_FIXED
from iretrace.replay.machine import IDTS, Machine
from iretrace.replay.policies import IRET, RFC2014, Choice, Policy
from iretrace.replay.run import replay
from iretrace.replay.timeline import KERNEL_CS, NMI_TEXT, sentence, to_events
from iretrace.schema import EVENT_SCHEMA
from iretrace.trace import open_trace
from iretrace.vectors import NMI
from tests.traces import table, write_trace

if TYPE_CHECKING:
    from pathlib import Path

    from iretrace.replay.checker import Violation

ALL_RET = Policy(name="ret", doc="", rules=("all",), decide=lambda _: (Choice.RET, "all"))


def shown(path: Path, violation: Violation, machine: Machine, policy: Policy) -> dict[str, int]:
    """Hazards that a replay of the counterexample counts."""
    footer = Footer(
        kernel_cs=KERNEL_CS,
        nmi_text=[NMI_TEXT],
        idt=[Gate(vector=vector, ist=1) for vector in sorted(IDTS["mail"])],
    )
    trace = open_trace(write_trace(path, to_events(violation, machine), footer))
    result = replay(trace, [policy])
    assert set(result.repairs.values()) <= {0}, result.repairs
    (counted,) = result.policies
    bits = counted.table.hazard
    return {
        name: total
        for i, name in enumerate(hazards.NAMES)
        if (total := int(counted.counts[(bits >> i & 1).astype(bool)].sum()))
    }


@pytest.mark.parametrize("policy", [IRET, RFC2014, ALL_RET])
def test_a_replay_shows_the_hazard(tmp_path: Path, policy: Policy) -> None:
    """Every counterexample, by every rule; but a replay counts an NMI from its entry to its exit."""
    result = explore(policy, 4, by_rule=True)
    assert result.violations
    for number, violation in enumerate(result.violations):
        counted = shown(tmp_path / f"{number}.parquet", violation, result.machine, policy)
        in_window = violation.path[-1][1].rule == "db-bp" and "NMI entry" in sentence(violation)
        assert (violation.hazard in counted) is not in_window, (sentence(violation), counted)


@pytest.mark.parametrize("dropped", ["no-cs-change", "valid-stack", "no-sti-in-nmi", "no-df-ss-in-nmi"])
def test_a_replay_shows_what_a_dropped_assumption_opens(tmp_path: Path, dropped: str) -> None:
    """The mail's assumptions, broken in a trace."""
    result = explore(RFC2014, 4, Machine(assume=(DEFAULT | ASSUMES) - {dropped}))
    for number, violation in enumerate(result.violations):
        counted = shown(tmp_path / f"{number}.parquet", violation, result.machine, RFC2014)
        assert violation.hazard in counted, (sentence(violation), counted)


def test_the_fixed_policy_is_clean_on_the_mails_counterexamples(tmp_path: Path) -> None:
    """Where the mail's rules unmask, the fixed ones do not."""
    result = explore(RFC2014, 4, by_rule=True)
    for number, violation in enumerate(result.violations):
        if violation.hazard == "iret-in-nmi":
            counted = shown(tmp_path / f"{number}.parquet", violation, result.machine, RFC2014_FIXED)
            assert "iret-in-nmi" not in counted, sentence(violation)


def test_the_events_are_a_traces() -> None:
    """All its columns, entries and exits in pairs, in order of TSC."""
    result = explore(RFC2014, 4)
    violation = next(v for v in result.violations if v.hazard == "nmi-nested")
    events = to_events(violation, result.machine)
    assert [tuple(event) for event in events] == [tuple(EVENT_SCHEMA.names)] * len(events)
    assert table(events).schema == EVENT_SCHEMA
    assert [(event["phase"], event["vector"]) for event in events[:4]] == [
        ("entry", NMI),
        ("entry", 18),
        ("exit", 18),
        ("entry", NMI),
    ]
    assert sum(event["phase"] == "entry" for event in events) * 2 == len(events)
