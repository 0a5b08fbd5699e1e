"""``iretrace export``: a trace in other tools' formats."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import click

from iretrace.errors import EXIT_OK, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

DEFAULT_POLICIES: Final = ("iret", "rfc2014")


class Format(NamedTuple):
    """One format: how its files end, what one of its units is, and which table it holds unless asked."""

    suffix: str
    unit: str
    table: str | None
    help: str


FORMATS: Final = {
    "perfetto": Format(".pftrace", "traps", None, "Perfetto's protobuf; open it at ui.perfetto.dev"),
    "chrome": Format(".chrome.json", "traps", None, "Chrome's trace events; for chrome://tracing and speedscope"),
    "csv": Format(".csv", "rows", "events", "a table as text; iretrace import reads events back"),
    "parquet": Format(".plain.parquet", "rows", "decisions", "a table as Parquet without a footer"),
    "pyperf": Format(".pyperf.json", "benchmarks", None, "how long each class of trap lasts, for pyperf compare_to"),
}


@click.command(
    epilog="""\b
Formats:
"""
    + "\n".join(f"  {name:<9} {form.help}" for name, form in FORMATS.items())
    + """

\b
Examples:
  iretrace export run.parquet                                    → run.pftrace
  iretrace export run.parquet --policy rfc2014 --policy fred
  iretrace export run.parquet --format csv -o events.csv
  iretrace export run.parquet --format parquet --table traps
  iretrace export run.parquet --format pyperf && python -m pyperf compare_to base.pyperf.json run.pyperf.json
"""
)
@click.argument("trace", type=click.Path(path_type=Path, readable=False))
@click.option(
    "--format", "kind", type=click.Choice(list(FORMATS)), help="[default: by the output's name, else perfetto]"
)
@click.option(
    "-p",
    "--policy",
    "names",
    multiple=True,
    metavar="NAME",
    help="Whose decisions go with the traps; may be repeated.  [default: iret and rfc2014]",
)
@click.option(
    "--table",
    type=click.Choice(["events", "traps", "decisions"]),
    help="csv and parquet: what a row is.  [default: events for csv, decisions for parquet]",
)
@click.option(
    "-o",
    "--output",
    "target",
    type=click.Path(path_type=Path),
    help="The file.  [default: TRACE's name with the format's suffix, in the current directory]",
)
@click.option("-f", "--force", is_flag=True, help="Replace an existing output.")
@click.option("--json", "as_json", is_flag=True, help="Print what was written as JSON.")
def command(  # noqa: PLR0913 - one parameter an option
    *,
    trace: Path,
    kind: str | None,
    names: tuple[str, ...],
    table: str | None,
    target: Path | None,
    force: bool,
    as_json: bool,
) -> int:
    """Give a trace to other tools.

    Timelines have a track for each CPU, traps as nested slices, and as their arguments by which instruction each policy
    would return and which rule said so. Memory does not grow with the trace.
    """
    from iretrace.console import plural, progress, size  # noqa: PLC0415 - heavy imports wait for the verb
    from iretrace.output import check_target, replacing  # noqa: PLC0415
    from iretrace.replay.own import find  # noqa: PLC0415
    from iretrace.trace import open_trace  # noqa: PLC0415

    kind = kind or by_name(target)
    form = FORMATS[kind]
    if table is not None and form.table is None:
        raise UsageError("--table", f"{kind} has no tables", expected="--format csv or parquet")
    target = default_output(trace, form) if target is None else target
    check_target(target, force=force)
    policies = [find(name) for name in dict.fromkeys(names or DEFAULT_POLICIES)]
    opened = open_trace(trace)
    with (
        replacing(target, force=force) as temporary,
        progress("exporting", opened.n_events) as advance,
        temporary.open("wb") as file,
    ):
        n = _exporter(kind, table or form.table or "")(opened, policies, file, progress=advance)
    if as_json:
        written = {"schema": 1, "output": str(target), "format": kind, "table": table or form.table, form.unit: n}
        click.echo(json.dumps({key: value for key, value in written.items() if value is not None}))
    else:
        click.echo(f"{target} written: {plural(n, form.unit.removesuffix('s'))} ({size(target.stat().st_size)})")
        if opened.footer.clock.tsc_khz is None and kind in ("perfetto", "chrome"):
            click.echo("note: the TSC's frequency is not known: a nanosecond stands for a TSC cycle", err=True)
    return EXIT_OK


def by_name(target: Path | None) -> str:
    """The format that a file's name asks for; Perfetto's where there is none."""
    if target is None:
        return "perfetto"
    name = target.name.lower()
    endings = {form.suffix: kind for kind, form in FORMATS.items()}
    endings |= {".perfetto-trace": "perfetto", ".parquet": "parquet", ".json": "chrome"}
    found = max((ending for ending in endings if name.endswith(ending)), key=len, default=None)
    if found is None:
        raise UsageError("--output", f"{target} does not tell the format", expected="--format " + ", ".join(FORMATS))
    return endings[found]


def default_output(trace: Path, form: Format) -> Path:
    """``DIR/run.parquet`` → ``run.pftrace``, in the current directory."""
    return Path(trace.name.removesuffix(".parquet") + form.suffix)


def _exporter(kind: str, table: str) -> Callable[..., int]:
    """The function of a format; each imports what it needs."""
    if kind == "perfetto":
        from iretrace.exporters import perfetto  # noqa: PLC0415

        return perfetto.export
    if kind == "chrome":
        from iretrace.exporters import chrome  # noqa: PLC0415

        return chrome.export
    if kind == "pyperf":
        from iretrace.exporters import pyperf_suite  # noqa: PLC0415

        return pyperf_suite.export
    from iretrace.exporters import tables  # noqa: PLC0415

    return partial(tables.export, table=table, kind=kind)
