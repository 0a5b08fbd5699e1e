"""What the report says of the proposal: its rules in its own words and in plain ones.

Quotations: Andy Lutomirski, "[RFC] x86_64: A real proposal for iret-less return to kernel", LKML, 20 May 2014.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Rule(NamedTuple):
    """A rule of the mail."""

    number: str
    quote: str
    meaning: str


RULES: Final = {
    "target-cs": Rule(
        "1",
        "If the target CS is not the standard 64-bit kernel CPL0 selector, then never use RET.",
        "The trap interrupted user mode: only IRET can change privilege, so the return stays as it is.",
    ),
    "nmi": Rule(
        "must use IRET",
        "If we're returning from NMI, we IRET is mandatory: we need to unmask NMIs, and IRET is the only way to do "
        "that.",
        "While an NMI is handled the CPU holds back further NMIs. Only IRET lets them in again.",
    ),
    "nm": Rule("3", "If we are returning from #NM, then use IRET.", "#NM: the FPU was not available."),
    "df-ss": Rule(
        "4",
        "If we are returning from #DF or #SS, then use IRET.",
        "Double fault and stack fault: their saved stack may be broken, and nobody hurries back from them.",
    ),
    "db-bp": Rule(
        "5",
        "If we are returning from #DB or #BP, then use RET if nmi_mce_nest_count != 0 and IRET otherwise.",
        "A breakpoint hit inside an NMI must not return with IRET, or NMIs would be unmasked too early.",
    ),
    "mc": Rule(
        "6",
        "If we are returning from #MC, use IRET, unless the return address is to the NMI entry or exit code, in which "
        "case we use RET.",
        "A machine check that interrupted the very beginning or end of an NMI is treated as part of the NMI.",
    ),
    "non-ist": Rule(
        "2",
        "If we are returning from a non-IST interrupt, then use RET. Non-IST interrupts use the interrupted code's "
        "stack, so the stack is always valid.",
        "The usual case: a page fault, a timer or a device interrupted the kernel on its own stack. RET will do.",
    ),
    "erets": Rule("", "", "FRED goes back to the kernel, from every class of trap, with ERETS."),
    "eretu": Rule("", "", "FRED goes back to user mode with ERETU."),
    "always": Rule("", "", "Every return is made by IRET, as the kernel does today on an IDT."),
}

QUOTE_SLOW: Final = "IRET is very slow on all current (2014) CPUs -- it seems to take hundreds of cycles. RET is fast."
QUOTE_UNMASK: Final = "IRET unconditionally unmasks NMIs. RET never unmasks NMIs."
QUOTE_MUST: Final = "If there's an NMI on the stack, we must use RET until we're ready to re-enabled NMIs."

REPAIRS: Final = {
    "entry_without_exit_hook": "No hook sees exits of this class on this kernel: the return is judged at the entry.",
    "implied_exit": "The exit was not seen, but something that began earlier ended: the trap must have ended before.",
    "orphan_exit": "Only the exit was seen: the trap began before the recording, or its entry was lost.",
    "open_at_end": "The recording ended inside the trap.",
    "stack_overflow": "More traps were open on one CPU than can be: the oldest was given up.",
    "unknown_target": "Neither frame nor kernel stack told where the trap returns to; judged as not to the kernel.",
}
"""Meaning of :data:`iretrace.replay.engine.REPAIRS`."""

SEVERITIES: Final = {
    "broken": "the machine's state would be wrong afterwards",
    "risk": "it could go wrong from there",
    "observed": "the trace shows what the proposal assumes never happens",
}
"""Meaning of :attr:`iretrace.replay.hazards.Hazard.severity`."""

DECISIONS: Final = {
    "RET": "an ordinary return, possible only to the kernel",
    "IRET": "the slow return the kernel uses today",
    "ERETS": "FRED's return to the kernel",
    "ERETU": "FRED's return to user mode",
}
