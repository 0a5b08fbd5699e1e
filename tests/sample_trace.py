"""A made-up trace with all that a report shows: entry-only page faults, nested timers, NMIs, losses, hooks, classes."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from iretrace.footer import (
    Anchor,
    Calibration,
    Clock,
    Cost,
    Cpu,
    Footer,
    Gate,
    Hook,
    Host,
    Loss,
    Overhead,
    TrapClass,
    Window,
)
from iretrace.vectors import DB, DF, NMI, PF
from tests.traces import IF, KERNEL_CS, USER_CS, event, write_trace

if TYPE_CHECKING:
    from pathlib import Path

TSC_KHZ = 2_000_000.0
START = 10_000_000_000
TIMER, CALL, RESCHEDULE, DEVICE_IRQ = 0xEC, 0xFB, 0xFD, 41

KERNEL_IP, USER_IP = 0xFFFFFFFF81000000, 0x401000
KERNEL_SP, USER_SP = 0xFFFFC90000004000, 0x7FFFFFFFE000


@dataclass
class _Cpu:
    """Writes the events of one CPU, one after the other."""

    number: int
    rng: random.Random
    events: list[dict[str, Any]] = field(default_factory=list)
    tsc: int = START

    def trap(
        self,
        vector: int | None,
        cycles: int,
        *,
        to_kernel: bool,
        inner: int | None = None,
        exits: bool = True,
        **fields: Any,
    ) -> None:
        """A trap of so many cycles, with another inside it."""
        frame: dict[str, Any] = {"cs": KERNEL_CS, "ip": KERNEL_IP, "flags": IF, "sp": KERNEL_SP}
        if not to_kernel:
            frame = {"cs": USER_CS, "ip": USER_IP, "flags": IF, "sp": USER_SP}
        self._event("entry", vector, to_kernel=to_kernel, **frame, **fields)
        self.tsc += cycles
        if inner is not None:
            self.trap(inner, 900, to_kernel=True)
            self.tsc += 200
        if exits:
            self._event("exit", vector, to_kernel=to_kernel, **frame, **fields)

    def _event(self, phase: str, vector: int | None, **fields: Any) -> None:
        self.events.append(event(self.tsc, phase, vector, cpu=self.number, pid=self.rng.choice((0, 812)), **fields))

    def idle(self, mean: int) -> None:
        """Time passes."""
        self.tsc += 1 + int(self.rng.expovariate(1 / mean))


def footer(**fields: Any) -> Footer:
    """A footer that knows everything; fields override."""
    known: dict[str, Any] = {
        "tool": "iretrace 0.1.0",
        "host": Host(name="testbox", kernel="6.18.2", machine="x86_64", hypervisor="KVM"),
        "cpu": Cpu(vendor="GenuineIntel", family=6, model=207, stepping=2, name="Intel Xeon", online=[0, 1]),
        "fred": False,
        "mitigations": {"retbleed": "Not affected", "spec_rstack_overflow": "Not affected"},
        "clock": Clock(
            source="msr-tsc",
            tsc_khz=TSC_KHZ,
            error_cycles=230.0,
            anchors=[Anchor(tsc=START, realtime_ns=1_790_000_000_000_000_000, monotonic_ns=5_000_000_000)],
        ),
        "kernel_cs": KERNEL_CS,
        "idt": [Gate(vector=DB, ist=3), Gate(vector=NMI, ist=2), Gate(vector=DF, ist=1), Gate(vector=PF)],
        "hooks": [
            Hook(name="page_fault_user", attached=True, runs=800, run_ns=96_000),
            Hook(name="local_timer_entry", attached=True, runs=500, run_ns=70_000, recursion_misses=1),
            Hook(name="nmi_handler", attached=False, reason="no such tracepoint"),
        ],
        "classes": [
            TrapClass(name="page-fault", vectors=[PF], entry="page_fault_user", frame="pt_regs", lacks="no exit hook"),
            TrapClass(name="timer", vectors=[TIMER], entry="local_timer_entry", exit="local_timer_exit"),
            TrapClass(name="nmi", vectors=[NMI], entry="nmi_entry", exit="nmi_exit"),
        ],
        "losses": [
            Loss(cause="ring-full", count=12, cpu=0),
            Loss(cause="ring-full", count=5, cpu=1),
            Loss(cause="frame-unread", count=3),
        ],
        "overhead": Overhead(runs=1300, run_ns=166_000, ns_per_event=128.0, cpu_pct=0.4, collector_cpu_pct=3.0),
        "calibration": Calibration(
            method="user mode",
            costs=[
                Cost(path="iretq", median_cycles=305, low_cycles=300, high_cycles=312, samples=200),
                Cost(path="popfq-ret", median_cycles=55, low_cycles=52, high_cycles=58, samples=200),
            ],
        ),
        "window": Window(start_tsc=START, stop_tsc=START + 40_000_000, ended_by="duration"),
        "command": ["make", "-j2"],
        "tags": {"workload": "build"},
    }
    return Footer(**(known | fields))


def events(seed: int = 1) -> list[dict[str, Any]]:
    """Some two thousand events of two CPUs in 20 ms."""
    made: list[dict[str, Any]] = []
    for number in (0, 1):
        cpu = _Cpu(number=number, rng=random.Random(seed + number))  # noqa: S311 - a test's dice
        while cpu.tsc < START + 39_000_000:
            kind, long = cpu.rng.random(), int(cpu.rng.lognormvariate(8.3, 0.5))
            to_kernel = cpu.rng.random() < 0.4
            if kind < 0.6:
                cpu.trap(PF, 400, to_kernel=to_kernel, exits=False, error_code=4)
            elif kind < 0.8:
                cpu.trap(TIMER, long, to_kernel=to_kernel, inner=RESCHEDULE if cpu.rng.random() < 0.2 else None)
            elif kind < 0.9:
                cpu.trap(CALL, long // 4, to_kernel=to_kernel)
            elif kind < 0.98:
                cpu.trap(None, long * 2, to_kernel=to_kernel, irq=DEVICE_IRQ)
            else:
                cpu.trap(NMI, 5000, to_kernel=True, inner=TIMER if cpu.rng.random() < 0.3 else None)
            cpu.idle(40_000)
        made += cpu.events
    return made


def write_sample(path: Path, **fields: Any) -> Path:
    """Write the trace; fields override the footer's."""
    return write_trace(path, events(), footer(**fields))
