"""States of the model checker's abstract CPU, the events between them, and what can be wrong with one.

Everything here is a tuple: a state is its own key in the search.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Final, NamedTuple

from iretrace.vectors import NMI, vector_name

if TYPE_CHECKING:
    from iretrace.replay.policies import Choice


class Region(IntEnum):
    """What a piece of code is: the first five are interrupted code, the others stages of a handler."""

    USER = 0
    GAP = 1
    KERNEL = 2
    KERNEL_OFF = 3
    KERNEL_STEP = 4
    ENTRY = 5
    BODY = 6
    BODY_IF = 7
    BODY_STEP = 8
    BODY_CS = 9
    BODY_STACK = 10
    EXIT = 11


class RegionFacts(NamedTuple):
    """What a trap saves, or could find, in a region.

    Attributes:
        text: for people; a handler's stage follows its name.
        kernel_cs: CS is the standard kernel selector.
        flag_if: RFLAGS.IF.
        flag_tf: RFLAGS.TF.
        stack: RSP points to a valid kernel stack.
    """

    text: str
    kernel_cs: bool = True
    flag_if: bool = False
    flag_tf: bool = False
    stack: bool = True


FACTS: Final = {
    Region.USER: RegionFacts("user code", kernel_cs=False, flag_if=True, stack=False),
    Region.GAP: RegionFacts("the SYSCALL gap", stack=False),
    Region.KERNEL: RegionFacts("kernel code, IF on", flag_if=True),
    Region.KERNEL_OFF: RegionFacts("kernel code, IF off"),
    Region.KERNEL_STEP: RegionFacts("single-stepped kernel code", flag_tf=True),
    Region.ENTRY: RegionFacts("entry"),
    Region.BODY: RegionFacts("body"),
    Region.BODY_IF: RegionFacts("body, IF on", flag_if=True),
    Region.BODY_STEP: RegionFacts("body, single-stepped", flag_tf=True),
    Region.BODY_CS: RegionFacts("body, other CS", kernel_cs=False),
    Region.BODY_STACK: RegionFacts("body, invalid stack", stack=False),
    Region.EXIT: RegionFacts("exit"),
}


class Frame(NamedTuple):
    """A trap on the stack.

    Attributes:
        vector: which.
        region: the stage its handler was in when it was interrupted, or is in.
        rf: RF is set in the image to restore.
        nested: the nest counter was nonzero before this handler's own exit changed it (in ``EXIT`` only).
    """

    vector: int
    region: Region
    rf: bool = False
    nested: bool = False


class State(NamedTuple):
    """The CPU, and what is on its stack.

    Attributes:
        base: the code under all the traps; ``None`` with nothing on the stack: any of it.
        frames: traps on the stack, the oldest first.
        blocked: NMIs are blocked.
        counter: the policy's nest counter.
    """

    base: Region | None = None
    frames: tuple[Frame, ...] = ()
    blocked: bool = False
    counter: int = 0


START: Final = State()
"""Nothing on the stack, NMIs open, the counter zero."""


class Step(NamedTuple):
    """One event.

    Attributes:
        vector: the trap that struck, or whose handler returned.
        where: the code struck or returned to: the vector of its handler, or ``None``, and the region.
        choice: the instruction that returned; ``None``: the trap struck.
        rule: the rule that chose it.
        rf: RF is set in the trap's image.
        hazards: names of :data:`HAZARDS` met.
        state: after the event.
    """

    vector: int
    where: tuple[int | None, Region]
    choice: Choice | None
    rule: str
    rf: bool
    hazards: tuple[str, ...]
    state: State


HAZARDS: Final = {
    "iret-in-nmi": "IRET with an NMI still on the stack: NMIs are unmasked and can nest",
    "nmi-nested": "an NMI overwrites the frame of an NMI on the stack",
    "nmi-masked": "no NMI is on the stack, and NMIs stay blocked until some later IRET",
    "ret-invalid-stack": "RET to kernel code whose stack is not valid: the SYSCALL gap",
    "ret-other-cs": "RET to user code or another CS: it cannot change CS",
    "ret-tf": "RET with TF to restore: POPF; RET traps before the target instruction, not after it",
    "ret-rf": "RET with RF to restore: POPF clears RF, and an instruction breakpoint strikes again",
    "if-in-nmi": "a return into code that runs with IF on and an NMI on the stack",
    "cs-changed-in-nmi": "a return into code with another CS and an NMI on the stack",
    "ist-overwritten": "a trap overwrites a frame on its own IST stack (the NMI's apart)",
}
"""What the checker looks for, by the names the replay uses; ``ist-overwritten`` a trace cannot show."""

FATAL: Final = frozenset({"nmi-nested", "ret-invalid-stack", "ret-other-cs", "ist-overwritten"})
"""Hazards after which the machine is not followed any further: memory is corrupt."""


def region_at(state: State, index: int) -> Region:
    """Region of the frame at ``index`` from the end (-1: the running code), or of the code under all of them."""
    region = state.frames[index].region if len(state.frames) >= -index else state.base
    assert region is not None  # noqa: S101 - for the type checker: code under a frame has a region
    return region


def under(state: State) -> Region:
    """Region of the code the top handler interrupted: where its return goes."""
    return region_at(state, -2)


def where(state: State, index: int = -1) -> tuple[int | None, Region]:
    """Vector (``None``: no handler) and region at ``index`` from the end, as :func:`region_at` counts."""
    vector = state.frames[index].vector if len(state.frames) >= -index else None
    return vector, region_at(state, index)


def in_nmi_text(state: State, index: int) -> bool:
    """Whether the code at ``index`` from the end is the NMI entry or exit code."""
    vector, region = where(state, index)
    return vector == NMI and region in (Region.ENTRY, Region.EXIT)


def place_text(vector: int | None, region: Region) -> str:
    """A place as people write it: ``user code``, ``NMI body``."""
    text = FACTS[region].text
    return text if vector is None else f"{vector_name(vector)} {text}"
