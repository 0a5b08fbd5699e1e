"""``iretrace import``."""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from iretrace.errors import EXIT_OK, UsageError
from iretrace.importers.registry import BY_NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from iretrace.importers.run import Imported


def _number(_context: click.Context, parameter: click.Parameter, text: str) -> int:
    try:
        value = int(text, 0)
    except ValueError:
        value = -1
    if not 0 <= value <= 0xFFFF:
        raise click.BadParameter(f"{text!r}; expected a selector such as 0x10", param=parameter)
    return value


def _ranges(_context: click.Context, parameter: click.Parameter, texts: tuple[str, ...]) -> tuple[tuple[int, int], ...]:
    found = []
    for text in texts:
        low, dash, high = text.partition("-")
        try:
            limits = (int(low, 16), int(high, 16))
        except ValueError:
            limits = (0, 0)
        if not dash or not 0 <= limits[0] < limits[1] < 2**64:
            raise click.BadParameter(f"{text!r}; expected LOW-HIGH in hexadecimal, HIGH excluded", param=parameter)
        found.append(limits)
    return tuple(found)


@click.command(
    epilog="""\b
Examples:
  iretrace import perf.data                       what perf record wrote
  perf record -o - … | iretrace import - -o t.parquet
  iretrace import qemu.log.* -o t.parquet         -d int,tid -D qemu.log.%d: a file each virtual CPU
  iretrace import --format csv events.csv --kernel-cs 0x10 --tsc-khz 2450000 -o t.parquet
  iretrace import trace.parquet.partial           salvage what a killed run left
"""
)
@click.argument(
    "sources", metavar="SOURCE...", nargs=-1, required=True, type=click.Path(path_type=Path, allow_dash=True)
)
@click.option(
    "--format",
    "source_format",
    type=click.Choice(["auto", *BY_NAME]),
    default="auto",
    show_default=True,
    help="What the file is; auto tells by its content.",
)
@click.option("-o", "--output", "target", type=click.Path(path_type=Path), help="The trace.  [default: by the input]")
@click.option("-f", "--force", is_flag=True, help="Replace an existing output.")
@click.option("--strict", is_flag=True, help="Stop at the first record that cannot be read.  [default: count it]")
@click.option("--kernel-cs", default="0x10", show_default=True, callback=_number, help="The kernel's CS.")
@click.option(
    "--nmi-text", multiple=True, metavar="LOW-HIGH", callback=_ranges, help="Addresses of NMI entry and exit code."
)
@click.option(
    "--tsc-khz",
    type=click.FloatRange(min=0, min_open=True, max=1e9),
    help="TSC frequency in kHz; times in nanoseconds become cycles by it.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what was read, and what became of each event, as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors.")
def command(  # noqa: PLR0913 - one parameter an option
    *,
    sources: tuple[Path, ...],
    source_format: str,
    target: Path | None,
    force: bool,
    strict: bool,
    kernel_cs: int,
    nmi_text: tuple[tuple[int, int], ...],
    tsc_khz: float | None,
    as_json: bool,
    quiet: bool,
) -> int:
    """Make a trace of what another tool recorded, or of the partial file of a killed run.

    SOURCE is told by its content; - is standard input. Several are the logs of an emulator's virtual CPUs. What each
    event became is listed at the end; events that are no traps, or not known, are counted and left out.
    CSV columns are the trace's, by name: tsc, cpu, phase and vector must be there; irq, hook, cs, ip, flags, sp,
    error_code, to_kernel and pid may be. Integers are decimal or 0x…; an empty cell is unknown.
    """
    # numpy's linear algebra is not used, and to start its threads takes a third of a small import.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from iretrace.importers.job import ImportOptions  # noqa: PLC0415 - heavy imports wait for the verb
    from iretrace.importers.run import import_file  # noqa: PLC0415

    target = target or _default_target(sources[0])
    with _progress(quiet=quiet) as progress:
        imported = import_file(
            sources,
            target,
            source_format=source_format,
            options=ImportOptions(kernel_cs=kernel_cs, nmi_text=nmi_text, tsc_khz=tsc_khz, strict=strict),
            force=force,
            progress=progress,
        )
    if as_json:
        click.echo(json.dumps(imported.json(target), ensure_ascii=False))
    elif not quiet:
        _tell(target, imported)
    return EXIT_OK


@contextmanager
def _progress(*, quiet: bool) -> Iterator[Callable[[int, int | None], None]]:
    """One line on a terminal, rewritten twice a second; nothing in a pipe."""
    if quiet or not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    last = time.monotonic()

    def show(done: int, total: int | None) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= 0.5:
            last = now
            part = f"{100 * done // max(total, 1)} %" if total else f"{done / 1e6:,.0f} MB"
            click.echo(f"\r\x1b[Kreading: {part}", nl=False, err=True)

    try:
        yield show
    finally:
        click.echo("\r\x1b[K", nl=False, err=True)


def _default_target(source: Path) -> Path:
    if str(source) == "-":
        raise UsageError("standard input", "gives no name for the trace", remedy="choose one with -o")
    name = source.name.removesuffix(".partial") if source.name.endswith(".partial") else source.stem
    target = source.with_name(name if name.endswith(".parquet") else f"{name}.parquet")
    if target == source:
        raise UsageError(source, "gives no name for the trace", remedy="choose one with -o")
    return target


def _tell(target: Path, imported: Imported) -> None:
    from iretrace.console import plural  # noqa: PLC0415
    from iretrace.losses import BY_NAME as CAUSES  # noqa: PLC0415

    footer, job = imported.footer, imported.job
    click.echo(f"{target}: {plural(footer.events, 'event')} of a {imported.format} file", err=True)
    for row in imported.mapping():
        if row["records"]:
            click.echo(f"  {row['records']:>12,}  {row['event']}: {row['as']}", err=True)
    for note in job.notes:
        click.echo(note, err=True)
    if footer.clock.note:
        click.echo(f"time: {footer.clock.note}", err=True)
    for found in job.told:
        click.echo(f"not read: {found}", err=True)
    for loss in footer.losses:
        cause = CAUSES[loss.cause]
        where = "" if loss.cpu is None else f" on CPU {loss.cpu}"
        count = f"{loss.count:,} " if loss.count else ""
        click.echo(f"missing: {count}{cause.name}{where}: {cause.doc}", err=True)
    click.echo(f"next: iretrace replay {target}", err=True)
