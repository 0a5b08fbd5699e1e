"""Counterexamples told: as text, as the rows of a timeline, as JSON, and as the events of a trace.

Nothing here prints.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from iretrace.replay.states import FACTS, Region, State, Step, place_text, under
from iretrace.vectors import DB, NMI, vector_name

if TYPE_CHECKING:
    from iretrace.replay.checker import Violation
    from iretrace.replay.machine import Machine
    from iretrace.replay.policies import Context

KERNEL_CS: Final = 0x10
USER_CS: Final = 0x33
OTHER_CS: Final = 0x18

NMI_TEXT: Final = (0xFFFF_FFFF_81C0_1000, 0xFFFF_FFFF_81C0_2000)
"""Half-open range that stands for the NMI entry and exit code in :func:`to_events`."""

_GAP_IP: Final = 0xFFFF_FFFF_81C0_0000
_BODY_IP: Final = 0xFFFF_FFFF_8100_0000
_USER_IP: Final = 0x0000_0000_0040_1000
_USER_SP: Final = 0x0000_7FFF_FFFF_E000
_KERNEL_SP: Final = 0xFFFF_C900_0000_4000
_IST_SP: Final = 0xFFFF_FE00_0001_0000

_BASES: Final = {
    Region.USER: "user",
    Region.GAP: "SYSCALL gap",
    Region.KERNEL: "kernel",
    Region.KERNEL_OFF: "kernel, IF off",
    Region.KERNEL_STEP: "kernel, TF",
}

_STAGES: Final = {
    Region.ENTRY: "entry",
    Region.BODY: "body",
    Region.BODY_IF: "body, IF",
    Region.BODY_STEP: "body, TF",
    Region.BODY_CS: "body, CS",
    Region.BODY_STACK: "body, SP",
    Region.EXIT: "exit",
}


class Row(NamedTuple):
    """One line of a timeline.

    Attributes:
        event: what happened.
        stack: the code under all the traps, and the traps on it, the oldest first, each with where it was struck.
        running: what runs after it.
        nmi: ``blocked`` or ``open``.
        counter: the nest counter.
        hazards: hazards met.
    """

    event: str
    stack: tuple[str, ...]
    running: str
    nmi: str
    counter: int
    hazards: tuple[str, ...]


def event_text(step: Step) -> str:
    """An event in words: ``#MC strikes NMI body``, ``IRET from #MC to NMI body (rule mc)``."""
    name, place = vector_name(step.vector), place_text(*step.where)
    if step.choice is not None:
        rule = f" (rule {step.rule})" if step.rule else ""
        return f"{step.choice.name} from {name} to {place}{rule}"
    what = f"{name} (instruction breakpoint)" if step.vector == DB and step.rf else name
    return f"{what} strikes {place}"


def sentence(violation: Violation) -> str:
    """A counterexample in one line."""
    return "; ".join(event_text(step) for _, step in violation.path)


def context_text(context: Context) -> str:
    """A context as a policy sees it: ``#MC to the kernel, nested``."""
    parts = {
        "nested": context.nested,
        "NMI text": context.nmi_text,
        "IF": context.flag_if,
        "TF": context.flag_tf,
        "RF": context.flag_rf,
    }
    target = "the kernel" if context.kernel_cs else "another CS"
    return ", ".join(
        [
            f"{vector_name(context.vector)} to {target}",
            *(name if held else f"no {name}" for name, held in parts.items()),
        ]
    )


def rows(violation: Violation) -> list[Row]:
    """A counterexample as a timeline, one row an event."""
    return [
        Row(
            event=event_text(step),
            stack=_stack(step),
            running=_running(step),
            nmi="blocked" if step.state.blocked else "open",
            counter=step.state.counter,
            hazards=step.hazards,
        )
        for _, step in violation.path
    ]


def to_json(violation: Violation, machine: Machine) -> dict[str, Any]:
    """A counterexample as JSON: the hazard, and the events, each with the state after it.

    A state has ``running`` (what runs), ``flag_if`` (RFLAGS.IF there), ``nmi_blocked``, ``nest_count``, and
    ``frames``, the oldest first: ``vector``, ``name``, ``returns_to``, and ``stack``, the stack the frame lies on.
    """
    return {
        "hazard": violation.hazard,
        "steps": [{"event": event_text(step), "state": _state(step, machine)} for _, step in violation.path],
    }


def _state(step: Step, machine: Machine) -> dict[str, Any]:
    state = step.state
    region = state.frames[-1].region if state.frames else step.where[1]
    frames = []
    for i, frame in enumerate(state.frames):
        below = State(state.base, state.frames[: i + 1])
        handler = state.frames[i - 1].vector if i else None
        frames.append(
            {
                "vector": frame.vector,
                "name": vector_name(frame.vector),
                "returns_to": place_text(handler, under(below)),
                "stack": _stack_name(state, i, machine),
            }
        )
    return {
        "running": _running(step),
        "flag_if": FACTS[region].flag_if,
        "nmi_blocked": state.blocked,
        "nest_count": state.counter,
        "frames": frames,
    }


def _running(step: Step) -> str:
    if step.state.frames:
        top = step.state.frames[-1]
        return place_text(top.vector, top.region)
    return place_text(*step.where)


def _stack(step: Step) -> tuple[str, ...]:
    base, frames = step.state.base, step.state.frames
    below = [f"{vector_name(frame.vector)} {_STAGES[frame.region]}" for frame in frames[:-1]]
    top = [vector_name(frame.vector) for frame in frames[-1:]]
    return (_BASES[base if base is not None else step.where[1]], *below, *top)


def _stack_name(state: State, index: int, machine: Machine) -> str:
    """The stack that the frame at ``index`` (from the start) lies on."""
    vector = state.frames[index].vector
    if vector in machine.ist and not machine.fred:
        return f"IST {vector_name(vector)}"
    return "kernel" if index == 0 else _stack_name(state, index - 1, machine)


def to_events(violation: Violation, machine: Machine) -> list[dict[str, Any]]:
    """A counterexample as the events of a trace, so that a replay can show the same hazard.

    What is still on the stack at the end returns in order. A replay counts an NMI from its entry to its exit: a
    hazard that needs the instructions before the counter goes up, it cannot show.

    Returns:
        One dict an event, with every column of :data:`iretrace.schema.EVENT_COLUMNS`, by TSC, on CPU 0. The NMI
        entry and exit code lies in :data:`NMI_TEXT`, the kernel's CS is :data:`KERNEL_CS`.
    """
    events: list[dict[str, Any]] = []

    def add(phase: str, state: State) -> None:
        events.append(_event(1000 * (1 + len(events)), phase, state, machine))

    last = State()
    for point, step in violation.path:
        # The frame that an exit restores is that of the point; the one that an entry saves is new on the stack.
        last = step.state
        if step.choice is None:
            add("entry", last)
        else:
            add("exit", point)
    for depth in range(len(last.frames), 0, -1):
        add("exit", State(last.base, last.frames[:depth]))
    return events


def _event(tsc: int, phase: str, state: State, machine: Machine) -> dict[str, Any]:
    """The entry or exit of the top frame of ``state``."""
    frame = state.frames[-1]
    handler = state.frames[-2].vector if len(state.frames) > 1 else None
    region = under(state)
    facts = FACTS[region]
    cs = USER_CS if region is Region.USER else KERNEL_CS if facts.kernel_cs else OTHER_CS
    return {
        "tsc": tsc,
        "cpu": 0,
        "phase": phase,
        "vector": frame.vector,
        "irq": None,
        "hook": "verify",
        "cs": cs,
        "ip": _ip(handler, region),
        "flags": 0x2 | facts.flag_tf << 8 | facts.flag_if << 9 | frame.rf << 16,
        "sp": _sp(state, region, machine),
        "error_code": None,
        "to_kernel": region is not Region.USER,
        "pid": 1,
    }


def _ip(handler: int | None, region: Region) -> int:
    if region is Region.USER:
        return _USER_IP
    if region is Region.GAP:
        return _GAP_IP
    if handler == NMI and region in (Region.ENTRY, Region.EXIT):
        return NMI_TEXT[0] + (0x10 if region is Region.ENTRY else 0xF00)
    return _BODY_IP + ((handler or 0) << 12) + int(region)


def _sp(state: State, region: Region, machine: Machine) -> int:
    """The stack pointer of the code that the top frame interrupted."""
    depth = len(state.frames) - 1
    if region in (Region.USER, Region.GAP, Region.BODY_STACK):
        return _USER_SP
    name = _stack_name(state, depth - 1, machine) if depth else "kernel"
    top = _KERNEL_SP
    if name != "kernel":
        vector = next(frame.vector for frame in state.frames if name == f"IST {vector_name(frame.vector)}")
        top = _IST_SP + 0x2000 * vector
    return top - 0x100 * (depth + 1)
