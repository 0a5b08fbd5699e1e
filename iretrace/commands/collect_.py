"""``iretrace collect``."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import click

from iretrace.commands.privileges import import_arrow
from iretrace.commands.store_option import parse_tags
from iretrace.errors import EXIT_OK

if TYPE_CHECKING:
    from iretrace.collect.drain import Progress
    from iretrace.collect.options import CollectOptions, Outcome
    from iretrace.footer import Footer

_UNITS: Final = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_SHOWN_CPUS: Final = 8
_MIN_RING_BYTES: Final = 4096
_MAX_RING_BYTES: Final = 1 << 30


def _size(_context: click.Context, _parameter: click.Parameter, text: str) -> int:
    """Parse ``16M`` into bytes, a power of two."""
    digits, unit = text.lower().rstrip("ib").rstrip("kmg"), text.lower().rstrip("ib")[-1:]
    factor = _UNITS.get(unit if unit in "kmg" else "")
    if not digits.isdigit() or factor is None:
        raise click.BadParameter(f"{text!r} is no size; expected something like 16M")
    size = int(digits) * factor
    if not _MIN_RING_BYTES <= size <= _MAX_RING_BYTES:
        raise click.BadParameter(f"{text} is out of range; expected 4K to 1G")
    return 1 << (size - 1).bit_length()


def _words(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """``a,b`` as well as several times."""
    return tuple(word for value in values for word in value.split(",") if word.strip())


def _pids(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> tuple[int, ...]:
    words = _words(context, parameter, values)
    for word in words:
        if not word.strip().isdigit():
            raise click.BadParameter(f"{word!r} is no process id; expected a number")
    return tuple(map(int, words))


def _cpus(_context: click.Context, _parameter: click.Parameter, text: str) -> tuple[int, ...]:
    if not text:
        return ()
    import_arrow()
    from iretrace.collect.kernel import parse_cpu_list  # noqa: PLC0415

    try:
        return tuple(sorted(set(parse_cpu_list(text))))
    except ValueError:
        raise click.BadParameter(f"{text!r} is no list of CPUs; expected something like 0-3,8") from None


@click.command(
    context_settings={"ignore_unknown_options": False},
    epilog="""\b
Examples:
  sudo iretrace collect -d 10                     ten seconds of everything
  sudo iretrace collect -o boot.parquet -- make   while a command runs
  sudo iretrace collect                           until Ctrl-C
  sudo iretrace collect --only nmi,ipis --cpu 0   two sorts of trap, on one CPU
  sudo iretrace collect --comm nginx -d 60        what interrupts tasks of this name
  sudo iretrace collect -d 10 --store runs/ --tag commit=1f2e3d    add it to a store of runs
""",
)
@click.argument("traced_command", metavar="[-- COMMAND...]", nargs=-1, type=click.UNPROCESSED)
@click.option("-d", "--duration", "seconds", type=click.FloatRange(min=0, min_open=True), help="Seconds to record.")
@click.option(
    "-o", "--output", "target", type=click.Path(path_type=Path), help="The trace.  [default: trace-DATE-TIME.parquet]"
)
@click.option("-f", "--force", is_flag=True, help="Replace an existing output.")
@click.option("--buffer", "ring_bytes", default="16M", show_default=True, callback=_size, help="Ring buffer, each CPU.")
@click.option(
    "--clock",
    type=click.Choice(["auto", "tsc", "ktime"]),
    default="auto",
    show_default=True,
    help="Time stamps: the TSC itself, or bpf_ktime_get_ns mapped to it.",
)
@click.option(
    "--only",
    multiple=True,
    metavar="CLASS,...",
    callback=_words,
    help="Classes of trap or groups: page-faults,ipis,nmi.",
)
@click.option(
    "--backend",
    type=click.Choice(["bpf", "perf"]),
    default="bpf",
    show_default=True,
    help="Probes in BPF, or perf record where BCC or BPF is not to be had.",
)
@click.option("--cpu", "cpus", metavar="LIST", default="", callback=_cpus, help="CPUs: 0-3,8.")
@click.option("--pid", "pids", multiple=True, metavar="PID,...", callback=_pids, help="Processes (all their threads).")
@click.option("--comm", "comms", multiple=True, metavar="NAME", help="Tasks of this name, as in /proc/PID/comm.")
@click.option("--cgroup", "cgroups", multiple=True, metavar="PATH", help="Tasks of this cgroup (v2) and below.")
@click.option("--raw-addresses", is_flag=True, help="Store kernel addresses as they are (they defeat KASLR).")
@click.option("--aggregate", is_flag=True, help="Count in the kernel and write no events, for always-on use.")
@click.option(
    "-p", "--policy", default="rfc2014", show_default=True, metavar="NAME", help="Decided in the kernel by --aggregate."
)
@click.option(
    "--max-overhead",
    "max_overhead_pct",
    type=click.FloatRange(min=0, min_open=True),
    metavar="PCT",
    help="Switch off classes of trap, the dearest first, before the probes take more of a CPU.",
)
@click.option("--keep-privileges", is_flag=True, help="Stay as privileged as at the start.")
@click.option("--calibrate/--no-calibrate", default=True, help="Time the return paths first (0.3 s).")
@click.option(
    "--tag", "tags", multiple=True, metavar="KEY=VALUE", callback=parse_tags, help="Your words for the footer."
)
@click.option("--store", "store", metavar="STORE", help="Add the run to this store too (see: iretrace runs).")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors.")
def command(  # noqa: PLR0913 - one parameter an option
    *,
    traced_command: tuple[str, ...],
    seconds: float | None,
    target: Path | None,
    force: bool,
    ring_bytes: int,
    clock: Literal["auto", "tsc", "ktime"],
    only: tuple[str, ...],
    backend: Literal["bpf", "perf"],
    cpus: tuple[int, ...],
    pids: tuple[int, ...],
    comms: tuple[str, ...],
    cgroups: tuple[str, ...],
    raw_addresses: bool,
    aggregate: bool,
    policy: str,
    max_overhead_pct: float | None,
    keep_privileges: bool,
    calibrate: bool,
    tags: dict[str, str],
    store: str | None,
    quiet: bool,
) -> int:
    """Record trap entries and exits of this machine into a trace.

    Needs root and BCC; iretrace doctor tells what is missing. It ends after --duration, when COMMAND ends, or at
    Ctrl-C or SIGTERM, and leaves a complete trace in each case. COMMAND runs as the user iretrace runs as.
    """
    import_arrow()
    from iretrace.collect import preflight  # noqa: PLC0415 - heavy imports wait for the verb

    if backend == "bpf":
        preflight.require()
    from iretrace.collect.filters import Filters  # noqa: PLC0415
    from iretrace.collect.options import CollectOptions  # noqa: PLC0415

    if backend == "perf":
        from iretrace.collect.perf_backend import collect  # noqa: PLC0415
    else:
        from iretrace.collect.session import collect  # noqa: PLC0415

    options = CollectOptions(
        target=target or Path(time.strftime(f"{'counters' if aggregate else 'trace'}-%Y%m%d-%H%M%S.parquet")),
        force=force,
        seconds=seconds,
        command=traced_command,
        ring_bytes=ring_bytes,
        clock=clock,
        raw_addresses=raw_addresses,
        calibrate=calibrate,
        max_overhead_pct=max_overhead_pct,
        keep_privileges=keep_privileges,
        tags=tags,
        only=only,
        filters=Filters(cpus=cpus, pids=pids, comms=comms, cgroups=cgroups),
    )
    if store is not None:
        from iretrace.store import open_store  # noqa: PLC0415

        open_store(store, create=True).check_writable()  # now, and not when all has been recorded
    if aggregate:
        return _aggregate(options, policy, quiet=quiet)
    line = _ProgressLine(enabled=not quiet and sys.stderr.isatty())
    try:
        outcome = collect(options, report=line.recording, finishing=line.finishing)
    finally:
        line.clear()
    if not quiet:
        _tell(options.target, outcome)
    if store is not None:
        from iretrace.commands.store_option import add_trace  # noqa: PLC0415

        name = add_trace(store, options.target)
        if not quiet:
            click.echo(f"added to {store} as {name}", err=True)
    return EXIT_OK


def _aggregate(options: CollectOptions, name: str, *, quiet: bool) -> int:
    """Count until the end, and write a run that report, compare and the run store read."""
    from iretrace.collect.aggregating import aggregate  # noqa: PLC0415
    from iretrace.errors import UsageError  # noqa: PLC0415
    from iretrace.output import replacing  # noqa: PLC0415
    from iretrace.replay.own import find  # noqa: PLC0415
    from iretrace.store import aggregated  # noqa: PLC0415

    if options.max_overhead_pct is not None:
        raise UsageError("--max-overhead", "is for events; counters cost too little", remedy="leave it out")
    policy = find(name)
    line = _ProgressLine(enabled=not quiet and sys.stderr.isatty())
    try:
        found = aggregate(options, lambda footer: aggregated.tables_of(footer, policy), report=line.counting)
        run = aggregated.to_run(found.footer, found.counts, policy)
    finally:
        line.clear()
    with replacing(options.target, force=options.force) as temporary:
        aggregated.write(temporary, run)
    if not quiet:
        _tell_counted(options.target, found.footer, found.seconds, policy.name)
    return EXIT_OK


def _tell_counted(target: Path, footer: Footer, seconds: float, policy: str) -> None:
    click.echo(f"{target}: {footer.events:,} returns in {seconds:.1f} s, decided by {policy} in the kernel", err=True)
    overhead = footer.overhead
    if overhead.ns_per_event is not None and overhead.cpu_pct is not None:
        click.echo(
            f"the probes took {overhead.ns_per_event:.0f} ns a run and {overhead.cpu_pct:.2f} % of the CPU time in the "
            "first second, timing itself included",
            err=True,
        )
    _tell_status(footer)
    _tell_losses(footer)
    click.echo(f"next: iretrace report {target}, or iretrace runs add {target}", err=True)


def _tell_status(footer: Footer) -> None:
    """That the command failed; the recording did not."""
    status = footer.command_status
    if status and footer.window.ended_by == "command":
        how = f"by signal {-status}" if status < 0 else f"with exit status {status}"
        click.echo(f"the command ended {how}", err=True)


def _tell_losses(footer: Footer) -> None:
    if footer.filters.described():
        click.echo(f"only {footer.filters.described()}; {footer.filters.left_out:,} others left out", err=True)
    lost = footer.lost_events()
    from iretrace.losses import BY_NAME  # noqa: PLC0415

    causes = sorted({loss.cause for loss in footer.losses})
    missing = [cause for cause in causes if BY_NAME[cause].severity == "events"]
    if missing:
        many = f"{lost:,} events" if lost else "an unknown number of events"
        click.echo(f"LOST {many}: {', '.join(missing)} (iretrace replay shows what and why)", err=True)
    else:
        click.echo("no event was lost", err=True)
    noted = [cause for cause in causes if cause not in missing]
    if noted:
        click.echo(f"noted: {', '.join(noted)}", err=True)


class _ProgressLine:
    """One line on a terminal, rewritten; nothing in a pipe."""

    def __init__(self, *, enabled: bool) -> None:
        self._enabled = enabled
        self._begin: float | None = None
        self._last = time.monotonic()
        self._events = 0

    def recording(self, progress: Progress) -> None:
        now = time.monotonic()
        if self._begin is None:
            self._begin = self._last = now
        rate = (progress.events - self._events) / max(now - self._last, 1e-3)
        self._last, self._events = now, progress.events
        from iretrace.losses import BY_NAME  # noqa: PLC0415

        lost = sum(loss.count for loss in progress.losses if BY_NAME[loss.cause].severity == "events")
        self._show(
            f"{now - self._begin:6.1f} s  {progress.events:,} events  {rate:,.0f}/s  "
            f"buffer {progress.fill_pct:.0f} %  lost {lost:,}"
        )

    def counting(self, seconds: float, returns: int) -> None:
        self._show(f"{seconds:6.1f} s  {returns:,} returns counted")

    def finishing(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._last >= 0.2:
            self._last = now
            self._show(f"writing the trace: {100 * done // max(total, 1)} %")

    def clear(self) -> None:
        if self._enabled:
            click.echo("\r\x1b[K", nl=False, err=True)

    def _show(self, text: str) -> None:
        if self._enabled:
            click.echo(f"\r\x1b[K{text}", nl=False, err=True)


def _tell(target: Path, outcome: Outcome) -> None:
    footer = outcome.footer
    fill = "" if outcome.peak_fill_pct is None else f", fullest buffer {outcome.peak_fill_pct:.0f} %"
    click.echo(
        f"{target}: {footer.events:,} events in {outcome.seconds:.1f} s, {outcome.size_bytes:,} bytes "
        f"({outcome.size_bytes / footer.events:.1f} an event){fill}",
        err=True,
    )
    click.echo(f"set up in {outcome.setup_seconds:.1f} s, finished in {outcome.finish_seconds:.1f} s", err=True)
    overhead = footer.overhead
    if overhead.ns_per_event is not None and overhead.cpu_pct is not None:
        click.echo(
            f"the probes took {overhead.ns_per_event:.0f} ns an event, {overhead.cpu_pct:.2f} % of the CPU time"
            + "".join(f", CPU {share.cpu} {share.pct:.2f} %" for share in overhead.by_cpu[:_SHOWN_CPUS]),
            err=True,
        )
    _tell_status(footer)
    for off in footer.off:
        click.echo(
            f"OFF after {100 * footer.recorded_share(off.vectors[0] if off.vectors else None):.0f} % "
            f"of the time: {off.name} ({off.reason})",
            err=True,
        )
    _tell_losses(footer)
    click.echo(f"next: iretrace replay {target}", err=True)
