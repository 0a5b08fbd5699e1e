"""Which hooks are used is found by trying: by prototypes, by attaching, and by whether they run when provoked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iretrace.collect.choice import SILENT, Choice, choose, handled, trap_classes, units_for, unusable
from iretrace.collect.hooks import BY_NAME, CLASSES, HOOKS, USER_EXITS, Hook, Kind, Unit
from iretrace.collect.probes import SOURCES
from iretrace.collect.wire import HOOK_NAMES
from iretrace.footer import Footer, Gate, TrapClass
from iretrace.replay.engine import Pairing
from tests.conftest import ROOT

if TYPE_CHECKING:
    from collections.abc import Collection

STIMULI = frozenset(hook.stimulus for hook in HOOKS if hook.stimulus)
NO_FENTRY = "this kernel has no fentry (Operation not permitted)"


class Machine:
    """A kernel as choosing sees it.

    Args:
        broken: names of hooks that do not attach.
        silent: names of hooks that attach and never run.
        counts: whether the kernel counts runs.
    """

    def __init__(self, broken: Collection[str] = (), silent: Collection[str] = (), *, counts: bool = True) -> None:
        self.broken, self.silent, self.counts = set(broken), set(silent), counts
        self.attached: set[Hook] = set()
        self.ran: set[Hook] = set()

    def attach(self, hook: Hook) -> str:
        """Attach, unless broken."""
        assert hook not in self.attached
        if hook.name in self.broken:
            return "cannot be attached (Device or resource busy)"
        self.attached.add(hook)
        return ""

    def detach(self, hook: Hook) -> None:
        """Detach."""
        self.attached.remove(hook)

    def runs(self, hook: Hook) -> int | None:
        """One where it ran."""
        return int(hook in self.ran) if self.counts else None

    def provoke(self) -> frozenset[str]:
        """Give every stimulus."""
        self.ran |= {hook for hook in self.attached if hook.stimulus and hook.name not in self.silent}
        return STIMULI

    def choose(self, refused: dict[str, str] | None = None) -> Choice:
        """Choose on this machine."""
        chosen = choose(self, refused=refused or {}, provoke=self.provoke)
        assert self.attached == chosen.attached
        return chosen


class Btf:
    """The kernel's BTF: every hook as the programs read it, but for some."""

    def __init__(self, changed: dict[str, tuple[str, ...] | None] | None = None) -> None:
        self.changed = changed or {}

    def parameters(self, name: str) -> tuple[str, ...] | None:
        """As BTF has them."""
        return self.changed.get(name, next(hook.arguments for hook in HOOKS if hook.target == name))

    function_parameters = parameters


def classes_of(chosen: Choice, gates: list[Gate] | None = None) -> dict[str, TrapClass]:
    """What each class shows, by name."""
    return {item.name: item for item in trap_classes(chosen, gates)}


def test_the_best_way_is_taken_where_everything_works() -> None:
    """With fentry the frame is an argument, the device's vector is real, and returns to user mode are seen."""
    classes = classes_of(Machine().choose())
    assert classes["timer"].entry == "fentry:__sysvec_apic_timer_interrupt"
    assert classes["device"].entry == "fentry:__common_interrupt"
    assert classes["NMI"].exit == "nmi_last_handler"
    assert (classes["#PF"].exit, classes["#PF"].exits_to) == ("fexit:exit_to_user_mode_prepare, sched_switch", "user")
    assert classes["#DB"].exits_to == "any"
    assert all(not item.passed_over for item in classes.values())


def test_without_fentry_tracepoints_and_the_stack_are_left() -> None:
    """Then nothing is attached to a function, exits to user mode are not seen, and each class says what it lacks."""
    machine = Machine()
    chosen = machine.choose(unusable(Btf(), no_fentry=NO_FENTRY))  # type: ignore[arg-type]
    assert {hook.kind for hook in machine.attached} == {Kind.TRACEPOINT}
    assert not machine.attached & set(USER_EXITS)
    classes = classes_of(chosen)
    assert classes["timer"].entry == "local_timer_entry"
    assert classes["timer"].exit == "local_timer_exit"
    assert classes["timer"].passed_over == [
        f"fentry:__sysvec_apic_timer_interrupt, fexit:__sysvec_apic_timer_interrupt: {NO_FENTRY}"
    ]
    assert (classes["#PF"].entry, classes["#PF"].exit) == ("page_fault_user, page_fault_kernel", None)
    assert NO_FENTRY in classes["#PF"].lacks
    assert (classes["NMI"].entry, classes["NMI"].exit) == ("nmi_handler", None)
    assert classes["#BP"].entry is None
    assert NO_FENTRY in classes["#BP"].lacks


@pytest.mark.parametrize("how", ["broken", "silent"])
def test_a_hook_that_does_not_work_gives_way_to_the_next(how: str) -> None:
    """Whether it cannot be attached or was inlined and never runs, the class falls back and says why."""
    name = "fentry:__sysvec_apic_timer_interrupt"
    classes = classes_of(Machine(**{how: [name]}).choose())  # type: ignore[arg-type]
    assert classes["timer"].entry == "local_timer_entry"
    assert classes["timer"].passed_over[0].startswith(f"{name}: ")
    assert (SILENT in classes["timer"].passed_over[0]) == (how == "silent")
    assert classes["call-function"].entry == "fentry:__sysvec_call_function"


def test_user_exits_are_taken_both_or_neither() -> None:
    """exit_to_user_mode_prepare alone would end another task's trap, where the first one slept."""
    for name in ("fexit:exit_to_user_mode_prepare", "sched_switch"):
        machine = Machine(broken=[name])
        classes = classes_of(machine.choose())
        assert not machine.attached & set(USER_EXITS)
        assert classes["#PF"].exit is None
        assert name in classes["#PF"].lacks
        assert classes["#DE"].exit is None


def test_a_way_that_stays_silent_is_better_than_none_and_called_unproven() -> None:
    """A machine whose timer does not tick through the local APIC shows none when provoked; it may later."""
    silent = [name for name in BY_NAME if "timer" in name]
    classes = classes_of(Machine(silent=silent).choose())
    assert classes["timer"].entry == "fentry:__sysvec_apic_timer_interrupt"
    assert classes["timer"].unproven == [
        "fentry:__sysvec_apic_timer_interrupt",
        "fexit:__sysvec_apic_timer_interrupt",
    ]


def test_what_cannot_be_provoked_is_unproven_and_kept() -> None:
    """No harmless stimulus raises a machine check; the hook stays and is marked. Without counts all are."""
    classes = classes_of(Machine().choose())
    assert classes["#MC"].unproven == ["fentry:mce_gen_pool_add"]
    assert classes["#BP"].unproven == []
    assert classes["#UD"].unproven == ["fentry:__warn", "fexit:__warn"]
    uncounted = classes_of(Machine(counts=False).choose())
    assert uncounted["timer"].entry == "fentry:__sysvec_apic_timer_interrupt"
    assert uncounted["timer"].unproven


def test_prototypes_are_held_against_the_kernels() -> None:
    """A function or tracepoint with other arguments, or none of that name, is refused with the reason."""
    changed: dict[str, tuple[str, ...] | None] = {
        "page_fault_user": ("pt_regs*", "long unsigned int"),
        "mce_gen_pool_add": ("mce_hw_err*",),
        "kprobe_int3_handler": None,
        "__warn": ("char*", "int", "void*", "unsigned int", "pt_regs*", "warn_args*"),  # more than is read
    }
    assert unusable(Btf(changed), last_nmi_handler=1) == {  # type: ignore[arg-type]
        "page_fault_user": "its arguments are (pt_regs*, long unsigned int), "
        "not (long unsigned int, pt_regs*, long unsigned int)",
        "fentry:mce_gen_pool_add": "its arguments are (mce_hw_err*), not (mce*)",
        "fentry:kprobe_int3_handler": "this kernel has no such function",
        "fexit:kprobe_int3_handler": "this kernel has no such function",
    }
    assert "nmi_last_handler" in unusable(Btf())  # type: ignore[arg-type]


def test_the_idt_says_what_there_is_to_see() -> None:
    """A system vector without a gate is not hooked; what is handled and no hook sees is listed."""
    gates = [
        Gate(vector=3, handler="asm_exc_int3"),
        Gate(vector=7, handler="asm_exc_device_not_available"),
        Gate(vector=0x30, handler=""),
        Gate(vector=0xEC, handler="asm_sysvec_apic_timer_interrupt"),
    ]
    names = {item.name for item in handled(CLASSES, gates)}
    assert {"#BP", "timer", "device"} <= names
    assert "hyperv-stimer" not in names
    classes = classes_of(Machine().choose(), gates)
    assert classes["#NM"].entry is None
    assert classes["#NM"].lacks.startswith("entry and exit")
    assert "irq 0x30" not in classes
    assert "reschedule" not in classes


@given(broken=st.sets(st.sampled_from(sorted(BY_NAME))), silent=st.sets(st.sampled_from(sorted(BY_NAME))))
def test_whatever_a_kernel_lacks_the_choice_is_consistent(broken: set[str], silent: set[str]) -> None:
    """What classes name is attached; nothing else is; the replay's pairing can be made of it."""
    machine = Machine(broken, silent)
    chosen = machine.choose()
    classes = trap_classes(chosen, None)
    named = {name for item in classes for text in (item.entry, item.exit) if text for name in text.split(", ")}
    assert named <= {hook.name for hook in machine.attached}
    spare = {hook.name for hook in machine.attached} - named
    assert spare == set()
    assert not named & broken
    for item in classes:
        if item.entry is None:
            assert item.exit is None
            assert item.lacks
    Pairing.from_footer(Footer(classes=classes))


def test_only_what_is_needed_is_compiled() -> None:
    """With fentry the stand-ins are left out, without it the functions; a hypervisor's only where it is there."""
    gates = [Gate(vector=0xEC, handler="asm_sysvec_apic_timer_interrupt")]
    assert units_for(handled(CLASSES, gates), {}) == {Unit.CORE, Unit.FUNCTIONS}
    assert units_for(CLASSES, {}) == {Unit.CORE, Unit.FUNCTIONS, Unit.HYPERVISOR}
    refused = unusable(Btf(), no_fentry=NO_FENTRY)  # type: ignore[arg-type]
    assert units_for(CLASSES, refused) == {Unit.CORE, Unit.STAND_INS}


def test_every_file_of_programs_is_compiled() -> None:
    """The loader joins each file of bpf/, but for the one that reads kernel memory before."""
    assert {*SOURCES, "peek.bpf.c"} == {path.name for path in (ROOT / "bpf").glob("*.bpf.c")}


def test_every_hook_has_its_program() -> None:
    """Each row of the table names a program that is in bpf/, and every program has a row."""
    text = "".join((ROOT / "bpf" / name).read_text(encoding="ascii") for name in SOURCES)
    macros = {Kind.TRACEPOINT: "RAW_TRACEPOINT_PROBE", Kind.FENTRY: "KFUNC_PROBE", Kind.FEXIT: "KRETFUNC_PROBE"}
    for hook in HOOKS:
        stem = hook.target.removesuffix("_entry").removesuffix("_exit").removeprefix("__sysvec_")
        written = (
            f"{macros[hook.kind]}({hook.target}," in text
            or f"{macros[hook.kind]}({hook.target})" in text
            or (hook.kind is Kind.TRACEPOINT and f"IRQ_VECTOR({stem})" in text)
            or (hook.target.startswith("__sysvec_") and f"SYSVEC({stem}," in text)
            or hook.program in text
        )
        assert written, hook.name
    assert len(set(HOOK_NAMES)) == len(HOOK_NAMES)


def test_names_are_unique() -> None:
    """A footer tells hooks by their names, and the loader programs by theirs."""
    assert len(BY_NAME) == len(HOOKS) == len({hook.program for hook in HOOKS})
