"""Compiling, loading and attaching the probes of ``bpf/trap.bpf.c``, and reading what they count."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from iretrace import footer as footers
from iretrace.collect import bcc as bcc_loader
from iretrace.collect import kernel, syscalls
from iretrace.collect.filters import Filters
from iretrace.collect.hooks import HOOKS, PROCESS_HOOKS, Hook
from iretrace.collect.processes import ProcessNames
from iretrace.collect.ring import PAGE_BYTES, Ring
from iretrace.collect.wire import LOSS_CAUSES, PROCESS_EVENT
from iretrace.errors import MachineError

if TYPE_CHECKING:
    from types import ModuleType

    from iretrace.collect.drain import Clock

BPF_DIR: Final = Path(__file__).resolve().parent.parent / "bpf"
SOURCES: Final = ("filter.bpf.c", "trap.bpf.c")
TEXT_DEVICE: Final = 256
"""Index of asm_common_interrupt in the map ``entry_text`` (bpf/trap.h)."""

NMI_RING_BYTES: Final = 64 * 1024
NAME_RING_BYTES: Final = 256 * 1024


@dataclass(frozen=True, kw_only=True)
class ProbeOptions:
    """How to build the probes.

    Attributes:
        ring_bytes: size of each CPU's ring buffer, a power of two.
        use_tsc: read the TSC in BPF (else bpf_ktime_get_ns).
        filters: what to leave out.
    """

    ring_bytes: int
    use_tsc: bool
    filters: Filters = field(default_factory=Filters)


class Probes:
    """The loaded probes, their rings and counters. Use as a context manager: on exit nothing is left behind."""

    def __init__(self, options: ProbeOptions, cpus: list[int]) -> None:
        self._bcc: ModuleType = bcc_loader.load()
        self._possible = max(kernel.cpu_list("possible")) + 1
        flags = [f"-DIRETRACE_CPUS={self._possible}", f"-I{BPF_DIR}"]
        if options.use_tsc:
            flags.append("-DIRETRACE_CLOCK_TSC")
        flags += options.filters.flags()
        self._module: Any = bcc_loader.new_module(self._bcc, [BPF_DIR / name for name in SOURCES], flags)
        options.filters.install(self._module)
        self.rings: dict[int, Ring] = {}
        self.nmi_rings: dict[int, Ring] = {}
        self.name_rings: list[Ring] = []
        self.processes = ProcessNames()
        self.attached: dict[str, int] = {}
        self.failed: dict[str, str] = {}
        rings_fd = self._module[b"rings"].map_fd
        try:
            for cpu in cpus:
                self.rings[cpu] = Ring(options.ring_bytes, f"iretrace_{cpu}")
                self.nmi_rings[cpu] = Ring(max(NMI_RING_BYTES, PAGE_BYTES), f"iretrace_nmi_{cpu}")
                for key, ring in ((cpu, self.rings[cpu]), (self._possible + cpu, self.nmi_rings[cpu])):
                    syscalls.update_element(rings_fd, struct.pack("=I", key), struct.pack("=I", ring.fd))
            self.name_rings.append(Ring(NAME_RING_BYTES, "iretrace_names"))
            key, fd = 2 * self._possible, self.name_rings[0].fd
            syscalls.update_element(rings_fd, struct.pack("=I", key), struct.pack("=I", fd))
        except OSError as error:
            self.close()
            raise MachineError(
                "BPF ring buffer", f"could not be created ({error.strerror})", remedy="collect with a smaller --buffer"
            ) from None

    def set_tsc_counters(self, fds: dict[int, int]) -> None:
        """Give the programs the msr/tsc counter of each CPU."""
        map_fd = self._module[b"tsc_counter"].map_fd
        for cpu, fd in fds.items():
            syscalls.update_element(map_fd, struct.pack("=I", cpu), struct.pack("=I", fd))

    def set_entry_stubs(self, stubs: dict[int, tuple[int, int]]) -> None:
        """Tell the programs where each vector's entry stub lies (:data:`TEXT_DEVICE`: device interrupts)."""
        map_fd = self._module[b"entry_text"].map_fd
        for index, (low, high) in stubs.items():
            syscalls.update_element(map_fd, struct.pack("=I", index), struct.pack("=QQ", low, high))

    def attach(self, unusable: dict[str, str]) -> None:
        """Attach every hook this kernel has; the others go to :attr:`failed` with the reason.

        Args:
            unusable: hooks not to try, with the reason (:func:`iretrace.collect.hooks.unusable`).

        Raises:
            MachineError: a program was refused by the verifier, or nothing could be attached.
        """
        self.failed.update(unusable)
        for hook in HOOKS:
            if hook.tracepoint not in unusable:
                self._attach(hook)
        if not self.attached:
            reason = next(iter(self.failed.values()), "no hook")
            raise MachineError("BPF", f"no probe could be attached ({reason})", remedy="iretrace doctor")
        for hook in PROCESS_HOOKS:
            if hook.tracepoint not in unusable:
                self._attach(hook)

    def _attach(self, hook: Hook) -> None:
        with bcc_loader.captured_stderr() as output:
            try:
                function = self._module.load_func(hook.program.encode(), self._bcc.BPF.RAW_TRACEPOINT)
            except Exception as error:  # noqa: BLE001 - BCC raises Exception itself
                problem: Exception | None = error
            else:
                problem = None
        if problem is not None:
            reason = bcc_loader.first_error(output.text or str(problem))
            raise MachineError(
                "BPF",
                f"the kernel refused the program {hook.program} ({reason})",
                remedy="iretrace doctor",
            )
        with bcc_loader.captured_stderr():
            fd = self._bcc.lib.bpf_attach_raw_tracepoint(function.fd, hook.tracepoint.encode())
        if fd < 0:
            number = ctypes.get_errno()
            self.failed[hook.tracepoint] = (
                "this kernel has no such tracepoint" if number == errno.ENOENT else os.strerror(number)
            )
            return
        self.attached[hook.tracepoint] = fd

    def drain_names(self, clock: Clock) -> None:
        """Take in what processes were called since the last time."""
        for ring in self.name_rings:
            records = ring.drain().view(PROCESS_EVENT)
            clock.to_tsc(records)
            self.processes.take(records)

    def detach(self) -> None:
        """Detach every hook; the programs and what they counted stay until :meth:`close`."""
        for fd in self.attached.values():
            os.close(fd)
        self.attached = {}

    def losses(self) -> list[footers.Loss]:
        """What the programs counted as lost, by cause and CPU."""
        table = self._module[b"losses"]
        found = []
        for index, cause in enumerate(LOSS_CAUSES):
            per_cpu = table[ctypes.c_int(index)]
            found += [
                footers.Loss(cause=cause, cpu=cpu, count=int(count)) for cpu, count in enumerate(per_cpu) if count
            ]
        return found + self.processes.losses()

    def left_out(self) -> tuple[int, int]:
        """Traps that the filters left out: NMIs apart, as the second number."""
        table = self._module[b"filtered_out"]
        others, nmis = (sum(map(int, table[ctypes.c_int(index)])) for index in (0, 1))
        return others, nmis

    def hooks(self) -> list[footers.Hook]:
        """Every hook, and what the kernel measured of its program."""
        found = []
        for hook in HOOKS:
            name = hook.tracepoint
            if name in self.failed:
                found.append(footers.Hook(name=name, attached=False, reason=self.failed[name]))
            else:
                found.append(footers.Hook(name=name, attached=True))
        return found

    def program_runs(self) -> dict[str, syscalls.ProgInfo]:
        """The kernel's statistics of each program, by its name (BPF_STATS_RUN_TIME must have been on)."""
        return {name.decode(): syscalls.program_info(function.fd) for name, function in self._module.funcs.items()}

    def close(self) -> None:
        """Detach, unload and free everything."""
        for fd in self.attached.values():
            os.close(fd)
        self.attached = {}
        self._module.cleanup()
        for ring in (*self.rings.values(), *self.nmi_rings.values(), *self.name_rings):
            ring.close()
        self.rings, self.nmi_rings, self.name_rings = {}, {}, []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_idt() -> bytes:
    """The live IDT, 4096 bytes.

    Raises:
        MachineError: BPF may not read kernel memory here.
    """
    bcc = bcc_loader.load()
    module: Any = bcc_loader.new_module(bcc, [BPF_DIR / "idt.bpf.c"], [])
    try:
        with bcc_loader.captured_stderr() as output:
            try:
                function = module.load_func(b"read_idt", bcc.BPF.RAW_TRACEPOINT)
            except Exception:  # noqa: BLE001 - BCC raises Exception itself
                function = None
        if function is None:
            raise MachineError("IDT", f"could not be read ({bcc_loader.first_error(output.text)})")
        try:
            syscalls.run_raw_tracepoint_once(function.fd)
        except OSError as error:
            raise MachineError("IDT", f"could not be read ({error.strerror})") from None
        copy = module[b"idt"][ctypes.c_int(0)]
        if copy.status != 0:
            raise MachineError("IDT", f"is not at {kernel.IDT_ADDRESS:#x} (error {copy.status})")
        return bytes(copy.bytes)
    finally:
        module.cleanup()
