"""The programs of ``bpf/`` as ordinary C on a made-up CPU, where an NMI can strike at each of their accesses to memory.

The kernel of the tests may have no functions to hook, and none lets an NMI strike where a test wants it. What is not
shown here is what the verifier and the real kernel say: the live tests and the emulator do that.
"""

from __future__ import annotations

import ctypes
import struct
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from iretrace.collect.probes import SOURCES
from iretrace.collect.stacks import LAYOUT
from iretrace.collect.wire import HOOK_NAMES, LOSS_CAUSES, TRAP_EVENT
from tests.conftest import ROOT, needed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

KERNEL_CS, USER_CS, INTERRUPTS_ON = 0x10, 0x33, 0x202
KERNEL_HALF: Final = 1 << 63
LAST_HANDLER: Final = 0x1234
_REGS_BYTES: Final = 168
_ORIG_AX: Final = 120
_DIE_AT, _CHECK_AT = 0x100, 0x200
_DIE_DEBUG, _IN_PROGRESS = 3, 4
MACHINE_CHECK_STUB: Final = 0x200000
_DEFINED: Final = ("IRETRACE_CPUS=1", "IRETRACE_CLOCK_TSC", "IRETRACE_FUNCTIONS", "IRETRACE_STAND_INS")
_INTERRUPT: Final = ctypes.CFUNCTYPE(None)


def compiled(directory: Path) -> ctypes.CDLL:
    """Compile the programs and load them."""
    here = ROOT / "tests" / "programs"
    joined = "".join(f'#include "{ROOT / "bpf" / name}"\n' for name in SOURCES if name != "aggregate.bpf.c")
    (directory / "programs.c").write_text('#include "shim.h"\n' + joined)
    warnings = ["-Wall", "-Werror", "-Wno-unknown-pragmas", "-Wno-unused-function"]
    programs = ["-fsanitize=thread", "-ffreestanding", f"-I{here}", f"-I{ROOT / 'bpf' / 'stub' / 'include'}"]
    programs += [f"-D{name}" for name in _DEFINED]
    common = [compiler := needed("gcc", "gcc"), "-O1", "-fPIC", *warnings, f"-I{ROOT / 'bpf'}", "-c"]
    subprocess.run([*common, *programs, directory / "programs.c", "-o", directory / "programs.o"], check=True)
    subprocess.run([*common, "-Wextra", here / "machine.c", "-o", directory / "machine.o"], check=True)
    library = directory / "machine.so"
    subprocess.run([compiler, "-shared", "-o", library, *directory.glob("*.o")], check=True)
    return ctypes.CDLL(str(library))


@dataclass(frozen=True, kw_only=True)
class Regs:
    """A ``pt_regs`` on a stack."""

    address: int
    ip: int
    cs: int
    flags: int
    sp: int


class Machine:
    """One CPU with a task's stack and an NMI's, and the programs that its traps run."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        library.start_over()
        self._memory = (ctypes.c_uint8 * (1 << 16)).in_dll(library, "memory")
        self._base = base = ctypes.addressof(self._memory) | KERNEL_HALF
        self.task_top, self.nmi_top, self.db_top, self.mc_top = (
            base + 0x4000,
            base + 0xA000,
            base + 0xC000,
            base + 0xE000,
        )
        self._active: set[str] = set()
        self.settings(user_exits=True)

    def settings(self, *, user_exits: bool) -> None:
        """As :meth:`iretrace.collect.probes.Probes.choose` sets them."""
        made = struct.pack("=QII", LAST_HANDLER, user_exits, 0xFFFFFFFF)
        tops = [top - self._base for top in (self.nmi_top, self.db_top, self.mc_top)]
        stacks = [bound for top in tops for bound in (top - 0x2000, top)]
        made += LAYOUT.pack(self._base + 0x8000, self._base + 0x10000, 0x8000, *(bound - 0x8000 for bound in stacks))
        ctypes.memmove(ctypes.addressof(ctypes.c_uint8.in_dll(self._library, "map_settings")), made, len(made))

    def text(self, index: int, low: int, high: int) -> None:
        """Where an entry stub lies."""
        start = ctypes.addressof(ctypes.c_uint8.in_dll(self._library, "map_entry_text"))
        ctypes.memmove(start + 16 * index, struct.pack("=QQ", low, high), 16)

    def _write(self, address: int, *words: int) -> None:
        offset = (address & ~KERNEL_HALF) - ctypes.addressof(self._memory)
        made = struct.pack(f"={len(words)}Q", *(word % 2**64 for word in words))
        assert 0 <= offset <= len(self._memory) - len(made)
        ctypes.memmove(ctypes.addressof(self._memory) + offset, made, len(made))

    def push(
        self, top: int, *, ip: int, sp: int, cs: int = KERNEL_CS, flags: int = INTERRUPTS_ON, returns_to: int = 0
    ) -> Regs:
        """The CPU and an entry stub push ``pt_regs`` below ``top`` and call the handler, which returns to the stub."""
        address = top - _REGS_BYTES
        self._write(address + _ORIG_AX, -1, ip, cs, flags, sp, 0x18)
        self._write(address - 8, returns_to)
        return Regs(address=address, ip=ip, cs=cs, flags=flags, sp=sp)

    def run(self, program: str, *arguments: int) -> None:
        """Run a program, unless this CPU is inside it: the kernel skips that (bpf_prog->active)."""
        if program in self._active:
            return
        self._active.add(program)
        function = getattr(self._library, program)
        function(*map(ctypes.c_uint64, arguments))
        self._active.remove(program)

    def _tracepoint(self, name: str, *arguments: int) -> None:
        context = (ctypes.c_uint64 * 8)(*arguments)
        self.run(f"raw_tracepoint__{name}", ctypes.addressof(context))

    def entry(self, regs: Regs, function: str) -> None:
        """The handler of a trap is called."""
        self.run(f"kfunc__{function}", 0, regs.address)

    def exit(self, regs: Regs, function: str) -> None:
        """It returns."""
        self.run(f"kretfunc__{function}", 0, regs.address)

    def to_user(self, regs: Regs) -> None:
        """The last function on the way to user mode."""
        self.run("kretfunc__exit_to_user_mode_prepare", 0, regs.address)

    def switch(self) -> None:
        """The task leaves the CPU."""
        self._tracepoint("sched_switch")

    def interrupt(self, name: str, vector: int, regs: Regs) -> None:
        """A tracepoint of an interrupt, whose frame is looked for on the stack from the probe's context on."""
        context = (ctypes.c_uint64 * 8).from_address((regs.address & ~KERNEL_HALF) - 16 * 8)
        context[0] = vector
        self.run(f"raw_tracepoint__{name}", ctypes.addressof(context))

    def nmi(
        self,
        *,
        ip: int = 0x5000,
        sp: int | None = None,
        claimed: bool = False,
        inside: Iterable[Callable[[Regs], None]] = (),
        behind: Iterable[Callable[[Regs], None]] = (),
    ) -> None:
        """An NMI of the kernel's.

        Args:
            ip: where it strikes.
            sp: the stack pointer then.
            claimed: whether a handler says that it was for it.
            inside: what happens in its handlers.
            behind: what happens after the last of them.
        """
        regs = self.push(self.nmi_top, ip=ip, sp=self.task_top - 0x800 if sp is None else sp)
        self.handle_nmi(regs, claimed=claimed, inside=inside)
        for happens in behind:
            happens(regs)

    def handle_nmi(self, regs: Regs, *, claimed: bool = False, inside: Iterable[Callable[[Regs], None]] = ()) -> None:
        """The kernel calls an NMI's handlers."""
        self.run("kfunc__perf_event_nmi_handler", 0, 0, regs.address)
        for happens in inside:
            happens(regs)
        self._tracepoint("nmi_last_handler", LAST_HANDLER, 0, claimed)

    def breakpoint(self, nmi: Regs, *, ip: int = 0x7000, below: int = 0x100) -> None:
        """A #BP, whole, in what an NMI runs, so many bytes below the NMI's ``pt_regs``."""
        regs = self.push(nmi.address - below, ip=ip, sp=nmi.address - below)
        self.entry(regs, "kprobe_int3_handler")
        self.exit(regs, "kprobe_int3_handler")

    def page_fault(self, below: Regs) -> None:
        """A #PF in what a trap runs: its return is not seen."""
        regs = self.push(below.address - 0x200, ip=0x7100, sp=below.address - 0x200)
        self._tracepoint("page_fault_kernel", 0, regs.address, 0)

    def debug(self, *, ip: int, sp: int) -> Regs:
        """A #DB of the kernel's begins, on its own stack; nothing has shown it."""
        return self.push(self.db_top, ip=ip, sp=sp)

    def show_debug(self, regs: Regs) -> None:
        """The die chain is told of it."""
        self.run("kfunc__hw_breakpoint_exceptions_notify", 0, 0, _DIE_DEBUG, self._die(regs))

    def end_debug(self, regs: Regs) -> None:
        """And returns."""
        self.run("kretfunc__hw_breakpoint_exceptions_notify", 0, 0, _DIE_DEBUG, self._die(regs))

    def _die(self, regs: Regs) -> int:
        self._write(self._base + _DIE_AT, regs.address)
        return self._base + _DIE_AT

    def machine_check(self, *, ip: int, sp: int) -> Regs:
        """A machine check of the kernel's begins, on its own stack; nothing has shown it."""
        return self.push(self.mc_top, ip=ip, sp=sp, returns_to=MACHINE_CHECK_STUB + 0x20)

    def show_machine_check(self, number: int) -> None:
        """It logs a bank: a machine check is in progress, and each has a time stamp of its own."""
        check = self._base + _CHECK_AT
        self._write(check, 0, 0, 0, _IN_PROGRESS, 0, number)
        # The stub's frame is looked for from the probe's context on.
        self.run("kfunc__mce_gen_pool_add", self.mc_top - _REGS_BYTES - 0x80, check)

    @contextmanager
    def interrupted(self, at: int, handler: Callable[[], None]) -> Iterator[list[int]]:
        """Inside, ``handler`` is called before the ``at``-th access to memory; the list gets how many there were."""
        problems: list[BaseException] = []
        counted: list[int] = []

        def guarded() -> None:
            try:
                handler()
            except BaseException as problem:  # noqa: BLE001 - it cannot pass through C
                problems.append(problem)

        callback = _INTERRUPT(guarded)
        accesses = ctypes.c_long.in_dll(self._library, "accesses")
        before = accesses.value
        self._library.interrupt_at(ctypes.c_long(at), callback)
        yield counted
        self._library.interrupt_at(ctypes.c_long(0), None)
        counted.append(accesses.value - before)
        if problems:
            raise problems[0]

    def clock_fails(self, times: int) -> None:
        """The counter cannot be read so many times."""
        ctypes.c_uint64.in_dll(self._library, "unreadable").value = times

    def events(self) -> list[dict[str, Any]]:
        """What the programs wrote, in the order of its time stamps, as a trace has it; with the ring of each."""
        n = ctypes.c_long.in_dll(self._library, "n_events").value
        address = ctypes.addressof(ctypes.c_uint8.in_dll(self._library, "events"))
        found = np.frombuffer(ctypes.string_at(address, n * TRAP_EVENT.itemsize), TRAP_EVENT)
        rings = ctypes.string_at(ctypes.addressof(ctypes.c_uint8.in_dll(self._library, "ring_of")), n)
        order = np.argsort(found["tsc"], kind="stable").tolist()
        return [
            {
                "tsc": int(found["tsc"][i]),
                "vector": int(found["vector"][i]),
                "phase": "exit" if found["phase"][i] else "entry",
                "hook": HOOK_NAMES[found["hook"][i]],
                "ip": int(found["ip"][i]),
                "sp": int(found["sp"][i]),
                "ring": ("others", "nmi")[rings[i]],
            }
            for i in order
        ]

    def shown(self) -> list[str]:
        """The same in short: ``+2`` an NMI's entry, ``-14`` a page fault's exit."""
        return [f"{'-' if event['phase'] == 'exit' else '+'}{event['vector']}" for event in self.events()]

    def losses(self) -> dict[str, int]:
        """What was counted as lost or mended."""
        counts = (ctypes.c_uint64 * len(LOSS_CAUSES)).in_dll(self._library, "map_losses")
        return {name: count for name, count in zip(LOSS_CAUSES, counts, strict=True) if count}
