"""``collect --aggregate``: counters in BPF and no events, for always-on use."""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np

from iretrace import _native, output
from iretrace import footer as footers
from iretrace.collect import counters, preflight, selection, syscalls
from iretrace.collect.choice import trap_classes
from iretrace.collect.clock import open_clock, take_anchor
from iretrace.collect.crosscheck import COUNT_WRAPS, ROWS, Reading, read_interrupts
from iretrace.collect.ending import Stop, end_child, spawn
from iretrace.collect.facts import gather
from iretrace.collect.hooks import CLASSES
from iretrace.collect.overhead import Overhead
from iretrace.collect.plan import plan
from iretrace.collect.probes import Probes
from iretrace.collect.settling import settle
from iretrace.collect.watch import Watch
from iretrace.errors import MachineError
from iretrace.vectors import NMI

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from iretrace.collect.facts import Facts
    from iretrace.collect.options import CollectOptions
    from iretrace.collect.plan import Plan

_RING_BYTES: Final = 4096
"""No event is written, but the rings are there."""

_SAMPLE_SECONDS: Final = 1.0
"""How long the kernel times the programs: timing costs as much again, so it does not go on."""

_POLL_SECONDS: Final = 0.2
_LOOK_SECONDS: Final = 2.0


@dataclass(frozen=True, kw_only=True)
class Aggregated:
    """What was counted.

    Attributes:
        footer: how, and what was lost.
        counts: array of :data:`iretrace.collect.counters.AGGREGATE`, one a CPU.
        seconds: how long.
    """

    footer: footers.Footer
    counts: NDArray[np.void]
    seconds: float


def aggregate(
    options: CollectOptions,
    tables: Callable[[footers.Footer], counters.Tables],
    *,
    report: Callable[[float, int], None] = lambda _seconds, _returns: None,
) -> Aggregated:
    """Count until the run ends.

    Args:
        options: what, how long and where to; the target is not written here.
        tables: the policy's table for a machine with this footer.
        report: called now and then with the seconds so far and the returns counted.

    Raises:
        MachineError: this machine or privilege does not allow it.
        OutputError: the target cannot be written.
        UsageError: the command cannot be run.
    """
    output.check_target(options.target, force=options.force)
    preflight.require()
    wanted = selection.select(options.only, CLASSES)
    with Stop(options) as stop:
        facts = gather(options)
        options.filters.check(facts.cpus)
        anchor = take_anchor()
        with open_clock("tsc", facts.cpus, anchor) as clock:
            planned = plan(
                prototypes=facts.prototypes,
                gates=facts.gates,
                last_nmi_handler=facts.last_nmi_handler,
                ring_bytes=_RING_BYTES,
                use_tsc=True,
                wanted=wanted,
                filters=options.filters,
                aggregate=True,
            )
            with Probes(planned.options, facts.cpus) as probes:
                probes.set_tsc_counters(clock.fds)
                probes.set_entry_stubs(facts.stubs)
                return _count(options, stop, facts, probes, wanted, planned, anchor, tables, report)


def _count(  # noqa: PLR0913, PLR0917 - what aggregate() made ready
    options: CollectOptions,
    stop: Stop,
    facts: Facts,
    probes: Probes,
    wanted: frozenset[str],
    planned: Plan,
    anchor: footers.Anchor,
    tables: Callable[[footers.Footer], counters.Tables],
    report: Callable[[float, int], None],
) -> Aggregated:
    overhead, child = Overhead(probes), None
    try:
        overhead.start()
        choice = probes.choose(classes=planned.classes, refused=planned.refused)
        classes = selection.mark(trap_classes(choice, facts.gates), CLASSES, wanted)
        footer = msgspec.structs.replace(
            facts.footer,
            hooks=probes.hooks(),
            classes=classes,
            filters=msgspec.structs.replace(options.filters.described(), only=sorted(wanted) if options.only else []),
        )
        nmi = facts.stubs.get(NMI, (0, 0))
        _begin(probes, tables(footer), facts.cpus, kernel_cs=footer.kernel_cs or 0, nmi_text=nmi)
        own_begin = time.process_time()
        before, start_tsc, begin = read_interrupts(), _native.rdtsc(), time.monotonic()
        sample = _runs(probes)
        child = spawn(options.command)
        collector = settle(probes, options, has_command=child is not None, memory_locked=False)
        watch = Watch(anchor)
        stop.start(child)
        sampled, next_look = None, begin + _LOOK_SECONDS
        while not stop.reached():
            time.sleep(_POLL_SECONDS)
            now = time.monotonic()
            if sampled is None and now >= begin + _SAMPLE_SECONDS:
                sampled = _cost(sample, _runs(probes), now - begin, len(facts.cpus))
                overhead.stop()
            if now >= next_look:
                next_look = now + _LOOK_SECONDS
                watch.look(take_anchor(20))
                report(now - begin, int(_read(probes, facts.cpus)["cells"]["count"].sum()))
        seconds, own_seconds = time.monotonic() - begin, time.process_time() - own_begin
        sampled = sampled or _cost(sample, _runs(probes), seconds, len(facts.cpus))
        stop_tsc, after = _native.rdtsc(), read_interrupts()
        probes.detach_all()
    finally:
        overhead.stop()
        end_child(child)
    counts = _read(probes, facts.cpus)
    last = take_anchor()
    watch.look(last)
    missing = [] if options.filters.by_task else _missing(before, after, counts, facts.cpus, options, classes)
    footer = msgspec.structs.replace(
        footer,
        events=int(counts["cells"]["count"].sum()),
        losses=probes.losses() + overhead.skipped() + watch.losses() + missing,
        incidents=watch.incidents,
        collector=collector,
        filters=msgspec.structs.replace(footer.filters, left_out=probes.left_out()),
        clock=footers.Clock(source="msr-tsc", tsc_khz=footers.khz_between(anchor, last), anchors=[anchor, last]),
        overhead=msgspec.structs.replace(sampled, collector_cpu_pct=100 * own_seconds / max(seconds, 1e-3)),
        window=footers.Window(start_tsc=start_tsc, stop_tsc=stop_tsc, ended_by=stop.reason),
        command_status=child.returncode if child is not None else None,
    )
    if not footer.events:
        raise MachineError(options.target, "not written: nothing was counted", remedy="see: iretrace doctor")
    return Aggregated(footer=footer, counts=counts, seconds=seconds)


def _runs(probes: Probes) -> tuple[int, int]:
    infos = probes.program_runs().values()
    return sum(info.run_cnt for info in infos), sum(info.run_time_ns for info in infos)


def _cost(before: tuple[int, int], after: tuple[int, int], seconds: float, n_cpus: int) -> footers.Overhead:
    """The programs' cost in the time between, as a sample of the whole run."""
    runs, ns = after[0] - before[0], after[1] - before[1]
    return footers.Overhead(
        runs=runs,
        run_ns=ns,
        ns_per_event=ns / runs if runs else None,
        cpu_pct=100 * ns / (seconds * 1e9 * n_cpus) if runs else None,
    )


def _missing(  # noqa: PLR0913, PLR0917 - two readings and what was counted between them
    before: Reading,
    after: Reading,
    counts: NDArray[np.void],
    cpus: list[int],
    options: CollectOptions,
    classes: list[footers.TrapClass],
) -> list[footers.Loss]:
    """Interrupts that the kernel counted and no probe saw; one of each vector may lie on either edge."""
    shown = {vector for item in classes if item.entry and item.exit for vector in item.vectors}
    found = []
    for row, vectors in ROWS.items():
        if not shown.issuperset(vectors):
            continue
        slots = [32 + vector - counters.FIRST_SYSTEM for vector in vectors]
        for index, cpu in enumerate(cpus):
            if options.filters.cpus and cpu not in options.filters.cpus:
                continue
            known = (after.counts.get(row, {}).get(cpu, 0) - before.counts.get(row, {}).get(cpu, 0)) % COUNT_WRAPS
            short = known - int(counts["cells"]["count"][index, slots].sum()) - 2 * len(vectors)
            if short > 0:
                found.append(footers.Loss(cause="not-traced", cpu=cpu, count=short))
    return found


def _begin(
    probes: Probes, tables: counters.Tables, cpus: Sequence[int], *, kernel_cs: int, nmi_text: tuple[int, int]
) -> None:
    """Tell every CPU's counters the policy and all else, and begin at zero: what came before does not count.

    Args:
        probes: compiled to count.
        tables: the policy.
        cpus: those that count.
        kernel_cs: the kernel's code segment.
        nmi_text: [low, high) of the NMI code, addresses as they are; (0, 0): not known.
    """
    told = np.zeros(1, counters.AGGREGATE)
    told["kernel_cs"], told["nmi_low"], told["nmi_high"] = kernel_cs, *nmi_text
    told["slots"]["exitless"], told["slots"]["effects"] = tables.exitless, tables.effects
    told["cells"]["choice"] = tables.choice
    for counting in (0, 1):  # none counts while it is told
        told["counting"] = counting
        for cpu in cpus:
            syscalls.update_element(probes.map_fd("aggregates"), struct.pack("=I", cpu), told.tobytes())


def _read(probes: Probes, cpus: Sequence[int]) -> NDArray[np.void]:
    """The counters now: array of :data:`iretrace.collect.counters.AGGREGATE`, shape ``(len(cpus),)``."""
    raw = [
        syscalls.lookup_element(probes.map_fd("aggregates"), struct.pack("=I", cpu), counters.AGGREGATE.itemsize)
        for cpu in cpus
    ]
    return np.frombuffer(b"".join(raw), counters.AGGREGATE)
