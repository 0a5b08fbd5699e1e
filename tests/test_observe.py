"""The mail's assumptions on hand-written traces, each in each outcome it can have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from iretrace.footer import Footer, Gate, Loss, TrapClass
from iretrace.replay import assumptions
from iretrace.replay.assumptions import DEFAULT
from iretrace.replay.checker import explore
from iretrace.replay.claims import BY_NAME, CLAIMS
from iretrace.replay.engine import MAX_DEPTH
from iretrace.replay.examples import Moment
from iretrace.replay.fixed import ASSUMES
from iretrace.replay.machine import Machine
from iretrace.replay.observe import Finding, observe
from iretrace.replay.policies import MAIL_IST, RFC2014
from iretrace.replay.timeline import NMI_TEXT, sentence, to_events
from iretrace.trace import open_trace
from iretrace.vectors import BP, DB, DF, MC, NMI, PF, SS
from tests.conftest import ROOT
from tests.traces import IF, KERNEL_CS, USER_CS, event, write_trace

if TYPE_CHECKING:
    from pathlib import Path

TIMER = 0xEC
KERNEL_SP, USER_SP = 0xFFFF_C900_0000_3F58, 0x7FFE_0000_1000
LOW, HIGH = 0x1000, 0x1400

FRAME: dict[str, Any] = {"cs": KERNEL_CS, "ip": 0x9000, "flags": 0x2, "sp": KERNEL_SP}
USER: dict[str, Any] = {"cs": USER_CS, "ip": 0x40_0000, "flags": IF, "sp": USER_SP}
BLIND: dict[str, Any] = dict.fromkeys(FRAME)

TEXT = Footer(kernel_cs=KERNEL_CS, nmi_text=[(LOW, HIGH)])


def seen_by(*vectors: int, **fields: Any) -> Footer:
    """A footer of a kernel on which hooks see these vectors."""
    classes = [TrapClass(name=str(v), vectors=[v], entry="in", exit="out", frame="stack") for v in vectors]
    return Footer(kernel_cs=KERNEL_CS, nmi_text=[(LOW, HIGH)], classes=classes, **fields)


def nest(*traps: tuple[int | None, dict[str, Any]], start: int = 1000) -> list[dict[str, Any]]:
    """Traps, each inside the one before it; all of them return."""
    events = [event(start + 10 * i, "entry", vector, **frame) for i, (vector, frame) in enumerate(traps)]
    back = list(reversed(traps))
    return events + [event(start + 500 + 10 * i, "exit", vector, **frame) for i, (vector, frame) in enumerate(back)]


def findings(path: Path, events: list[dict[str, Any]], footer: Footer | None = None) -> dict[str, Finding]:
    """What is found of every claim."""
    trace = open_trace(write_trace(path / "t.parquet", events, footer))
    found = observe(trace).findings
    assert [finding.claim for finding in found] == list(CLAIMS)
    return {finding.claim.name: finding for finding in found}


NMI_IN_USER = (NMI, USER)
NMI_IN_KERNEL = (NMI, FRAME)
WITH = seen_by(NMI, MC, PF, DF, SS, DB, BP)

HELD = {
    "no-cs-change": (nest(NMI_IN_USER, (PF, FRAME)), None, 1),
    "no-cs-change in a #MC": (nest((MC, USER), (PF, FRAME)), None, 1),
    "valid-stack": (nest(NMI_IN_USER, (PF, FRAME), (DB, FRAME)), None, 2),
    "no-sti-in-nmi": (nest(NMI_IN_USER, (PF, FRAME)), None, 1),
    "ist-list": (nest(NMI_IN_USER), Footer(idt=[Gate(vector=v, ist=1) for v in (*MAIL_IST, NMI)]), 6),
    "count-nonzero": (nest(NMI_IN_USER, (MC, FRAME), (PF, FRAME)), None, 2),
    "quiet-nmi-edges": (nest(NMI_IN_USER, (MC, {**FRAME, "ip": LOW})), WITH, 2),
    "no-other-cs-in-nmi": (nest(NMI_IN_USER, (PF, FRAME)), None, 1),
    "non-ist-stack": (nest((PF, FRAME)) + nest((TIMER, USER), start=3000), None, 1),
    "no-df-ss-in-nmi": (nest(NMI_IN_USER) + nest(NMI_IN_USER, start=3000), WITH, 2),
}

VIOLATED = {
    "no-cs-change": (nest(NMI_IN_KERNEL, (PF, USER)), None, 1, 1),
    "no-cs-change in a #MC": (nest((MC, FRAME), (PF, {**FRAME, "cs": 0x18})), None, 1, 1),
    "valid-stack": (nest(NMI_IN_KERNEL, (PF, {**FRAME, "sp": USER_SP})), None, 1, 1),
    "valid-stack of which only the pointer is seen": (
        nest((MC, FRAME), (PF, {**BLIND, "cs": KERNEL_CS, "sp": USER_SP})),
        None,
        1,
        1,
    ),
    "no-sti-in-nmi": (nest(NMI_IN_KERNEL, (PF, {**FRAME, "flags": IF})), None, 1, 1),
    "no-sti-in-nmi by an interrupt without a frame": (nest(NMI_IN_KERNEL, (TIMER, BLIND)), None, 1, 1),
    "no-sti-in-nmi by a device": (nest(NMI_IN_KERNEL, (None, BLIND)), None, 1, 1),
    "ist-list": (nest(NMI_IN_USER), Footer(idt=[Gate(vector=29, ist=5), Gate(vector=BP), Gate(vector=PF)]), 3, 2),
    "count-nonzero": (
        # The end of the NMI clears what the #MC under it had counted.
        [*nest((MC, USER), start=0)[:1], *nest((NMI, FRAME)), *nest((PF, FRAME), start=3000), event(9000, "exit", MC)],
        None,
        3,
        2,
    ),
    "quiet-nmi-edges": (nest((NMI, USER)) + nest((PF, {**FRAME, "ip": HIGH - 1}), start=3000), WITH, 2, 1),
    "quiet-nmi-edges by an NMI": (nest((NMI, {**FRAME, "ip": LOW})), TEXT, 1, 1),
    "no-other-cs-in-nmi": (nest(NMI_IN_KERNEL, (PF, USER)), None, 1, 1),
    "non-ist-stack": (nest((PF, {**FRAME, "sp": USER_SP})), None, 1, 1),
    "no-df-ss-in-nmi": (nest(NMI_IN_KERNEL, (DF, FRAME)), None, 2, 1),
}

_BLIND_IN_NMI = nest(NMI_IN_USER, (PF, BLIND))

NOT_OBSERVABLE = {
    "no-cs-change": (nest((PF, FRAME)), None, "holds no NMI and no #MC"),
    "no-cs-change with NMIs": (nest(NMI_IN_USER), None, "nothing struck inside the 1 NMI of the trace"),
    "no-cs-change with NMIs and blind traps": (_BLIND_IN_NMI, None, "none of the 1 returns inside NMI shows where"),
    "valid-stack": (_BLIND_IN_NMI, None, "shows a saved stack pointer"),
    "no-sti-in-nmi": (_BLIND_IN_NMI, None, "shows saved flags"),
    "no-sti-in-nmi under #MC": (nest((MC, USER), (PF, FRAME)), None, "the trace holds no NMI"),
    "gs-unknown": (nest(NMI_IN_USER), None, "no rule asks for GS"),
    "ist-list": (nest((PF, FRAME)), None, "no IDT"),
    "ist-list on FRED": (nest((PF, FRAME)), Footer(fred=True, idt=[Gate(vector=1)]), "FRED"),
    "count-nonzero": (nest(NMI_IN_USER), None, "nothing struck inside"),
    "quiet-mc-edges": (nest((MC, USER), (PF, FRAME)), None, "do_machine_check"),
    "quiet-nmi-edges": (nest(NMI_IN_USER), None, "does not say where the NMI entry and exit code lies"),
    "quiet-nmi-edges unwatched": (nest(NMI_IN_USER), TEXT, "the trace holds no #DB, #BP, #PF"),
    "quiet-nmi-edges without NMIs": (nest((PF, FRAME)), TEXT, "the trace holds no NMI"),
    "quiet-nmi-edges without frames": (nest((NMI, BLIND), (PF, BLIND)), TEXT, "shows where it struck"),
    "no-other-cs-in-nmi": (nest((MC, USER), (PF, USER)), None, "the trace holds no NMI"),
    "non-ist-stack": (nest((TIMER, USER), (DB, FRAME)), None, "shows a saved stack pointer"),
    "no-df-ss-in-nmi": (nest(NMI_IN_USER), None, "the trace holds no #DF, #SS, and does not say"),
    "no-df-ss-in-nmi without hooks": (
        nest(NMI_IN_USER),
        Footer(classes=[TrapClass(name="#DF", vectors=[DF]), TrapClass(name="#SS", vectors=[SS])]),
        "no hook sees #DF, #SS on this kernel",
    ),
    "no-df-ss-in-nmi without NMIs": (nest((PF, FRAME)), WITH, "the trace holds no NMI"),
}


def test_every_outcome_is_tried() -> None:
    """Each claim is held, violated and not observable in some trace below, as far as it can be."""
    always_hidden = {claim.name for claim in CLAIMS if claim.never}
    for cases in (HELD, VIOLATED):
        assert {case.split(maxsplit=1)[0] for case in cases} == set(BY_NAME) - always_hidden
    assert {case.split(maxsplit=1)[0] for case in NOT_OBSERVABLE} == set(BY_NAME)


@pytest.mark.parametrize("case", HELD)
def test_held(tmp_path: Path, case: str) -> None:
    """It could have been violated so many times, and was not."""
    events, footer, observed = HELD[case]
    finding = findings(tmp_path, events, footer)[case.split(maxsplit=1)[0]]
    assert (finding.outcome, finding.observed, finding.violations) == ("held", observed, 0), finding


@pytest.mark.parametrize("case", VIOLATED)
def test_violated(tmp_path: Path, case: str) -> None:
    """So many of those that could, did; the first are told, where it is a matter of returns."""
    events, footer, observed, violations = VIOLATED[case]
    finding = findings(tmp_path, events, footer)[case.split(maxsplit=1)[0]]
    assert (finding.outcome, finding.observed, finding.violations) == ("violated", observed, violations), finding
    assert len(finding.examples) == (0 if finding.claim.test is None else violations)


@pytest.mark.parametrize("case", NOT_OBSERVABLE)
def test_not_observable(tmp_path: Path, case: str) -> None:
    """Nothing in the trace could have violated it, and the reason is told."""
    events, footer, why = NOT_OBSERVABLE[case]
    finding = findings(tmp_path, events, footer)[case.split(maxsplit=1)[0]]
    assert (finding.outcome, finding.violations, finding.examples) == ("not observable", 0, ()), finding
    assert why in finding.why


def test_nmis_without_an_exit_show_nothing_inside(tmp_path: Path) -> None:
    """Where no hook sees an NMI end, what comes after its entry is not inside it."""
    footer = Footer(kernel_cs=KERNEL_CS, classes=[TrapClass(name="NMI", vectors=[NMI], entry="nmi_handler")])
    events = [event(10, "entry", NMI), *nest((TIMER, USER))]
    found = findings(tmp_path, events, footer)
    assert found["no-sti-in-nmi"].outcome == "not observable"
    assert found["no-sti-in-nmi"].why == "NMI without an exit: nothing is seen inside"


def test_what_is_not_recorded_is_said_of_what_held(tmp_path: Path) -> None:
    """No #PF struck the NMI entry code, but a #DB would not have been seen; and no #MC was."""
    found = findings(tmp_path, nest(NMI_IN_USER, (PF, FRAME)), seen_by(NMI, PF, DF))
    assert (found["quiet-nmi-edges"].outcome, found["quiet-nmi-edges"].why) == ("held", "#DB, #BP not recorded")
    assert (found["no-df-ss-in-nmi"].outcome, found["no-df-ss-in-nmi"].why) == ("held", "#SS not recorded")
    assert (found["no-cs-change"].outcome, found["no-cs-change"].why) == ("held", "nothing is seen inside #MC")


def test_a_class_without_hooks_is_named(tmp_path: Path) -> None:
    """That there is no #MC in the trace says little where no hook sees one."""
    footer = Footer(kernel_cs=KERNEL_CS, classes=[TrapClass(name="#MC", vectors=[MC])])
    assert "(no hook sees #MC on this kernel)" in findings(tmp_path, nest((PF, FRAME)), footer)["no-cs-change"].why


@pytest.mark.parametrize("lossy", [True, False])
def test_losses_make_it_doubtful(tmp_path: Path, lossy: bool) -> None:  # noqa: FBT001 - a case
    """An exit of the NMI may be what was lost; without a recorded loss, an orphan exit tells the same."""
    events = nest(NMI_IN_KERNEL, (PF, {**FRAME, "flags": IF}))
    footer = Footer(kernel_cs=KERNEL_CS, losses=[Loss(cause="ring-full", count=3)] if lossy else [])
    if not lossy:
        events += [*nest((PF, USER), start=3000), event(9000, "exit", TIMER, **FRAME)]
    found = findings(tmp_path, events, footer)
    assert "doubtful: events are missing" in found["no-sti-in-nmi"].why
    assert "doubtful" not in found["ist-list"].why


def test_a_df_that_never_returned_is_as_the_mail_says(tmp_path: Path) -> None:
    """The mail: "or, at the very least, if they do happen, then they are not recoverable"."""
    events = [event(10, "entry", NMI, **FRAME), event(20, "entry", DF, **FRAME)]
    found = findings(tmp_path, events)["no-df-ss-in-nmi"]
    assert (found.outcome, found.violations) == ("held", 0)


def test_what_overflows_is_under_nothing(tmp_path: Path) -> None:
    """The oldest trap is ended by an overflow: the #MC above it is not one it struck."""
    traps = [(PF, FRAME), (MC, FRAME), *((TIMER, FRAME) for _ in range(MAX_DEPTH - 1))]
    found = findings(tmp_path, nest(*traps[: MAX_DEPTH + 1]))["no-cs-change"]
    assert found.observed == MAX_DEPTH - 1


def test_examples_are_the_first(tmp_path: Path) -> None:
    """At most three, by the TSC at which a replay counts them."""
    events = [row for i in range(5) for row in nest(NMI_IN_KERNEL, (TIMER, FRAME), start=1000 + 1000 * i)]
    found = findings(tmp_path, events)["no-sti-in-nmi"]
    assert found.violations == 5
    assert found.examples == tuple(Moment(tsc=1500 + 1000 * i, cpu=0, slot=TIMER) for i in range(3))


@pytest.mark.parametrize("dropped", ["no-cs-change", "valid-stack", "no-sti-in-nmi", "no-df-ss-in-nmi"])
def test_what_the_checker_drops_a_trace_shows_violated(tmp_path: Path, dropped: str) -> None:
    """One vocabulary: a counterexample that rests on a dropped assumption violates the claim of the same name."""
    found = explore(RFC2014, 4, Machine(assume=(DEFAULT | ASSUMES) - {dropped})).violations
    without = {v.hazard for v in explore(RFC2014, 4, Machine(assume=DEFAULT | ASSUMES)).violations}
    opened = [violation for violation in found if violation.hazard not in without]
    assert opened or dropped == "no-df-ss-in-nmi"
    for number, violation in enumerate(opened):
        (tmp_path / str(number)).mkdir()
        events = to_events(violation, Machine())
        shown = findings(tmp_path / str(number), events, Footer(kernel_cs=KERNEL_CS, nmi_text=[NMI_TEXT]))
        assert shown[dropped].outcome == "violated", sentence(violation)


def test_names_shared_with_the_checker_mean_the_same() -> None:
    """Five are the checker's own defaults; the others it has no name for."""
    shared = {claim.name for claim in CLAIMS} & set(assumptions.BY_NAME)
    assert shared == {"no-cs-change", "valid-stack", "no-sti-in-nmi", "quiet-mc-edges", "no-df-ss-in-nmi"}
    assert shared <= assumptions.DEFAULT


def test_the_page_names_every_claim() -> None:
    """docs/checking.md has each of them, with the mail's sentence; no sentence is there twice."""
    sentences = [claim.sentence for claim in CLAIMS]
    assert len(set(sentences)) == len(sentences)
    page = (ROOT / "docs" / "checking.md").read_text()
    for claim in CLAIMS:
        assert f"| `{claim.name}` | {claim.sentence} |" in page, claim.name
