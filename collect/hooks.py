"""The one table of hooks: for each class of trap the ways to see it, best first.

Whether a kernel has a hook is found by trying (:mod:`iretrace.collect.choice`), never by its version: its prototype
in the kernel's BTF is the one the program reads, the program loads and attaches, and where the class can be provoked
harmlessly, the program runs.

Each row cites the kernel's source; where a path changed, both are named.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Kind(StrEnum):
    """How a program is attached."""

    TRACEPOINT = "raw tracepoint"
    FENTRY = "fentry"
    FEXIT = "fexit"


class Unit(StrEnum):
    """A part of ``bpf/`` that is compiled where one of its hooks is needed: compiling takes most of the start."""

    CORE = ""
    """Always compiled."""
    STAND_INS = "IRETRACE_STAND_INS"
    """Tracepoints that stand in for functions."""
    FUNCTIONS = "IRETRACE_FUNCTIONS"
    HYPERVISOR = "IRETRACE_HYPERVISOR"
    """Functions that only guests and hosts of hypervisors call."""


@dataclass(frozen=True, kw_only=True)
class Hook:
    """A place in the kernel and the program for it.

    Attributes:
        kind: how it is attached.
        target: the kernel's name of the tracepoint or function.
        arguments: types of its first arguments, those the program relies on, as in the kernel's BTF.
        source: where the kernel has it.
        stimulus: what makes it run (:data:`iretrace.collect.stimuli.STIMULI`); empty: nothing harmless does for sure.
        alias: name and program where one target has two programs.
        unit: what must be compiled to have its program.
    """

    kind: Kind
    target: str
    arguments: tuple[str, ...]
    source: str
    stimulus: str = ""
    alias: str = ""
    unit: Unit = Unit.CORE

    @property
    def name(self) -> str:
        """What footer and ``doctor`` call it."""
        if self.alias:
            return self.alias
        return self.target if self.kind is Kind.TRACEPOINT else f"{self.kind}:{self.target}"

    @property
    def program(self) -> str:
        """Name of its function in ``bpf/``, as BCC's macros make it."""
        prefix = {Kind.TRACEPOINT: "raw_tracepoint__", Kind.FENTRY: "kfunc__", Kind.FEXIT: "kretfunc__"}[self.kind]
        return prefix + (self.alias or self.target)


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to see a class of trap.

    Attributes:
        entries: hooks that see it begin; with one of them the way can be gone.
        exits: hooks that see it end.
        user_exits: :data:`USER_EXITS`, where the kernel has them, see it return to user mode.
        frame: how the interrupted frame is found.
        lacks: what these hooks cannot show, and why.
    """

    entries: tuple[Hook, ...]
    exits: tuple[Hook, ...] = ()
    user_exits: bool = True
    frame: str
    lacks: str = ""


@dataclass(frozen=True, kw_only=True)
class HookClass:
    """A class of trap.

    Attributes:
        name: the class, in the words of :func:`iretrace.vectors.vector_name`.
        vectors: its vectors; empty for device interrupts, which have many.
        ways: how it can be seen, best first.
    """

    name: str
    vectors: tuple[int, ...]
    ways: tuple[Way, ...]

    @property
    def hooks(self) -> tuple[Hook, ...]:
        """Every hook that one of its ways uses, its own first."""
        found = [hook for way in self.ways for hook in (*way.entries, *way.exits)]
        if any(way.user_exits for way in self.ways):
            found += USER_EXITS
        return tuple(dict.fromkeys(found))

    @property
    def tracepoints(self) -> tuple[tuple[str, Hook], ...]:
        """Phase and hook of the way that is by tracepoints alone, which other recorders have too."""
        for way in self.ways:
            found = [("entry", hook) for hook in way.entries] + [("exit", hook) for hook in way.exits]
            if all(hook.kind is Kind.TRACEPOINT for _, hook in found):
                return tuple(found)
        return ()


FRAME_ARGUMENT: Final = "pt_regs of the tracepoint"
FRAME_FUNCTION: Final = "pt_regs of the function"
FRAME_STACK: Final = "pt_regs above the entry stub's return address on the kernel stack"

_TRAPS: Final = "arch/x86/kernel/traps.c"
_EXCEPTIONS: Final = (
    "include/trace/events/exceptions.h (arch/x86/include/asm/trace/exceptions.h before 06aa9378df01, in v6.16)"
)
_REGS: Final = ("pt_regs*",)
_FAULT: Final = ("long unsigned int", "pt_regs*", "long unsigned int")


def _tracepoint(
    target: str, arguments: tuple[str, ...], source: str, stimulus: str = "", *, unit: Unit = Unit.CORE
) -> Hook:
    return Hook(kind=Kind.TRACEPOINT, target=target, arguments=arguments, source=source, stimulus=stimulus, unit=unit)


def _fentry(
    target: str, arguments: tuple[str, ...], source: str, stimulus: str = "", *, unit: Unit = Unit.FUNCTIONS
) -> Hook:
    return Hook(kind=Kind.FENTRY, target=target, arguments=arguments, source=source, stimulus=stimulus, unit=unit)


def _fexit(
    target: str, arguments: tuple[str, ...], source: str, stimulus: str = "", *, unit: Unit = Unit.FUNCTIONS
) -> Hook:
    return Hook(kind=Kind.FEXIT, target=target, arguments=arguments, source=source, stimulus=stimulus, unit=unit)


USER_EXITS: Final = (
    _fexit("exit_to_user_mode_prepare", _REGS, "kernel/entry/common.c", "system call"),
    _tracepoint("sched_switch", (), "include/trace/events/sched.h", "switch", unit=Unit.FUNCTIONS),
)
"""What sees a trap of user mode end: on the way back to user mode, or where its task leaves the CPU inside it. Both or
neither: with the first alone, a trap whose task slept would end another's."""


def _vector_tracepoints(tracepoint: str, stimulus: str, unit: Unit) -> Way:
    source = "arch/x86/include/asm/trace/irq_vectors.h"
    return Way(
        entries=(_tracepoint(f"{tracepoint}_entry", ("int",), source, stimulus, unit=unit),),
        exits=(_tracepoint(f"{tracepoint}_exit", ("int",), source, stimulus, unit=unit),),
        frame=FRAME_STACK,
    )


def _system_vector(
    name: str,
    vector: int,
    *functions: str,
    tracepoint: str = "",
    stimulus: str = "",
    unit: Unit = Unit.FUNCTIONS,
) -> HookClass:
    """A system vector: ``DEFINE_IDTENTRY_SYSVEC`` calls ``__sysvec_*(regs)``, which has a tracepoint within."""
    source = "DEFINE_IDTENTRY_SYSVEC, arch/x86/include/asm/idtentry.h"
    ways: tuple[Way, ...] = ()
    if functions:
        targets = [f"__sysvec_{function}" for function in functions]
        ways += (
            Way(
                entries=tuple(_fentry(target, _REGS, source, stimulus, unit=unit) for target in targets),
                exits=tuple(_fexit(target, _REGS, source, stimulus, unit=unit) for target in targets),
                frame=FRAME_FUNCTION,
            ),
        )
    if tracepoint:
        ways += (_vector_tracepoints(tracepoint, stimulus, Unit.STAND_INS if functions else Unit.CORE),)
    return HookClass(name=name, vectors=(vector,), ways=ways)


_DIE_CHAIN: Final = ("notifier_block*", "long unsigned int", "void*")
_DIE_SOURCE: Final = "arch/x86/kernel/hw_breakpoint.c: first on the die chain that arch/x86/kernel/traps.c notifies"
DIE_ENTRY: Final = _fentry("hw_breakpoint_exceptions_notify", _DIE_CHAIN, _DIE_SOURCE, "#UD")
_DIE_EXIT: Final = _fexit("hw_breakpoint_exceptions_notify", _DIE_CHAIN, _DIE_SOURCE, "#UD")

_NO_KERNEL_EXIT: Final = "returns to the kernel: a fixup follows the last function that can be hooked"


def _announced(name: str, vector: int) -> HookClass:
    """An exception that ``do_error_trap()`` or its kin announces to the die chain before it is handled."""
    way = Way(entries=(DIE_ENTRY,), frame=FRAME_FUNCTION, lacks=_NO_KERNEL_EXIT)
    return HookClass(name=name, vectors=(vector,), ways=(way,))


_FIXUP: Final = ("pt_regs*", "int", "long unsigned int", "long unsigned int")
_MATH: Final = ("pt_regs*", "int")
_WARN: Final = ("char*", "int", "void*", "unsigned int", "pt_regs*")
_NMI_HANDLER: Final = ("unsigned int", "pt_regs*")
_NMI_TRACEPOINT: Final = ("void*", "s64", "int")
_NMI_SOURCE: Final = "nmi_handle(), arch/x86/kernel/nmi.c"
_PERF_NMI: Final = _fentry("perf_event_nmi_handler", _NMI_HANDLER, "arch/x86/events/core.c")
_BACKTRACE_NMI: Final = _fentry("nmi_cpu_backtrace_handler", _NMI_HANDLER, "arch/x86/kernel/apic/hw_nmi.c")
NMI_LAST_HANDLER: Final = Hook(
    kind=Kind.TRACEPOINT,
    target="nmi_handler",
    arguments=_NMI_TRACEPOINT,
    source=f"include/trace/events/nmi.h; {_NMI_SOURCE}",
    alias="nmi_last_handler",
    unit=Unit.FUNCTIONS,
)
"""Needs the function at the end of the list of handlers (:func:`iretrace.collect.kernel.nmi_handlers`)."""

_NMI_LACKS: Final = "what runs before the first handler; after the last, all but traps of the classes seen"

EXCEPTIONS: Final = (
    _announced("#DE", 0),
    HookClass(
        name="#DB",
        vectors=(1,),
        ways=(Way(entries=(DIE_ENTRY,), exits=(_DIE_EXIT,), frame=FRAME_FUNCTION),),
    ),
    HookClass(
        name="NMI",
        vectors=(2,),
        ways=(
            Way(
                entries=(_PERF_NMI, _BACKTRACE_NMI),
                exits=(NMI_LAST_HANDLER,),
                user_exits=False,
                frame=FRAME_FUNCTION,
                lacks=_NMI_LACKS,
            ),
            Way(
                entries=(_BACKTRACE_NMI,),
                exits=(_fexit("nmi_cpu_backtrace_handler", _NMI_HANDLER, "arch/x86/kernel/apic/hw_nmi.c"),),
                user_exits=False,
                frame=FRAME_FUNCTION,
                lacks="what runs before its one handler that is hooked; after it, all but traps of the classes seen",
            ),
            Way(
                entries=(_tracepoint("nmi_handler", _NMI_TRACEPOINT, f"include/trace/events/nmi.h; {_NMI_SOURCE}"),),
                user_exits=False,
                frame=FRAME_STACK,
                lacks="the exit; the entry is seen when the first handler is done",
            ),
        ),
    ),
    HookClass(
        name="#BP",
        vectors=(3,),
        ways=(
            Way(
                entries=(_fentry("kprobe_int3_handler", _REGS, f"do_int3(), {_TRAPS}", "#BP"),),
                exits=(_fexit("kprobe_int3_handler", _REGS, f"do_int3(), {_TRAPS}", "#BP"),),
                frame=FRAME_FUNCTION,
                lacks="a #BP on code that is being patched (smp_text_poke_int3_handler)",
            ),
        ),
    ),
    _announced("#OF", 4),
    _announced("#BR", 5),
    HookClass(
        name="#UD",
        vectors=(6,),
        ways=(
            Way(
                entries=(DIE_ENTRY, _fentry("__warn", _WARN, "kernel/panic.c; handle_bug(), arch/x86/kernel/traps.c")),
                exits=(_fexit("__warn", _WARN, "kernel/panic.c; handle_bug(), arch/x86/kernel/traps.c"),),
                frame=FRAME_FUNCTION,
            ),
        ),
    ),
    HookClass(
        name="#DF",
        vectors=(8,),
        ways=(
            Way(
                entries=(DIE_ENTRY,),
                user_exits=False,
                frame=FRAME_FUNCTION,
                lacks="the exit: the kernel does not return from it (exc_double_fault)",
            ),
        ),
    ),
    _announced("#OLD_MF", 9),
    _announced("#TS", 10),
    _announced("#NP", 11),
    _announced("#SS", 12),
    HookClass(
        name="#GP",
        vectors=(13,),
        ways=(
            Way(
                entries=(
                    _fentry("fixup_vdso_exception", _FIXUP, f"exc_general_protection(), {_TRAPS}", "#GP"),
                    _fentry("fixup_exception", _FIXUP, f"gp_try_fixup_and_notify(), {_TRAPS}"),
                ),
                exits=(_fexit("fixup_exception", _FIXUP, f"gp_try_fixup_and_notify(), {_TRAPS}"),),
                frame=FRAME_FUNCTION,
                lacks="the error code; what the kernel emulates for user mode (UMIP, IOPL) before it looks for a fixup",
            ),
        ),
    ),
    HookClass(
        name="#PF",
        vectors=(14,),
        ways=(
            Way(
                entries=(
                    _tracepoint("page_fault_user", _FAULT, _EXCEPTIONS, "page fault"),
                    _tracepoint("page_fault_kernel", _FAULT, _EXCEPTIONS, "page fault"),
                ),
                frame=FRAME_ARGUMENT,
                lacks="returns to the kernel: exc_page_fault is noinstr, and what it calls is inlined or notrace",
            ),
        ),
    ),
    HookClass(
        name="#MF",
        vectors=(16,),
        ways=(
            Way(
                entries=(_fentry("math_error", _MATH, _TRAPS, "#MF"),),
                exits=(_fexit("math_error", _MATH, _TRAPS, "#MF"),),
                frame=FRAME_FUNCTION,
            ),
        ),
    ),
    _announced("#AC", 17),
    HookClass(
        name="#MC",
        vectors=(18,),
        ways=(
            Way(
                entries=(_fentry("mce_gen_pool_add", ("mce*",), "arch/x86/kernel/cpu/mce/genpool.c"),),
                frame=FRAME_STACK,
                lacks=(
                    "returns to the kernel; a CPU that logs no bank, as do the bystanders of a broadcast "
                    "(do_machine_check is noinstr)"
                ),
            ),
        ),
    ),
    HookClass(
        name="#XF",
        vectors=(19,),
        ways=(
            Way(
                entries=(_fentry("math_error", _MATH, _TRAPS, "#MF"),),
                exits=(_fexit("math_error", _MATH, _TRAPS, "#MF"),),
                frame=FRAME_FUNCTION,
            ),
        ),
    ),
)

_DEVICE_TRACEPOINTS: Final = Way(
    entries=(
        _tracepoint("irq_handler_entry", ("int", "irqaction*"), "include/trace/events/irq.h", unit=Unit.STAND_INS),
    ),
    exits=(
        _tracepoint(
            "irq_handler_exit", ("int", "irqaction*", "int"), "include/trace/events/irq.h", unit=Unit.STAND_INS
        ),
    ),
    frame=FRAME_STACK,
    lacks="the vector (the IRQ number is known); a line shared by several handlers shows once for each",
)
_DEVICE_SOURCE: Final = "DEFINE_IDTENTRY_IRQ(common_interrupt), arch/x86/kernel/irq.c"

INTERRUPTS: Final = (
    _system_vector("timer", 0xEC, "apic_timer_interrupt", tracepoint="local_timer", stimulus="timer"),
    _system_vector("reschedule", 0xFD, tracepoint="reschedule"),
    _system_vector("call-function", 0xFC, "call_function", tracepoint="call_function"),
    _system_vector("call-function-single", 0xFB, "call_function_single", tracepoint="call_function_single"),
    _system_vector("irq-work", 0xF6, "irq_work", tracepoint="irq_work"),
    _system_vector("platform-ipi", 0xF7, "x86_platform_ipi", tracepoint="x86_platform_ipi"),
    _system_vector("error", 0xFE, "error_interrupt", tracepoint="error_apic"),
    _system_vector("spurious", 0xFF, "spurious_apic_interrupt", tracepoint="spurious_apic"),
    _system_vector("thermal", 0xFA, "thermal", tracepoint="thermal_apic"),
    _system_vector("threshold", 0xF9, "threshold", tracepoint="threshold_apic"),
    _system_vector("deferred-error", 0xF4, "deferred_error", tracepoint="deferred_error_apic"),
    _system_vector("hyperv-stimer", 0xED, "hyperv_stimer0", unit=Unit.HYPERVISOR),
    _system_vector("posted-intr-wakeup", 0xF1, "kvm_posted_intr_wakeup_ipi", unit=Unit.HYPERVISOR),
    _system_vector(
        "hypervisor-callback",
        0xF3,
        "kvm_asyncpf_interrupt",
        "hyperv_callback",
        "xen_hvm_callback",
        unit=Unit.HYPERVISOR,
    ),
    HookClass(
        name="device",
        vectors=(),
        ways=(
            Way(
                entries=(_fentry("__common_interrupt", ("pt_regs*", "u32"), _DEVICE_SOURCE),),
                exits=(_fexit("__common_interrupt", ("pt_regs*", "u32"), _DEVICE_SOURCE),),
                frame=FRAME_FUNCTION,
                lacks="the IRQ number (the vector is known)",
            ),
            _DEVICE_TRACEPOINTS,
        ),
    ),
)

CLASSES: Final = (*EXCEPTIONS, *INTERRUPTS)

PROCESS_HOOKS: Final = (
    _tracepoint("task_rename", ("task_struct*", "char*"), "include/trace/events/task.h"),
    _tracepoint("sched_process_exit", (), "include/trace/events/sched.h"),
)
"""What tells the names of processes (:mod:`iretrace.collect.processes`); no argument of the second one is read."""

HOOKS: Final = tuple(dict.fromkeys(hook for item in CLASSES for hook in item.hooks))
BY_NAME: Final = {hook.name: hook for hook in HOOKS}
