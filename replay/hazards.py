"""The one list of hazards: what is dangerous about a return, judged against the machine and not the policy.

A hazard is a pure function of the extended context (:mod:`iretrace.replay.contexts`) and the choice made there,
so it is enumerated into a table and counted like everything else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from iretrace.replay import contexts
from iretrace.replay.contexts import Target
from iretrace.replay.policies import Choice
from iretrace.vectors import NMI

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from iretrace.replay.contexts import Fields

    Test = Callable[[Fields, NDArray[np.uint8]], NDArray[np.bool_]]

Severity = Literal["broken", "risk", "observed"]


@dataclass(frozen=True, kw_only=True)
class Hazard:
    """One way in which a return can be dangerous.

    Attributes:
        name: stable identifier.
        severity: ``broken`` the machine's state is wrong afterwards; ``risk`` it can go wrong from here;
            ``observed`` the trace shows what the proposal assumes never happens, whatever the choice.
        doc: what it means, one sentence.
        test: from the fields of contexts and the choices made there to where the hazard is.
    """

    name: str
    severity: Severity
    doc: str
    test: Test


HAZARDS: Final[tuple[Hazard, ...]] = (
    Hazard(
        name="iret-in-nmi",
        severity="risk",
        doc="IRET while an NMI is open below: NMIs unmask early, and the next one nests.",
        test=lambda f, choice: f.nmi_on_stack & (choice == Choice.IRET),
    ),
    Hazard(
        name="nmi-masked",
        severity="broken",
        doc="An NMI returns by RET: NMIs stay masked on this CPU until some later IRET.",
        test=lambda f, choice: (f.slot == NMI) & (choice == Choice.RET),
    ),
    Hazard(
        name="ret-invalid-stack",
        severity="broken",
        doc="RET to kernel code on a user-half stack pointer (the SYSCALL gap): it writes below a stack not its own.",
        test=lambda f, choice: f.user_sp & (f.target == Target.KERNEL) & (choice == Choice.RET),
    ),
    Hazard(
        name="ret-other-cs",
        severity="broken",
        doc="RET (or ERETS) to a CS that is not the kernel's: neither can change it.",
        test=lambda f, choice: (f.target == Target.OTHER) & ((choice == Choice.RET) | (choice == Choice.ERETS)),
    ),
    Hazard(
        name="ret-tf",
        severity="risk",
        doc="RET with TF set in the target flags: POPF;RET traps at once, before the target instruction.",
        test=lambda f, choice: f.flag_tf & (choice == Choice.RET),
    ),
    Hazard(
        name="ret-rf",
        severity="broken",
        doc="RET with RF set in the target flags: POPF clears RF, and an instruction breakpoint hits again.",
        test=lambda f, choice: f.flag_rf & (choice == Choice.RET),
    ),
    Hazard(
        name="nmi-nested",
        severity="observed",
        doc="An NMI was entered with an NMI open on the same CPU (the review's BUG()).",
        test=lambda f, _: f.nmi_on_stack & (f.slot == NMI),
    ),
    Hazard(
        name="if-in-nmi",
        severity="observed",
        doc="Interrupts were enabled in kernel code with an NMI on the stack.",
        test=lambda f, _: f.nmi_on_stack & (f.target == Target.KERNEL) & f.flag_if,
    ),
    Hazard(
        name="cs-changed-in-nmi",
        severity="observed",
        doc="A trap inside an NMI returns to a CS that is not the kernel's.",
        test=lambda f, _: f.nmi_on_stack & (f.target == Target.OTHER),
    ),
)

NAMES: Final = tuple(hazard.name for hazard in HAZARDS)


def table(choice: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Hazards of every context under the choice made there.

    Args:
        choice: :class:`~iretrace.replay.policies.Choice` by context index, shape ``(N_CONTEXTS,)``.

    Returns:
        A bit set by context index; bit ``i`` stands for ``HAZARDS[i]``.
    """
    fields = contexts.every()
    bits = np.zeros(contexts.N_CONTEXTS, np.uint16)
    for i, hazard in enumerate(HAZARDS):
        bits |= hazard.test(fields, choice).astype(np.uint16) << np.uint16(i)
    return bits


def names(bits: int) -> str | None:
    """A bit set as text, names separated by commas; ``None`` where it is empty."""
    return ",".join(name for i, name in enumerate(NAMES) if bits >> i & 1) or None
