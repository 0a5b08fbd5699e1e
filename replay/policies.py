"""Policies: from the context of one return to the instruction that makes it, and the rule that said so.

A policy is a pure function of :class:`Context`. There are few contexts, so a policy is enumerated once into a
table (:mod:`iretrace.replay.tables`) and a replay is a gather.

Source of every rule: Andy Lutomirski, "[RFC] x86_64: A real proposal for iret-less return to kernel", LKML,
20 May 2014, and its review by Steven Rostedt of the same day. Rules are named, in the order in which they are
asked: ``target-cs`` (the mail's 1), ``nmi`` (its "IRET is mandatory"), ``nm`` (3), ``df-ss`` (4), ``db-bp`` (5),
``mc`` (6), ``non-ist`` (2).

How the review is read (``rfc2014-reviewed``):

- "Is it? You mean if IF is set *and* we are in the kernel?": with IF set and the kernel's CS as target, RET is safe
  for every IST vector but the NMI, whose IRET is needed to unmask NMIs. The rule named is the one that was asked.
- "Perhaps ist_stack_nest_count": every IST stack is counted, not the NMI's and #MC's alone.
- "Do you mean NMI on the target stack? If so, please state that": "we must use RET" then holds for every vector whose
  target stack is an IST stack, so also for a #MC in the body of the NMI handler, which rule 6 to the letter lets
  return by IRET. A trap's own stack is not its target stack: its own count is taken out before judging.
- Rule 4 says itself that #DF and #SS do not occur inside an NMI: they keep their IRET (IF apart).
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
        sources: the sentence each rule rests on, in the order of ``rules``; empty where there is none.
    """

    name: str
    doc: str
    rules: tuple[str, ...]
    decide: Callable[[Context], tuple[Choice, str]]
    counter: NestCounter = NestCounter()
    sources: tuple[str, ...] = ()


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


_RULE_OF: Final = {NM: "nm", DF: "df-ss", SS: "df-ss", DB: "db-bp", BP: "db-bp", MC: "mc"}


def _reviewed(context: Context) -> tuple[Choice, str]:  # noqa: PLR0911 - one return a sentence
    vector = context.vector
    if not context.kernel_cs:
        return Choice.IRET, "target-cs"
    # "Times when we must use RET" would forbid this where an NMI lies on the target stack; an NMI cannot nest there.
    if vector == NMI:
        return Choice.IRET, "nmi"
    rule = _RULE_OF.get(vector)
    if rule is None:
        return Choice.RET, "non-ist"
    # The mail: "if RFLAGS.IF is set, then interrupts were enabled when we trapped, so RET is safe." The review: "Is
    # it? You mean if IF is set *and* we are in the kernel?" The kernel's CS was asked for above.
    if context.flag_if:
        return Choice.RET, rule
    # The mail's rule 4: "These interrupts cannot occur inside an NMI", so what follows does not concern them.
    if vector in (DF, SS):
        return Choice.IRET, rule
    # The mail: "If there's an NMI on the stack, we must use RET". The review: "Do you mean NMI on the target stack?"
    if context.nested:
        return Choice.RET, rule
    # Nothing is counted yet in the entry and exit code of the NMI, hence the mail's rule 6.
    if vector == MC and context.nmi_text:
        return Choice.RET, rule
    return Choice.IRET, rule


def _host_ist(context: Context) -> tuple[Choice, str]:
    if not context.kernel_cs or context.vector == NMI:
        return _rfc2014(context)
    # The mail: "Non-IST interrupts use the interrupted code's stack, so the stack is always valid."
    if not context.ist:
        return Choice.RET, "non-ist"
    if context.vector in MAIL_IST:
        return _rfc2014(context)
    # An IST vector that the mail could not know (#VC): what it says of #DB and #BP holds for any.
    return (Choice.RET if context.nested else Choice.IRET), "db-bp"


def _fred(context: Context) -> tuple[Choice, str]:
    return (Choice.ERETS, "erets") if context.kernel_cs else (Choice.ERETU, "eretu")


RFC2014_RULES: Final = ("target-cs", "nmi", "nm", "df-ss", "db-bp", "mc", "non-ist")

RFC2014_SOURCES: Final = (
    "1. If the target CS is not the standard 64-bit kernel CPL0 selector, then never use RET.",
    "If we're returning from NMI, we IRET is mandatory: we need to unmask NMIs, and IRET is the only way to do that.",
    "3. If we are returning from #NM, then use IRET.",
    "4. If we are returning from #DF or #SS, then use IRET.",
    "5. If we are returning from #DB or #BP, then use RET if nmi_mce_nest_count != 0 and IRET otherwise.",
    (
        "6. If we are returning from #MC, use IRET, unless the return address is to the NMI entry or exit code, in "
        "which case we use RET."
    ),
    "2. If we are returning from a non-IST interrupt, then use RET.",
)

_IF_REVIEWED: Final = 'Review, on RET being safe with IF set: "You mean if IF is set *and* we are in the kernel?"'
_TARGET_STACK: Final = 'Review, on RET with an NMI on the stack: "Do you mean NMI on the target stack?"'

REVIEWED_SOURCES: Final = (
    RFC2014_SOURCES[0],
    RFC2014_SOURCES[1],
    f"{RFC2014_SOURCES[2]} {_IF_REVIEWED} {_TARGET_STACK}",
    f"{RFC2014_SOURCES[3]} {_IF_REVIEWED}",
    f"{RFC2014_SOURCES[4]} {_IF_REVIEWED} {_TARGET_STACK}",
    f"{RFC2014_SOURCES[5]} {_IF_REVIEWED} {_TARGET_STACK}",
    RFC2014_SOURCES[6],
)

_NMI_MCE_NEST_COUNT: Final = NestCounter(up=frozenset({NMI, MC}), down=frozenset({MC}), clear=frozenset({NMI}))

IRET: Final = Policy(
    name="iret",
    doc="Today's kernel on an IDT: always IRET.",
    rules=("always",),
    decide=_iret,
    sources=("Linux arch/x86/entry/entry_64.S: every exit of a trap ends in native_iret.",),
)

RFC2014: Final = Policy(
    name="rfc2014",
    doc="The mail of May 2014 to the letter: rules 1-6, its IST list, NMI itself always IRET.",
    rules=RFC2014_RULES,
    decide=_rfc2014,
    counter=_NMI_MCE_NEST_COUNT,
    sources=RFC2014_SOURCES,
)

RFC2014_REVIEWED: Final = Policy(
    name="rfc2014-reviewed",
    doc="The mail with the review's objections applied: IF counts in the kernel only, every IST stack is counted, and "
    "what matters lies on the target stack.",
    rules=RFC2014_RULES,
    decide=_reviewed,
    # The review: "Perhaps ist_stack_nest_count". The counter is judged without the returning trap's own count: with it,
    # the count would be nonzero at every return from an IST stack, and #DB would RET into the SYSCALL gap.
    counter=NestCounter(up=MAIL_IST | {NMI}, down=MAIL_IST, clear=frozenset({NMI}), count_self=False),
    sources=REVIEWED_SOURCES,
)

RFC2014_HOST_IST: Final = Policy(
    name="rfc2014-host-ist",
    doc="The mail's rules on the IST stacks of the recorded IDT: a vector without one there is ordinary.",
    rules=RFC2014_RULES,
    decide=_host_ist,
    counter=_NMI_MCE_NEST_COUNT,
    sources=RFC2014_SOURCES,
)

FRED: Final = Policy(
    name="fred",
    doc="Event delivery by FRED: ERETS for every return to the kernel, ERETU otherwise; only an NMI's own frame "
    "unblocks NMIs.",
    rules=("erets", "eretu"),
    decide=_fred,
    sources=(
        "Intel, Flexible Return and Event Delivery: ERETS returns within ring 0.",
        "Intel, Flexible Return and Event Delivery: ERETU returns to ring 3.",
    ),
)

BUILT_IN: Final = {policy.name: policy for policy in (IRET, RFC2014, RFC2014_REVIEWED, RFC2014_HOST_IST, FRED)}


def built_in() -> dict[str, Policy]:
    """Every policy that comes with iretrace, by name."""
    from iretrace.replay.fixed import RFC2014_FIXED  # noqa: PLC0415 - it is made of this module's classes

    return {**BUILT_IN, RFC2014_FIXED.name: RFC2014_FIXED}


def by_name(name: str) -> Policy:
    """The built-in policy called ``name`` (:func:`iretrace.replay.own.find` also takes files).

    Raises:
        UsageError: there is none.
    """
    known = built_in()
    if name not in known:
        expected = f"one of {', '.join(known)}, or FILE.py:FUNCTION"
        raise UsageError(f"--policy {name}", "no such policy", expected=expected)
    return known[name]
