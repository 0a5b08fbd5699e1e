"""The abstract CPU of the model checker: what runs, what lies on the stack, the NMI mask and the nest counter.

A state moves by *events*: a trap strikes, or a handler returns. Between two events the code that runs may run on
for as long as it likes — user code into the SYSCALL gap and on into the kernel, a handler from its entry code past
the moment its counter goes up and on to its exit — so an event strikes at every *point* the code can reach.
Running on is not an event and does not count in a depth.

Sources: Intel SDM vol. 3A 6.7.1 (NMIs are blocked from their delivery to the next IRET, whichever it is), 6.14.5
(IST), vol. 3B "Instruction-Breakpoint Exception Condition" (RF in the image that a fault saves) and
"IA32_MCG_STATUS MSR" (a #MC with MCIP set shuts down); Intel's FRED specification (NMIs unblock by the NMI bit of the
frame that ERETS or ERETU pops). What is taken for granted has a name in :mod:`iretrace.replay.assumptions`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from iretrace.errors import UsageError
from iretrace.replay import assumptions as a
from iretrace.replay.policies import MAIL_IST, Choice, Context, Policy
from iretrace.replay.states import FACTS, Frame, Region, RegionFacts, State, Step, in_nmi_text, under, where
from iretrace.vectors import BP, DB, DF, MC, NM, NMI, PF, SS

if TYPE_CHECKING:
    from collections.abc import Iterator

TIMER: Final = 0xEC
"""Stands for every device and system interrupt: maskable, no IST stack."""

TRAPS: Final = (NMI, MC, DB, BP, PF, TIMER, NM, SS, DF)
"""The traps the machine knows, in the order in which they are tried."""

IDTS: Final = {"mail": MAIL_IST | {NMI}, "linux-6.18": frozenset({DB, NMI, DF, MC})}
"""Vectors with an IST stack: as the mail lists them, and as read from a live Linux 6.18."""

FAULTS: Final = frozenset({PF, NM, SS})
"""Exceptions whose saved image has RF set (#DB by an instruction breakpoint apart, whose handler sets it)."""

_BODIES: Final = (Region.BODY, Region.BODY_IF, Region.BODY_STEP, Region.BODY_CS, Region.BODY_STACK)


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """What the abstract CPU is like.

    Attributes:
        assume: names of :mod:`iretrace.replay.assumptions` that hold.
        ist: vectors with an IST stack.
        traps: vectors that may strike.
        live: how many frames a vector may have on the stack at once (NMI and #MC apart).
        fred: events are delivered by FRED: no SYSCALL gap, stack levels instead of IST.
    """

    assume: frozenset[str] = a.DEFAULT
    ist: frozenset[int] = IDTS["mail"]
    traps: tuple[int, ...] = TRAPS
    live: int = 1
    fred: bool = False


class Cpu:
    """A machine that runs under a policy: what may happen next, and what is wrong with it.

    Args:
        machine: what the CPU is like.
        policy: chooses the returns.
    """

    def __init__(self, machine: Machine, policy: Policy) -> None:
        self.machine = machine
        self.policy = policy
        counter = policy.counter
        self._staged = frozenset({NMI, MC}) | counter.up | counter.down | counter.clear
        self._decided: dict[tuple[object, ...], tuple[Choice, str]] = {}
        self._strikes: dict[tuple[object, ...], tuple[tuple[int, bool], ...]] = {}
        assume = machine.assume
        self._bases = tuple(
            region
            for region in (Region.USER, Region.GAP, Region.KERNEL, Region.KERNEL_OFF, Region.KERNEL_STEP)
            if not (region is Region.GAP and machine.fred)
            and not (region is Region.KERNEL_STEP and a.NO_STEP in assume)
        )
        odd = [
            region
            for name, region in ((a.NO_CS_CHANGE, Region.BODY_CS), (a.VALID_STACK, Region.BODY_STACK))
            if name not in assume
        ]
        nmi = [Region.BODY, *odd]
        if not assume & {a.NO_STEP, a.NO_STEP_IN_NMI_MC}:
            nmi.append(Region.BODY_STEP)
        if a.NO_STI_IN_NMI not in assume:
            nmi.append(Region.BODY_IF)
        self._bodies = {NMI: tuple(nmi), MC: (Region.BODY, *odd), PF: (Region.BODY, Region.BODY_IF)}

    # Running on

    def points(self, state: State) -> Iterator[State]:
        """The state at every point its running code can reach without an event, bodies of handlers first."""
        base, frames, blocked, counter = state
        if not frames:
            for region in self._bases:
                yield State(region, (), blocked, counter)
            return
        below = frames[:-1]
        vector, region, rf, _ = frames[-1]
        if region is Region.EXIT:
            yield state
            return
        counted = counter + (vector in self.policy.counter.up) if region is Region.ENTRY else counter
        for body in self._bodies.get(vector, (Region.BODY,)):
            # A #PF handler enables interrupts where the code it interrupted had them on, and nowhere else.
            if vector != PF or body is Region.BODY or FACTS[under(state)].flag_if:
                yield State(base, (*below, Frame(vector, body, rf)), blocked, counted)
        if region is Region.ENTRY:
            yield state
        if vector in self._staged:
            # What the return will be judged by is what the counter was before this exit changed it.
            nested = self._nested(vector, counted)
            after = self._down(vector, counted)
            yield State(base, (*below, Frame(vector, Region.EXIT, rf, nested)), blocked, after)

    def _down(self, vector: int, counter: int) -> int:
        if vector in self.policy.counter.clear:
            return 0
        return max(0, counter - (vector in self.policy.counter.down))

    def _nested(self, vector: int, counter: int) -> bool:
        own = vector in self.policy.counter.up and not self.policy.counter.count_self
        return counter > own

    # Traps

    def strikes(self, point: State) -> tuple[tuple[int, bool], ...]:
        """Traps that may strike at a point: vector, and whether its image has RF set."""
        frames = point.frames
        top = frames[-1].vector if frames else None
        region = frames[-1].region if frames else point.base
        live = tuple(sorted([frame.vector for frame in frames])) if len(frames) > 1 else None
        key = (top, region, live, point.blocked)
        found = self._strikes.get(key)
        if found is None:
            assert region is not None  # noqa: S101 - a point has a region: for the type checker
            vectors = [frame.vector for frame in frames]
            found = self._strikes[key] = tuple(self._may_strike(top, region, vectors, blocked=point.blocked))
        return found

    def _may_strike(
        self, top: int | None, region: Region, live: list[int], *, blocked: bool
    ) -> Iterator[tuple[int, bool]]:
        assume = self.machine.assume
        for vector in self.machine.traps:
            if vector == NMI:
                if not blocked:
                    yield NMI, False
            elif vector == MC:
                # MCIP comes down at the end of do_machine_check, that is, before the exit code.
                if MC not in live or (a.ONE_MC not in assume and (top, region) == (MC, Region.EXIT)):
                    yield MC, False
            elif self._has_room(vector, live) and self._reaches(vector, top, region, live):
                yield vector, vector in FAULTS
                quiet = a.NO_STEP_IN_NMI_MC in assume and (NMI in live or MC in live)
                coded = region in _BODIES or region in (Region.KERNEL, Region.KERNEL_OFF, Region.KERNEL_STEP)
                if vector == DB and coded and a.NO_STEP not in assume and not quiet:
                    yield DB, True

    def _has_room(self, vector: int, live: list[int]) -> bool:
        if vector in live and vector in self.machine.ist and not self.machine.fred:
            return a.NO_IST_REENTRY not in self.machine.assume
        return live.count(vector) < self.machine.live

    def _reaches(self, vector: int, top: int | None, region: Region, live: list[int]) -> bool:  # noqa: PLR0911
        """Whether a trap other than NMI and #MC can strike in a region."""
        assume = self.machine.assume
        edge = region in (Region.ENTRY, Region.EXIT)
        if top == MC and edge and a.QUIET_MC_EDGES in assume:
            return False
        if not FACTS[region].stack and region is not Region.USER and vector not in self.machine.ist:
            return False  # it would push its frame on that stack, whatever the policy
        if vector in (DB, BP):
            return not (
                (a.NO_DB_IN_NMI in assume and NMI in live)
                or (a.NO_DB_IN_MC in assume and MC in live)
                or (a.NO_DB_IN_GAP in assume and region is Region.GAP)
                or (a.NO_DB_IN_NMI_ENTRY in assume and top == NMI and edge)
            )
        if edge or region is Region.GAP:
            return False
        if vector == TIMER:
            return FACTS[region].flag_if
        if vector == PF:
            return top != DF
        if vector == NM:
            return region in (Region.USER, Region.KERNEL) or (top == NMI and a.NO_NM_IN_NMI not in assume)
        # #SS and #DF: in the kernel, the IRET to a user stack segment that is gone, with interrupts off.
        return region is Region.KERNEL_OFF or (top == NMI and a.NO_DF_SS_IN_NMI not in assume)

    def strike(self, point: State, vector: int, *, rf: bool = False) -> Step:
        """Deliver a trap at a point."""
        base, frames, blocked, counter = point
        hazards: tuple[str, ...] = ()
        if any(frame.vector == vector for frame in frames):
            if vector == NMI:
                hazards = ("nmi-nested",)
            elif vector in self.machine.ist and not self.machine.fred:
                hazards = ("ist-overwritten",)
        stage = Region.ENTRY if vector in self._staged else Region.BODY
        state = State(base, (*frames, Frame(vector, stage, rf)), blocked or vector == NMI, counter)
        return Step(vector, where(point), None, "", rf, hazards, state)

    # Returns

    def context(self, point: State) -> Context | None:
        """What a policy sees of the return due at a point, ``None`` where no handler is at its end."""
        if not point.frames:
            return None
        vector, region, rf, nested = point.frames[-1]
        if region is not (Region.EXIT if vector in self._staged else Region.BODY):
            return None
        target = FACTS[under(point)]
        return Context(
            vector=vector,
            ist=vector in self.machine.ist,
            kernel_cs=target.kernel_cs,
            nested=nested if region is Region.EXIT else self._nested(vector, point.counter),
            nmi_text=in_nmi_text(point, -2),
            flag_if=target.flag_if,
            flag_tf=target.flag_tf,
            flag_rf=rf,
        )

    def decide(self, context: Context) -> tuple[Choice, str]:
        """The policy's choice, asked once for each context.

        Raises:
            UsageError: the policy fails, or gives something else than a choice and a rule.
        """
        key = (
            context.vector,
            context.kernel_cs,
            context.nested,
            context.nmi_text,
            context.flag_if,
            context.flag_tf,
            context.flag_rf,
        )
        found = self._decided.get(key)
        if found is None:
            found = self._decided[key] = self._ask(context)
        return found

    def _ask(self, context: Context) -> tuple[Choice, str]:
        where = f"--policy {self.policy.name}"
        try:
            answer: Any = self.policy.decide(context)
            choice, rule = answer
        except Exception as error:  # noqa: BLE001 - a user's function may raise anything
            found = " ".join(f"{type(error).__name__}: {error}".split())
            raise UsageError(where, f"failed for {context} ({found})", expected="a (Choice, rule) pair") from None
        # A user's own policy may name its choice.
        known = isinstance(choice, Choice) or (isinstance(choice, str) and choice in Choice.__members__)
        if not known or not isinstance(rule, str):
            raise UsageError(where, f"gave {choice!r}, {rule!r} for {context}", expected="a (Choice, rule) pair")
        return choice if isinstance(choice, Choice) else Choice[choice], rule

    def leave(self, point: State, choice: Choice, rule: str = "") -> Step:
        """Return from the top handler with a given instruction."""
        base, frames, blocked, counter = point
        vector, _, rf, _ = frames[-1]
        rest = frames[:-1]
        target = FACTS[under(point)]
        in_nmi = any(frame.vector == NMI for frame in rest)
        # IRET unblocks NMIs whatever it returns from; ERETS and ERETU by the frame's NMI bit; RET never.
        if choice is Choice.IRET or (choice is not Choice.RET and vector == NMI):
            blocked = False
        hazards = []
        if choice is Choice.IRET and in_nmi:
            hazards.append("iret-in-nmi")
        if choice is Choice.RET:
            in_mc = any(frame.vector == MC for frame in rest)
            hazards += self._ret_hazards(target, rf=rf, quiet=in_nmi or in_mc)
        if blocked and not in_nmi:
            hazards.append("nmi-masked")
        if in_nmi and target.flag_if:
            hazards.append("if-in-nmi")
        if in_nmi and not target.kernel_cs:
            hazards.append("cs-changed-in-nmi")
        state = State(base if rest else None, rest, blocked, counter)
        return Step(vector, where(point, -2), choice, rule, rf, tuple(hazards), state)

    def _ret_hazards(self, target: RegionFacts, *, rf: bool, quiet: bool) -> Iterator[str]:
        assume = self.machine.assume
        if not target.kernel_cs:
            yield "ret-other-cs"
        elif not target.stack:
            yield "ret-invalid-stack"
        if target.flag_tf:
            yield "ret-tf"
        if rf and not (a.NO_STEP in assume or (quiet and a.NO_STEP_IN_NMI_MC in assume)):
            yield "ret-rf"

    # Both

    def steps(self, state: State) -> Iterator[tuple[State, Step]]:
        """Every event that may come next: the point at which it strikes, and the event."""
        for point in self.points(state):
            for vector, rf in self.strikes(point):
                yield point, self.strike(point, vector, rf=rf)
            context = self.context(point)
            if context is not None:
                yield point, self.leave(point, *self.decide(context))
