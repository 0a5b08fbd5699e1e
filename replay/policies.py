"""Policies: from the context of one return to the instruction that makes it, and the rule that said so.

A policy is a pure function of :class:`Context`. There are few contexts, so a policy is enumerated once into a
table (:mod:`iretrace.replay.tables`) and a replay is a gather.

Source of every rule: Andy Lutomirski, "[RFC] x86_64: A real proposal for iret-less return to kernel", LKML,
20 May 2014, and its review by Steven Rostedt of the same day. Rules are named, in the order in which they are
asked: ``target-cs`` (the mail's 1), ``nmi`` (its "IRET is mandatory"), ``nm`` (3), ``df-ss`` (4), ``db-bp`` (5),
``mc`` (6), ``non-ist`` (2).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from iretrace.errors import UsageError
from iretrace.vectors import BP, DB, DF, MC, NM, NMI, SS

if TYPE_CHECKING:
    from collections.abc import Callable

DEVICE: Final = 256
"""Stands for the vector of a device interrupt that the hook could not see; never on an IST stack."""


class Choice(IntEnum):
    """The instruction that returns from a trap."""

    RET = 0
    IRET = 1
    ERETS = 2
    ERETU = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Context:
    """All that a policy may look at when a trap returns.

    Attributes:
        vector: x86 vector 0-255, or :data:`DEVICE`.
        ist: the vector has an IST stack in the recorded IDT.
        kernel_cs: the target CS is the standard 64-bit kernel CPL0 selector.
        nested: the policy's nest counter is nonzero just before this exit changes it.
        nmi_text: the return address lies in the NMI entry or exit code.
        flag_if: RFLAGS.IF of the target.
        flag_tf: RFLAGS.TF of the target.
        flag_rf: RFLAGS.RF of the target.
    """

    vector: int
    ist: bool = False
    kernel_cs: bool = False
    nested: bool = False
    nmi_text: bool = False
    flag_if: bool = False
    flag_tf: bool = False
    flag_rf: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class NestCounter:
    """A policy's per-CPU counter of what is on the stack.

    Attributes:
        up: vectors whose entry adds one.
        down: vectors whose exit takes one away, never below zero.
        clear: vectors whose exit sets it to zero.
        count_self: a return is judged with its own trap counted. False takes that one out: what is left of the
            count lies on the target stack.
    """

    up: frozenset[int] = frozenset()
    down: frozenset[int] = frozenset()
    clear: frozenset[int] = frozenset()
    count_self: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """A named way to choose the return instruction.

    Attributes:
        name: as given to ``--policy``.
        doc: one sentence.
        rules: the names ``decide`` can give, in the order in which they are asked.
        decide: pure function from a context to the choice and the rule's name.
        counter: which vectors its nest counter counts, and how it comes down.
    """

    name: str
    doc: str
    rules: tuple[str, ...]
    decide: Callable[[Context], tuple[Choice, str]]
    counter: NestCounter = NestCounter()


MAIL_IST: Final = frozenset({DB, BP, NM, DF, SS, MC})
"""The mail: "The IST interrupts are: #DB #BP #NM #DF #SS, and #MC." (NMI has a rule of its own.)"""


def _iret(context: Context) -> tuple[Choice, str]:
    del context
    return Choice.IRET, "always"


def _rfc2014(context: Context) -> tuple[Choice, str]:  # noqa: PLR0911 - one return a rule
    vector = context.vector
    # The mail: "If the target CS is not the standard 64-bit kernel CPL0 selector, then never use RET."
    if not context.kernel_cs:
        return Choice.IRET, "target-cs"
    # The mail: "If we're returning from NMI, we IRET is mandatory: we need to unmask NMIs".
    if vector == NMI:
        return Choice.IRET, "nmi"
    # The mail: "If we are returning from #NM, then use IRET."
    if vector == NM:
        return Choice.IRET, "nm"
    # The mail: "If we are returning from #DF or #SS, then use IRET."
    if vector in (DF, SS):
        return Choice.IRET, "df-ss"
    # The mail: "If we are returning from #DB or #BP, then use RET if nmi_mce_nest_count != 0 and IRET otherwise."
    if vector in (DB, BP):
        return (Choice.RET if context.nested else Choice.IRET), "db-bp"
    # The mail: "If we are returning from #MC, use IRET, unless the return address is to the NMI entry or exit code".
    if vector == MC:
        return (Choice.RET if context.nmi_text else Choice.IRET), "mc"
    # The mail: "If we are returning from a non-IST interrupt, then use RET."
    return Choice.RET, "non-ist"


RFC2014_RULES: Final = ("target-cs", "nmi", "nm", "df-ss", "db-bp", "mc", "non-ist")

IRET: Final = Policy(
    name="iret",
    doc="Today's kernel on an IDT: always IRET.",
    rules=("always",),
    decide=_iret,
)

RFC2014: Final = Policy(
    name="rfc2014",
    doc="The mail of May 2014 to the letter: rules 1-6, its IST list, NMI itself always IRET.",
    rules=RFC2014_RULES,
    decide=_rfc2014,
    counter=NestCounter(up=frozenset({NMI, MC}), down=frozenset({MC}), clear=frozenset({NMI})),
)

BUILT_IN: Final = {policy.name: policy for policy in (IRET, RFC2014)}


def by_name(name: str) -> Policy:
    """The policy called ``name``.

    Raises:
        UsageError: there is none.
    """
    from iretrace.replay.fixed import RFC2014_FIXED  # noqa: PLC0415 - it is made of this module's classes

    known = {**BUILT_IN, RFC2014_FIXED.name: RFC2014_FIXED}
    try:
        return known[name]
    except KeyError:
        raise UsageError(f"--policy {name}", "no such policy", expected="one of " + ", ".join(known)) from None
