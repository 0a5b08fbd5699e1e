"""One recording, from the first check to the finished trace."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, Self

import msgspec

from iretrace import __version__, _native, output
from iretrace import footer as footers
from iretrace.collect import calibrate, kernel, preflight
from iretrace.collect.btf import kernel_prototypes
from iretrace.collect.clock import KtimeClock, TscCounters, has_msr_pmu, take_anchor
from iretrace.collect.crosscheck import CrossCheck, read_interrupts
from iretrace.collect.drain import Drain, Progress
from iretrace.collect.hooks import trap_classes, unusable
from iretrace.collect.overhead import Overhead
from iretrace.collect.partial import Contents, Header, PartialWriter, copy_sorted
from iretrace.collect.probes import TEXT_DEVICE, ProbeOptions, Probes, read_idt
from iretrace.collect.wire import Addresses
from iretrace.errors import MachineError, OutputError, UsageError
from iretrace.trace import writing
from iretrace.vectors import NMI

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from iretrace.collect.kernel import Symbols

_KTIME_CALIBRATION_SECONDS: Final = 0.2


@dataclass(frozen=True, kw_only=True)
class CollectOptions:
    """What to record and where to.

    Attributes:
        target: the trace to write.
        force: replace an existing target.
        seconds: how long; ``None``: until the command ends or a signal comes.
        command: a command to run and record during; empty: none.
        ring_bytes: size of each CPU's ring buffer, a power of two.
        clock: ``auto`` takes the TSC where BPF can read it.
        raw_addresses: store kernel addresses as they are.
        calibrate: time the return paths first.
        tags: the user's own words for the footer.
    """

    target: Path
    force: bool = False
    seconds: float | None = None
    command: tuple[str, ...] = ()
    ring_bytes: int = 1 << 24
    clock: Literal["auto", "tsc", "ktime"] = "auto"
    raw_addresses: bool = False
    calibrate: bool = True
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def partial(self) -> Path:
        """The file events go to while collecting."""
        return self.target.with_name(self.target.name + ".partial")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A finished recording."""

    footer: footers.Footer
    seconds: float
    peak_fill_pct: float
    size_bytes: int


class _Stop:
    """Why the run ends: a signal, the time, or the command."""

    def __init__(self, options: CollectOptions) -> None:
        self.reason = ""
        self._seconds = options.seconds
        self._deadline: float | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._before: dict[int, object] = {}

    def start(self, child: subprocess.Popen[bytes] | None) -> None:
        self._child = child
        if self._seconds is not None:
            self._deadline = time.monotonic() + self._seconds

    def reached(self) -> bool:
        if not self.reason and self._child is not None and self._child.poll() is not None:
            self.reason = "command"
        if not self.reason and self._deadline is not None and time.monotonic() >= self._deadline:
            self.reason = "duration"
        return bool(self.reason)

    def _signalled(self, number: int, _frame: object) -> None:
        self.reason = self.reason or signal.Signals(number).name

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._before[number] = signal.signal(number, self._signalled)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]


def collect(
    options: CollectOptions,
    *,
    report: Callable[[Progress], None] = lambda _: None,
    finishing: Callable[[int, int], None] = lambda _done, _total: None,
) -> Outcome:
    """Record a trace.

    Args:
        options: what and where to.
        report: called about twice a second while recording.
        finishing: called with (events written, events in all) while the trace is written out.

    Raises:
        MachineError: this machine or privilege does not allow it.
        OutputError: the target cannot be written; what was recorded stays in the partial file.
        UsageError: the command cannot be run.
    """
    output.check_target(options.target, force=options.force)
    if options.partial.exists():
        raise OutputError(
            options.partial,
            "a partial file of an earlier run is here",
            remedy=f"salvage it with: iretrace import {options.partial} -o NEW.parquet, or remove it",
        )
    preflight.require()
    with _Stop(options) as stop:
        run = _Recording(options)
        try:
            with run:
                contents = run.record(stop, report)
            return _finish(options, contents, run, finishing)
        except BaseException:
            run.discard_if_empty()
            raise


class _Recording:
    """The state of one run: facts found at the start, the partial file, what the end adds."""

    def __init__(self, options: CollectOptions) -> None:
        self.options = options
        symbols = kernel.read_symbols()
        text_base = text_base_of(symbols, raw_addresses=options.raw_addresses)
        self._symbols = symbols
        table = read_idt()
        self._gates = kernel.parse_idt(table, symbols)
        calibration = calibrate.quick(min(os.sched_getaffinity(0))) if options.calibrate else None
        raw = options.raw_addresses
        shift = 0 if raw else text_base
        use_tsc = options.clock == "tsc" or (options.clock == "auto" and has_msr_pmu())
        self._cpus = kernel.cpu_list("online")
        self._anchor = take_anchor()
        self._clock = TscCounters(self._cpus) if use_tsc else KtimeClock(self._anchor, _khz())
        self.footer = footers.Footer(
            tool=f"iretrace {__version__}",
            host=kernel.host(),
            cpu=kernel.processor(),
            fred=kernel.fred_enabled(),
            mitigations=kernel.mitigations(),
            clock=footers.Clock(
                source=self._clock.source, error_cycles=self._clock.error_cycles, anchors=[self._anchor]
            ),
            addresses=footers.ADDRESSES_RAW if raw else footers.ADDRESSES_RELATIVE,
            kernel_cs=kernel.idt_code_segment(table),
            idt=[_shifted(gate, shift) for gate in self._gates],
            nmi_text=[(low - shift, high - shift) for low, high in kernel.nmi_text(symbols)],
            calibration=calibration,
            command=list(options.command),
            tags=options.tags,
        )
        self._addresses = Addresses(text_base=text_base, raw=raw)
        self._probes: Probes | None = None
        self._writer: PartialWriter | None = None
        self.n_events = 0
        self.peak_fill_pct = 0.0
        self.seconds = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._probes is not None:
            self._probes.close()
        self._clock.close()
        if self._writer is not None:
            self._writer.close()

    def record(self, stop: _Stop, report: Callable[[Progress], None]) -> Contents:
        """Attach, drain until stopped, detach; the events are then in the partial file."""
        options = self.options
        probes = self._probes = Probes(
            ProbeOptions(ring_bytes=options.ring_bytes, use_tsc=bool(self._clock.fds)), self._cpus
        )
        probes.set_tsc_counters(self._clock.fds)
        probes.set_entry_stubs(_stubs(self._gates, self._symbols))
        overhead = Overhead(probes)
        child: subprocess.Popen[bytes] | None = None
        wall_begin, own_begin = time.monotonic(), time.process_time()
        try:
            overhead.start()
            probes.attach(unusable(kernel_prototypes()))
            hooks = probes.hooks()
            classes = trap_classes(probes.attached, self._gates)
            start_tsc = _native.rdtsc()
            self.footer = msgspec.structs.replace(
                self.footer,
                hooks=hooks,
                classes=classes,
                window=footers.Window(start_tsc=start_tsc, ended_by="killed"),
            )
            header = Header(footer=self.footer, text_base=self._addresses.text_base, raw_addresses=self._addresses.raw)
            writer = self._writer = self._open_partial(header)
            crosscheck = CrossCheck(read_interrupts(), classes, max(self._cpus))
            drain = Drain(probes, self._clock, writer, crosscheck, start_tsc)
            child = _spawn(options.command)
            stop.start(child)

            drain.run(stop.reached, report)
            crosscheck.end(read_interrupts())
            stop_tsc = _native.rdtsc()
            probes.detach()
        finally:
            overhead.stop()
            _end_child(child)
        drain.once(stop_tsc)
        self.seconds = time.monotonic() - wall_begin
        self.n_events = drain.progress.events
        self.peak_fill_pct = drain.progress.peak_fill_pct
        last = take_anchor()
        khz = footers.khz_between(self._anchor, last)
        counted = probes.losses()
        losses = (
            counted
            + overhead.skipped()
            + overhead.unaccounted(drain.progress.drained, counted)
            + [footers.Loss(cause="clock-moved", cpu=cpu, count=cycles) for cpu, cycles in self._clock.moved().items()]
            + _unless_counted(crosscheck.missing(), counted)
            + [footers.Loss(cause="disk-full", cpu=cpu, count=count) for cpu, count in sorted(writer.dropped.items())]
        )
        self.footer = msgspec.structs.replace(
            self.footer,
            hooks=overhead.hooks(hooks),
            losses=losses,
            clock=msgspec.structs.replace(self.footer.clock, tsc_khz=khz, anchors=[self._anchor, last]),
            overhead=overhead.summary(
                n_events=self.n_events,
                seconds=self.seconds,
                n_cpus=len(self._cpus),
                own_cpu_seconds=time.process_time() - own_begin,
            ),
            window=footers.Window(start_tsc=start_tsc, stop_tsc=stop_tsc, ended_by=stop.reason),
            command_status=child.returncode if child is not None else None,
        )
        return Contents(header=header, status=None, batches=writer.batches, cut=writer.full, complete=True)

    def _open_partial(self, header: Header) -> PartialWriter:
        try:
            writer = PartialWriter(self.options.partial, header)
            output.give_to_invoking_user(self.options.partial)
        except OSError as error:
            raise OutputError(
                self.options.target, f"could not be written ({error.strerror})", remedy="choose another -o"
            ) from None
        return writer

    def discard_if_empty(self) -> None:
        """After a failure, leave nothing behind unless it holds events."""
        if self._writer is not None and not self._writer.batches:
            self.options.partial.unlink(missing_ok=True)


def _finish(
    options: CollectOptions, contents: Contents, run: _Recording, finishing: Callable[[int, int], None]
) -> Outcome:
    """Turn the partial file into the trace; if that fails the partial file stays."""
    kept = sum(batch.n_events for batch in contents.batches)
    if not kept:
        options.partial.unlink(missing_ok=True)
        raise MachineError(
            options.target, "not written: no event was recorded", remedy="record for longer, or see: iretrace doctor"
        )
    footer = msgspec.structs.replace(run.footer, events=kept)
    try:
        with output.replacing(options.target, force=options.force) as temporary, writing(temporary) as writer:
            copy_sorted(options.partial, contents, writer, lambda done: finishing(done, kept))
            writer.finish(footer)
    except OutputError as error:
        raise OutputError(
            error.where,
            error.found,
            remedy=f"the events are safe: iretrace import {options.partial} -o ELSEWHERE.parquet",
        ) from None
    options.partial.unlink()
    return Outcome(
        footer=footer,
        seconds=run.seconds,
        peak_fill_pct=run.peak_fill_pct,
        size_bytes=options.target.stat().st_size,
    )


def _unless_counted(missing: list[footers.Loss], counted: list[footers.Loss]) -> list[footers.Loss]:
    """What is missing of the kernel's counts, on the CPUs where no probe counted a loss itself."""
    explained = {loss.cpu for loss in counted if loss.cause in ("ring-full", "tsc-unreadable")}
    return [loss for loss in missing if loss.cpu not in explained]


def text_base_of(symbols: Symbols, *, raw_addresses: bool) -> int:
    """Address of ``_text``, to which kernel addresses are stored relative.

    Raises:
        MachineError: it is hidden, and addresses as they are were not asked for.
    """
    text = symbols.address("_text")
    if text is None and not raw_addresses:
        raise MachineError(
            "kernel symbols",
            "_text is hidden, so that kernel addresses cannot be stored relative to it",
            remedy="sysctl kernel.kptr_restrict=1, or collect --raw-addresses",
        )
    return text or 0


def _stubs(gates: list[footers.Gate], symbols: Symbols) -> dict[int, tuple[int, int]]:
    stubs = kernel.entry_stubs(gates, symbols)
    nmi = kernel.nmi_text(symbols)
    if nmi:
        stubs[NMI] = nmi[0]
    device = symbols.range_of(kernel.DEVICE_STUB)
    if device is not None:
        stubs[TEXT_DEVICE] = device
    return stubs


def _shifted(gate: footers.Gate, shift: int) -> footers.Gate:
    address = None if gate.address is None else (gate.address - shift) % 2**64
    return msgspec.structs.replace(gate, address=address)


def _khz() -> float:
    """TSC frequency over a short while, in kHz (the ktime clock needs it before the run)."""
    first = take_anchor()
    time.sleep(_KTIME_CALIBRATION_SECONDS)
    khz = footers.khz_between(first, take_anchor())
    if khz is None:
        raise MachineError("TSC", "does not advance against CLOCK_MONOTONIC", remedy="collect --clock tsc")
    return khz


def _spawn(command: tuple[str, ...]) -> subprocess.Popen[bytes] | None:
    if not command:
        return None
    try:
        return subprocess.Popen(command)
    except OSError as error:
        raise UsageError(
            f"command {command[0]!r}", f"cannot be run ({error.strerror})", expected="a program on PATH"
        ) from None


def _end_child(child: subprocess.Popen[bytes] | None) -> None:
    """The recording is over: a command that still runs is asked to end, then made to."""
    if child is None or child.poll() is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        child.terminate()
        try:
            child.wait(timeout=5)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
