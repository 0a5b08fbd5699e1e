"""One recording, from the first check to the finished trace."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, Self

import msgspec

from iretrace import _native, output
from iretrace import footer as footers
from iretrace.collect import preflight, selection
from iretrace.collect.choice import trap_classes
from iretrace.collect.clock import open_clock, take_anchor
from iretrace.collect.crosscheck import CrossCheck, read_interrupts
from iretrace.collect.drain import Buffers, Drain, Progress
from iretrace.collect.ending import Stop, end_child, spawn
from iretrace.collect.facts import gather
from iretrace.collect.hooks import CLASSES
from iretrace.collect.locked_memory import LockedMemory, peak_bytes
from iretrace.collect.options import CollectOptions, Outcome
from iretrace.collect.overhead import Overhead
from iretrace.collect.partial import Contents, Header, PartialWriter, copy_sorted
from iretrace.collect.plan import plan
from iretrace.collect.probes import Probes
from iretrace.collect.settling import settle
from iretrace.collect.shedding import Shedder
from iretrace.collect.watch import Watch
from iretrace.errors import MachineError, OutputError
from iretrace.trace_writer import writing

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from iretrace.collect.plan import Plan

_LOOK_BRACKETS: Final = 20


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
    called = time.monotonic()
    output.check_target(options.target, force=options.force)
    if options.partial.exists():
        raise OutputError(
            options.partial,
            "a partial file of an earlier run is here",
            remedy=f"salvage it with: iretrace import {options.partial} -o NEW.parquet, or remove it",
        )
    preflight.require()
    with Stop(options) as stop:
        run = Recording(options)
        try:
            with run:
                contents = run.record(stop, report)
            footer = _finish(options, contents, run, finishing)
        except BaseException:
            run.discard_if_empty()
            raise
    return Outcome(
        footer=footer,
        seconds=run.ended - run.began,
        setup_seconds=run.began - called,
        finish_seconds=time.monotonic() - run.ended,
        peak_fill_pct=run.peak_fill_pct,
        size_bytes=options.target.stat().st_size,
    )


class Recording:
    """The state of one run: facts found at the start, the partial file, what the end adds.

    Attributes:
        options: what and where to.
        footer: what is known so far.
        began: when the recorded window began, by ``time.monotonic()``; ``ended`` likewise.
        peak_fill_pct: the fullest ring of the run.
    """

    def __init__(self, options: CollectOptions) -> None:
        self.options = options
        self._wanted = selection.select(options.only, CLASSES)
        facts = self._facts = gather(options)
        options.filters.check(facts.cpus)
        self._cpus = sorted(options.filters.cpus) or facts.cpus
        self._anchor = take_anchor()
        self._clock = open_clock(options.clock, facts.cpus, self._anchor)
        self.footer = msgspec.structs.replace(
            facts.footer,
            filters=msgspec.structs.replace(
                options.filters.described(), only=sorted(self._wanted) if options.only else []
            ),
            clock=footers.Clock(
                source=self._clock.source, error_cycles=self._clock.error_cycles, anchors=[self._anchor]
            ),
        )
        self._memory = LockedMemory()
        self._probes: Probes | None = None
        self._writer: PartialWriter | None = None
        self.peak_fill_pct = 0.0
        self.began = self.ended = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._memory.release()
        if self._probes is not None:
            self._probes.close()
        self._clock.close()
        if self._writer is not None:
            self._writer.close()

    def _load(self) -> tuple[Probes, Plan]:
        """The probes, not attached yet, and what of them is to be tried."""
        planned = plan(
            prototypes=self._facts.prototypes,
            gates=self._facts.gates,
            last_nmi_handler=self._facts.last_nmi_handler,
            ring_bytes=self.options.ring_bytes,
            use_tsc=bool(self._clock.fds),
            wanted=self._wanted,
            filters=self.options.filters,
        )
        probes = self._probes = Probes(planned.options, self._cpus)
        probes.set_tsc_counters(self._clock.fds)
        probes.set_entry_stubs(self._facts.stubs)
        return probes, planned

    def record(self, stop: Stop, report: Callable[[Progress], None]) -> Contents:
        """Attach, drain until stopped, detach; the events are then in the partial file."""
        options = self.options
        probes, planned = self._load()
        buffers = Buffers(probes)
        overhead = Overhead(probes)
        child: subprocess.Popen[bytes] | None = None
        try:
            overhead.start()
            choice = probes.choose(classes=planned.classes, refused=planned.refused)
            hooks = probes.hooks()
            classes = selection.mark(trap_classes(choice, self._facts.gates), CLASSES, self._wanted)
            probes.processes.look_up()
            overhead.begin()
            self.began, start_tsc = time.monotonic(), _native.rdtsc()
            self.footer = msgspec.structs.replace(
                self.footer,
                hooks=hooks,
                classes=classes,
                window=footers.Window(start_tsc=start_tsc, ended_by="killed"),
            )
            header = Header(
                footer=self.footer, text_base=self._facts.addresses.text_base, raw_addresses=self._facts.addresses.raw
            )
            writer = self._writer = self.open_sink(header)
            crosscheck = CrossCheck(read_interrupts(), [] if options.filters.by_task else classes, self._cpus)
            drain = Drain(
                probes=probes,
                buffers=buffers,
                clock=self._clock,
                writer=writer,
                crosscheck=crosscheck,
                start_tsc=start_tsc,
            )
            self._memory.lock()
            child = spawn(options.command)
            collector = settle(probes, options, has_command=child is not None, memory_locked=self._memory.locked)
            watch = Watch(self._anchor)

            shedder = Shedder(
                probes=probes,
                choice=choice,
                classes=planned.classes,
                limit_pct=options.max_overhead_pct,
                crosscheck=crosscheck,
            )

            def look(progress: Progress) -> None:
                watch.look(take_anchor(_LOOK_BRACKETS))
                shedder.look(progress)
                report(progress)

            stop.start(child)
            drain.run(stop.reached, look)
            crosscheck.end(read_interrupts())
            self.ended, stop_tsc = time.monotonic(), _native.rdtsc()
            overhead.end()
            probes.drain_names(self._clock)
            probes.processes.look_up()
            probes.detach_all()
        finally:
            overhead.stop()
            end_child(child)
        drain.rest(stop_tsc)
        self._memory.release()
        self.peak_fill_pct = drain.progress.peak_fill_pct
        last = take_anchor()
        watch.look(last)
        khz = footers.khz_between(self._anchor, last)
        left_out = probes.left_out()
        self.footer = msgspec.structs.replace(
            self.footer,
            hooks=overhead.hooks(hooks),
            losses=self._losses(overhead, drain, crosscheck, left_out) + watch.losses() + shedder.losses(),
            off=shedder.off,
            incidents=watch.incidents,
            collector=msgspec.structs.replace(
                collector,
                peak_bytes=peak_bytes(),
                events=drain.progress.own_events,
                page_faults=drain.progress.own_faults,
            ),
            filters=msgspec.structs.replace(self.footer.filters, left_out=left_out),
            processes=probes.processes.of_trace(),
            clock=msgspec.structs.replace(self.footer.clock, tsc_khz=khz, anchors=[self._anchor, last]),
            overhead=overhead.summary(
                by_cpu=drain.progress.by_cpu, seconds=self.ended - self.began, n_cpus=len(self._facts.cpus)
            ),
            window=footers.Window(start_tsc=start_tsc, stop_tsc=stop_tsc, ended_by=stop.reason),
            command_status=child.returncode if child is not None else None,
        )
        return Contents(header=header, status=None, batches=writer.batches, cut=writer.full, complete=True)

    def _losses(self, overhead: Overhead, drain: Drain, crosscheck: CrossCheck, left_out: int) -> list[footers.Loss]:
        """All that was lost, now that the probes are detached and the rings empty."""
        counted, frozen, moved = drain.counted(), drain.frozen(), self._clock.moved()
        return (
            counted
            + overhead.skipped()
            + frozen
            + overhead.unaccounted(drain.progress.drained, left_out, counted)
            + [footers.Loss(cause="clock-moved", cpu=cpu, count=cycles) for cpu, cycles in moved.items()]
            + _unless_counted(crosscheck.missing(), counted + frozen)
            + drain.dropped()
        )

    def open_sink(self, header: Header) -> PartialWriter:
        """Where drained events go: the partial file. Whoever only watches gives another (:mod:`iretrace.collect.live`).

        Raises:
            OutputError: it cannot be written.
        """
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
    options: CollectOptions, contents: Contents, run: Recording, finishing: Callable[[int, int], None]
) -> footers.Footer:
    """Turn the partial file into the trace, whose footer is returned; if that fails the partial file stays."""
    kept = sum(batch.n_events for batch in contents.batches)
    if not kept:
        options.partial.unlink(missing_ok=True)
        narrow = options.only or options.filters.cpus or options.filters.by_task
        remedy = "record for longer, or more" if narrow else "record for longer, or see: iretrace doctor"
        raise MachineError(options.target, "not written: no event was recorded", remedy=remedy)
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
    return footer


def _unless_counted(missing: list[footers.Loss], counted: list[footers.Loss]) -> list[footers.Loss]:
    """What is missing of the kernel's counts, on the CPUs where no probe counted a loss itself."""
    explained = {loss.cpu for loss in counted if loss.cause in ("ring-full", "tsc-unreadable")}
    return [loss for loss in missing if loss.cpu not in explained]
