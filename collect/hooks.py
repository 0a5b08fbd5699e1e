"""The one table of hooks, and of what each class of trap can show through them.

Tracepoints: ``include/trace/events/exceptions.h`` (before v6.19 ``arch/x86/include/asm/trace/exceptions.h``),
``arch/x86/include/asm/trace/irq_vectors.h``, ``include/trace/events/irq.h``, ``include/trace/events/nmi.h``.
Whether a kernel has them is found by attaching, never by its version.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from iretrace.footer import Gate, TrapClass
from iretrace.vectors import vector_name

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from iretrace.collect.btf import Prototypes


@dataclass(frozen=True, kw_only=True)
class Hook:
    """A raw tracepoint and the program for it.

    Attributes:
        tracepoint: the kernel's name of the tracepoint.
        arguments: types of the tracepoint's arguments that the program relies on, as in the kernel's BTF.
    """

    tracepoint: str
    arguments: tuple[str, ...]

    @property
    def program(self) -> str:
        """Name of its function in ``bpf/trap.bpf.c`` (BCC's RAW_TRACEPOINT_PROBE)."""
        return f"raw_tracepoint__{self.tracepoint}"


@dataclass(frozen=True, kw_only=True)
class HookClass:
    """How a class of trap is seen.

    Attributes:
        name: the class, in the words of :func:`iretrace.vectors.vector_name`.
        vectors: its vectors; empty for device interrupts, whose vector no hook tells.
        entries: hooks that see it begin.
        exits: hooks that see it end.
        frame: how the interrupted frame is found.
        lacks: what these hooks cannot show, and why.
    """

    name: str
    vectors: tuple[int, ...]
    entries: tuple[Hook, ...]
    exits: tuple[Hook, ...] = ()
    frame: str | None
    lacks: str = ""


_VECTOR: Final = ("int",)
_FAULT: Final = ("long unsigned int", "pt_regs*", "long unsigned int")

FRAME_ARGUMENT: Final = "pt_regs of the tracepoint"
FRAME_STACK: Final = "pt_regs above the entry stub's return address on the kernel stack"


def _irq_vector(name: str, vector: int, tracepoint: str) -> HookClass:
    return HookClass(
        name=name,
        vectors=(vector,),
        entries=(Hook(tracepoint=f"{tracepoint}_entry", arguments=_VECTOR),),
        exits=(Hook(tracepoint=f"{tracepoint}_exit", arguments=_VECTOR),),
        frame=FRAME_STACK,
    )


CLASSES: Final = (
    HookClass(
        name="#PF",
        vectors=(14,),
        entries=(
            Hook(tracepoint="page_fault_user", arguments=_FAULT),
            Hook(tracepoint="page_fault_kernel", arguments=_FAULT),
        ),
        frame=FRAME_ARGUMENT,
        lacks="the exit: exc_page_fault is noinstr and no tracepoint follows it",
    ),
    _irq_vector("timer", 0xEC, "local_timer"),
    _irq_vector("reschedule", 0xFD, "reschedule"),
    _irq_vector("call-function", 0xFC, "call_function"),
    _irq_vector("call-function-single", 0xFB, "call_function_single"),
    _irq_vector("irq-work", 0xF6, "irq_work"),
    _irq_vector("platform-ipi", 0xF7, "x86_platform_ipi"),
    _irq_vector("error", 0xFE, "error_apic"),
    _irq_vector("spurious", 0xFF, "spurious_apic"),
    _irq_vector("thermal", 0xFA, "thermal_apic"),
    _irq_vector("threshold", 0xF9, "threshold_apic"),
    _irq_vector("deferred-error", 0xF4, "deferred_error_apic"),
    HookClass(
        name="device",
        vectors=(),
        entries=(
            Hook(
                tracepoint="irq_handler_entry",
                arguments=("int", "irqaction*"),
            ),
        ),
        exits=(
            Hook(
                tracepoint="irq_handler_exit",
                arguments=("int", "irqaction*", "int"),
            ),
        ),
        frame=FRAME_STACK,
        lacks="the vector (the IRQ number is known); a line shared by several handlers shows once for each",
    ),
    HookClass(
        name="NMI",
        vectors=(2,),
        entries=(Hook(tracepoint="nmi_handler", arguments=("void*", "s64", "int")),),
        frame=FRAME_STACK,
        lacks="the exit; the entry is seen when the first handler is done",
    ),
)

HOOKS: Final = tuple(hook for item in CLASSES for hook in (*item.entries, *item.exits))


PROCESS_HOOKS: Final = (
    Hook(tracepoint="task_rename", arguments=("task_struct*", "char*")),
    Hook(tracepoint="sched_process_exit", arguments=()),
)
"""What tells the names of processes (:mod:`iretrace.collect.processes`); no argument of the second one is read."""


def unusable(prototypes: Prototypes) -> dict[str, str]:
    """Hooks that this kernel does not have, or has with other arguments than the probes read; each with the reason."""
    found = {}
    for hook in (*HOOKS, *PROCESS_HOOKS):
        arguments = prototypes.parameters(hook.tracepoint)
        if arguments is None:
            found[hook.tracepoint] = "this kernel has no such tracepoint"
        elif hook.arguments and arguments != hook.arguments:
            found[hook.tracepoint] = f"its arguments are ({', '.join(arguments)}), not ({', '.join(hook.arguments)})"
    return found


def trap_classes(attached: Collection[str], gates: Sequence[Gate] | None) -> list[TrapClass]:
    """What each class of trap shows on this kernel, for ``doctor`` and the footer.

    Args:
        attached: tracepoints that could be attached.
        gates: the live IDT, where it could be read: what it handles and no hook sees is listed as unseen.
    """
    classes = [_observed(item, attached) for item in CLASSES]
    covered = {vector for item in CLASSES for vector in item.vectors}
    for gate in gates or ():
        if gate.vector in covered or not gate.handler.startswith(("asm_exc_", "asm_sysvec_")):
            continue
        name = vector_name(gate.vector)
        if name.startswith("irq "):
            name = gate.handler.removeprefix("asm_sysvec_").replace("_", "-")
        lacks = "entry and exit: the kernel has no tracepoint for it"
        classes.append(TrapClass(name=name, vectors=[gate.vector], lacks=lacks))
    return classes


def _observed(item: HookClass, attached: Collection[str]) -> TrapClass:
    entries = [hook.tracepoint for hook in item.entries if hook.tracepoint in attached]
    exits = [hook.tracepoint for hook in item.exits if hook.tracepoint in attached]
    missing = [hook.tracepoint for hook in (*item.entries, *item.exits) if hook.tracepoint not in attached]
    lacks = [item.lacks] if item.lacks and entries else []
    if missing:
        lacks.append("no tracepoint " + ", ".join(missing))
    return TrapClass(
        name=item.name,
        vectors=list(item.vectors),
        entry=", ".join(entries) or None,
        exit=", ".join(exits) or None,
        frame=item.frame if entries else None,
        lacks="; ".join(lacks),
    )
