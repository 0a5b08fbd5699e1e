"""The engine's plain Python twin: exactly what ``replay/engine.c`` does, for its property tests and for readers.

Slow, and meant to be read beside :mod:`iretrace.replay.engine`, whose docstring says what pairing means.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from iretrace.replay import contexts
from iretrace.replay.contexts import Target
from iretrace.replay.engine import MAX_DEPTH, REPAIRS, End, Pairing
from iretrace.replay.policies import DEVICE
from iretrace.vectors import NMI

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from iretrace.replay.policies import NestCounter

_SATURATED = 0xFFFF


@dataclass(kw_only=True)
class Trap:
    """An event, or an open trap with what its entry said; ``None`` is what the hook could not see."""

    tsc: int
    pid: int
    vector: int | None
    irq: int | None
    ip: int | None
    flags: int | None
    sp: int | None
    target: Target
    nested_cycles: int | None = 0

    @property
    def slot(self) -> int:
        """The vector, or what stands for a device interrupt without one."""
        return DEVICE if self.vector is None else self.vector

    def pairs_with(self, other: Trap) -> bool:
        """Whether both are of the same trap, as far as an event can tell."""
        if self.vector is not None or other.vector is not None:
            return self.vector == other.vector
        return self.irq == other.irq


@dataclass(frozen=True, kw_only=True)
class Return:
    """One return; the fields of :data:`iretrace.replay.engine.RETURN_DTYPE`, ``None`` where not known."""

    entry_tsc: int | None
    exit_tsc: int | None
    self_cycles: int | None
    context: int
    pid: int
    cpu: int
    slot: int
    irq: int | None
    depth: int
    end: End
    nest: tuple[int, ...]


@dataclass(kw_only=True)
class _Cpu:
    nest: list[int]
    stack: list[Trap] = field(default_factory=list)


class Twin:
    """Takes events one by one; the attributes say what the engine's arrays say."""

    def __init__(self, pairing: Pairing, counters: Sequence[NestCounter]) -> None:
        self._pairing = pairing
        self._counters = counters
        self._cpus: defaultdict[int, _Cpu] = defaultdict(lambda: _Cpu(nest=[0] * len(counters)))
        self.returns: list[Return] = []
        self.counts: list[Counter[int]] = [Counter() for _ in counters]
        self.first: list[dict[int, tuple[int, int]]] = [{} for _ in counters]
        self.repairs = dict.fromkeys(REPAIRS, 0)

    def feed(self, events: Iterable[dict[str, Any]]) -> None:
        """Take events: dictionaries by column name."""
        for event in events:
            trap = Trap(
                tsc=event["tsc"],
                pid=event["pid"],
                vector=event["vector"],
                irq=event["irq"],
                ip=event["ip"],
                flags=event["flags"],
                sp=event["sp"],
                target=self._target(event["cs"], event["to_kernel"]),
            )
            (self._enter if event["phase"] == "entry" else self._leave)(event["cpu"], trap)

    def finish(self) -> None:
        """End the trace: what is still open returns."""
        for number in sorted(self._cpus):
            while self._cpus[number].stack:
                self._end_top(number, End.OPEN)

    def _target(self, cs: int | None, to_kernel: bool | None) -> Target:  # noqa: FBT001 - a column's value
        kernel_cs = self._pairing.kernel_cs
        if cs is not None and kernel_cs is not None:
            kernel = cs == kernel_cs
        elif to_kernel is not None:
            kernel = to_kernel
        elif cs is not None:
            kernel = cs & 3 == 0
        else:
            return Target.UNKNOWN
        return Target.KERNEL if kernel else Target.OTHER

    def _enter(self, number: int, trap: Trap) -> None:
        cpu = self._cpus[number]
        if self._pairing.lossy and trap.target is Target.OTHER:
            while cpu.stack:
                self._end_top(number, End.IMPLIED)
        exitless = trap.slot in self._pairing.exitless or (
            trap.slot in self._pairing.kernel_exitless and trap.target is Target.KERNEL
        )
        if not exitless and len(cpu.stack) == MAX_DEPTH:
            self._give_back(number, cpu.stack.pop(0), depth=0, nmi_below=False, exit_tsc=None, end=End.OVERFLOW)
        for k, counter in enumerate(self._counters):
            if trap.slot in counter.up and cpu.nest[k] < _SATURATED:
                cpu.nest[k] += 1
        if exitless:
            self._return_above(number, trap, None, End.NO_HOOK)
        else:
            cpu.stack.append(trap)

    def _leave(self, number: int, trap: Trap) -> None:
        cpu = self._cpus[number]
        matching = [i for i, opened in enumerate(cpu.stack) if opened.pairs_with(trap)]
        if not matching:
            self._return_above(number, trap, trap.tsc, End.ORPHAN)
            return
        while len(cpu.stack) > matching[-1] + 1:
            self._end_top(number, End.IMPLIED)
        entry = cpu.stack.pop()
        judged = replace(
            entry,
            ip=entry.ip if trap.ip is None else trap.ip,
            flags=entry.flags if trap.flags is None else trap.flags,
            sp=entry.sp if trap.sp is None else trap.sp,
            target=entry.target if trap.target is Target.UNKNOWN else trap.target,
        )
        self._return_above(number, judged, trap.tsc, End.EXIT)

    def _end_top(self, number: int, end: End) -> None:
        self._return_above(number, self._cpus[number].stack.pop(), None, end)

    def _return_above(self, number: int, trap: Trap, exit_tsc: int | None, end: End) -> None:
        """A trap that lies above all that is open on its CPU returns."""
        stack = self._cpus[number].stack
        nmi_below = any(below.vector == NMI for below in stack)
        self._give_back(number, trap, depth=len(stack), nmi_below=nmi_below, exit_tsc=exit_tsc, end=end)
        if stack:
            parent = stack[-1]
            if end is End.EXIT and exit_tsc is not None and parent.nested_cycles is not None:
                parent.nested_cycles += exit_tsc - trap.tsc
            else:
                parent.nested_cycles = None

    def _give_back(  # noqa: PLR0913 - all that is known of a return
        self, number: int, trap: Trap, *, depth: int, nmi_below: bool, exit_tsc: int | None, end: End
    ) -> None:
        context = self._context(trap, nmi_below=nmi_below)
        cpu = self._cpus[number]
        nest = []
        for k, counter in enumerate(self._counters):
            judged = cpu.nest[k]
            if not counter.count_self and trap.slot in counter.up and end is not End.ORPHAN:
                judged = max(judged - 1, 0)
            nest.append(judged)
            cell = context | (contexts.NESTED if judged else 0)
            self.counts[k][cell] += 1
            self.first[k].setdefault(cell, (trap.tsc if exit_tsc is None else exit_tsc, number))
            if trap.slot in counter.clear:
                cpu.nest[k] = 0
            elif trap.slot in counter.down:
                cpu.nest[k] = max(cpu.nest[k] - 1, 0)
        self._count_repairs(trap, end)
        self_cycles = None
        if end is End.EXIT and exit_tsc is not None and trap.nested_cycles is not None:
            self_cycles = exit_tsc - trap.tsc - trap.nested_cycles
        self.returns.append(
            Return(
                entry_tsc=None if end is End.ORPHAN else trap.tsc,
                exit_tsc=exit_tsc,
                self_cycles=self_cycles,
                context=context,
                pid=trap.pid,
                cpu=number,
                slot=trap.slot,
                irq=trap.irq,
                depth=depth,
                end=end,
                nest=tuple(nest),
            )
        )

    def _context(self, trap: Trap, *, nmi_below: bool) -> int:
        flags = trap.flags or 0
        kernel = trap.target is Target.KERNEL
        in_text = trap.ip is not None and any(low <= trap.ip < high for low, high in self._pairing.nmi_text)
        bits = {
            contexts.IF: flags >> 9 & 1,
            contexts.TF: flags >> 8 & 1,
            contexts.RF: flags >> 16 & 1,
            contexts.NMI_TEXT: kernel and in_text,
            contexts.USER_SP: kernel and trap.sp is not None and trap.sp < 1 << 63,
            contexts.NMI_ON_STACK: nmi_below,
        }
        return contexts.encode(trap.slot, trap.target, *(bit for bit, is_set in bits.items() if is_set))

    def _count_repairs(self, trap: Trap, end: End) -> None:
        repair = {
            End.NO_HOOK: "entry_without_exit_hook",
            End.IMPLIED: "implied_exit",
            End.ORPHAN: "orphan_exit",
            End.OPEN: "open_at_end",
            End.OVERFLOW: "stack_overflow",
        }.get(end)
        if repair is not None:
            self.repairs[repair] += 1
        self.repairs["unknown_target"] += trap.target is Target.UNKNOWN
