"""``rfc2014-fixed``: the mail's rules, changed as little as the model checker allows.

What changes, and why (``docs/verify.md`` has the counterexamples that ask for each):

* ``nested`` (new, of every vector): with an NMI or a #MC on the *target* stack, RET. The mail asks this of #DB and
  #BP alone, so a #MC or #NM in the body of an NMI returned with IRET.
* ``nmi-text`` (new, of every vector): the exception of the mail's rule 6. Nothing but #MC should get there, but
  where something does, IRET is wrong for it too.
* ``flags`` (new): RET cannot restore RF, and POPF; RET traps one instruction early with TF.
* The counter is the mail's, read as the review asks: a return is judged by what lies on the target stack, its own
  trap taken out. With its own #MC in the count, no rule can tell the body of an NMI from the SYSCALL gap.

Rules named as in the mail keep their meaning; of ``db-bp`` and ``mc`` the half is left that says IRET.
"""

from __future__ import annotations

from typing import Final

from iretrace.replay.policies import Choice, Context, NestCounter, Policy
from iretrace.vectors import BP, DB, DF, MC, NM, NMI, SS

ASSUMES: Final = frozenset({"no-db-in-nmi-entry", "no-step-in-nmi-mc"})
"""Assumptions (:mod:`iretrace.replay.assumptions`) under which the checker finds nothing, and without either of
which no policy over :class:`~iretrace.replay.policies.Context` is safe."""


def _fixed(context: Context) -> tuple[Choice, str]:  # noqa: PLR0911 - one return a rule
    vector = context.vector
    if not context.kernel_cs:
        return Choice.IRET, "target-cs"
    if vector == NMI:
        return Choice.IRET, "nmi"
    if context.nested:
        return Choice.RET, "nested"
    if context.nmi_text:
        return Choice.RET, "nmi-text"
    if context.flag_tf or context.flag_rf:
        return Choice.IRET, "flags"
    if vector == NM:
        return Choice.IRET, "nm"
    if vector in (DF, SS):
        return Choice.IRET, "df-ss"
    if vector in (DB, BP):
        return Choice.IRET, "db-bp"
    if vector == MC:
        return Choice.IRET, "mc"
    return Choice.RET, "non-ist"


RFC2014_FIXED: Final = Policy(
    name="rfc2014-fixed",
    doc="The mail's rules, changed as little as the model checker allows.",
    rules=("target-cs", "nmi", "nested", "nmi-text", "flags", "nm", "df-ss", "db-bp", "mc", "non-ist"),
    decide=_fixed,
    counter=NestCounter(up=frozenset({NMI, MC}), down=frozenset({MC}), clear=frozenset({NMI}), count_self=False),
)
