"""The one table of what other tools' events mean: which tracepoint is which vector, and which phase.

The classes and their limits are those of the hooks that ``collect`` uses (:mod:`iretrace.collect.hooks`): the same
tracepoints, seen through another tool. What a format tells of an event beyond that is said in its module.
"""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from iretrace import footer as footers
from iretrace.collect.hooks import CLASSES
from iretrace.vectors import vector_name

if TYPE_CHECKING:
    from collections.abc import Iterable

Meaning = Literal["trap", "no trap", "unknown"]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What a tracepoint means.

    Attributes:
        system: the kernel's name of the group of tracepoints.
        event: its name, or a pattern of names.
        trap: the class of trap (``the vector's``: whichever ``vector_field`` says); empty: the event is no trap.
        phase: entry or exit.
        vector: the vector; ``None``: see ``vector_field``.
        vector_field: field that holds the vector.
        irq_field: field that holds the Linux IRQ number.
        ip_field: field that holds the interrupted instruction.
        error_code_field: field that holds the error code.
        once_field: of a CPU's events only those count whose value here is that of the first.
        to_kernel: whether the trap returns to the kernel, where the tracepoint says so.
        doc: what to know of it, one line.
    """

    system: str
    event: str
    trap: str = ""
    phase: Literal["entry", "exit"] = "entry"
    vector: int | None = None
    vector_field: str = ""
    irq_field: str = ""
    ip_field: str = ""
    error_code_field: str = ""
    once_field: str = ""
    to_kernel: bool | None = None
    hook: str = ""
    doc: str = ""


def _fault(where: str, *, to_kernel: bool) -> Rule:
    return Rule(
        system="exceptions",
        event=f"page_fault_{where}",
        trap="#PF",
        vector=14,
        ip_field="ip",
        error_code_field="error_code",
        to_kernel=to_kernel,
        hook=f"page_fault_{where}",
        doc="no tracepoint follows the handler: its exit cannot be seen",
    )


RULES: Final = (
    _fault("user", to_kernel=False),
    _fault("kernel", to_kernel=True),
    Rule(
        system="irq_vectors",
        event="vector_*",
        doc="the kernel's bookkeeping of vectors",
    ),
    Rule(
        system="irq_vectors",
        event="*_entry",
        trap="the vector's",
        vector_field="vector",
        hook="irq_vectors_entry",
        doc="system vectors: timer, IPIs, APIC errors, …",
    ),
    Rule(
        system="irq_vectors",
        event="*_exit",
        trap="the vector's",
        phase="exit",
        vector_field="vector",
        hook="irq_vectors_exit",
        doc="system vectors",
    ),
    Rule(
        system="irq",
        event="irq_handler_entry",
        trap="device",
        irq_field="irq",
        hook="irq_handler_entry",
        doc="the IRQ number is known, the vector is not; a shared line shows once for each handler",
    ),
    Rule(
        system="irq",
        event="irq_handler_exit",
        trap="device",
        phase="exit",
        irq_field="irq",
        hook="irq_handler_exit",
        doc="as its entry",
    ),
    Rule(
        system="nmi",
        event="nmi_handler",
        trap="NMI",
        vector=2,
        once_field="handler",
        hook="nmi_handler",
        doc="fires when a handler is done; the first handler seen on a CPU stands for all, and no exit is seen",
    ),
    Rule(system="irq", event="softirq_*", doc="runs after an interrupt, is none"),
    Rule(system="irq", event="tasklet_*", doc="runs after an interrupt, is none"),
    Rule(system="mce", event="*", doc="corrected errors are reported here too, which raise no #MC"),
    Rule(system="sched", event="*", doc="scheduling"),
    Rule(system="raw_syscalls", event="*", doc="system calls use no gate of the IDT"),
    Rule(system="syscalls", event="*", doc="system calls use no gate of the IDT"),
)
"""The first rule that fits decides; what none fits is unknown, counted and left out."""

HOOKS: Final = tuple(dict.fromkeys(rule.hook for rule in RULES if rule.trap))
"""Names in the ``hook`` column, as ``collect`` has them; a row's ``hook`` is an index into this."""


NAMED: Final = {hook.target: item.name for item in CLASSES for _, hook in item.tracepoints if item.vectors}
"""The class of each tracepoint whose vector is known by its name."""


def find(system: str, event: str) -> Rule | None:
    """The rule for a tracepoint; ``None``: unknown.

    Args:
        system: its group; empty where the format does not say. Then a pattern of names tells too little: what ends in
            ``_entry`` is taken for a system vector's only if it is called like one.
        event: its name.
    """
    for rule in RULES:
        known = system == rule.system or (not system and ("*" not in rule.event or _telling(rule, event)))
        if known and fnmatch.fnmatchcase(event, rule.event):
            return rule
    return None


def _telling(rule: Rule, event: str) -> bool:
    return event in NAMED if rule.trap else rule.event.rstrip("*") != ""


@dataclass(kw_only=True)
class Tally:
    """What was in a file, by event: the verb reports it."""

    events: dict[str, int] = field(default_factory=dict)
    """Records of each event of the file, by its name (``system:event`` where both are known)."""
    rules: dict[str, Rule | None] = field(default_factory=dict)

    def add(self, name: str, rule: Rule | None, count: int) -> None:
        """Count records of an event."""
        self.events[name] = self.events.get(name, 0) + count
        self.rules[name] = rule

    def meaning(self, name: str) -> Meaning:
        """What an event is taken for."""
        rule = self.rules[name]
        if rule is None:
            return "unknown"
        return "trap" if rule.trap else "no trap"


def describe(name: str, rule: Rule | None) -> str:
    """What an event is taken for, in a few words: ``#PF entry``.

    Args:
        name: the event's, with or without its system.
        rule: its rule.
    """
    if rule is None:
        return "unknown: left out"
    if not rule.trap:
        return f"no trap ({rule.doc})"
    named = NAMED.get(name.rpartition(":")[2]) if rule.vector_field else None
    return f"{named or rule.trap} {rule.phase}"


def classes(seen: Iterable[tuple[int | None, str, str]]) -> list[footers.TrapClass]:
    """The footer's classes of trap.

    Args:
        seen: (vector, phase, tracepoint) of every tracepoint that was recorded, whether it fired or not. ``None``
            stands for a device interrupt.
    """
    hooks: dict[int | None, dict[str, set[str]]] = {}
    for vector, phase, hook in seen:
        hooks.setdefault(vector, {"entry": set(), "exit": set()})[phase].add(hook)
    found = []
    for vector, by_phase in sorted(hooks.items(), key=lambda item: 256 if item[0] is None else item[0]):
        lacks = [f"the {phase}: the trace has none" for phase in ("entry", "exit") if not by_phase[phase]]
        if vector is None:
            lacks.append("the vector (the IRQ number is known)")
        found.append(
            footers.TrapClass(
                name=vector_name(vector),
                vectors=[] if vector is None else [vector],
                entry=", ".join(sorted(by_phase["entry"])) or None,
                exit=", ".join(sorted(by_phase["exit"])) or None,
                lacks="; ".join(lacks),
            )
        )
    return found
