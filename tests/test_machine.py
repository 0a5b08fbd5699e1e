"""The abstract CPU: hand-written sequences whose outcome the manuals and the mail settle."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from iretrace.errors import UsageError
from iretrace.replay.assumptions import ASSUMPTIONS, DEFAULT
from iretrace.replay.machine import IDTS, Cpu, Machine
from iretrace.replay.policies import IRET, RFC2014, Choice, Context, NestCounter, Policy
from iretrace.replay.states import START, Region
from iretrace.replay.timeline import event_text
from iretrace.vectors import BP, DB, MC, NMI, PF

if TYPE_CHECKING:
    from iretrace.replay.states import Step

ALL_RET = Policy(name="ret", doc="", rules=("all",), decide=lambda _: (Choice.RET, "all"))
ERETS = Policy(name="erets", doc="", rules=("all",), decide=lambda _: (Choice.ERETS, "all"))


def drive(policy: Policy, *events: str, machine: Machine | None = None) -> list[Step]:
    """Take the events from the start, each given by the beginning of its text; an event that cannot come fails."""
    cpu = Cpu(machine or Machine(), policy)
    state, taken = START, []
    for event in events:
        steps = [step for _, step in cpu.steps(state)]
        fitting = [step for step in steps if event_text(step).startswith(event)]
        assert fitting, f"{event} cannot come; what can: {sorted({event_text(step) for step in steps})}"
        taken.append(fitting[0])
        state = fitting[0].state
    return taken


def offered(policy: Policy, *events: str, machine: Machine | None = None) -> set[str]:
    """What may come after the events."""
    state = drive(policy, *events, machine=machine)[-1].state if events else START
    return {event_text(step) for _, step in Cpu(machine or Machine(), policy).steps(state)}


def without(*names: str) -> Machine:
    """The default machine without some of its assumptions."""
    return Machine(assume=DEFAULT - set(names))


def test_an_nmi_masks_and_its_iret_unmasks() -> None:
    """SDM vol. 3A 6.7.1: NMIs are blocked from the delivery of one to the next IRET."""
    strike, leave = drive(RFC2014, "NMI strikes user code", "IRET from NMI to user code (rule target-cs)")
    assert strike.state.blocked
    assert not leave.state.blocked
    assert leave.state == START
    assert strike.hazards == leave.hazards == ()


def test_no_nmi_is_delivered_while_they_are_blocked() -> None:
    """Neither in the handler itself nor in what nests in it."""
    assert "NMI strikes user code" in offered(IRET)
    for events in (["NMI strikes user code"], ["NMI strikes user code", "#BP strikes NMI body"]):
        assert not any(event.startswith("NMI strikes") for event in offered(IRET, *events))


def test_iret_from_a_breakpoint_inside_an_nmi_unmasks() -> None:
    """Any IRET unmasks, and then an NMI overwrites the frame of the one on the stack."""
    steps = drive(
        IRET, "NMI strikes kernel code, IF on", "#BP strikes NMI body", "IRET from #BP to NMI body", "NMI strikes NMI"
    )
    assert [step.hazards for step in steps] == [(), (), ("iret-in-nmi",), ("nmi-nested",)]
    assert [step.state.blocked for step in steps] == [True, True, False, True]


def test_ret_from_a_breakpoint_inside_an_nmi_keeps_them_masked() -> None:
    """Rule 5: the counter is nonzero in the body of an NMI."""
    steps = drive(RFC2014, "NMI strikes user code", "#BP strikes NMI body", "RET from #BP to NMI body (rule db-bp)")
    assert steps[1].state.counter == 1
    assert steps[2].state.blocked
    assert steps[2].hazards == ()


def test_a_machine_check_in_the_body_of_an_nmi_unmasks() -> None:
    """Rule 6 to the letter."""
    last = drive(RFC2014, "NMI strikes user code", "#MC strikes NMI body", "IRET from #MC to NMI body (rule mc)")[-1]
    assert last.hazards == ("iret-in-nmi",)


@pytest.mark.parametrize("edge", ["entry", "exit"])
def test_a_machine_check_in_the_entry_or_exit_of_an_nmi_does_not(edge: str) -> None:
    """Rule 6: the return address is in the NMI entry or exit code."""
    last = drive(RFC2014, "NMI strikes user code", f"#MC strikes NMI {edge}", f"RET from #MC to NMI {edge}")[-1]
    assert last.hazards == ()
    assert last.state.blocked
    assert last.state.counter == 0


def test_traps_in_the_syscall_gap() -> None:
    """An NMI in the gap returns by IRET; RET would write to a stack that is the user's."""
    steps = drive(RFC2014, "NMI strikes the SYSCALL gap", "IRET from NMI to the SYSCALL gap (rule nmi)")
    assert [step.hazards for step in steps] == [(), ()]
    assert drive(ALL_RET, "#MC strikes the SYSCALL gap", "RET from #MC")[-1].hazards == ("ret-invalid-stack",)
    assert not any(event in offered(RFC2014) for event in ("#PF strikes the SYSCALL gap", "timer strikes the SYSCALL"))


def test_ret_from_an_nmi_leaves_them_masked() -> None:
    """And it is noticed where the last NMI leaves the stack, not before."""
    assert drive(ALL_RET, "NMI strikes kernel code, IF on", "RET from NMI")[-1].hazards == ("nmi-masked",)
    steps = drive(ALL_RET, "#PF strikes kernel code, IF on", "NMI strikes #PF body", "RET from NMI to #PF body")
    assert steps[-1].hazards == ("nmi-masked",)


def test_ret_to_user_code_cannot_change_cs() -> None:
    """Whatever IF says: the review's question."""
    assert drive(ALL_RET, "timer strikes user code", "RET from timer to user code")[-1].hazards == ("ret-other-cs",)


def test_the_counter_goes_up_and_down_where_the_mail_says() -> None:
    """0 in the NMI entry, 1 in its body, 2 in a #MC's body there, 0 in the exit."""
    steps = drive(RFC2014, "NMI strikes user code", "#MC strikes NMI body", "#PF strikes #MC body")
    assert [step.state.counter for step in steps] == [0, 1, 2]
    assert drive(RFC2014, "NMI strikes user code", "#DB strikes NMI entry")[-1].state.counter == 0
    assert drive(RFC2014, "NMI strikes user code", "#DB strikes NMI exit")[-1].state.counter == 0


def test_a_return_is_judged_with_the_counter_before_its_own_exit() -> None:
    """A #MC sees itself counted, unless the counter is read as what lies on the target stack."""
    seen: list[Context] = []

    def note(context: Context) -> tuple[Choice, str]:
        seen.append(context)
        return Choice.IRET, "noted"

    for own in (True, False):
        counter = NestCounter(up=frozenset({NMI, MC}), down=frozenset({MC}), clear=frozenset({NMI}), count_self=own)
        policy = Policy(name="note", doc="", rules=("noted",), decide=note, counter=counter)
        drive(policy, "#MC strikes kernel code, IF off", "IRET from #MC")
        assert [context.nested for context in seen if context.vector == MC][-1] is own
        drive(policy, "NMI strikes user code", "#MC strikes NMI body", "IRET from #MC")
        assert [context.nested for context in seen if context.vector == MC][-1] is True


def test_an_nmi_clears_the_count_of_the_machine_check_it_interrupted() -> None:
    """The mail clears; it does not count down."""
    steps = drive(RFC2014, "#MC strikes user code", "NMI strikes #MC body", "IRET from NMI to #MC body")
    assert [step.state.counter for step in steps] == [0, 1, 0]


def test_interrupts_strike_only_where_if_is_set() -> None:
    """User code, the kernel with interrupts on, and a #PF handler that found them on."""
    base = {event.removeprefix("timer strikes ") for event in offered(RFC2014) if event.startswith("timer")}
    assert base == {"user code", "kernel code, IF on"}
    assert "timer strikes #PF body, IF on" in offered(RFC2014, "#PF strikes kernel code, IF on")
    assert not any(event.startswith("timer") for event in offered(RFC2014, "#PF strikes kernel code, IF off"))


def test_flags_that_ret_cannot_restore() -> None:
    """A fault saves RF (SDM vol. 3B, "Instruction-Breakpoint Exception Condition"); single-stepped code saves TF."""
    assert drive(RFC2014, "#PF strikes kernel code, IF on", "RET from #PF")[-1].hazards == ("ret-rf",)
    stepped = drive(RFC2014, "#PF strikes single-stepped kernel code", "RET from #PF")[-1]
    assert stepped.hazards == ("ret-tf", "ret-rf")
    none = Machine(assume=DEFAULT | {"no-step"})
    assert drive(RFC2014, "#PF strikes kernel code, IF on", "RET from #PF", machine=none)[-1].hazards == ()


def test_a_second_machine_check_is_not_followed() -> None:
    """MCIP is set: the processor shuts down. Dropped, the exit code can be struck once MCIP is clear."""
    assert not any(event.startswith("#MC strikes") for event in offered(RFC2014, "#MC strikes user code"))
    last = drive(RFC2014, "#MC strikes user code", "#MC strikes #MC exit", machine=without("one-mc"))[-1]
    assert last.hazards == ("ist-overwritten",)


def test_ist_reentry() -> None:
    """A #DB in the #DB handler overwrites its frame, where nothing keeps it away."""
    assert "#DB strikes #DB body" not in offered(RFC2014, "#DB strikes user code")
    machine = without("no-ist-reentry")
    last = drive(RFC2014, "#DB strikes user code", "#DB strikes #DB body", machine=machine)[-1]
    assert last.hazards == ("ist-overwritten",)


def test_the_dropped_assumptions_of_the_mail() -> None:
    """Interrupts on, another CS, an invalid stack in an NMI handler: each is met at a return into it."""
    start = "NMI strikes user code"
    machine = without("no-sti-in-nmi")
    last = drive(RFC2014, start, "timer strikes NMI body, IF on", "RET from timer", machine=machine)[-1]
    assert last.hazards == ("if-in-nmi",)
    machine = without("no-cs-change")
    last = drive(RFC2014, start, "#DB strikes NMI body, other CS", "IRET from #DB", machine=machine)[-1]
    assert last.hazards == ("iret-in-nmi", "cs-changed-in-nmi")
    machine = without("valid-stack")
    last = drive(RFC2014, start, "#DB strikes NMI body, invalid stack", "RET from #DB", machine=machine)[-1]
    assert last.hazards == ("ret-invalid-stack",)
    machine = without("no-df-ss-in-nmi")
    last = drive(RFC2014, start, "#SS strikes NMI body", "IRET from #SS", machine=machine)[-1]
    assert last.hazards == ("iret-in-nmi",)


def test_quiet_edges_of_the_machine_check_handler() -> None:
    """NMIs come there all the same; nothing else does until the assumption is dropped."""
    events = ("#MC strikes user code",)
    edges = {event for event in offered(RFC2014, *events) if event.endswith(("#MC entry", "#MC exit"))}
    assert edges == {"NMI strikes #MC entry", "NMI strikes #MC exit"}
    assert "#DB strikes #MC entry" in offered(RFC2014, *events, machine=without("quiet-mc-edges"))


@pytest.mark.parametrize(
    ("name", "events", "gone"),
    [
        ("no-db-in-nmi-entry", ["NMI strikes user code"], "#DB strikes NMI entry"),
        ("no-db-in-nmi", ["NMI strikes user code"], "#DB strikes NMI body"),
        ("no-db-in-mc", ["#MC strikes user code"], "#DB strikes #MC body"),
        ("no-db-in-gap", [], "#DB strikes the SYSCALL gap"),
        ("no-nm-in-nmi", ["NMI strikes user code"], "#NM strikes NMI body"),
        ("no-step-in-nmi-mc", ["NMI strikes user code"], "#PF strikes NMI body, single-stepped"),
        ("no-step", [], "#PF strikes single-stepped kernel code"),
    ],
)
def test_an_assumption_takes_away_what_it_says(name: str, events: list[str], gone: str) -> None:
    """And the machine without it has it."""
    assert gone in offered(RFC2014, *events)
    assert gone not in offered(RFC2014, *events, machine=Machine(assume=DEFAULT | {name}))


def test_fred_unblocks_by_the_frames_nmi_bit() -> None:
    """ERETS from a #BP inside an NMI leaves NMIs blocked; ERETS from the NMI opens them; there is no SYSCALL gap."""
    fred = Machine(fred=True)
    steps = drive(
        ERETS,
        "NMI strikes kernel code, IF on",
        "#BP strikes NMI body",
        "ERETS from #BP to NMI body",
        "ERETS from NMI",
        machine=fred,
    )
    assert [step.state.blocked for step in steps] == [True, True, True, False]
    assert all(step.hazards == () for step in steps)
    assert not any("SYSCALL gap" in event for event in offered(ERETS, machine=fred))


def test_a_trap_without_ist_stack_stays_out_of_the_gap() -> None:
    """It would run on the user's stack whatever the policy says."""
    today = Machine(ist=IDTS["linux-6.18"])
    assert "#BP strikes the SYSCALL gap" in offered(RFC2014)
    assert "#BP strikes the SYSCALL gap" not in offered(RFC2014, machine=today)
    assert "#DB strikes the SYSCALL gap" in offered(RFC2014, machine=today)


def test_a_context_holds_what_the_policy_may_see() -> None:
    """#BP in the entry code of an NMI that came from user code."""
    cpu = Cpu(Machine(), RFC2014)
    state = drive(RFC2014, "NMI strikes user code", "#BP strikes NMI entry")[-1].state
    assert cpu.context(state) == Context(vector=BP, ist=True, kernel_cs=True, nmi_text=True)
    assert cpu.context(drive(RFC2014, "#PF strikes kernel code, IF on")[-1].state) == Context(
        vector=PF, kernel_cs=True, flag_if=True, flag_rf=True
    )
    assert cpu.context(START) is None


def test_a_counted_vector_has_stages() -> None:
    """A counter on #DB goes up after its first instructions, and traps can come before."""
    counter = NestCounter(up=frozenset({DB}), down=frozenset({DB}))
    policy = Policy(name="db", doc="", rules=("all",), decide=lambda _: (Choice.IRET, "all"), counter=counter)
    steps = drive(policy, "#DB strikes user code", "#MC strikes #DB entry")
    assert steps[1].state.counter == 0
    assert drive(policy, "#DB strikes user code", "#MC strikes #DB body")[1].state.counter == 1
    assert steps[0].state.frames[0].region is Region.ENTRY


@pytest.mark.parametrize("broken", [lambda _: 1 / 0, lambda _: "RET", lambda _: (0, "number")])
def test_a_policy_that_fails_is_a_usage_error(broken: object) -> None:
    """The user's function may do anything; the message says for which context."""
    policy = Policy(name="mine.py:f", doc="", rules=("all",), decide=broken)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"--policy mine\.py:f: .*Context\(vector=2"):
        Cpu(Machine(), policy).decide(Context(vector=NMI))


def test_every_assumption_is_documented_once() -> None:
    """Names are unique, and the defaults are those marked so."""
    names = [assumption.name for assumption in ASSUMPTIONS]
    assert len(set(names)) == len(names)
    assert frozenset(a.name for a in ASSUMPTIONS if a.default) == DEFAULT
