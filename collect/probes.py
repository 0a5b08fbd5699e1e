"""Compiling, loading and attaching the probes of ``bpf/``, and reading what they count."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

from iretrace import footer as footers
from iretrace.collect import bcc as bcc_loader
from iretrace.collect import kernel, stimuli, syscalls
from iretrace.collect.bcc import BPF_DIR
from iretrace.collect.choice import Choice, choose
from iretrace.collect.filters import Filters
from iretrace.collect.hooks import BY_NAME, HOOKS, PROCESS_HOOKS, Hook, Kind, Unit
from iretrace.collect.processes import ProcessNames
from iretrace.collect.ring import PAGE_BYTES, Ring
from iretrace.collect.stacks import UNKNOWN
from iretrace.collect.wire import LOSS_CAUSES, PROCESS_EVENT, TRAP_EVENT
from iretrace.errors import MachineError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from types import ModuleType

    from numpy.typing import NDArray

    from iretrace.collect.btf import Prototypes
    from iretrace.collect.drain import Clock
    from iretrace.collect.hooks import HookClass

AGGREGATE_SOURCE: Final = "aggregate.bpf.c"
FUNCTION_SOURCE: Final = "functions.bpf.c"
SOURCES: Final = (
    "filter.bpf.c",
    "event.bpf.c",
    "frame.bpf.c",
    "stacks.bpf.c",
    "state.bpf.c",
    AGGREGATE_SOURCE,
    "order.bpf.c",
    "nmi.bpf.c",
    "trap.bpf.c",
    "process.bpf.c",
    FUNCTION_SOURCE,
)
"""The probes' files, each of which uses what stands before it. BCC knows maps in its main file only, so they are joined
and compiled as one; :data:`AGGREGATE_SOURCE` and :data:`FUNCTION_SOURCE` only where they are needed."""
FUNCTION_UNITS: Final = frozenset({Unit.FUNCTIONS, Unit.HYPERVISOR})
TEXT_DEVICE: Final = 256
"""Index of asm_common_interrupt in the map ``entry_text`` (bpf/trap.h)."""
TEXT_ENTRY: Final = 257
"""Index of all entry code there, and behind it what stubs run before they call a handler."""

NAME_RING_BYTES: Final = 256 * 1024
_FENTRY_TRIALS: Final = 3
"""Functions that refuse, after which the kernel is taken to have no fentry."""

NMI_RING_BYTES: Final = 256 * 1024
"""Of each CPU: 4096 events, since what is taken inside NMIs goes there too."""


def lack_of_fentry(prototypes: Prototypes) -> str | None:
    """Why programs cannot be attached to functions on this kernel, found by trying; ``None``: they can."""
    reason = "the kernel's BTF has none of the functions"
    tried = 0
    for hook in HOOKS:
        function = prototypes.function(hook.target) if hook.kind is Kind.FENTRY else None
        if function is None:
            continue
        try:
            syscalls.try_fentry(function)
        except OSError as error:
            reason, tried = f"this kernel has no fentry ({error.strerror})", tried + 1
        else:
            return None
        if tried == _FENTRY_TRIALS:
            break
    return reason


class _NotCompiled(Exception):  # noqa: N818 - a request, not an error
    """A hook is needed whose unit was left out."""

    def __init__(self, unit: Unit) -> None:
        super().__init__(unit)
        self.unit = unit


class _Refused(Exception):  # noqa: N818 - why, for the one who asked
    """The kernel does not load a program."""


@dataclass(frozen=True, kw_only=True)
class ProbeOptions:
    """How to build the probes.

    Attributes:
        ring_bytes: size of each CPU's ring buffer, a power of two.
        use_tsc: read the TSC in BPF (else bpf_ktime_get_ns).
        units: what to compile (:func:`iretrace.collect.choice.units_for`); more is compiled should it be needed.
        last_nmi_handler: the function at the end of the list of NMI handlers, where it is known.
        filters: what to leave out.
        aggregate: count in BPF, write no events.
        entry_areas: where the stacks of NMI, #DB and machine check lie (:func:`iretrace.collect.stacks.entry_areas`).
        typed: tracepoints whose programs get arguments with types (:func:`iretrace.collect.typed.typed_tracepoints`).
    """

    ring_bytes: int
    use_tsc: bool
    units: frozenset[Unit] = frozenset({Unit.STAND_INS})
    last_nmi_handler: int | None = None
    filters: Filters = field(default_factory=Filters)
    aggregate: bool = False
    entry_areas: bytes = UNKNOWN
    typed: Mapping[str, int] = field(default_factory=dict)


class Probes:
    """The loaded probes, their rings and counters. Use as a context manager: on exit nothing is left behind."""

    def __init__(self, options: ProbeOptions, cpus: list[int]) -> None:
        self._bcc: ModuleType = bcc_loader.load()
        self._possible = max(kernel.cpu_list("possible")) + 1
        self._options = options
        self._units = options.units
        self._tsc_counters: dict[int, int] = {}
        self._entry_stubs: dict[int, tuple[int, int]] = {}
        self._module: Any = self._compile()
        self.rings: dict[int, Ring] = {}
        self.nmi_rings: dict[int, Ring] = {}
        self.name_rings: list[Ring] = []
        self.processes = ProcessNames()
        self.attached: dict[str, int] = {}
        self._exceptions = 0
        self.choice: Choice | None = None
        self.counting = False
        """Whether the kernel counts the programs' runs (set by :class:`iretrace.collect.overhead.Overhead`)."""
        try:
            for cpu in cpus:
                self.rings[cpu] = Ring(options.ring_bytes, f"iretrace_{cpu}")
                self.nmi_rings[cpu] = Ring(max(NMI_RING_BYTES, PAGE_BYTES), f"iretrace_nmi_{cpu}")
            self.name_rings.append(Ring(NAME_RING_BYTES, "iretrace_names"))
            self._install_rings()
        except OSError as error:
            self.close()
            raise MachineError(
                "BPF ring buffer", f"could not be created ({error.strerror})", remedy="collect with a smaller --buffer"
            ) from None

    def _compile(self) -> Any:  # noqa: ANN401 - BCC has no types
        options = self._options
        flags = [f"-DIRETRACE_CPUS={self._possible}"]
        flags += ["-DIRETRACE_CLOCK_TSC"] * options.use_tsc + [f"-D{unit}" for unit in sorted(self._units) if unit]
        flags += ["-DIRETRACE_TYPED"] * bool(options.typed) + options.filters.flags()
        flags += ["-DIRETRACE_AGGREGATE"] * options.aggregate
        needed = {AGGREGATE_SOURCE: options.aggregate, FUNCTION_SOURCE: bool(self._units & FUNCTION_UNITS)}
        sources = [BPF_DIR / name for name in SOURCES if needed.get(name, True)]
        module = bcc_loader.new_module(self._bcc, sources, flags)
        options.filters.install(module)
        return module

    def _compile_more(self, unit: Unit) -> None:
        """Start over with one more unit: a hook did not work, and what stands in for it was not compiled."""
        self.detach_all()
        self._module.cleanup()
        self._units |= {unit}
        self._module = self._compile()
        self._install_rings()
        self.set_tsc_counters(self._tsc_counters)
        self.set_entry_stubs(self._entry_stubs)

    def _install_rings(self) -> None:
        ring_fds = {cpu: ring.fd for cpu, ring in self.rings.items()}
        ring_fds |= {self._possible + cpu: ring.fd for cpu, ring in self.nmi_rings.items()}
        ring_fds |= dict.fromkeys([2 * self._possible], self.name_rings[0].fd)
        for key, fd in ring_fds.items():
            syscalls.update_element(self._module[b"rings"].map_fd, struct.pack("=I", key), struct.pack("=I", fd))

    def set_tsc_counters(self, fds: dict[int, int]) -> None:
        """Give the programs the msr/tsc counter of each CPU."""
        self._tsc_counters = fds
        map_fd = self._module[b"tsc_counter"].map_fd
        for cpu, fd in fds.items():
            syscalls.update_element(map_fd, struct.pack("=I", cpu), struct.pack("=I", fd))

    def set_entry_stubs(self, stubs: dict[int, tuple[int, int]]) -> None:
        """Tell the programs where each vector's entry stub lies (:data:`TEXT_DEVICE`: device interrupts)."""
        self._entry_stubs = stubs
        map_fd = self._module[b"entry_text"].map_fd
        for index, (low, high) in stubs.items():
            syscalls.update_element(map_fd, struct.pack("=I", index), struct.pack("=QQ", low, high))

    def choose(
        self,
        *,
        classes: Iterable[HookClass],
        refused: Mapping[str, str],
        provoke: Callable[[], frozenset[str]] = stimuli.provoke,
    ) -> Choice:
        """Attach the best hooks that work here (:func:`iretrace.collect.choice.choose`).

        Raises:
            MachineError: a program was refused by the verifier, or nothing could be attached.
        """
        classes = tuple(classes)
        self._exceptions = sum(1 << vector for item in classes for vector in item.vectors if vector < 32)
        while True:
            self._set(user_exits=False)
            try:
                choice = self.choice = choose(self, classes=classes, refused=refused, provoke=provoke)
            except _NotCompiled as missing:
                self._compile_more(missing.unit)
            else:
                break
        if not choice.attached:
            reason = next(iter(choice.refused.values()), "no hook")
            raise MachineError("BPF", f"no probe could be attached ({reason})", remedy="iretrace doctor")
        for hook in PROCESS_HOOKS:
            if hook.name not in refused:
                self.attach(hook)
        self._set(user_exits=choice.user_exits)
        return choice

    def _set(self, *, user_exits: bool) -> None:
        settings = struct.pack("=QII", self._options.last_nmi_handler or 0, user_exits, self._exceptions)
        settings += self._options.entry_areas
        syscalls.update_element(self._module[b"settings"].map_fd, struct.pack("=I", 0), settings)

    def attach(self, hook: Hook) -> str:
        """Load and attach one hook's program; returns why it could not be, or an empty string.

        Raises:
            MachineError: a program on a tracepoint, which every kernel should take, was refused.
        """
        if hook.unit and hook.unit not in self._units:
            raise _NotCompiled(hook.unit)
        try:
            function = self._load(hook)
        except _Refused as refused:
            if hook.kind is Kind.TRACEPOINT:
                raise MachineError(
                    "BPF", f"the kernel refused the program {hook.program} ({refused})", remedy="iretrace doctor"
                ) from None
            return f"the kernel refused the program ({refused})"
        with bcc_loader.captured_stderr():
            if hook.kind is Kind.TRACEPOINT and hook.target not in self._options.typed:
                fd = self._bcc.lib.bpf_attach_raw_tracepoint(function.fd, hook.target.encode())
            else:
                fd = self._bcc.lib.bpf_attach_kfunc(function.fd)
        if fd < 0:
            number = ctypes.get_errno()
            missing = hook.kind is Kind.TRACEPOINT and number == errno.ENOENT
            return "this kernel has no such tracepoint" if missing else f"cannot be attached ({os.strerror(number)})"
        self.attached[hook.name] = fd
        return ""

    def _load(self, hook: Hook) -> Any:  # noqa: ANN401 - BCC has no types
        """One hook's program, loaded and known to BCC's module, which unloads it."""
        bpf, name = self._bcc.BPF, hook.program.encode()
        btf_id = self._options.typed.get(hook.target) if hook.kind is Kind.TRACEPOINT else None
        if btf_id is not None and name not in self._module.funcs:
            code = self._module.dump_func(name)
            try:
                fd = syscalls.load_tracing(code, btf_id=btf_id, name=hook.target)
            except OSError as error:
                raise _Refused(error.strerror) from None
            self._module.funcs[name] = bpf.Function(self._module, name, fd)
        with bcc_loader.captured_stderr() as output:
            try:
                kind = bpf.RAW_TRACEPOINT if hook.kind is Kind.TRACEPOINT else bpf.TRACING
                return self._module.load_func(name, kind)
            except Exception as error:  # noqa: BLE001 - BCC raises Exception itself
                problem = error
        raise _Refused(bcc_loader.first_error(output.text or str(problem)))

    def drain_names(self, clock: Clock) -> None:
        """Take in what processes were called since the last time."""
        for ring in self.name_rings:
            records = ring.drain().view(PROCESS_EVENT)
            clock.to_tsc(records)
            self.processes.take(records)

    def detach(self, hook: Hook) -> None:
        """Take one hook away again."""
        os.close(self.attached.pop(hook.name))

    def runs(self, hook: Hook) -> int | None:
        """How often a loaded hook's program ran; ``None`` where the kernel did not count (BPF_STATS_RUN_TIME)."""
        return syscalls.program_info(self._module.funcs[hook.program.encode()].fd).run_cnt if self.counting else None

    def detach_all(self) -> None:
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

    def left_out(self) -> int:
        """Traps that the filters left out."""
        table = self._module[b"filtered_out"]
        return sum(sum(map(int, table[ctypes.c_int(index)])) for index in (0, 1))

    def map_fd(self, name: str) -> int:
        """File descriptor of a map of the programs."""
        return int(self._module[name.encode()].map_fd)

    def passed(self) -> int:
        """Runs of the programs that rightly wrote no event: of a hook that others share, or that stands back."""
        return sum(int(state.passed) for state in self._module[b"cpu_state"][ctypes.c_int(0)])

    def held_exits(self) -> NDArray[np.void]:
        """Exits of NMIs that the programs still hold back (``bpf/nmi.bpf.c``), once no program runs any more."""
        found = []
        for cpu, state in enumerate(self._module[b"cpu_state"][ctypes.c_int(0)]):
            nmi = state.nmi
            if nmi.held in {nmi.settled, nmi.sent}:
                continue
            frame = nmi.exit.frame
            event = np.zeros((), TRAP_EVENT)
            event["tsc"], event["cpu"] = nmi.exit_tsc, cpu
            event["ip"], event["cs"], event["flags"], event["sp"] = frame.ip, frame.cs, frame.flags, frame.sp
            for name in ("vector", "hook", "phase", "seen"):
                event[name] = getattr(nmi.exit, name)
            found.append(event)
        return np.array(found, TRAP_EVENT)

    def hooks(self) -> list[footers.Hook]:
        """Every hook, and why those that are not attached are not."""
        refused = self.choice.refused if self.choice is not None else {}
        return [
            footers.Hook(name=name, attached=True)
            if name in self.attached
            else footers.Hook(name=name, attached=False, reason=refused.get(name, "not needed"))
            for name in BY_NAME
        ]

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
