"""What the abstract CPU of :mod:`iretrace.replay.machine` takes for granted, each by name.

The defaults are what the mail of May 2014 states, and what processor and kernel guarantee under every policy.
The others can be switched on; a default can be dropped. Every name reads as the sentence that is assumed.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Assumption(NamedTuple):
    """One thing the machine may take for granted.

    Attributes:
        name: as given to ``--assume`` and ``--drop``.
        default: held unless dropped.
        doc: what never happens while it is held.
        source: who says so.
    """

    name: str
    default: bool
    doc: str
    source: str


NO_CS_CHANGE: Final = "no-cs-change"
VALID_STACK: Final = "valid-stack"
NO_STI_IN_NMI: Final = "no-sti-in-nmi"
QUIET_MC_EDGES: Final = "quiet-mc-edges"
NO_DF_SS_IN_NMI: Final = "no-df-ss-in-nmi"
ONE_MC: Final = "one-mc"
NO_IST_REENTRY: Final = "no-ist-reentry"
NO_DB_IN_NMI_ENTRY: Final = "no-db-in-nmi-entry"
NO_DB_IN_NMI: Final = "no-db-in-nmi"
NO_DB_IN_MC: Final = "no-db-in-mc"
NO_DB_IN_GAP: Final = "no-db-in-gap"
NO_NM_IN_NMI: Final = "no-nm-in-nmi"
NO_STEP_IN_NMI_MC: Final = "no-step-in-nmi-mc"
NO_STEP: Final = "no-step"

ASSUMPTIONS: Final = (
    Assumption(
        name=NO_CS_CHANGE,
        default=True,
        doc="the NMI and #MC handlers never change CS",
        source="the mail's assumptions",
    ),
    Assumption(
        name=VALID_STACK,
        default=True,
        doc="they never run with an invalid stack",
        source="the mail's assumptions",
    ),
    Assumption(
        name=NO_STI_IN_NMI,
        default=True,
        doc="interrupts are never enabled with an NMI on the stack",
        source="the mail's assumptions",
    ),
    Assumption(
        name=QUIET_MC_EDGES,
        default=True,
        doc="no exception but NMI strikes the #MC handler before its counter went up or after it came down",
        source='the mail: "before doing anything that can cause an interrupt"; the way down read as its mirror',
    ),
    Assumption(
        name=NO_DF_SS_IN_NMI,
        default=True,
        doc="#DF and #SS do not strike an NMI handler and return",
        source="the mail's rule 4",
    ),
    Assumption(
        name=ONE_MC,
        default=True,
        doc="a #MC during a #MC shuts the machine down, to the last instruction",
        source="MCG_STATUS.MCIP",
    ),
    Assumption(
        name=NO_IST_REENTRY,
        default=True,
        doc="#DB, #BP, #DF, #NM and #SS do not strike while a frame of theirs is on their IST stack",
        source="Linux: shifted IST stacks until v5.8, DR7 cleared since",
    ),
    Assumption(
        name=NO_DB_IN_NMI_ENTRY,
        default=False,
        doc="#DB and #BP do not strike the NMI entry and exit code",
        source='the mail\'s "result"; Linux since v5.8 (noinstr)',
    ),
    Assumption(
        name=NO_DB_IN_NMI,
        default=False,
        doc="#DB and #BP do not strike while an NMI is on the stack",
        source="stronger than Linux since v5.8",
    ),
    Assumption(
        name=NO_DB_IN_MC,
        default=False,
        doc="#DB and #BP do not strike while a #MC is on the stack",
        source='for #DB, Linux commit cd840e424f27 ("x86/entry, mce: Disallow #DB during #MC") (in v5.8)',
    ),
    Assumption(
        name=NO_DB_IN_GAP,
        default=False,
        doc="#DB and #BP do not strike the SYSCALL gap",
        source="not true of #DB: POP SS; SYSCALL",
    ),
    Assumption(
        name=NO_NM_IN_NMI,
        default=False,
        doc="an NMI handler does not use the FPU",
        source="Linux: a bug if it does",
    ),
    Assumption(
        name=NO_STEP_IN_NMI_MC,
        default=False,
        doc="nothing that runs with an NMI or #MC on the stack is single-stepped or has an instruction breakpoint",
        source='Linux commits fd338e3564b0 ("x86/entry, nmi: Disable #DB") (in v5.8) and '
        '6256e668b7af ("x86/kprobes: Use int3 instead of debug trap for single-step") (in v5.13)',
    ),
    Assumption(
        name=NO_STEP,
        default=False,
        doc="no kernel code is single-stepped or has an instruction breakpoint",
        source="no kgdb, no hw_breakpoint",
    ),
)

BY_NAME: Final = {assumption.name: assumption for assumption in ASSUMPTIONS}
DEFAULT: Final = frozenset(assumption.name for assumption in ASSUMPTIONS if assumption.default)
