"""What each policy must decide of a return, from the emulator's story, held against what the replay decided."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from iretrace.replay import own
from iretrace.replay.policies import Context
from iretrace.vectors import vector_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from iretrace.footer import Footer
    from vmtest.log import Executed, Taken
    from vmtest.seen import Return

KERNEL_CS: Final = 0x10
FLAG_TF: Final = 1 << 8
FLAG_IF: Final = 1 << 9
FLAG_RF: Final = 1 << 16
_NMI: Final = 2
_MACHINE_CHECK: Final = 18


def by_the_mail(vector: int, executed: Executed, below: Sequence[int], *, in_nmi_text: bool) -> str:
    """The mail of May 2014, once more from its own words: what ``rfc2014`` must say of one return."""
    if executed.cs != KERNEL_CS:
        return "IRET"
    if vector in (2, 7, 8, 12):
        return "IRET"
    if vector in (1, 3):
        return "RET" if any(other in (_NMI, _MACHINE_CHECK) for other in below) else "IRET"
    if vector == _MACHINE_CHECK:
        return "RET" if in_nmi_text else "IRET"
    return "RET"


def expected(policy: str, context: Context, below: tuple[int, ...]) -> str:
    """The instruction by which a policy must make this return.

    Args:
        policy: its name.
        context: the return, by what the CPU really did; ``nested`` is the policy's own matter.
        below: vectors of the traps that were open below, as far as a nest count still has them.
    """
    chosen = own.find(policy)
    counter = chosen.counter
    open_traps = (*below, context.vector) if counter.count_self else below
    choice, _ = chosen.decide(replace(context, nested=any(vector in counter.up for vector in open_traps)))
    return choice.name


def judge(
    trap: Taken, executed: Executed, below: tuple[int, ...], one: Return, footer: Footer
) -> dict[str, tuple[str, str]]:
    """By policy: what it must decide, and what the replay says it does.

    Args:
        trap: what returns.
        executed: its IRETQ.
        below: :func:`vmtest.pairs.still_counted`.
        one: the replay's return.
        footer: the trace's.
    """
    context = Context(
        vector=trap.vector,
        ist=any(gate.vector == trap.vector and gate.ist for gate in footer.idt or ()),
        kernel_cs=executed.cs == KERNEL_CS,
        nested=False,
        nmi_text=any(low <= executed.ip < high for low, high in footer.nmi_text),
        flag_if=bool(executed.flags & FLAG_IF),
        flag_tf=bool(executed.flags & FLAG_TF),
        flag_rf=bool(executed.flags & FLAG_RF),
    )
    wanted = {policy: expected(policy, context, below) for policy in one.decisions}
    mail = by_the_mail(trap.vector, executed, below, in_nmi_text=context.nmi_text)
    if mail != wanted["rfc2014"]:
        wanted["rfc2014"] = f"{mail} by the mail, {wanted['rfc2014']} by its table"
    return {policy: (wanted[policy], one.decisions[policy][0]) for policy in one.decisions}


def class_of(trap: Taken, below: Sequence[int]) -> str:
    """The kind of trap, as the report names it: where it came from, and whether an NMI or #MC lay below."""
    where = "user" if trap.cpl == 3 else "kernel"
    inside = "".join(f" in {vector_name(vector)}" for vector in below if vector in (_NMI, _MACHINE_CHECK))
    name = "device" if 0x20 <= trap.vector < 0xEC else vector_name(trap.vector)
    return f"{name}, {where}{inside}"
