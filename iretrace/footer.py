"""The trace's footer: one JSON document that says on what machine, how and how well it was recorded.

Stored in the Parquet file's key-value metadata under ``iretrace``. Every field has a default that means
"not known", so that imported traces, old traces and salvaged traces decode with the same classes; what a
reader needs and does not find, it must call unknown. Files are untrusted: decoding checks types and ranges
and names the path of what is wrong (msgspec).
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec

from iretrace.errors import Damaged, SchemaTooNew
from iretrace.schema import SCHEMA_VERSION

U64 = Annotated[int, msgspec.Meta(ge=0)]  # the upper bound is past what msgspec checks: see decode()
U32 = Annotated[int, msgspec.Meta(ge=0, le=0xFFFFFFFF)]
U16 = Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)]
U8 = Annotated[int, msgspec.Meta(ge=0, le=0xFF)]
Count = Annotated[int, msgspec.Meta(ge=0)]

U64_MAX: Final = 2**64 - 1
_FIRST_SYSTEM_VECTOR: Final = 0xEC  # Linux arch/x86/include/asm/irq_vectors.h, LOCAL_TIMER_VECTOR

ADDRESSES_RAW: Final = "raw"
ADDRESSES_RELATIVE: Final = "relative"


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """The machine the trace was recorded on."""

    name: str = ""
    kernel: str = ""
    machine: str = ""
    hypervisor: str | None = None
    """Hypervisor's name, ``None`` for bare metal or not known."""


class Cpu(msgspec.Struct, frozen=True, kw_only=True):
    """The processor, by CPUID's own words."""

    vendor: str = ""
    family: int | None = None
    model: int | None = None
    stepping: int | None = None
    microcode: str = ""
    name: str = ""
    online: list[U16] = []
    """Logical CPUs that were online when collecting began."""


class Anchor(msgspec.Struct, frozen=True, kw_only=True):
    """One simultaneous reading of the TSC and the kernel's clocks."""

    tsc: U64
    realtime_ns: int
    monotonic_ns: int
    error_cycles: Count = 0
    """Width of the bracket of RDTSC around the reading."""


def khz_between(first: Anchor, last: Anchor) -> float | None:
    """TSC frequency from two anchors, in kHz; ``None`` where they are too close to tell."""
    nanoseconds = last.monotonic_ns - first.monotonic_ns
    if nanoseconds < 1_000_000:
        return None
    return (last.tsc - first.tsc) / nanoseconds * 1e6


class Clock(msgspec.Struct, frozen=True, kw_only=True):
    """Where the ``tsc`` column comes from."""

    source: str = "unknown"
    """``msr-tsc`` (TSC read in BPF), ``ktime`` (bpf_ktime_get_ns mapped by anchors) or ``import``."""
    tsc_khz: Annotated[float, msgspec.Meta(gt=0)] | None = None
    error_cycles: float | None = None
    """Bound of the error of an absolute ``tsc``, in cycles; ``None``: not known."""
    anchors: list[Anchor] = []
    note: str = ""
    """Of an imported trace: what its times are, for people."""


class Gate(msgspec.Struct, frozen=True, kw_only=True):
    """One gate of the interrupt descriptor table."""

    vector: U8
    handler: str = ""
    """Kernel symbol of the entry stub; empty where not known."""
    address: U64 | None = None
    ist: Annotated[int, msgspec.Meta(ge=0, le=7)] = 0
    """IST index; 0: the gate does not switch to an IST stack."""
    dpl: Annotated[int, msgspec.Meta(ge=0, le=3)] = 0


class Hook(msgspec.Struct, frozen=True, kw_only=True):
    """One probe and what the kernel says of it."""

    name: str
    attached: bool
    reason: str = ""
    """Why it is not attached."""
    runs: Count = 0
    """Runs counted by BPF_STATS_RUN_TIME."""
    run_ns: Count = 0
    recursion_misses: Count = 0


class TrapClass(msgspec.Struct, frozen=True, kw_only=True):
    """What this kernel lets the collector see of one class of trap."""

    name: str
    vectors: list[U8] = []
    entry: str | None = None
    """Hook that saw entries; ``None``: entries cannot be seen."""
    exit: str | None = None
    """Hook that saw exits; ``None``: exits cannot be seen, and a trap of this class has no end."""
    exits_to: Literal["any", "user"] = "any"
    """Which of its returns the exit's hooks see: ``user``: those to user mode alone."""
    frame: str | None = None
    """How the interrupted frame was found; ``None``: it was not."""
    lacks: str = ""
    """What is missing and why, for people."""
    unproven: list[str] = []
    """Its hooks that are attached and had not run when the recording began."""
    passed_over: list[str] = []
    """Better ways to see it, each with what this kernel lacks for it, for people."""


class Loss(msgspec.Struct, frozen=True, kw_only=True):
    """A count of one cause of :mod:`iretrace.losses`."""

    cause: str
    count: Count
    cpu: U16 | None = None


class Process(msgspec.Struct, frozen=True, kw_only=True):
    """What a process was called, from a moment on until its next name or the next process of its pid."""

    pid: U32
    comm: str
    """The kernel's name of its first thread."""
    since_tsc: U64 | None = None
    """``None``: from the beginning, as far as is known."""


class CpuShare(msgspec.Struct, frozen=True, kw_only=True):
    """What the probes took of one CPU."""

    cpu: U16
    pct: float


class Overhead(msgspec.Struct, frozen=True, kw_only=True):
    """What the probes themselves cost while recording, by the kernel's own measurement (BPF_STATS_RUN_TIME)."""

    runs: Count = 0
    run_ns: Count = 0
    ns_per_event: float | None = None
    cpu_pct: float | None = None
    """Probe time as percent of the time of all CPUs."""
    by_cpu: list[CpuShare] = []
    """The same of each CPU: the time in all, shared out by events."""
    collector_cpu_pct: float | None = None
    """The collector's own CPU time as percent of one CPU."""


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """Cost of one return path in TSC cycles, with an interval."""

    path: str
    """``iretq``, ``ret``, ``ret-thunk``, … (see :mod:`iretrace.replay.costs`)."""
    median_cycles: float
    low_cycles: float
    high_cycles: float
    samples: Count = 0


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """Return paths timed on the recorded machine."""

    method: str = ""
    clock_overhead_cycles: float | None = None
    costs: list[Cost] = []
    stable: bool = True
    """False where repeated runs disagreed more than their intervals allow."""


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """The span of time that was recorded."""

    start_tsc: U64 | None = None
    stop_tsc: U64 | None = None
    ended_by: str = ""
    """``duration``, ``command``, ``SIGINT``, ``SIGTERM``, ``killed``, ``end of input``."""


class Collector(msgspec.Struct, frozen=True, kw_only=True):
    """The process that recorded, by which its own traps can be told from the rest."""

    pid: Count | None = None
    uid: Count | None = None
    """Who it was while recording; ``None``: not known."""
    capabilities: list[str] = []
    """What it could still do while recording."""
    privileged_threads: Count = 0
    """Its threads that could not be made to give up theirs."""
    memory_locked: bool = False
    peak_bytes: Count = 0
    """The most memory it had at a time."""
    events: Count = 0
    """Events of the trace that carry its pid."""
    page_faults: Count = 0
    """Of these, page faults."""


class Incident(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened to the machine or the recording while it ran."""

    tsc: U64
    """When it was noticed."""
    what: str
    """A cause of :mod:`iretrace.losses`."""
    detail: str = ""


class Off(msgspec.Struct, frozen=True, kw_only=True):
    """A class of trap that was switched off while the run went on: from then on nothing is known of it."""

    name: str
    """As in :class:`TrapClass`."""
    vectors: list[U8] = []
    """Empty: device interrupts."""
    from_tsc: U64
    """Traps that began later are not there."""
    reason: str = ""


class Filters(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for, where not everything was; an empty list asks nothing."""

    only: list[str] = []
    """Classes of trap, by the names of :class:`TrapClass`."""
    cpus: list[U16] = []
    pids: list[Count] = []
    comms: list[str] = []
    cgroups: list[str] = []
    left_out: Count = 0
    """Traps that the probes saw and left out."""

    def described(self) -> str:
        """In words; empty where everything was asked for."""
        kinds: dict[str, list[Any]] = {
            "class": self.only,
            "CPU": self.cpus,
            "pid": self.pids,
            "comm": self.comms,
            "cgroup": self.cgroups,
        }
        return "; ".join(f"{kind} {', '.join(map(str, values))}" for kind, values in kinds.items() if values)


class Footer(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about a trace that is not an event."""

    schema: Count = SCHEMA_VERSION
    tool: str = ""
    events: Count = 0
    host: Host = Host()
    cpu: Cpu = Cpu()
    fred: bool | None = None
    """Whether FRED delivered the events; ``None``: not known."""
    mitigations: dict[str, str] = {}
    clock: Clock = Clock()
    addresses: str = ADDRESSES_RAW
    """``raw``, or ``relative``: kernel text addresses are offsets from ``_text`` (modulo 2^64), kernel stack
    pointers keep bits 0-13 and the sign of the kernel half."""
    kernel_cs: U16 | None = None
    idt: list[Gate] | None = None
    nmi_text: list[tuple[U64, U64]] = []
    """Half-open address ranges [low, high) of the NMI entry and exit code, in the space of ``ip``."""
    hooks: list[Hook] = []
    classes: list[TrapClass] = []
    losses: list[Loss] = []
    filters: Filters = Filters()
    """What the recording was limited to."""
    processes: list[Process] = []
    """Names of the processes that were interrupted, by pid and in the order of time (iretrace/processes.py)."""
    off: list[Off] = []
    """Classes that were shed in the middle (``collect --max-overhead``)."""
    incidents: list[Incident] = []
    collector: Collector = Collector()
    overhead: Overhead = Overhead()
    calibration: Calibration | None = None
    window: Window = Window()
    command: list[str] = []
    """The command that was traced, if one was."""
    command_status: int | None = None
    """Its exit status (negative: the signal that ended it)."""
    tags: dict[str, str] = {}

    def to_json(self) -> bytes:
        """Encode for the file's metadata."""
        return msgspec.json.encode(self)

    def lost_events(self) -> int:
        """Number of traps known to be missing."""
        from iretrace.losses import BY_NAME  # noqa: PLC0415 - keeps the vocabulary free of import cycles

        return sum(loss.count for loss in self.losses if BY_NAME[loss.cause].severity == "events")

    def is_lossy(self) -> bool:
        """Whether any trap is known or suspected to be missing (a killed run counts)."""
        from iretrace.losses import BY_NAME  # noqa: PLC0415

        return any(BY_NAME[loss.cause].severity == "events" for loss in self.losses)

    def limits(self) -> list[str]:
        """What was left out on purpose, one sentence each: nesting and rates are of what was recorded."""
        asked = self.filters.described()
        found = [f"Only a part was recorded ({asked}): nesting and rates are of that part."] if asked else []
        for off in self.off:
            share = self.recorded_share(off.vectors[0] if off.vectors else None)
            found.append(
                f"{off.name} was switched off after {100 * share:.0f} % of the time ({off.reason}): "
                "what came later is not there, and its rates are of the time before."
            )
        return found

    def recorded_share(self, vector: int | None) -> float:
        """The share of the window, from 0 to 1, in which traps of a vector were recorded (``None``: a device's)."""
        start, cycles = self.window.start_tsc, self.duration_cycles()
        if start is None or cycles is None:
            return 1.0
        device = vector is None or 32 <= vector < _FIRST_SYSTEM_VECTOR
        ends = [off.from_tsc for off in self.off if (vector in off.vectors if off.vectors else device)]
        return min(1.0, max(0.0, (min(ends) - start) / cycles)) if ends else 1.0

    def duration_cycles(self) -> int | None:
        """Length of the recorded window in TSC cycles, ``None`` where not known."""
        start, stop = self.window.start_tsc, self.window.stop_tsc
        return stop - start if start is not None and stop is not None and stop > start else None


def decode(document: bytes, where: str) -> Footer:
    """Decode and check a footer.

    Args:
        document: the JSON text from the file.
        where: file name for error messages.

    Raises:
        SchemaTooNew: the document was written by a newer iretrace.
        Damaged: it is not a footer.
    """
    try:
        version: Any = msgspec.json.decode(document, type=dict[str, Any]).get("schema")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Damaged(where, f"the iretrace footer is not JSON ({error})", expected="a JSON document") from None
    check_schema(version, SCHEMA_VERSION, where, of="the trace")
    try:
        footer = msgspec.json.decode(document, type=Footer)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Damaged(where, f"the iretrace footer is off: {error}", expected=f"schema {SCHEMA_VERSION}") from None
    _check_values(footer, where)
    return footer


def check_schema(version: object, newest: int, where: str, *, of: str) -> None:
    """Refuse a document of a schema that this iretrace does not know.

    Args:
        version: what the document says.
        newest: the newest that can be read.
        where: file name for error messages.
        of: what has this schema, for error messages: ``the trace``.

    Raises:
        SchemaTooNew: a newer iretrace wrote it.
        Damaged: it is no version.
    """
    if not isinstance(version, int) or isinstance(version, bool):
        raise Damaged(where, f"{of} has schema {version!r}", expected="a whole number")
    if version > newest:
        raise SchemaTooNew(
            where,
            f"{of} has schema {version}",
            expected=f"at most {newest}",
            remedy="upgrade iretrace: pip install --upgrade iretrace",
        )


def _check_values(footer: Footer, where: str) -> None:
    """What types alone do not say."""
    from iretrace.losses import BY_NAME  # noqa: PLC0415

    for loss in footer.losses:
        if loss.cause not in BY_NAME:
            raise Damaged(where, f"unknown loss {loss.cause!r}", expected="one of " + ", ".join(BY_NAME))
    for low, high in footer.nmi_text:
        if low >= high or high > U64_MAX:
            raise Damaged(where, f"NMI text range {low:#x}-{high:#x}", expected="low < high < 2^64")
    if max(footer.window.start_tsc or 0, footer.window.stop_tsc or 0) > U64_MAX:
        raise Damaged(where, "the recorded window ends after 2^64 cycles", expected="TSC values of 64 bits")
    if max((process.since_tsc or 0 for process in footer.processes), default=0) > U64_MAX:
        raise Damaged(where, "a process was named after 2^64 cycles", expected="TSC values of 64 bits")
