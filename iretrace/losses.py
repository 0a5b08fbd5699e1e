"""The one list of ways in which a trace can be incomplete.

A loss that is not in this list cannot be recorded; a recorded loss is shown by every report.
The footer stores ``(cause, cpu, count)``; everything else about a cause is here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Severity = Literal["events", "detail", "info"]
Stage = Literal["record", "write", "import"]


@dataclass(frozen=True, kw_only=True)
class LossCause:
    """One way to lose data.

    Attributes:
        name: stable identifier, as stored in footers.
        severity: ``events`` traps are missing; ``detail`` a trap is there but a field is not;
            ``info`` counted for honesty, nothing is missing.
        stage: where it happens.
        doc: what it means, one sentence.
        remedy: what to do about it.
    """

    name: str
    severity: Severity
    stage: Stage
    doc: str
    remedy: str


CAUSES: Final[tuple[LossCause, ...]] = (
    LossCause(
        name="ring-full",
        severity="events",
        stage="record",
        doc="The ring buffer of this CPU had no room: events came faster than they were drained.",
        remedy="collect with a larger --buffer",
    ),
    LossCause(
        name="nmi-ring-busy",
        severity="events",
        stage="record",
        doc="An NMI could not reserve a slot in the NMI ring (full, or its lock was held on this CPU).",
        remedy="collect with a larger --buffer; if it persists, report it",
    ),
    LossCause(
        name="tsc-unreadable",
        severity="events",
        stage="record",
        doc="The msr/tsc counter could not be read in the probe (the CPU came online after the start).",
        remedy="do not take CPUs on- or offline during a run",
    ),
    LossCause(
        name="probe-skipped",
        severity="events",
        stage="record",
        doc="The kernel skipped a probe because it interrupted itself (the program's recursion_misses).",
        remedy="none known: the trap was taken inside the probe itself",
    ),
    LossCause(
        name="not-traced",
        severity="events",
        stage="record",
        doc="Interrupts that /proc/interrupts counted and for which the kernel ran no probe.",
        remedy="none known: a kernel may run no BPF program for some processes (docs/collecting.md)",
    ),
    LossCause(
        name="shed",
        severity="events",
        stage="record",
        doc="A class of trap was switched off to keep to --max-overhead; what came later is missing (their number is "
        "not known; count is 0).",
        remedy="the footer's off list says which and when; allow more, or ask for less with --only",
    ),
    LossCause(
        name="unaccounted",
        severity="events",
        stage="record",
        doc="Runs of the probes, by the kernel's count, that became neither an event nor a counted loss.",
        remedy="report it: this should not happen",
    ),
    LossCause(
        name="clock-moved",
        severity="detail",
        stage="record",
        doc="The counter behind the time stamps of this CPU moved against its TSC; the count is by how many cycles.",
        remedy="record again without profilers running; collect --clock ktime if it persists",
    ),
    LossCause(
        name="tsc-unsteady",
        severity="detail",
        stage="record",
        doc="The TSC did not keep pace with CLOCK_MONOTONIC: it jumped, stopped or changed its rate; the count is "
        "by how many cycles.",
        remedy="durations across it are wrong: see the footer's incidents for when, and record again",
    ),
    LossCause(
        name="clocksource-changed",
        severity="detail",
        stage="record",
        doc="The kernel changed its clocksource during the run, as it does when it finds the TSC unstable.",
        remedy="do not trust durations of this run; see the kernel's log",
    ),
    LossCause(
        name="suspended",
        severity="detail",
        stage="record",
        doc="The machine slept during the run, and the TSC may have stopped or restarted; the count is milliseconds.",
        remedy="rates are of time awake and asleep; record while the machine stays awake",
    ),
    LossCause(
        name="cpu-offline",
        severity="info",
        stage="record",
        doc="A CPU went offline during the run.",
        remedy="none: what it did before is there",
    ),
    LossCause(
        name="cpu-online",
        severity="info",
        stage="record",
        doc="A CPU came online during the run: its traps from then on are counted as tsc-unreadable, not recorded.",
        remedy="start another run to record it",
    ),
    LossCause(
        name="frame-unread",
        severity="detail",
        stage="record",
        doc="The interrupted frame was not found: the event is there without cs, ip, flags and sp.",
        remedy="iretrace doctor lists how each class finds its frame",
    ),
    LossCause(
        name="target-unknown",
        severity="detail",
        stage="record",
        doc="Neither frame nor kernel stack told whether the trap came from the kernel or from user mode.",
        remedy="iretrace doctor lists how each class finds its frame",
    ),
    LossCause(
        name="order-mended",
        severity="info",
        stage="record",
        doc="A trap came between the CPU's entry into another trap and that one's hook; it was certain, and the outer "
        "one's entry was put before it.",
        remedy="none: the order is right; the outer trap's entry is as late as it can have been",
    ),
    LossCause(
        name="order-unsure",
        severity="detail",
        stage="record",
        doc="An NMI came between the CPU's entry into a trap and that one's hook, or after the last hook of an earlier "
        "trap with the same frame: which, nothing tells, and the NMI is written first.",
        remedy="none known: it changes no decision, but the NMI's depth and the other trap's self time",
    ),
    LossCause(
        name="nmi-unclosed",
        severity="detail",
        stage="record",
        doc="The next NMI of this CPU began and the last handler of the one before had not been seen to end.",
        remedy="report it: the kernel skipped the probe on the last handler (probe-skipped), or its handlers changed",
    ),
    LossCause(
        name="process-names",
        severity="detail",
        stage="record",
        doc="Processes were named, renamed or ended, and it was not kept: what is said of commands may be wrong.",
        remedy="record while fewer processes start",
    ),
    LossCause(
        name="disk-full",
        severity="events",
        stage="write",
        doc="The target's file system was full: events drained after that were counted and dropped.",
        remedy="free space or choose another -o",
    ),
    LossCause(
        name="killed",
        severity="events",
        stage="write",
        doc="The collector died; events after the last flush are missing (their number is not known; count is 0).",
        remedy="run it again",
    ),
    LossCause(
        name="stream-cut",
        severity="events",
        stage="import",
        doc="The partial stream ended inside a batch; that batch was dropped.",
        remedy="none: what was complete was kept",
    ),
    LossCause(
        name="overrun",
        severity="events",
        stage="record",
        doc="The tool that recorded the file says that its own buffer had no room (count 0: how many it does not say).",
        remedy="record with larger buffers: perf record -m, trace-cmd record -b",
    ),
    LossCause(
        name="malformed",
        severity="events",
        stage="import",
        doc="Records or lines of the imported file that could not be read, and were left out.",
        remedy="iretrace import --strict stops at the first of them and names it",
    ),
)

BY_NAME: Final[dict[str, LossCause]] = {cause.name: cause for cause in CAUSES}
