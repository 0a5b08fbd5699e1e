"""``iretrace query``: SQL over traces."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from iretrace.errors import EXIT_OK, InputError, UsageError

if TYPE_CHECKING:
    import pyarrow as pa

    from iretrace.analysis.query import QueryOptions

DEFAULT_POLICIES: Final = ("iret", "rfc2014")
_FORMATS: Final = ("table", "csv", "json", "parquet")


@click.command(
    epilog="""\b
Examples:
  iretrace query --tables
  iretrace query run.parquet "SELECT name, count(*) AS n FROM traps GROUP BY ALL ORDER BY n DESC"
  iretrace query 'runs/*.parquet' "SELECT trace, kernel, events FROM meta" --format csv
  iretrace query run.parquet slow.sql -o slow.parquet
  iretrace query run.parquet -p rfc2014 "FROM decisions WHERE hazard IS NOT NULL" --json

\b
docs/query.md has ten worked queries.
"""
)
@click.argument("arguments", metavar="TRACE... SQL", nargs=-1)
@click.option(
    "-p",
    "--policy",
    "names",
    multiple=True,
    metavar="NAME",
    help="What decisions holds; may be repeated.  [default: iret and rfc2014]",
)
@click.option(
    "--format", "kind", type=click.Choice(_FORMATS), help="Of the result.  [default: by the output's name, else table]"
)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.option("-o", "--output", "target", type=click.Path(path_type=Path), help="Write the result here.")
@click.option("-f", "--force", is_flag=True, help="Replace an existing output.")
@click.option(
    "--max-rows",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    help="Rows that a table shows; the other formats give all.",
)
@click.option("--memory", default="1GB", show_default=True, help="What DuckDB may use before it goes to disk.")
@click.option("--tables", is_flag=True, help="Show the tables and their columns.")
def command(  # noqa: PLR0913 - one parameter an option
    *,
    arguments: tuple[str, ...],
    names: tuple[str, ...],
    kind: str | None,
    as_json: bool,
    target: Path | None,
    force: bool,
    max_rows: int,
    memory: str,
    tables: bool,
) -> int:
    """Ask traces a question in SQL (DuckDB's).

    TRACE is a file, a directory, a pattern or an object store's URL; SQL the statement, a file called *.sql, or - for
    standard input. Tables: events, traps, decisions, losses, meta. A query only reads, and only these traces.
    """
    if tables:
        from iretrace.commands.query_show import show_tables  # noqa: PLC0415 - rich is for terminals

        show_tables(as_json=as_json or kind == "json")
        return EXIT_OK
    if len(arguments) < 2:
        raise UsageError(
            "query", f"{len(arguments)} of two arguments", expected="TRACE... SQL", remedy="see: iretrace query --help"
        )
    from iretrace.analysis.query import QueryOptions  # noqa: PLC0415 - heavy imports wait for the verb
    from iretrace.output import check_target  # noqa: PLC0415
    from iretrace.replay.own import find  # noqa: PLC0415
    from iretrace.sources import expand  # noqa: PLC0415

    kind = chosen_format(kind, target, as_json=as_json)
    if target is not None:
        check_target(target, force=force)
    traces = expand(arguments[:-1])
    sql = statement(arguments[-1])
    policies = tuple(find(name) for name in dict.fromkeys(names or DEFAULT_POLICIES))
    _run(sql, traces, QueryOptions(policies=policies, memory=memory), kind, target, force=force, max_rows=max_rows)
    return EXIT_OK


def chosen_format(kind: str | None, target: Path | None, *, as_json: bool) -> str:
    """The format of the result: as asked for, else by the output's name, else a table."""
    if as_json and kind not in (None, "json"):
        raise UsageError("--json", f"and --format {kind}", expected="one of the two")
    if as_json or kind is not None:
        found = "json" if as_json else str(kind)
    else:
        suffix = "" if target is None else target.suffix.removeprefix(".").lower()
        found = suffix if suffix in _FORMATS else "table"
        if target is not None and found == "table":
            raise UsageError(
                "--output", f"{target} does not tell the format", expected="--format, or .csv .json .parquet"
            )
    if found == "parquet" and target is None:
        raise UsageError("--format", "parquet goes to a file", remedy="add -o FILE.parquet")
    return found


def statement(argument: str) -> str:
    """The SQL text that an argument means."""
    if argument == "-":
        return sys.stdin.read()
    if not argument.lower().endswith(".sql"):
        return argument
    try:
        return Path(argument).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(argument, f"cannot be read ({error.strerror})", expected="a file of SQL") from None
    except UnicodeDecodeError:
        raise InputError(argument, "is not UTF-8", expected="a file of SQL") from None


def _run(  # noqa: PLR0913 - what to ask, of what, and where to
    sql: str,
    traces: tuple[str, ...],
    options: QueryOptions,
    kind: str,
    target: Path | None,
    *,
    force: bool,
    max_rows: int,
) -> None:
    from iretrace.analysis.query import query  # noqa: PLC0415
    from iretrace.console import progress  # noqa: PLC0415
    from iretrace.output import replacing  # noqa: PLC0415

    with progress("replaying", None) as advance, query(sql, traces, options, progress=advance) as reader:
        if target is None:
            _print(reader, kind, max_rows)
            return
        with replacing(target, force=force) as temporary:
            if kind == "table":
                from iretrace.commands.query_show import table_text  # noqa: PLC0415

                temporary.write_text(table_text(reader, max_rows), encoding="utf-8")
            else:
                from iretrace.exporters.rows import write_rows  # noqa: PLC0415

                with temporary.open("wb") as file:
                    write_rows(reader, file, kind)
    click.echo(f"{target} written", err=True)


def _print(reader: pa.RecordBatchReader, kind: str, max_rows: int) -> None:
    if kind == "table":
        from iretrace.commands.query_show import table_text  # noqa: PLC0415

        click.echo(table_text(reader, max_rows), nl=False)
    else:
        from iretrace.exporters.rows import write_rows  # noqa: PLC0415

        sys.stdout.flush()
        write_rows(reader, sys.stdout.buffer, kind)
