"""What the mail of May 2014 takes for granted and a trace can show to be otherwise: the one list.

Names are those of :mod:`iretrace.replay.assumptions` where the model checker takes the same for granted, so that
``iretrace verify --drop NAME`` tells what a violation opens. How a trace is looked at: :mod:`iretrace.replay.observe`.

"On the stack" is read as on the *target* stack, as the review asks: a trap does not lie on its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from iretrace.replay import assumptions
from iretrace.replay.contexts import Target
from iretrace.replay.engine import End
from iretrace.replay.policies import MAIL_IST
from iretrace.vectors import BP, DB, DF, MC, NMI, PF, SS

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Mask = NDArray[np.bool_]

N_EXCEPTIONS: Final = 32
_INT80: Final = 0x80

IST_LIST: Final = "ist-list"
QUIET_NMI_EDGES: Final = "quiet-nmi-edges"


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What is known of the returns of a batch; arrays have shape ``(n,)``.

    Attributes:
        slot: uint16, vector or :data:`~iretrace.replay.policies.DEVICE`.
        target: uint8, a :class:`~iretrace.replay.contexts.Target`.
        end: uint8, a :class:`~iretrace.replay.engine.End`.
        in_nmi: an NMI is open below.
        in_mc: a #MC is open below.
        flags_seen: the saved RFLAGS are known.
        place_seen: the saved RIP and RSP are known.
        flag_if: RFLAGS.IF of the target.
        user_sp: the target is kernel code on a stack pointer of the user half.
        nmi_text: the return address lies in the NMI entry or exit code.
        count: uint16, the mail's ``nmi_mce_nest_count`` as the return is judged by it.
    """

    slot: NDArray[np.uint16]
    target: NDArray[np.uint8]
    end: NDArray[np.uint8]
    in_nmi: Mask
    in_mc: Mask
    flags_seen: Mask
    place_seen: Mask
    flag_if: Mask
    user_sp: Mask
    nmi_text: Mask
    count: NDArray[np.uint16]

    @property
    def inside(self) -> Mask:
        """An NMI or #MC is open below."""
        return self.in_nmi | self.in_mc

    @property
    def was_open(self) -> Mask:
        """The trap was on the stack for a while: its entry was seen, and its class has exits."""
        return np.not_equal(self.end, End.ORPHAN) & np.not_equal(self.end, End.NO_HOOK)

    def of(self, *vectors: int) -> Mask:
        """The trap is one of these."""
        return np.isin(self.slot, vectors)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One thing that the mail takes for granted.

    Attributes:
        name: stable identifier.
        sentence: the mail's own words.
        observed: how a trace shows it, for people: what counts as an opportunity, and what as a violation.
        test: from what is known of returns to (could have violated it, violated it); ``None`` where it is
            not a matter of returns.
        within: traps inside which it is about; empty: about all.
        needs: what a return inside them must show, for people.
        watch: vectors that must be recorded for it to be seen violated.
        never: why no trace can show it; empty: one can.
    """

    name: str
    sentence: str
    observed: str
    test: Callable[[Seen], tuple[Mask, Mask]] | None = None
    within: tuple[int, ...] = ()
    needs: str = ""
    watch: tuple[int, ...] = ()
    never: str = ""


def _cs_changed(seen: Seen) -> tuple[Mask, Mask]:
    known = seen.inside & (seen.target != Target.UNKNOWN)
    return known, known & (seen.target == Target.OTHER)


def _other_cs_in_nmi(seen: Seen) -> tuple[Mask, Mask]:
    known = seen.in_nmi & (seen.target != Target.UNKNOWN)
    return known, known & (seen.target == Target.OTHER)


def _invalid_stack(seen: Seen) -> tuple[Mask, Mask]:
    wrong = seen.inside & seen.user_sp
    return wrong | (seen.inside & seen.place_seen & (seen.target == Target.KERNEL)), wrong


def _interrupts_on(seen: Seen) -> tuple[Mask, Mask]:
    flags = seen.in_nmi & seen.flags_seen & (seen.target != Target.OTHER)
    # A maskable interrupt that strikes proves IF, whatever is known of the frame.
    maskable = seen.in_nmi & (seen.slot >= N_EXCEPTIONS) & (seen.slot != _INT80)
    return flags | maskable, (flags & seen.flag_if) | maskable


def _df_ss_in_nmi(seen: Seen) -> tuple[Mask, Mask]:
    # "or, at the very least, if they do happen, then they are not recoverable": one that never returned is as it says.
    struck = seen.in_nmi & seen.of(DF, SS) & (seen.end != End.OPEN)
    return (seen.of(NMI) & seen.was_open) | struck, struck


def _counted_nothing(seen: Seen) -> tuple[Mask, Mask]:
    on_stack = seen.inside | (seen.of(NMI, MC) & seen.was_open)
    wrong = on_stack & (seen.end != End.OVERFLOW) & (seen.count == 0)
    return seen.inside | wrong, wrong


def _nmi_edges(seen: Seen) -> tuple[Mask, Mask]:
    wrong = seen.nmi_text & ~seen.of(MC)
    return seen.of(NMI) | seen.nmi_text, wrong


def _non_ist_stack(seen: Seen) -> tuple[Mask, Mask]:
    ordinary = ~seen.of(*MAIL_IST, NMI) & (seen.target == Target.KERNEL)
    return ordinary & (seen.place_seen | seen.user_sp), ordinary & seen.user_sp


CLAIMS: Final = (
    Claim(
        name=assumptions.NO_CS_CHANGE,
        sentence="Neither the NMI, the MCE handler, nor anything that nests inside them will ever change CS",
        observed="returns inside an NMI or #MC whose target is known; violated where it is not the kernel's CS",
        test=_cs_changed,
        within=(NMI, MC),
        needs="where it returns to",
    ),
    Claim(
        name=assumptions.VALID_STACK,
        sentence="... or run with an invalid stack.",
        observed="returns to kernel code inside an NMI or #MC whose stack pointer is known; violated where it lies in "
        "the user half (a stack pointer of the kernel half passes, valid or not)",
        test=_invalid_stack,
        within=(NMI, MC),
        needs="a saved stack pointer",
    ),
    Claim(
        name=assumptions.NO_STI_IN_NMI,
        sentence="Interrupts will never be enabled with an NMI on the stack",
        observed="returns inside an NMI whose flags are known, and maskable interrupts there; violated by IF and by "
        "every maskable interrupt",
        test=_interrupts_on,
        within=(NMI,),
        needs="saved flags",
    ),
    Claim(
        name="gs-unknown",
        sentence="We explicitly do not assume that we can reliably determine whether we were on user GS or kernel GS",
        observed="not at all",
        never="it is the absence of an assumption: no rule asks for GS, and no hook records it",
    ),
    Claim(
        name=IST_LIST,
        sentence="The IST interrupts are: #DB #BP #NM #DF #SS, and #MC.",
        observed="gates of the recorded IDT, the NMI's apart; violated by each that has an IST stack and is not in the "
        "list, or is in the list and has none",
    ),
    Claim(
        name="count-nonzero",
        sentence="nmi_mce_nest_count ... is nonzero whenever an NMI or MCE is on the stack.",
        observed="returns inside an NMI or #MC; violated where the counter of rfc2014, which an NMI's end clears, is 0 "
        "there, or at the return of an NMI or #MC that was counted",
        test=_counted_nothing,
        within=(NMI, MC),
    ),
    Claim(
        name=assumptions.QUIET_MC_EDGES,
        sentence="We will also increment it in do_machine_check before doing anything that can cause an interrupt.",
        observed="not at all",
        never="no hook sees where do_machine_check begins and ends",
    ),
    Claim(
        name=QUIET_NMI_EDGES,
        sentence="the only interrupt that can happen with nmi_mce_nest_count == 0 in NMI context is an MCE at the "
        "beginning or end of the NMI handler.",
        observed="NMIs, and whatever returns to the NMI entry or exit code; violated by each of the latter that is not "
        "a #MC",
        test=_nmi_edges,
        watch=(DB, BP, PF),
    ),
    Claim(
        name="no-other-cs-in-nmi",
        sentence="If the target CS is not the standard 64-bit kernel CPL0 selector, then never use RET. This is safe: "
        "this will never happen with an NMI on the stack.",
        observed="returns inside an NMI whose target is known; violated where it is not the kernel's CS",
        test=_other_cs_in_nmi,
        within=(NMI,),
        needs="where it returns to",
    ),
    Claim(
        name="non-ist-stack",
        sentence="Non-IST interrupts use the interrupted code's stack, so the stack is always valid.",
        observed="returns to kernel code from vectors that are not in the mail's list, whose stack pointer is known; "
        "violated where it lies in the user half (the SYSCALL gap)",
        test=_non_ist_stack,
    ),
    Claim(
        name=assumptions.NO_DF_SS_IN_NMI,
        sentence="[#DF and #SS] cannot occur inside an NMI, or, at the very least, if they do happen, then they are "
        "not recoverable.",
        observed="NMIs whose inside is seen; violated by each #DF or #SS inside one after which the trace goes on",
        test=_df_ss_in_nmi,
        within=(NMI,),
        watch=(DF, SS),
    ),
)

BY_NAME: Final = {claim.name: claim for claim in CLAIMS}
