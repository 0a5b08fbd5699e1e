"""SQL over traces, by DuckDB: read-only, shut in, and in bounded memory.

Events are read from the trace itself. Traps and decisions come of a replay, which is written to a temporary Parquet
file a batch at a time, and only where a query names them. The query is the user's; it can read the traces it was given
and nothing else: one SELECT is accepted, and DuckDB is barred from all other files, from extensions and from settings.
"""

from __future__ import annotations

import re
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from iretrace import traps
from iretrace.analysis.query_tables import DECISIONS, EVENTS, TRAPS, QueryTable, loss_table, meta_table
from iretrace.errors import Damaged, OutputError, UsageError
from iretrace.replay import costs, run
from iretrace.replay.policies import IRET, Policy
from iretrace.sources import local
from iretrace.trace import Trace, open_trace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

BATCH_ROWS: Final = 1 << 16
_READ_ONLY: Final = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN)
_STATEMENT: Final = "one SELECT (or EXPLAIN) statement"


@dataclass(frozen=True, kw_only=True)
class QueryOptions:
    """How a query is run.

    Attributes:
        policies: what the table ``decisions`` holds.
        memory: what DuckDB may use, as it spells it (``1GB``); more goes to a temporary directory.
    """

    policies: tuple[Policy, ...] = (IRET,)
    memory: str = "1GB"


@contextmanager
def query(
    sql: str, names: Sequence[str], options: QueryOptions, *, progress: Callable[[int], None] | None = None
) -> Iterator[pa.RecordBatchReader]:
    """Run one statement over traces; gives its rows in batches while the context is open.

    Args:
        sql: one SELECT over the tables of :data:`iretrace.analysis.query_tables.TABLES`.
        names: traces, as :func:`iretrace.sources.expand` gives them.
        options: policies and memory.
        progress: called with the number of events of each batch that was replayed for ``traps`` or ``decisions``.

    Raises:
        UsageError: the statement is not one SELECT, or DuckDB refuses it.
        InputError: a trace is not what it should be.
    """
    check(sql)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="iretrace-query-")))
        files = [_plain(stack.enter_context(local(name)), directory / f"link{i}") for i, name in enumerate(names)]
        traces = [(name, open_trace(file)) for name, file in zip(names, files, strict=True)]
        replayed = _replayed(sql, traces, directory, options, progress)
        connection = stack.enter_context(duckdb.connect(":memory:", config={"python_enable_replacements": False}))
        _views(connection, traces, replayed, options)
        _lock(connection, [*map(str, files), *replayed], directory / "spill", options)
        where = names[0] if len(names) == 1 else f"{len(names)} traces"
        with _errors(where):
            reader = connection.sql(sql).to_arrow_reader(BATCH_ROWS)
        yield pa.RecordBatchReader.from_batches(reader.schema, _batches(reader, where))


def _plain(file: Path, link: Path) -> Path:
    """The file, or a link to it where DuckDB would take its name for a pattern."""
    if not any(letter in str(file) for letter in "*?[") or not file.exists():
        return file
    link.symlink_to(file.absolute())
    return link


def check(sql: str) -> None:
    """Refuse what is not one statement that only reads.

    Raises:
        UsageError: it is not.
    """
    with _errors():
        statements = duckdb.extract_statements(sql)
    if len(statements) != 1:
        raise UsageError("SQL", f"{len(statements)} statements", expected=_STATEMENT)
    if statements[0].type not in _READ_ONLY:
        raise UsageError("SQL", f"{statements[0].type.name} changes something", expected=_STATEMENT)


def names_any(sql: str, *tables: QueryTable) -> bool:
    """Whether the text names one of the tables (anywhere: a column of that name counts too)."""
    return any(re.search(rf"\b{table.name}\b", sql, re.IGNORECASE) for table in tables)


def _replayed(
    sql: str,
    traces: Sequence[tuple[str, Trace]],
    directory: Path,
    options: QueryOptions,
    progress: Callable[[int], None] | None,
) -> list[str]:
    """Parquet files of traps and decisions, one a trace, where the query asks for them."""
    if not names_any(sql, TRAPS, DECISIONS):
        return []
    files = []
    for number, (name, trace) in enumerate(traces):
        target = directory / f"{number}.parquet"
        try:
            write_returns(trace, name, options.policies, target, progress=progress)
        except OSError as error:
            raise OutputError(
                directory,
                f"could not hold the replay ({error.strerror or error})",
                remedy="set TMPDIR to a larger disk",
            ) from None
        files.append(str(target))
    return files


def returns_schema(policies: tuple[Policy, ...]) -> pa.Schema:
    """Columns of :func:`write_returns`: ``trace``, ``trap``, and :func:`iretrace.traps.return_schema`."""
    schema = traps.return_schema(tuple(policy.name for policy in policies))
    return pa.schema([pa.field("trace", pa.string(), nullable=False), pa.field("trap", pa.uint64()), *schema])


def write_returns(
    trace: Trace,
    name: str,
    policies: tuple[Policy, ...],
    target: Path,
    *,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Replay a trace and write one row a trap, a batch at a time.

    Args:
        trace: an opened trace.
        name: what column ``trace`` says.
        policies: at least one; their decisions follow the trap's columns.
        target: the Parquet file.
        progress: called with the number of events of each batch.

    Raises:
        Damaged: the trace holds what it must not.
    """
    saving = costs.saving_per_return(trace.footer)
    first = 0
    with pq.ParquetWriter(target, returns_schema(policies), compression="zstd") as writer:

        def write(batch: run.Returns) -> None:
            nonlocal first
            n = len(batch.rows)
            if n:
                table = traps.return_table(batch, saving)
                table = table.add_column(0, "trap", pa.array(np.arange(first, first + n, dtype=np.uint64)))
                table = table.add_column(0, "trace", pa.repeat(name, n))
                writer.write_table(table.cast(writer.schema))
                first += n

        run.replay(trace, policies, sink=write, progress=progress)


def _views(
    connection: duckdb.DuckDBPyConnection,
    traces: Sequence[tuple[str, Trace]],
    replayed: Sequence[str],
    options: QueryOptions,
) -> None:
    connection.register("meta", meta_table(traces))
    connection.register("losses", loss_table(traces))
    # The name that the user gave, which is not the name of a fetched copy.
    connection.register("_names", pa.table({"file": [str(t.path) for _, t in traces], "name": [n for n, _ in traces]}))
    columns = ", ".join(_quoted(column.name) for column in EVENTS.columns[1:])
    renamed = any(str(trace.path) != name for name, trace in traces)
    source = _scan([str(trace.path) for _, trace in traces], filename="file")
    given = "_names.name" if renamed else "file"
    joined = " JOIN _names USING (file)" if renamed else ""
    connection.execute(f"CREATE VIEW events AS SELECT {given} AS trace, {columns} FROM {source}{joined}")  # noqa: S608
    if not replayed:
        return
    source = _scan(replayed)
    own = ", ".join(_quoted(column.name) for column in TRAPS.columns)
    connection.execute(f"CREATE VIEW traps AS SELECT {own} FROM {source}")  # noqa: S608
    parts = [
        f"SELECT {', '.join(_decision(column.name, policy.name) for column in DECISIONS.columns)} FROM {source}"  # noqa: S608
        for policy in options.policies
    ]
    connection.execute("CREATE VIEW decisions AS " + " UNION ALL ".join(parts))


def _scan(files: Sequence[str], *, filename: str | None = None) -> str:
    paths = ", ".join(map(_text, files))
    extra = "" if filename is None else f", filename={_text(filename)}"
    return f"read_parquet([{paths}], hive_partitioning=false{extra})"


def _decision(column: str, policy: str) -> str:
    if column == "policy":
        return f"{_text(policy)} AS policy"
    made = {name.name for name in traps.DECISION_COLUMNS}
    return f"{_quoted(f'{column}.{policy}')} AS {_quoted(column)}" if column in made else _quoted(column)


def _lock(connection: duckdb.DuckDBPyConnection, files: Sequence[str], spill: Path, options: QueryOptions) -> None:
    """Bar everything but the files of the views; after this nothing can be set."""
    try:
        connection.execute(f"SET memory_limit = {_text(options.memory)}")
    except duckdb.Error as error:
        raise UsageError("--memory", one_line(error), expected="a size such as 1GB") from None
    connection.execute(f"SET temp_directory = {_text(str(spill))}")
    # DuckDB compares absolute paths with the list as it stands, and a view's relative path as the view has it.
    allowed = ", ".join(_text(path) for file in files for path in dict.fromkeys((file, str(Path(file).absolute()))))
    connection.execute(f"SET allowed_paths = [{allowed}]")
    for name, value in (
        ("autoinstall_known_extensions", "false"),
        ("autoload_known_extensions", "false"),
        ("enable_external_access", "false"),
        ("lock_configuration", "true"),
    ):
        connection.execute(f"SET {name} = {value}")


def _batches(reader: pa.RecordBatchReader, where: str) -> Iterator[pa.RecordBatch]:
    while True:
        with _errors(where):
            try:
                batch = reader.read_next_batch()
            except StopIteration:
                return
        yield batch


@contextmanager
def _errors(where: str = "SQL") -> Iterator[None]:
    """DuckDB's errors as one line; ``where`` is what was being read, should that be at fault."""
    try:
        yield
    except duckdb.OutOfMemoryException as error:
        raise UsageError("SQL", one_line(error), remedy="a larger --memory") from None
    except duckdb.Error as error:
        # What Parquet's own decoder finds comes without a class of its own.
        invalid = isinstance(error, duckdb.InvalidInputException) and "parquet" in str(error).lower()
        if type(error) is duckdb.Error or isinstance(error, duckdb.IOException) or invalid:
            raise Damaged(where, one_line(error), expected="an intact trace") from None
        raise UsageError("SQL", one_line(error), remedy="iretrace query --tables shows the columns") from None
    except pa.ArrowException as error:
        raise UsageError("SQL", one_line(error)) from None


def one_line(error: Exception) -> str:
    """DuckDB's message without the picture of the statement."""
    return " ".join(re.split(r"\n\s*LINE \d+:", str(error))[0].split())


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
