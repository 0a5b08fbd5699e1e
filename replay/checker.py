"""The model checker: every sequence of nested traps to a depth, and the shortest one to each hazard.

Breadth first over hashable states, so the first sequence found is a shortest one. The *depth* is the number of
events in a sequence: traps delivered plus handlers returned (:mod:`iretrace.replay.machine`). Where no new state
turns up before the depth is reached, the search was exhaustive for sequences of any length.

A second question has the same machinery: is there a context in which no choice is safe? As long as every choice so
far was safe, which safe choice it was makes no difference to the state: with an NMI on the stack it must be RET,
and else NMIs are open already. So the states that safe policies reach are the same for all of them (for one nest
counter), every return in them forbids RET or IRET or neither, and a context in which one sequence forbids RET and
another forbids IRET is beyond any policy that sees no more than the context.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from iretrace.errors import UsageError
from iretrace.replay.machine import Cpu, Machine
from iretrace.replay.policies import Choice, Context, Policy
from iretrace.replay.states import FATAL, START, Region, State, Step
from iretrace.vectors import NMI

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

MAX_DEPTH: Final = 64
"""Deeper searches are refused; all states of the default machine are found long before."""

_CHOSEN: Final = frozenset({"iret-in-nmi", "nmi-masked", "ret-invalid-stack", "ret-other-cs", "ret-tf", "ret-rf"})
"""Hazards that the choice of the return brings about; the others come of the machine."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Violation:
    """The shortest sequence of events that ends in a hazard.

    Attributes:
        hazard: name in :data:`iretrace.replay.states.HAZARDS`.
        path: the events, each with the point at which it came.
    """

    hazard: str
    path: tuple[tuple[State, Step], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What a search found.

    Attributes:
        policy: the policy checked.
        machine: the machine it ran on.
        depth: events in the longest sequences explored.
        states: number of different states reached, the start among them, those with corrupt memory not.
        complete: no sequence of any length reaches another state.
        violations: one a hazard (or a hazard and rule), the shortest first.
    """

    policy: Policy
    machine: Machine
    depth: int
    states: int
    complete: bool
    violations: tuple[Violation, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Conflict:
    """A context in which no choice is safe.

    Attributes:
        context: what the policy sees.
        gap: the return goes to the SYSCALL gap; ``None``: not looked at.
        ret: a sequence in which RET would be wrong; its last step makes it.
        iret: a sequence in which IRET would be wrong; its last step makes it.
    """

    context: Context
    gap: bool | None
    ret: Violation
    iret: Violation


def machine_for(policy: Policy, machine: Machine) -> Machine:
    """The machine, with FRED delivering its events if the policy returns with ERETS or ERETU to the kernel."""
    choice, _ = Cpu(machine, policy).decide(Context(vector=NMI, ist=NMI in machine.ist, kernel_cs=True))
    return replace(machine, fred=choice in (Choice.ERETS, Choice.ERETU))


def explore(policy: Policy, depth: int, machine: Machine | None = None, *, by_rule: bool = False) -> Result:
    """Explore every sequence of at most ``depth`` events.

    Args:
        policy: chooses the returns.
        depth: 1 to :data:`MAX_DEPTH`.
        machine: default: the mail's assumptions and IDT; FRED's where the policy is FRED's.
        by_rule: look for the shortest sequence to each hazard by each rule.

    Raises:
        UsageError: the depth is out of range.
    """
    cpu = Cpu(machine_for(policy, machine or Machine()), policy)
    search = _Search(cpu.steps, depth)
    found: dict[tuple[str, str], Violation] = {}
    for state, point, step in search.run():
        for hazard in step.hazards:
            key = (hazard, step.rule if by_rule else "")
            if key not in found:
                found[key] = Violation(hazard=hazard, path=search.path(state, point, step))
    return Result(
        policy=policy,
        machine=cpu.machine,
        depth=depth,
        states=len(search.parents),
        complete=search.complete,
        violations=tuple(found.values()),
    )


def conflicts(
    policy: Policy, depth: int, machine: Machine | None = None, *, sees_gap: bool = False
) -> tuple[Conflict, ...]:
    """Contexts in which neither RET nor IRET is safe, whatever the policy's rules: only its counter matters.

    Args:
        policy: whose nest counter is used.
        depth: 1 to :data:`MAX_DEPTH`.
        machine: as for :func:`explore`; FRED's has no conflict, and none is looked for.
        sees_gap: suppose a policy could also see that the return goes to the SYSCALL gap.

    Raises:
        UsageError: the depth is out of range.
    """
    cpu = Cpu(machine_for(policy, machine or Machine()), policy)
    if cpu.machine.fred:
        return ()
    search = _Search(lambda state: _safe_steps(cpu, state), depth)
    wrong: dict[tuple[Context, bool | None], dict[Choice, Violation]] = {}
    for state, point, step in search.run():
        if step.choice is None:
            continue
        context = cpu.context(point)
        if context is None:  # pragma: no cover - a return has a context
            continue
        verdicts = wrong.setdefault((context, step.where[1] is Region.GAP if sees_gap else None), {})
        for choice in (Choice.RET, Choice.IRET):
            if choice not in verdicts:
                tried = cpu.leave(point, choice)
                hazard = next((hazard for hazard in tried.hazards if hazard in _CHOSEN), None)
                if hazard is not None:
                    verdicts[choice] = Violation(hazard=hazard, path=search.path(state, point, tried))
    return tuple(
        Conflict(context=context, gap=gap, ret=verdicts[Choice.RET], iret=verdicts[Choice.IRET])
        for (context, gap), verdicts in wrong.items()
        if len(verdicts) == 2
    )


def _safe_steps(cpu: Cpu, state: State) -> Iterator[tuple[State, Step]]:
    """What may come next where every return is the one that keeps the NMI mask right."""
    for point in cpu.points(state):
        for vector, rf in cpu.strikes(point):
            yield point, cpu.strike(point, vector, rf=rf)
        if cpu.context(point) is not None:
            below = any(frame.vector == NMI for frame in point.frames[:-1])
            step = cpu.leave(point, Choice.RET if below else Choice.IRET)
            # RET to a frame with flags to restore is wrong too, but the mask comes first: memory stays whole.
            yield point, step


class _Search:
    """Breadth first search from the start.

    Attributes:
        parents: each state reached, and the one before it.
        complete: no state was left to explore.
    """

    def __init__(self, steps: Callable[[State], Iterable[tuple[State, Step]]], depth: int) -> None:
        if not 1 <= depth <= MAX_DEPTH:
            raise UsageError(f"--depth {depth}", "out of range", expected=f"1 to {MAX_DEPTH} events")
        self._steps = steps
        self._depth = depth
        self.parents: dict[State, State | None] = {START: None}
        self.complete = False

    def run(self) -> Iterator[tuple[State, State, Step]]:
        """Yield every event: the state before, the point at which it came, and the event."""
        level = [START]
        for _ in range(self._depth):
            following = []
            for state in level:
                for point, step in self._steps(state):
                    yield state, point, step
                    after = step.state
                    if after not in self.parents and FATAL.isdisjoint(step.hazards):
                        self.parents[after] = state
                        following.append(after)
            level = following
        # Exhaustive if one more event from the last level brings nothing new.
        self.complete = all(
            step.state in self.parents or not FATAL.isdisjoint(step.hazards)
            for state in level
            for _, step in self._steps(state)
        )

    def path(self, state: State, point: State, step: Step) -> tuple[tuple[State, Step], ...]:
        """The events from the start to one that :meth:`run` gave."""
        path = [(point, step)]
        while (before := self.parents[state]) is not None:
            path.append(
                next(
                    pair for pair in self._steps(before) if pair[1].state == state and FATAL.isdisjoint(pair[1].hazards)
                )
            )
            state = before
        return tuple(reversed(path))
