"""What must be there before anything can be recorded, and what would mend what is not.

:func:`require` is what ``collect`` and ``top`` ask, and stops at the first lack; :func:`examine` is ``doctor``'s, and
goes on as far as it can.
"""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from iretrace.collect import bcc, btf, kernel
from iretrace.collect.clock import has_msr_pmu
from iretrace.errors import IretraceError, MachineError

if TYPE_CHECKING:
    from collections.abc import Callable

    from iretrace.footer import Hook, TrapClass

CAP_SYS_ADMIN: Final = 21
CAP_SYSLOG: Final = 34
CAP_PERFMON: Final = 38
CAP_BPF: Final = 39


@dataclass(frozen=True, kw_only=True)
class Check:
    """One requirement and how it stands.

    Attributes:
        name: what was looked at.
        ok: whether it is as it must be.
        required: whether nothing can be recorded without it.
        found: what was found, one line.
        remedy: what mends it; empty where nothing must be done.
    """

    name: str
    ok: bool
    required: bool
    found: str
    remedy: str = ""


@dataclass(frozen=True, kw_only=True)
class Examination:
    """What ``doctor`` found.

    Attributes:
        checks: every requirement.
        classes: what each class of trap shows here; empty where nothing can be recorded.
        hooks: every hook, attached or not.
    """

    checks: list[Check]
    classes: list[TrapClass]
    hooks: list[Hook]

    @property
    def can_record(self) -> bool:
        """Whether ``collect`` would work."""
        return all(check.ok for check in self.checks if check.required)


def require(verb: str = "collect") -> None:
    """Stop where something required is missing.

    Args:
        verb: what the user typed, for the remedy.

    Raises:
        MachineError: with what is missing and what mends it.
    """
    for look in _required(verb):
        check = look()
        if not check.ok:
            raise MachineError(check.name, check.found, remedy=check.remedy)


def examine() -> Examination:
    """Look at everything; attach every probe once, where that is possible."""
    checks: list[Check] = []
    for look in _required("doctor"):
        check = look()
        checks.append(check)
        if not check.ok and look in (_machine, _operating_system):
            return Examination(checks=checks, classes=[], hooks=[])
    checks += [_tsc_clock(), _symbols(), _stable_tsc()]
    if not all(check.ok for check in checks if check.required):
        return Examination(checks=checks, classes=[], hooks=[])
    try:
        classes, hooks = _try_probes()
    except IretraceError as error:
        checks.append(Check(name="probes", ok=False, required=True, found=error.found, remedy=error.remedy))
        return Examination(checks=checks, classes=[], hooks=[])
    attached = sum(hook.attached for hook in hooks)
    found = f"{attached} attached, for each class the best of {len(hooks)} that works here"
    checks.append(Check(name="probes", ok=True, required=True, found=found))
    return Examination(checks=checks, classes=classes, hooks=hooks)


def _try_probes() -> tuple[list[TrapClass], list[Hook]]:
    # what follows touches the machine
    from iretrace.collect.choice import trap_classes  # noqa: PLC0415
    from iretrace.collect.memory import KernelMemory  # noqa: PLC0415
    from iretrace.collect.overhead import Overhead  # noqa: PLC0415
    from iretrace.collect.plan import plan  # noqa: PLC0415
    from iretrace.collect.probes import Probes  # noqa: PLC0415

    prototypes, symbols = btf.kernel_prototypes(), kernel.read_symbols()
    gates, handlers = None, list[int]()
    with contextlib.suppress(MachineError), KernelMemory() as memory:
        handlers = memory.nmi_handlers(symbols, prototypes)
        gates = kernel.parse_idt(memory.idt(), symbols)
    planned = plan(
        prototypes=prototypes,
        gates=gates,
        last_nmi_handler=handlers[-1] if handlers else None,
        ring_bytes=1 << 16,
        use_tsc=has_msr_pmu(),
    )
    with Probes(planned.options, kernel.cpu_list("online")) as probes:
        overhead = Overhead(probes)
        overhead.start()
        try:
            choice = probes.choose(classes=planned.classes, refused=planned.refused)
        finally:
            overhead.stop()
        return trap_classes(choice, gates), probes.hooks()


def _operating_system() -> Check:
    ok = sys.platform == "linux"
    return Check(
        name="operating system",
        ok=ok,
        required=True,
        found=f"{platform.system()} {platform.release()}",
        remedy="" if ok else "collect on Linux; replay and report work here",
    )


def _machine() -> Check:
    machine = platform.machine()
    ok = machine == "x86_64"
    return Check(
        name="machine",
        ok=ok,
        required=True,
        found=machine if ok else f"{machine}, not x86_64: there is no IRET to trace",
        remedy="" if ok else "collect on an x86_64 machine; replay and report work here",
    )


def effective_capabilities(status: Path = Path("/proc/self/status")) -> int:
    """The process's effective capabilities, as a bit mask."""
    for line in status.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def _privilege(verb: str) -> Check:
    held = effective_capabilities()
    admin = bool(held >> CAP_SYS_ADMIN & 1)
    names = {"CAP_BPF": CAP_BPF, "CAP_PERFMON": CAP_PERFMON, "CAP_SYSLOG": CAP_SYSLOG}
    missing = [] if admin else [name for name, bit in names.items() if not held >> bit & 1]
    user = "root" if os.geteuid() == 0 else f"user {os.geteuid()}"
    return Check(
        name="privilege",
        ok=not missing,
        required=True,
        found=f"{user} without {', '.join(missing)}" if missing else user,
        remedy=f"run it with sudo: sudo iretrace {verb}" if missing else "",
    )


def _bcc() -> Check:
    try:
        module = bcc.load()
    except MachineError as error:
        return Check(name="BCC", ok=False, required=True, found=error.found, remedy=error.remedy)
    return Check(name="BCC", ok=True, required=True, found=f"version {getattr(module, '__version__', 'unknown')}")


def _btf() -> Check:
    ok = os.access(btf.KERNEL_BTF, os.R_OK)
    return Check(
        name="kernel BTF",
        ok=ok,
        required=True,
        found=f"{btf.KERNEL_BTF}" if ok else f"no {btf.KERNEL_BTF}: the tracepoints' arguments cannot be checked",
        remedy="" if ok else "boot a kernel built with CONFIG_DEBUG_INFO_BTF=y (Debian 11, Ubuntu 20.10 or later)",
    )


def _lockdown() -> Check:
    mode = kernel.lockdown()
    ok = mode != "confidentiality"
    return Check(
        name="lockdown",
        ok=ok,
        required=True,
        found=mode if ok else "confidentiality: BPF may not read kernel memory, so no frame can be had",
        remedy="" if ok else "boot with lockdown=integrity, or without lockdown=",
    )


def _tsc_clock() -> Check:
    ok = has_msr_pmu()
    return Check(
        name="TSC in BPF",
        ok=ok,
        required=False,
        found="msr PMU" if ok else "no msr PMU: time stamps come from bpf_ktime_get_ns, mapped to cycles",
        remedy="" if ok else "a kernel with CONFIG_PERF_EVENTS (the msr PMU is part of it on x86)",
    )


def _symbols() -> Check:
    text = kernel.read_symbols().address("_text")
    return Check(
        name="kernel symbols",
        ok=text is not None,
        required=False,
        found="/proc/kallsyms" if text is not None else "hidden: no frames of interrupts; needs --raw-addresses",
        remedy="" if text is not None else "sysctl kernel.kptr_restrict=1, or run as root",
    )


def _stable_tsc() -> Check:
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").split("\n\n", 1)[0]
    except OSError:
        flags = ""
    missing = [flag for flag in ("constant_tsc", "nonstop_tsc") if flag not in flags]
    return Check(
        name="stable TSC",
        ok=not missing,
        required=False,
        found="constant and nonstop" if not missing else f"not {' and '.join(missing)}: durations may be off",
        remedy="" if not missing else "fix the CPU frequency while collecting",
    )


def _required(verb: str) -> tuple[Callable[[], Check], ...]:
    """What looks at each requirement, in the order in which they are to be met."""
    return (_operating_system, _machine, partial(_privilege, verb), _bcc, _lockdown, _btf)
