"""``collect --backend perf``: recording where BCC or BPF is not to be had, by ``perf record`` of the same tracepoints.

What it lacks beside the probes: frames of interrupts (a tracepoint's registers are the kernel's own), the IDT, the
tracepoints that perf may not sample (``irq_vectors:irq_work_exit``), filters by task, the probes' own cost, and the
disk: perf writes some 120 bytes an event until the trace is made.

Clock: perf stamps with CLOCK_MONOTONIC (``-k``), which readings of both clocks before and after the run map to TSC
cycles. Known error: half the width of those readings, and what CLOCK_MONOTONIC was slewed meanwhile.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np

from iretrace import footer as footers
from iretrace import output
from iretrace.collect import kernel, selection
from iretrace.collect.clock import take_anchor
from iretrace.collect.crosscheck import CrossCheck, Reading, read_interrupts
from iretrace.collect.ending import Stop, end_child, spawn
from iretrace.collect.facts import machine_footer, text_base_of
from iretrace.collect.hooks import CLASSES
from iretrace.collect.options import CollectOptions, Outcome
from iretrace.collect.wire import Addresses
from iretrace.errors import MachineError, UsageError
from iretrace.importers import perf_data
from iretrace.importers.job import ImportOptions, Job, classes_of
from iretrace.importers.perf_file import open_header
from iretrace.importers.sorting import Sorter
from iretrace.trace_writer import writing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from iretrace.collect.drain import Progress
    from iretrace.footer import Anchor

_TRACEFS: Final = (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing"))
_SYSTEMS: Final = ("exceptions", "irq_vectors", "irq", "nmi")
_REFUSED: Final = {"irq_work_exit": "perf may not sample it: waking perf up is itself an IRQ work"}
"""TRACE_EVENT_PERF_PERM in arch/x86/include/asm/trace/irq_vectors.h."""
_KERNEL_CS: Final = 0x10
"""``__KERNEL_CS`` of x86_64 (arch/x86/include/asm/segment.h)."""
_REGISTERS: Final = "ip,sp,flags,cs"
_POLL_SECONDS: Final = 0.05
_PAGE_BYTES: Final = 4096
_SEEN: Final = np.dtype([("tsc", "<u8"), ("cpu", "<u2"), ("vector", "u1"), ("phase", "u1"), ("seen", "u1")])


@dataclass(frozen=True, kw_only=True)
class _AnchoredClock:
    """CLOCK_MONOTONIC to TSC cycles, by two readings of both."""

    first: Anchor
    last: Anchor

    @property
    def khz(self) -> float:
        """TSC frequency between the readings."""
        return (self.last.tsc - self.first.tsc) / max(self.last.monotonic_ns - self.first.monotonic_ns, 1) * 1e6

    def tsc(self, nanoseconds: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """TSC cycles."""
        since = nanoseconds.astype(np.int64) - np.int64(self.first.monotonic_ns)
        cycles = np.rint(since.astype(np.float64) * (self.khz / 1e6)).astype(np.int64)
        result: NDArray[np.uint64] = np.maximum(cycles + np.int64(self.first.tsc), 0).astype(np.uint64)
        return result


class _OwnJob(Job):
    """An import of what was recorded just now: addresses are stored as ``collect`` does, counts are compared."""

    addresses: Addresses
    crosscheck: CrossCheck

    def prepare(self, rows: NDArray[np.void]) -> None:
        """Count interrupts, and make addresses relative."""
        events = np.zeros(len(rows), _SEEN)
        for name in ("tsc", "cpu", "vector", "phase"):
            events[name] = rows[name]
        events["seen"] = rows["known"] & 1  # of both the vector is the lowest bit
        self.crosscheck.add(events)
        rows["ip"], rows["sp"] = self.addresses.ip(rows["ip"]), self.addresses.sp(rows["sp"])


def collect(
    options: CollectOptions,
    *,
    report: Callable[[Progress], None] = lambda _: None,  # noqa: ARG001 - perf does not tell while it records
    finishing: Callable[[int, int], None] = lambda _done, _total: None,
) -> Outcome:
    """Record a trace with perf; as :func:`iretrace.collect.session.collect`.

    Raises:
        MachineError: this machine or privilege does not allow it.
        OutputError: the target cannot be written.
        UsageError: what was asked for needs the probes.
    """
    called = time.monotonic()
    output.check_target(options.target, force=options.force)
    _check(options)
    wanted = selection.select(options.only, CLASSES)
    events = _events(wanted)
    symbols = kernel.read_symbols()
    text_base = text_base_of(symbols, raw_addresses=options.raw_addresses)
    addresses = Addresses(text_base=text_base, raw=options.raw_addresses)
    machine = machine_footer(options, symbols, addresses)
    data = options.target.with_name(f".{options.target.name}.{os.getpid()}.perf.data")
    try:
        with Stop(options) as stop:
            run = _record(options, events, data, stop)
        footer = msgspec.structs.replace(
            machine,
            tool=f"{machine.tool} collect --backend perf",
            kernel_cs=_KERNEL_CS,
            hooks=_hooks(events),
            window=footers.Window(start_tsc=run.first.tsc, stop_tsc=run.last.tsc, ended_by=stop.reason),
            filters=footers.Filters(only=sorted(wanted) if options.only else [], cpus=list(options.filters.cpus)),
            command_status=run.command_status,
        )
        footer = _convert(options, data, run, footer, addresses, finishing)
    finally:
        data.unlink(missing_ok=True)
    return Outcome(
        footer=footer,
        seconds=(run.last.monotonic_ns - run.first.monotonic_ns) / 1e9,
        setup_seconds=run.first.monotonic_ns / 1e9 - called,
        finish_seconds=time.monotonic() - run.last.monotonic_ns / 1e9,
        peak_fill_pct=None,
        size_bytes=options.target.stat().st_size,
    )


def _check(options: CollectOptions) -> None:
    if options.filters.by_task:
        raise UsageError("--pid, --comm and --cgroup", "need the probes", remedy="collect --backend bpf")
    if shutil.which("perf") is None:
        raise MachineError("perf", "there is no such program", remedy="apt install linux-perf (or linux-tools-…)")


def _tracefs() -> Path:
    for path in _TRACEFS:
        with suppress(OSError):
            if (path / "events").is_dir():
                return path / "events"
    raise MachineError("tracefs", "cannot be read", remedy="mount -t tracefs none /sys/kernel/tracing, as root")


def _events(wanted: frozenset[str]) -> dict[str, str]:
    """Tracepoints of the wanted classes that this kernel has and perf may sample, and the system of each."""
    targets = {hook.target for item in CLASSES if item.name in wanted for _, hook in item.tracepoints}
    found = {}
    for system in _SYSTEMS:
        try:
            names = sorted(path.name for path in (_tracefs() / system).iterdir() if path.is_dir())
        except OSError:
            continue
        found.update({name: system for name in names if name in targets and name not in _REFUSED})
    if not found:
        raise MachineError("tracepoints", "this kernel has none of those asked for", remedy="iretrace doctor")
    return found


def _hooks(events: dict[str, str]) -> list[footers.Hook]:
    recorded = [footers.Hook(name=name, attached=True) for name in events]
    return recorded + [footers.Hook(name=name, attached=False, reason=why) for name, why in _REFUSED.items()]


@dataclass(frozen=True, kw_only=True)
class _Run:
    """What is known when perf has ended."""

    first: Anchor
    last: Anchor
    begin: Reading
    end: Reading
    command_status: int | None


def _record(options: CollectOptions, events: dict[str, str], data: Path, stop: Stop) -> _Run:
    """Run perf until the recording is to end."""
    child: subprocess.Popen[bytes] | None = None
    with _Perf(options, events, data).running() as perf:
        first = take_anchor()
        perf.say("enable")
        begin = read_interrupts()
        try:
            child = spawn(options.command)
            stop.start(child)
            while not stop.reached():
                perf.check()
                time.sleep(_POLL_SECONDS)
            end = read_interrupts()
            perf.say("disable")
            last = take_anchor()
        finally:
            end_child(child)
    return _Run(
        first=first, last=last, begin=begin, end=end, command_status=child.returncode if child is not None else None
    )


class _Perf:
    """``perf record``, started disabled and switched through its control descriptors (perf 5.9 and later)."""

    def __init__(self, options: CollectOptions, events: dict[str, str], data: Path) -> None:
        pages = max(options.ring_bytes // _PAGE_BYTES, 1)
        cpus = ["-C", ",".join(map(str, options.filters.cpus))] if options.filters.cpus else ["-a"]
        self._command = [
            "perf",
            "record",
            "-q",
            "-B",
            "-N",
            "-D",
            "-1",
            *cpus,
            "-m",
            str(pages),
            "-k",
            "CLOCK_MONOTONIC",
        ]
        self._command += [f"--user-regs={_REGISTERS}", "-e", ",".join(f"{s}:{n}" for n, s in events.items())]
        self._command += ["-o", str(data)]
        self._process: subprocess.Popen[bytes] | None = None
        self._to_perf = self._from_perf = -1

    @contextmanager
    def running(self) -> Iterator[_Perf]:
        """Perf, started; afterwards it has written all it had."""
        theirs, self._to_perf = os.pipe()
        self._from_perf, acks = os.pipe()
        try:
            command = [*self._command, f"--control=fd:{theirs},{acks}"]
            self._process = subprocess.Popen(
                command,
                pass_fds=(theirs, acks),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C is for us: we end perf
            )
            os.close(theirs)
            os.close(acks)
            theirs = acks = -1
            yield self
            self._end()
        finally:
            for fd in (theirs, acks, self._to_perf, self._from_perf):
                if fd >= 0:
                    os.close(fd)
            if self._process is not None and self._process.poll() is None:
                self._process.kill()
                self._process.wait()

    def say(self, word: str) -> None:
        """Give an order and wait until it is obeyed."""
        with suppress(BrokenPipeError):
            os.write(self._to_perf, f"{word}\n".encode())
            if os.read(self._from_perf, 16):
                return
        self._failed()

    def check(self) -> None:
        """Stop where perf ended by itself."""
        if self._process is not None and self._process.poll() is not None:
            self._failed()

    def _end(self) -> None:
        assert self._process is not None  # noqa: S101 - it runs
        self._process.send_signal(signal.SIGINT)
        if self._process.wait() not in (0, -signal.SIGINT, 128 + signal.SIGINT):
            self._failed()

    def _failed(self) -> None:
        assert self._process is not None  # noqa: S101 - it was started
        self._process.kill()
        _, errors = self._process.communicate()
        lines = [line.strip() for line in errors.decode("utf-8", "replace").splitlines() if line.strip()]
        said = " ".join(lines[:3])[:200] or f"ended with status {self._process.returncode}"
        raise MachineError("perf record", said, remedy="run as root; iretrace doctor tells what is missing")


def _convert(  # noqa: PLR0913, PLR0917 - the parts of a run
    options: CollectOptions,
    data: Path,
    run: _Run,
    footer: footers.Footer,
    addresses: Addresses,
    finishing: Callable[[int, int], None],
) -> footers.Footer:
    """Make the trace of perf's file."""
    clock = _AnchoredClock(first=run.first, last=run.last)
    target = options.target
    with output.replacing(target, force=options.force) as temporary, writing(temporary) as writer:
        with Sorter(writer, target.parent) as sorter, data.open("rb") as file:
            job = _OwnJob(path=data, options=ImportOptions(kernel_cs=_KERNEL_CS), sorter=sorter)
            job.addresses = addresses
            header = open_header(file, data)
            recording = perf_data.Recording(header, job)
            recording.conversion = clock
            size = data.stat().st_size
            job.progress = lambda done, total: finishing(done, total or size)
            recording.prepare()
            classes = classes_of(set(), [name.partition(":")[2] for name in recording.trap_names()])
            job.crosscheck = CrossCheck(run.begin, classes, options.filters.cpus or kernel.cpu_list("online"))
            job.crosscheck.end(run.end)
            recording.read(file, size)
            recording.count_events()
            if not sorter.n_rows:
                raise MachineError(target, "not written: no event was recorded", remedy="record for longer")
            sorter.finish()
            processes = recording.processes()
        overrun = {loss.cpu for loss in job.losses}
        missing = [loss for loss in job.crosscheck.missing() if loss.cpu not in overrun]
        if job.malformed:
            missing.append(footers.Loss(cause="malformed", count=job.malformed))
        anchors = [run.first, run.last]
        footer = msgspec.structs.replace(
            footer,
            events=sorter.n_rows,
            classes=classes,
            losses=job.losses + missing,
            processes=processes,
            clock=footers.Clock(
                source="ktime",
                tsc_khz=clock.khz,
                error_cycles=float(max(anchor.error_cycles for anchor in anchors)),
                anchors=anchors,
                note="perf's CLOCK_MONOTONIC, mapped to TSC cycles by readings of both before and after the run",
            ),
        )
        writer.finish(footer)
    return footer
