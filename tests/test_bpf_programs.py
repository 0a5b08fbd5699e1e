"""The programs' own bookkeeping, wherever an NMI strikes: what ends where, in which order, each event once."""

from __future__ import annotations

import itertools
from functools import partial
from typing import TYPE_CHECKING

import pytest

from iretrace.collect.probes import TEXT_ENTRY
from tests.bpf_machine import MACHINE_CHECK_STUB, USER_CS, Machine, Regs, compiled

if TYPE_CHECKING:
    import ctypes
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.slow  # they are compiled, and struck at each of their accesses to memory

TIMER, RESCHEDULE = 0xEC, 0xFD
TIMER_FUNCTION, BP_FUNCTION = "__sysvec_apic_timer_interrupt", "kprobe_int3_handler"
IP, BP_IP = 0x9000, 0x7000
USER_IP, USER_SP = 0x400000, 0x7FFF0000
STUB = 0x100000
"""An entry stub; all are one."""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The compiled programs."""
    return compiled(tmp_path_factory.mktemp("programs"))


@pytest.fixture
def machine(library: ctypes.CDLL) -> Machine:
    """A machine that has just booted."""
    return Machine(library)


def from_kernel(machine: Machine, *, ip: int = IP, below: int = 0x400) -> Regs:
    """A trap strikes the kernel on the task's stack."""
    machine.text(TEXT_ENTRY, STUB, STUB + 0x100)
    top = machine.task_top - below
    return machine.push(top, ip=ip, sp=top, returns_to=STUB + 0x20)


def from_user(machine: Machine, *, ip: int = USER_IP) -> Regs:
    """A trap, or a system call, enters the kernel from user mode."""
    return machine.push(machine.task_top, ip=ip, sp=USER_SP, cs=USER_CS, returns_to=STUB + 0x20)


def timer(machine: Machine, *, ip: int = IP) -> None:
    """A timer interrupt of the kernel's, whole."""
    regs = from_kernel(machine, ip=ip)
    machine.entry(regs, TIMER_FUNCTION)
    machine.exit(regs, TIMER_FUNCTION)


def strike(machine: Machine, nmis: str, sp: int) -> None:
    """NMIs, one right behind the other: ``claimed`` by a handler or not; a #BP ``inside`` or ``behind`` the last."""
    for nmi in nmis.split():
        machine.nmi(
            sp=sp,
            claimed=nmi == "claimed",
            inside=(machine.breakpoint,) if nmi == "inside" else (),
            behind=(machine.breakpoint,) if nmi == "behind" else (),
        )


def everywhere(
    library: ctypes.CDLL,
    nmis: str,
    begin: Callable[[Machine], Regs],
    programs: Callable[[Machine, Regs], None],
) -> Iterator[tuple[int, Machine]]:
    """Machines on which NMIs have struck ``programs`` before each of their accesses to memory; which that was."""
    for at in itertools.count():
        machine = Machine(library)
        regs = begin(machine)
        with machine.interrupted(at, partial(strike, machine, nmis, regs.address - 0x40)) as accesses:
            programs(machine, regs)
        if at >= accesses[0]:
            assert at > 20
            return
        yield at, machine


def test_an_nmi_that_was_claimed_ends_with_its_last_handler(machine: Machine) -> None:
    """Nothing follows behind it, so its exit is written at once, to the NMIs' ring."""
    machine.nmi(claimed=True, inside=[machine.breakpoint])
    assert machine.shown() == ["+2", "+3", "-3", "-2"]
    assert {event["ring"] for event in machine.events()} == {"nmi"}


def test_the_exit_of_an_nmi_that_nobody_claimed_is_held_back(machine: Machine) -> None:
    """Until an event comes that is not inside it; then it is written, with the time of its last handler."""
    machine.nmi()
    assert machine.shown() == ["+2"]
    timer(machine)
    assert machine.shown() == ["+2", "-2", f"+{TIMER}", f"-{TIMER}"]


@pytest.mark.parametrize("below", [0x8, 0x100, 0x1000, 0x1E00])
def test_what_comes_behind_the_last_handler_is_inside(machine: Machine, below: int) -> None:
    """A #BP anywhere on the NMI's stack of two pages, before the kernel has said that it does not know this NMI."""
    machine.nmi(behind=[partial(machine.breakpoint, below=below)])
    assert machine.shown() == ["+2", "+3", "-3"]
    machine.nmi(claimed=True)
    assert machine.shown() == ["+2", "+3", "-3", "-2", "+2", "-2"]


@pytest.mark.parametrize("later", [False, True], ids=["inside the NMI", "in a system call later"])
def test_an_nmi_of_user_mode_is_told_from_a_system_call_later(machine: Machine, *, later: bool) -> None:
    """Both run on the task's stack; only under the NMI's own pt_regs is a trap inside the NMI."""
    machine.handle_nmi(from_user(machine))
    call = from_user(machine, ip=USER_IP + 0x10) if later else None
    timer(machine)
    if call is not None:
        machine.to_user(call)
    machine.entry(from_user(machine), BP_FUNCTION)
    trap = [f"+{TIMER}", f"-{TIMER}"]
    assert machine.shown() == ["+2", *(["-2", *trap] if later else [*trap, "-2"]), "+3"]


@pytest.mark.parametrize("held", [False, True], ids=["nothing held", "an exit held"])
@pytest.mark.parametrize(
    "nmis",
    [
        "claimed",
        "unclaimed",
        "inside",
        "behind",
        "unclaimed unclaimed",
        "unclaimed claimed",
        "claimed unclaimed",
        "unclaimed unclaimed unclaimed",
        "unclaimed claimed unclaimed",
    ],
)
@pytest.mark.parametrize(("function", "vector"), [(TIMER_FUNCTION, TIMER), (BP_FUNCTION, 3)], ids=["timer", "#BP"])
def test_nmis_may_strike_at_any_instruction(
    library: ctypes.CDLL, function: str, vector: int, nmis: str, *, held: bool
) -> None:
    """Each is written once, ends before the next begins, and has in it what came in it; so is what they struck."""

    def begin(machine: Machine) -> Regs:
        if held:
            machine.nmi(ip=0x6000)
        return from_kernel(machine)

    def programs(machine: Machine, regs: Regs) -> None:
        machine.entry(regs, function)
        machine.exit(regs, function)

    for at, machine in everywhere(library, nmis, begin, programs):
        timer(machine, ip=0xA000)
        events, shown = machine.events(), (at, machine.shown())
        of_nmis = [event["phase"] for event in events if event["vector"] == 2]
        assert of_nmis == ["entry", "exit"] * (len(nmis.split()) + held), shown
        assert [event["phase"] for event in events if event["vector"] == vector and event["ip"] == IP] == [
            "entry",
            "exit",
        ], shown
        in_nmi = False
        for event in events:
            in_nmi = event["phase"] == "entry" if event["vector"] == 2 else in_nmi
            assert in_nmi or event["ip"] != BP_IP, shown
        assert set(machine.losses()) <= {"order-mended", "order-unsure"}


@pytest.mark.parametrize("nmis", ["claimed", "unclaimed", "inside", "claimed claimed", "unclaimed inside unclaimed"])
def test_nmis_that_strike_a_probe_are_inside_the_probes_trap(library: ctypes.CDLL, nmis: str) -> None:
    """Whether the probe had read the clock or not: the trap began before them."""
    for at, machine in everywhere(library, nmis, from_kernel, partial(Machine.entry, function=TIMER_FUNCTION)):
        machine.exit(from_kernel(machine), TIMER_FUNCTION)
        assert machine.shown()[:2] == [f"+{TIMER}", "+2"], (at, machine.shown())


def test_the_frame_of_a_trap_is_its_own_whatever_strikes(library: ctypes.CDLL) -> None:
    """A #BP in an NMI that strikes the entry of a trap of user mode: the task's departure has the trap's frame."""
    for at, machine in everywhere(library, "inside", from_user, partial(Machine.entry, function=TIMER_FUNCTION)):
        machine.switch()
        (left,) = [event for event in machine.events() if event["hook"] == "sched_switch"]
        assert (left["vector"], left["ip"], left["sp"]) == (TIMER, USER_IP, USER_SP), at


def test_an_interrupt_on_the_way_out_of_one_of_its_kind_has_its_own_exit(machine: Machine) -> None:
    """A reschedule IPI of user mode, another of the kernel's before the first has returned: both are seen to end."""
    machine.text(RESCHEDULE, STUB, STUB + 0x100)
    outer = from_user(machine)
    machine.interrupt("reschedule_entry", RESCHEDULE, outer)
    machine.interrupt("reschedule_exit", RESCHEDULE, outer)
    assert machine.shown() == [f"+{RESCHEDULE}"]
    inner = from_kernel(machine, below=0x600)
    machine.interrupt("reschedule_entry", RESCHEDULE, inner)
    machine.interrupt("reschedule_exit", RESCHEDULE, inner)
    machine.to_user(outer)
    assert machine.shown() == [f"+{RESCHEDULE}", f"+{RESCHEDULE}", f"-{RESCHEDULE}", f"-{RESCHEDULE}"]
    assert [event["ip"] for event in machine.events()][::3] == [USER_IP, USER_IP]


def test_a_clock_that_fails_once_costs_one_event(machine: Machine) -> None:
    """A time stamp that could not be read is no time before which anything else can have begun."""
    kernels = from_kernel(machine)
    machine.clock_fails(1)
    machine.entry(kernels, TIMER_FUNCTION)
    machine.exit(kernels, TIMER_FUNCTION)
    users = from_user(machine)
    machine.entry(users, TIMER_FUNCTION)
    machine.to_user(users)
    assert machine.shown() == [f"-{TIMER}", f"+{TIMER}", f"-{TIMER}"]
    assert machine.losses() == {"tsc-unreadable": 1}


def test_an_nmi_whose_clock_fails_moves_nothing(machine: Machine) -> None:
    """It struck before the timer's hook, and nobody knows when: it is lost, and the timer keeps its own time."""
    regs = from_kernel(machine)
    machine.clock_fails(1)
    machine.nmi(sp=regs.address - 0x40, claimed=True)
    machine.entry(regs, TIMER_FUNCTION)
    machine.exit(regs, TIMER_FUNCTION)
    assert machine.shown() == ["-2", f"+{TIMER}", f"-{TIMER}"]
    assert machine.losses() == {"tsc-unreadable": 1}


TASK_IP = 0x9500


def task_sp(machine: Machine) -> int:
    """Where a task's stack pointer is when it is struck."""
    return machine.task_top - 0x800


def inside(machine: Machine, regs: Regs) -> None:
    """A #BP and a #PF in what a trap runs."""
    machine.breakpoint(regs)
    machine.page_fault(regs)


def nested(machine: Machine) -> list[str]:
    """What was shown, but for timers, with the order of time stamps."""
    return [one for one in machine.shown() if one[1:] != str(TIMER)]


def own_machine_check(machine: Machine) -> None:
    """Where the stub of machine checks lies."""
    machine.text(18, MACHINE_CHECK_STUB, MACHINE_CHECK_STUB + 0x100)


@pytest.mark.parametrize("shown", [True, False], ids=["shown", "no hook"])
@pytest.mark.parametrize("claimed", [True, False], ids=["claimed", "unclaimed"])
def test_a_machine_check_behind_an_nmis_last_handler_is_inside(machine: Machine, *, shown: bool, claimed: bool) -> None:
    """So is what comes in it, on a stack of its own, whether a hook shows the machine check or not."""
    own_machine_check(machine)

    def strike_nmi(nmi: Regs) -> None:
        check = machine.machine_check(ip=0x6000, sp=nmi.address - 0x100)
        if shown:
            machine.show_machine_check(1)
        inside(machine, check)

    if claimed:
        machine.nmi(ip=TASK_IP, claimed=True, inside=[strike_nmi])
    else:
        machine.nmi(ip=TASK_IP, behind=[strike_nmi, machine.breakpoint])
    timer(machine, ip=0xA000)
    check = ["+18"] if shown else []
    behind = [] if claimed else ["+3", "-3"]
    assert nested(machine) == ["+2", *check, "+3", "-3", "+14", *behind, "-2"]
    assert machine.losses() == {}


@pytest.mark.parametrize("behind_hook", [False, True], ids=["before its hook", "behind its hook"])
@pytest.mark.parametrize("claimed", [True, False], ids=["claimed", "unclaimed"])
def test_an_nmi_inside_a_machine_check_is_inside(machine: Machine, *, claimed: bool, behind_hook: bool) -> None:
    """With all that comes in both: the machine check began first, whenever its hook ran."""
    own_machine_check(machine)
    check = machine.machine_check(ip=TASK_IP, sp=task_sp(machine))
    if behind_hook:
        machine.show_machine_check(1)
    machine.nmi(
        ip=0x6000,
        sp=check.address - 0x100,
        claimed=claimed,
        inside=[partial(inside, machine)],
        behind=[] if claimed else [partial(inside, machine)],
    )
    inside(machine, check)
    if not behind_hook:
        machine.show_machine_check(1)
    timer(machine, ip=0xA000)
    both = ["+3", "-3", "+14"]
    assert nested(machine) == ["+18", "+2", *both, *([] if claimed else both), "-2", *both]
    assert machine.losses() == ({} if behind_hook else {"order-mended": 1})


@pytest.mark.parametrize("behind_hook", [False, True], ids=["before its hook", "behind its hook"])
def test_an_nmi_inside_a_debug_exception_is_inside(machine: Machine, *, behind_hook: bool) -> None:
    """A #DB of the kernel's has a stack of its own, too; what follows the NMI in it is not the NMI's."""
    debug = machine.debug(ip=TASK_IP, sp=task_sp(machine))
    if behind_hook:
        machine.show_debug(debug)
    machine.nmi(ip=0x6000, sp=debug.address - 0x100, behind=[partial(inside, machine)])
    inside(machine, debug)
    if not behind_hook:
        machine.show_debug(debug)
    machine.end_debug(debug)
    timer(machine, ip=0xA000)
    both = ["+3", "-3", "+14"]
    assert nested(machine) == ["+1", "+2", *both, "-2", *both, "-1"]
    assert machine.losses() == ({} if behind_hook else {"order-mended": 1})


def test_a_machine_check_before_an_nmis_first_handler_is_inside(machine: Machine) -> None:
    """And so is what comes in it, though no hook has shown the NMI yet, and the one before was held back."""
    own_machine_check(machine)
    machine.nmi(ip=0x6000)
    nmi = machine.push(machine.nmi_top, ip=TASK_IP, sp=task_sp(machine))
    check = machine.machine_check(ip=0x6100, sp=nmi.address - 0x100)
    machine.show_machine_check(1)
    inside(machine, check)
    machine.handle_nmi(nmi, claimed=True)
    assert nested(machine) == ["+2", "-2", "+2", "+18", "+3", "-3", "+14", "-2"]


def test_a_machine_check_in_an_nmi_of_user_mode_is_inside(machine: Machine) -> None:
    """That has no stack of its own: the machine check before its first handler tells, whatever came in that."""
    own_machine_check(machine)
    machine.text(TEXT_ENTRY, STUB, STUB + 0x100)
    nmi = from_user(machine)
    check = machine.machine_check(ip=0x6100, sp=nmi.address - 0x100)
    machine.show_machine_check(1)
    inside(machine, check)
    machine.handle_nmi(nmi, claimed=True)
    assert nested(machine) == ["+2", "+18", "+3", "-3", "+14", "-2"]


def test_the_next_machine_check_is_not_put_before_what_came_in_the_last(machine: Machine) -> None:
    """Nothing was seen between the two, but they interrupted something else."""
    own_machine_check(machine)
    first = machine.machine_check(ip=TASK_IP, sp=task_sp(machine))
    machine.breakpoint(first)  # a bystander's: it is never shown
    second = machine.machine_check(ip=TASK_IP + 0x10, sp=task_sp(machine))
    machine.show_machine_check(1)
    machine.breakpoint(second)
    assert nested(machine) == ["+3", "-3", "+18", "+3", "-3"]
    assert machine.losses() == {}


@pytest.mark.parametrize("nmis", ["claimed", "unclaimed", "behind", "unclaimed behind"])
def test_nmis_may_strike_a_machine_checks_probe_at_any_instruction(library: ctypes.CDLL, nmis: str) -> None:
    """They are inside it, each once, and end before the next begins."""

    def begin(machine: Machine) -> Regs:
        own_machine_check(machine)
        return machine.machine_check(ip=TASK_IP, sp=task_sp(machine))

    def programs(machine: Machine, regs: Regs) -> None:
        machine.show_machine_check(1)
        machine.breakpoint(regs, ip=0x7200)

    for at, machine in everywhere(library, nmis, begin, programs):
        timer(machine, ip=0xA000)
        events, shown = machine.events(), (at, machine.shown())
        assert events[0]["vector"] == 18, shown
        of_nmis = [event["phase"] for event in events if event["vector"] == 2]
        assert of_nmis == ["entry", "exit"] * len(nmis.split()), shown
        in_nmi = False
        for event in events:
            in_nmi = event["phase"] == "entry" if event["vector"] == 2 else in_nmi
            assert in_nmi or event["ip"] != BP_IP, shown
            assert not in_nmi or event["vector"] in {2, 3}, shown
