"""The extended context of a return, as one small integer.

It holds all that any policy may look at and all that a hazard depends on, so that a replay needs only to count
contexts: what a policy chooses, and which hazards that choice has, are tables over the index.

Layout: ``((slot * 3 + target) << 7) | bits`` with ``slot`` the vector or :data:`~iretrace.replay.policies.DEVICE`.
``replay/engine.c`` computes the same index.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from typing import TYPE_CHECKING, Final

import numpy as np

from iretrace.replay.policies import DEVICE
from iretrace.vectors import vector_name

if TYPE_CHECKING:
    from numpy.typing import NDArray

N_SLOTS: Final = DEVICE + 1
SHIFT: Final = 7

NESTED: Final = 1 << 0
NMI_TEXT: Final = 1 << 1
IF: Final = 1 << 2
TF: Final = 1 << 3
RF: Final = 1 << 4
NMI_ON_STACK: Final = 1 << 5
USER_SP: Final = 1 << 6


class Target(IntEnum):
    """Where a trap returns to."""

    KERNEL = 0
    OTHER = 1
    UNKNOWN = 2


N_CONTEXTS: Final = N_SLOTS * len(Target) << SHIFT


@dataclass(frozen=True, kw_only=True)
class Fields:
    """The parts of context indices, as arrays of the shape of the index.

    Attributes:
        slot: uint16, vector 0-255 or :data:`~iretrace.replay.policies.DEVICE`.
        target: uint8, a :class:`Target`.
        nested: bool, the policy's nest counter is nonzero.
        nmi_text: bool, the return address lies in the NMI entry or exit code.
        flag_if: bool, RFLAGS.IF of the target (false where not known).
        flag_tf: bool, RFLAGS.TF of the target (false where not known).
        flag_rf: bool, RFLAGS.RF of the target (false where not known).
        nmi_on_stack: bool, an NMI other than this trap is open below it on this CPU.
        user_sp: bool, the target is kernel code on a stack pointer of the user half: the SYSCALL gap.
    """

    slot: NDArray[np.uint16]
    target: NDArray[np.uint8]
    nested: NDArray[np.bool_]
    nmi_text: NDArray[np.bool_]
    flag_if: NDArray[np.bool_]
    flag_tf: NDArray[np.bool_]
    flag_rf: NDArray[np.bool_]
    nmi_on_stack: NDArray[np.bool_]
    user_sp: NDArray[np.bool_]


def decode(index: NDArray[np.uint32]) -> Fields:
    """Take context indices apart (any shape)."""
    head = index >> SHIFT
    return Fields(
        slot=(head // len(Target)).astype(np.uint16),
        target=(head % len(Target)).astype(np.uint8),
        nested=index & NESTED != 0,
        nmi_text=index & NMI_TEXT != 0,
        flag_if=index & IF != 0,
        flag_tf=index & TF != 0,
        flag_rf=index & RF != 0,
        nmi_on_stack=index & NMI_ON_STACK != 0,
        user_sp=index & USER_SP != 0,
    )


@cache
def every() -> Fields:
    """The fields of every index, in order: arrays of shape ``(N_CONTEXTS,)``."""
    return decode(np.arange(N_CONTEXTS, dtype=np.uint32))


def encode(slot: int, target: Target, *bits: int) -> int:
    """The index of one context; ``bits`` are those that are set."""
    return ((slot * len(Target) + target) << SHIFT) | sum(bits)


def describe(index: int) -> str:
    """A context for people: ``#DB to kernel, IF, NMI on stack``."""
    slot, target = divmod(index >> SHIFT, len(Target))
    names = {
        NESTED: "nested",
        NMI_TEXT: "NMI text",
        IF: "IF",
        TF: "TF",
        RF: "RF",
        NMI_ON_STACK: "NMI on stack",
        USER_SP: "user-half sp",
    }
    vector = vector_name(None if slot == DEVICE else slot)
    bits = [name for bit, name in names.items() if index & bit]
    return ", ".join([f"{vector} to {Target(target).name.lower()}", *bits])
