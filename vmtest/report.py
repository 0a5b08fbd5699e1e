"""What a comparison found: numbers, differences with their causes, and how they are shown."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Final

from iretrace.vectors import vector_name

if TYPE_CHECKING:
    from collections.abc import Iterable

CAUSES: Final = {
    "nested-before-hook": (
        "a trap came after the CPU had begun the outer one and before the outer one's hook ran, so that the "
        "trace has the two the other way round; checked: it interrupted the kernel while the outer one was "
        "open"
    ),
    "nmi-before-hook": (
        "the same, and what came was an NMI or a machine check: the recorder puts these in order, unless an earlier "
        "trap had the same frame (order-unsure), or an interrupt came between as well; checked: as above"
    ),
    "skipped": (
        "a trap in an NMI that interrupted the probe of the same class: the kernel runs no program inside itself; "
        "checked: by the emulator's story one of its class is open around that NMI, and the trace counts as many as "
        "probe-skipped"
    ),
    "bystander": (
        "a broadcast machine check: a CPU that finds no error of its own logs nothing that BPF could see; "
        "checked: another CPU took the same broadcast, and its trap is in the trace"
    ),
    "fixup-unseen": (
        "the kernel mended a fault of its own and went on elsewhere, which no hook on this kernel shows; "
        "checked: it is the same trap by the emulator's story, with the same stack pointer, and the exits of "
        "its class are not seen"
    ),
    "signal-unseen": (
        "a signal was delivered after the last that any hook saw of the trap: its task had left the CPU inside it, "
        "or the kernel shows no returns to user mode; checked: the trap is the last exception of user mode on that "
        "CPU, and the trace has no frame of it from its way out"
    ),
    "hidden": "a trap of a class that the trace says this kernel hides; checked: the footer's classes",
    "moved": (
        "the task went to another CPU inside its trap and returned there; checked: the emulator's story has "
        "the trap open on the other CPU, and no other return for it"
    ),
    "nested-after-hook": (
        "the trap's exit hook ran before another trap, inside it or in a task that ran before it went on, so "
        "that the trace has the two returns the other way round; checked: one of the two was open when the "
        "other returned"
    ),
    "order-unseen": (
        "no hook shows the exit, so that the trace has the return at its entry; checked: same trap, same "
        "target, same CPU"
    ),
    "edge": ("entered before the window, or returned after it; checked: its other half is in the log or trace outside"),
}
"""Causes that explain a difference, and what is checked before one is named."""

SYSTEM_CALLS: Final = {
    "exec": (
        "the first return of a new program; checked: bit 1 of its flags is clear, which no RFLAGS that a trap saved has"
    ),
    "system-call": (
        "a system call that returns by IRET (a new process, or changed registers); checked: the two bytes "
        "below its target are SYSCALL's, and more IRETs went there than traps were taken there"
    ),
    "signal-return": (
        "rt_sigreturn; checked: its target is the frame that a trap of user mode saved, whose own return went"
        " to a signal handler"
    ),
}
"""System calls that return to user mode by IRET: of them the trace has, rightly, nothing."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Something that only one story has, or that the two tell differently.

    Attributes:
        cpu: where.
        what: "only there" (the emulator), "only here" (the trace), "frame" or "order".
        cause: key of :data:`CAUSES`; ``None``: unexplained.
        emulator: the emulator's part of the story.
        trace: the trace's.
    """

    cpu: int
    what: str
    cause: str | None
    emulator: str
    trace: str


@dataclass
class Tally:
    """How many of something were matched.

    Attributes:
        total: the emulator's count.
        in_order: matched, in order.
        otherwise: matched too, but not in order or not on the same CPU.
        unseen: left out of the total, since no hook of this kernel shows where they go (cause ``signal-unseen``).
        differences: everything else, and what was matched otherwise for a cause.
    """

    total: int = 0
    in_order: int = 0
    otherwise: int = 0
    unseen: int = 0
    differences: list[Difference] = field(default_factory=list)

    @property
    def matched(self) -> int:
        """In order or otherwise."""
        return self.in_order + self.otherwise

    @property
    def unexplained(self) -> list[Difference]:
        """Differences without a cause."""
        return [one for one in self.differences if one.cause is None]


@dataclass
class Comparison:
    """All that was compared.

    Attributes:
        kernel: the guest's release.
        seconds: length of the shortest CPU's window, by the trace's TSC.
        cpus: how many.
        counts: by vector, traps in the windows: emulator, trace.
        hidden: by vector, traps of classes that the trace says it cannot see.
        seen: by class (``#BP, kernel``), matched entries that have a frame.
        entries: by the emulator's traps.
        to_user: by its IRETQs to user mode, those of traps.
        to_kernel: by its IRETQs to the kernel.
        system_calls: IRETQs to user mode that return from system calls, by which.
        other_irets: IRETQs elsewhere in the kernel (serializing, not returning).
        ret_predictions: of ``rfc2014``'s RETs, how many, and for how many the CPU executed such an IRETQ to the kernel.
        decisions: by policy and class of trap, returns judged, and those judged otherwise than expected.
        frames: by field, how often the frames of matched entries agree, and how often they do not.
        zero_tsc: events with a TSC of zero.
        out_of_order: events of a CPU whose TSC is below that of the one before.
        losses: the trace's own, by cause.
    """

    kernel: str = ""
    seconds: float = 0.0
    cpus: int = 0
    counts: dict[int, tuple[int, int]] = field(default_factory=dict)
    hidden: dict[int, int] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=dict)
    entries: Tally = field(default_factory=Tally)
    to_user: Tally = field(default_factory=Tally)
    to_kernel: Tally = field(default_factory=Tally)
    system_calls: dict[str, int] = field(default_factory=dict)
    other_irets: int = 0
    ret_predictions: tuple[int, int] = (0, 0)
    decisions: dict[str, dict[str, tuple[int, int]]] = field(default_factory=dict)
    wrong_decisions: list[str] = field(default_factory=list)
    in_unseen_checks: int = 0
    frames: dict[str, tuple[int, int]] = field(default_factory=dict)
    zero_tsc: int = 0
    out_of_order: int = 0
    losses: dict[str, int] = field(default_factory=dict)

    def as_json(self) -> str:
        """Everything, as one document."""
        return json.dumps(asdict(self), indent=1)


def text(found: Comparison) -> str:
    """The report for a terminal."""
    lines = [
        f"Linux {found.kernel}, {found.cpus} CPUs, window of {found.seconds:.2f} s",
        "",
        f"{'trap':<24}{'emulator':>10}{'iretrace':>10}",
    ]
    for vector, (there, here) in sorted(found.counts.items()):
        mark = "" if there == here else "  differs"
        lines.append(f"{_named(vector):<24}{there:>10}{here:>10}{mark}")
    for vector, there in sorted(found.hidden.items()):
        lines.append(f"{_named(vector):<24}{there:>10}{'-':>10}  hidden by this kernel")
    lines.append("")
    tallies = {
        "entries": found.entries,
        "IRETs to user mode": found.to_user,
        "IRETs to the kernel": found.to_kernel,
    }
    lines.append(f"{'':<24}{'emulator':>10}{'in order':>10}{'otherwise':>10}{'matched':>10}{'unexplained':>13}")
    for name, tally in tallies.items():
        share = 100 * tally.matched / tally.total if tally.total else 0.0
        lines.append(
            f"{name:<24}{tally.total:>10}{tally.in_order:>10}{tally.otherwise:>10}{share:>9.3f}%"
            f"{len(tally.unexplained):>13}"
        )
    lines += [
        f"IRETs that return from system calls: {_counted(found.system_calls)}; from nothing: {found.other_irets}",
        *(f"  {name}: {SYSTEM_CALLS[name]}" for name in found.system_calls),
        "RETs that rfc2014 predicts: {}, an IRET to the kernel was executed for {}".format(*found.ret_predictions),
        "fields of matched entries, same and not: "
        + ", ".join(f"{name} {same}/{other}" for name, (same, other) in found.frames.items()),
        f"TSC: {found.zero_tsc} zero, {found.out_of_order} out of order on their CPU; losses: {found.losses or 'none'}",
        "",
        "decisions, returns judged (judged otherwise than expected):",
    ]
    if found.in_unseen_checks:
        lines.insert(-1, f"  not judged, inside machine checks whose end no hook shows: {found.in_unseen_checks}")
    policies = sorted(found.decisions)
    classes = sorted({name for policy in policies for name in found.decisions[policy]})
    lines.append(f"{'':<24}" + "".join(f"{policy:>18}" for policy in policies))
    for name in classes:
        cells = (found.decisions[policy].get(name, (0, 0)) for policy in policies)
        lines.append(f"{name:<24}" + "".join(f"{total:>12} ({wrong:>3})" for total, wrong in cells))
    lines += [f"  {one}" for one in found.wrong_decisions[:20]]
    for name, tally in tallies.items():
        lines += ["", *_differences(name, tally.differences)]
    return "\n".join(lines)


def _differences(name: str, differences: Iterable[Difference]) -> Iterable[str]:
    by_cause: dict[str | None, list[Difference]] = {}
    for one in differences:
        by_cause.setdefault(one.cause, []).append(one)
    yield f"differences of {name}: {sum(map(len, by_cause.values())) or 'none'}"
    for cause, some in by_cause.items():
        yield f"  {cause or 'UNEXPLAINED'}: {len(some)}" + (f" ({CAUSES[cause]})" if cause else "")
        for one in some[: 40 if cause is None else 2]:
            yield f"    CPU {one.cpu}, {one.what}: emulator {one.emulator or '-'}; trace {one.trace or '-'}"


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "none"


def _named(vector: int) -> str:
    return "device (any vector)" if vector < 0 else f"{vector_name(vector)} ({vector:#x})"
