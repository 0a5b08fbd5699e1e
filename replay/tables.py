"""A policy as tables over every context: enumerated once, checked, and then a replay is a gather."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from iretrace.errors import UsageError
from iretrace.replay import contexts, hazards
from iretrace.replay.contexts import SHIFT, Target
from iretrace.replay.policies import MAIL_IST, Choice, Context, Policy
from iretrace.vectors import NMI, VC

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from iretrace.footer import Footer

POLICY_BITS: Final = 5
"""The low bits of a context index that a policy sees: nested, NMI text, IF, TF, RF."""

EVER_IST: Final = MAIL_IST | {NMI, VC}
"""The mail's list, the NMI, and #VC (SEV-ES)."""

MAX_RULES: Final = 127
"""What the predictions' dictionary column can index."""

CHOICES: Final = "one of " + ", ".join(Choice.__members__)


@dataclass(frozen=True, kw_only=True)
class Table:
    """A policy's answers by context index; each array has shape ``(N_CONTEXTS,)``.

    Attributes:
        policy: whose answers.
        rules: names of the rules, in the order in which the policy asks them.
        choice: uint8, a :class:`~iretrace.replay.policies.Choice`.
        rule: uint8, index into ``rules``.
        hazard: uint16, bit set over :data:`iretrace.replay.hazards.HAZARDS`.
    """

    policy: Policy
    rules: tuple[str, ...]
    choice: NDArray[np.uint8]
    rule: NDArray[np.uint8]
    hazard: NDArray[np.uint16]


def ist_vectors(footer: Footer) -> frozenset[int]:
    """Vectors with an IST stack in the recorded IDT; without a recorded IDT the mail's list and the NMI."""
    if footer.idt is None:
        return MAIL_IST | {NMI}
    return frozenset(gate.vector for gate in footer.idt if gate.ist != 0)


@lru_cache(maxsize=8)
def policy_contexts(ist: frozenset[int]) -> tuple[Context, ...]:
    """Every context a policy can see; the index is ``slot << 6 | kernel_cs << 5 |`` the low bits."""
    return tuple(
        Context(
            vector=slot,
            ist=slot in ist,
            kernel_cs=kernel_cs,
            nested=bool(bits & contexts.NESTED),
            nmi_text=bool(bits & contexts.NMI_TEXT),
            flag_if=bool(bits & contexts.IF),
            flag_tf=bool(bits & contexts.TF),
            flag_rf=bool(bits & contexts.RF),
        )
        for slot in range(contexts.N_SLOTS)
        for kernel_cs in (False, True)
        for bits in range(1 << POLICY_BITS)
    )


@lru_cache(maxsize=32)
def enumerate_policy(policy: Policy, ist: frozenset[int]) -> Table:
    """Ask a policy about every context.

    Args:
        policy: a policy; without ``rules`` they are taken in the order in which they turn up.
        ist: vectors that have an IST stack.

    Raises:
        UsageError: the policy raised, gave something that is not a choice or not one of its rules, or gave two
            answers to the same question; the message names the context.
    """
    asked = policy_contexts(ist)
    rules = {rule: i for i, rule in enumerate(policy.rules)}
    codes: dict[Any, tuple[int, int]] = {}  # few answers, many contexts: each answer is checked once
    answers = [_ask(policy, context, rules, codes) for context in asked]
    for context, answer in zip(asked, answers, strict=True):
        if _ask(policy, context, rules, codes) != answer:
            raise _refusal(policy, context, "gave two answers", expected="a pure function of its context")
    pairs = np.array(answers, np.uint8)
    fields = contexts.every()
    low = np.arange(contexts.N_CONTEXTS) & ((1 << POLICY_BITS) - 1)
    seen = (fields.slot.astype(np.intp) << 6) | ((fields.target == Target.KERNEL).astype(np.intp) << POLICY_BITS) | low
    choice = pairs[seen, 0]
    return Table(policy=policy, rules=tuple(rules), choice=choice, rule=pairs[seen, 1], hazard=hazards.table(choice))


@lru_cache(maxsize=32)
def depends_on_ist(policy: Policy) -> bool:
    """Whether an answer of a policy changes with the IST membership of a vector that Linux ever gave one."""
    return any(
        policy.decide(context) != policy.decide(replace(context, ist=not context.ist))
        for context in policy_contexts(MAIL_IST | {NMI})
        if context.vector in EVER_IST
    )


def _ask(policy: Policy, context: Context, rules: dict[str, int], codes: dict[Any, tuple[int, int]]) -> tuple[int, int]:
    try:
        answer: Any = policy.decide(context)
    except Exception as error:  # noqa: BLE001 - a user's function may raise anything
        raise _refusal(policy, context, f"raised {type(error).__name__}: {error}") from None
    if not isinstance(answer, tuple) or len(answer) != 2:
        raise _refusal(policy, context, f"gave {answer!r}", expected="a pair (choice, rule)")
    choice, rule = answer
    if not isinstance(choice, Choice | str):
        raise _refusal(policy, context, f"chose {choice!r}", expected=CHOICES)
    if not isinstance(rule, str) or not rule:
        raise _refusal(policy, context, f"named the rule {rule!r}", expected="a name")
    if answer not in codes:
        codes[answer] = _code(policy, context, choice, rule, rules)
    return codes[answer]


def _code(policy: Policy, context: Context, choice: Choice | str, rule: str, rules: dict[str, int]) -> tuple[int, int]:
    if isinstance(choice, str):
        if choice not in Choice.__members__:
            raise _refusal(policy, context, f"chose {choice!r}", expected=CHOICES)
        choice = Choice[choice]
    if rule not in rules:
        if policy.rules:
            raise _refusal(policy, context, f"named the rule {rule!r}", expected="one of " + ", ".join(policy.rules))
        if len(rules) == MAX_RULES:
            raise _refusal(policy, context, "names more and more rules", expected=f"at most {MAX_RULES}")
        rules[rule] = len(rules)
    return int(choice), rules[rule]


def _refusal(policy: Policy, context: Context, found: str, *, expected: str = "") -> UsageError:
    bits = (
        context.nested * contexts.NESTED
        | context.nmi_text * contexts.NMI_TEXT
        | context.flag_if * contexts.IF
        | context.flag_tf * contexts.TF
        | context.flag_rf * contexts.RF
    )
    index = (context.vector * len(Target) + (Target.KERNEL if context.kernel_cs else Target.OTHER)) << SHIFT | bits
    return UsageError(f"policy {policy.name}", f"for {contexts.describe(index)} it {found}", expected=expected)
