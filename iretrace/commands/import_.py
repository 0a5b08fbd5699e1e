"""``iretrace import``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from iretrace.errors import EXIT_OK, InputError, UsageError

if TYPE_CHECKING:
    from iretrace.footer import Footer


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
  iretrace import --format csv events.csv --kernel-cs 0x10 --tsc-khz 2450000 -o t.parquet
  iretrace import trace.parquet.partial           salvage what a killed run left
"""
)
@click.argument("source", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "source_format",
    type=click.Choice(["auto", "csv", "partial"]),
    default="auto",
    show_default=True,
    help="What the file is; auto tells by its content.",
)
@click.option("-o", "--output", "target", type=click.Path(path_type=Path), help="The trace.  [default: by the input]")
@click.option("-f", "--force", is_flag=True, help="Replace an existing output.")
@click.option("--kernel-cs", default="0x10", show_default=True, callback=_number, help="CSV: the kernel's CS.")
@click.option(
    "--nmi-text", multiple=True, metavar="LOW-HIGH", callback=_ranges, help="CSV: addresses of NMI entry/exit code."
)
@click.option("--tsc-khz", type=click.FloatRange(min=0, min_open=True), help="CSV: TSC frequency in kHz.")
def command(  # noqa: PLR0913 - one parameter an option
    *,
    source: Path,
    source_format: str,
    target: Path | None,
    force: bool,
    kernel_cs: int,
    nmi_text: tuple[tuple[int, int], ...],
    tsc_khz: float | None,
) -> int:
    """Make a trace of a CSV table of events, or of the partial file of a killed run.

    CSV columns are the trace's, by name: tsc, cpu, phase and vector must be there; irq, hook, cs, ip, flags, sp,
    error_code, to_kernel and pid may be. Integers are decimal or 0x…; an empty cell is unknown.
    """
    from iretrace import output  # noqa: PLC0415 - heavy imports wait for the verb
    from iretrace.importers import csv_table, partial  # noqa: PLC0415
    from iretrace.trace import writing  # noqa: PLC0415

    kind = _kind(source, source_format)
    target = target or _default_target(source, kind)

    def progress(done: int) -> None:
        if sys.stderr.isatty():
            click.echo(f"\r\x1b[K{done:,} events", nl=False, err=True)

    with output.replacing(target, force=force) as temporary, writing(temporary) as writer:
        if kind == "partial":
            footer = partial.load(source, writer, progress)
        else:
            options = csv_table.CsvOptions(kernel_cs=kernel_cs, nmi_text=nmi_text, tsc_khz=tsc_khz)
            for name in csv_table.unused_columns(source):
                click.echo(f"column {name!r} is not one of a trace's and is left out", err=True)
            footer = csv_table.load(source, writer, progress, options)
        writer.finish(footer)
    if sys.stderr.isatty():
        click.echo("\r\x1b[K", nl=False, err=True)
    _tell(target, footer)
    return EXIT_OK


def _kind(source: Path, asked: str) -> str:
    try:
        with source.open("rb") as file:
            head = file.read(4)
    except OSError as error:
        raise InputError(source, f"cannot be read ({error.strerror})", expected="a file") from None
    if head == b"PAR1":
        raise InputError(source, "is a trace (Parquet) already", remedy=f"iretrace replay {source}")
    found = "partial" if head == b"\xff\xff\xff\xff" else "csv"
    if asked not in ("auto", found):
        raise InputError(source, f"does not look like {asked}", remedy=f"try --format {found}")
    if not head:
        raise InputError(source, "is empty", expected="a table of events or a partial file")
    return found


def _default_target(source: Path, kind: str) -> Path:
    name = source.name.removesuffix(".partial") if kind == "partial" else source.stem
    target = source.with_name(name if name.endswith(".parquet") else f"{name}.parquet")
    if target == source:
        raise UsageError(source, "gives no name for the trace", remedy="choose one with -o")
    return target


def _tell(target: Path, footer: Footer) -> None:
    from iretrace.losses import BY_NAME  # noqa: PLC0415

    click.echo(f"{target}: {footer.events:,} events", err=True)
    for loss in footer.losses:
        cause = BY_NAME[loss.cause]
        where = "" if loss.cpu is None else f" on CPU {loss.cpu}"
        count = f"{loss.count:,} " if loss.count else ""
        click.echo(f"missing: {count}{cause.name}{where}: {cause.doc}", err=True)
    click.echo(f"next: iretrace replay {target}", err=True)
