"""SQL over traces: the tables are the trace's, a query can only read, and the documented queries run."""

from __future__ import annotations

import io
import json
import re
from typing import TYPE_CHECKING, Any

import duckdb
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings

import iretrace
from iretrace.analysis.query import QueryOptions, check, query
from iretrace.analysis.query_tables import TABLES
from iretrace.errors import InputError, IretraceError, UsageError
from iretrace.exporters.rows import write_rows
from iretrace.footer import Clock, Footer, Loss, Window
from iretrace.replay.policies import by_name
from tests.conftest import ROOT, RunIretrace
from tests.strategies import loose_events
from tests.traces import KERNEL_CS, event, write_trace

if TYPE_CHECKING:
    from pathlib import Path

SAMPLE = ROOT / "samples" / "mixed.parquet"
POLICIES = tuple(by_name(name) for name in ("iret", "rfc2014"))
OPTIONS = QueryOptions(policies=POLICIES)
WORKED = re.findall(r"```sql\n(.*?)```", (ROOT / "docs" / "query.md").read_text(), re.DOTALL)


def ask(sql: str, *names: str | Path, options: QueryOptions = OPTIONS) -> list[dict[str, Any]]:
    """All rows of a query."""
    with query(sql, [str(name) for name in names], options) as reader:
        rows: list[dict[str, Any]] = reader.read_all().to_pylist()
    return rows


def small(path: Path, **footer: Any) -> Path:
    """A timer with a page fault in it, and an exit that was never entered."""
    events = [
        event(100, "exit", 0xFD, cpu=1, to_kernel=True),
        event(1000, "entry", 0xEC, cs=KERNEL_CS, to_kernel=True),
        event(1200, "entry", 14, cs=KERNEL_CS, to_kernel=True, error_code=2),
        event(1300, "exit", 14, to_kernel=True),
        event(1700, "exit", 0xEC, to_kernel=True),
    ]
    return write_trace(path, events, Footer(kernel_cs=KERNEL_CS, **footer))


def test_there_are_ten_worked_queries() -> None:
    """The page promises ten."""
    assert len(WORKED) == 10


@pytest.mark.parametrize("number", range(1, len(WORKED) + 1))
@pytest.mark.slow
def test_worked_query_runs(number: int) -> None:
    """Each query of docs/query.md runs on the recorded sample; those of hazards and nesting find nothing there."""
    found = ask(WORKED[number - 1], SAMPLE)
    assert found or number in (4, 8)  # nothing is nested in the sample, nothing dangerous


@pytest.mark.slow
def test_worked_queries_agree_with_the_frames() -> None:
    """Counts by SQL are those of the Python interface, which goes another way."""
    trace = iretrace.open(SAMPLE)
    traps = trace.traps()
    by_name_ = traps.groupby("name", observed=True).size().to_dict()
    assert {row["name"]: row["traps"] for row in ask(WORKED[0], SAMPLE)} == by_name_
    longest = traps["duration_cycles"].dropna().sort_values(ascending=False).head(10).tolist()
    khz = trace.footer.clock.tsc_khz
    assert khz is not None
    assert [row["us"] for row in ask(WORKED[5], SAMPLE)] == pytest.approx([cycles / khz * 1e3 for cycles in longest])
    returns = iretrace.replay(trace, ["iret", "rfc2014"]).by_vector
    rets = returns[(returns["policy"] == "rfc2014")].set_index("name")["RET"].to_dict()
    assert {row["name"]: row["ret"] for row in ask(WORKED[1], SAMPLE)} == rets
    events = trace.events(["phase"])
    assert sum(row["entries"] for row in ask(WORKED[6], SAMPLE)) == (events["phase"] == "entry").sum()


def test_nesting_query_finds_the_trap_around(tmp_path: Path) -> None:
    """Worked query 8 pairs a nested trap with the one it interrupted."""
    assert ask(WORKED[7], small(tmp_path / "t.parquet")) == [{"interrupted": "timer", "by_what": "#PF", "times": 1}]


def test_traps_and_decisions_are_those_of_the_replay(tmp_path: Path) -> None:
    """One row a trap, one a trap and policy; what was not seen is NULL."""
    trace = small(tmp_path / "t.parquet")
    rows = ask('SELECT trap, name, entry_tsc, exit_tsc, self_cycles, depth, "end" FROM traps ORDER BY trap', trace)
    assert [tuple(row.values()) for row in rows] == [
        (0, "reschedule", None, 100, None, 0, "orphan"),
        (1, "#PF", 1200, 1300, 100, 1, "exit"),
        (2, "timer", 1000, 1700, 600, 0, "exit"),
    ]
    rows = ask("SELECT policy, decision, count(*) n FROM decisions GROUP BY ALL ORDER BY ALL", trace)
    assert [tuple(row.values()) for row in rows] == [("iret", "IRET", 3), ("rfc2014", "RET", 3)]


@settings(deadline=None, max_examples=25)
@given(events=loose_events().filter(bool))
@pytest.mark.slow
def test_any_trace_gives_as_many_rows_as_events_and_traps(
    tmp_path_factory: pytest.TempPathFactory, events: list[dict[str, Any]]
) -> None:
    """Tables of a random trace have the rows of the Python interface."""
    path = write_trace(tmp_path_factory.mktemp("any") / "t.parquet", events)
    trace = iretrace.open(path)
    (row,) = ask(
        "SELECT (SELECT count(*) FROM events) e, (SELECT count(*) FROM traps) t, (SELECT count(*) FROM decisions) d",
        path,
    )
    n_traps = len(trace.traps())
    assert row == {"e": len(events), "t": n_traps, "d": 2 * n_traps}


def test_columns_are_the_documented_ones(tmp_path: Path) -> None:
    """Each table has the columns that --tables shows, in that order, of those types as DuckDB has them."""
    trace = small(tmp_path / "t.parquet")
    for table in TABLES:
        with query(f"SELECT * FROM {table.name}", [str(trace)], OPTIONS) as reader:  # noqa: S608 - names of ours
            assert reader.schema.names == [column.name for column in table.columns], table.name


def test_meta_and_losses_are_the_footers(tmp_path: Path) -> None:
    """Facts of the footer, and each loss with its meaning."""
    trace = small(
        tmp_path / "t.parquet",
        clock=Clock(source="msr-tsc", tsc_khz=1e6),
        window=Window(start_tsc=0, stop_tsc=2_000_000_000),
        losses=[Loss(cause="ring-full", count=7, cpu=1)],
        tags={"build": "42"},
    )
    (row,) = ask(
        "SELECT duration_s, lost_events, tags['build'] AS build, footer->>'$.clock.source' AS c FROM meta", trace
    )
    assert row == {"duration_s": 2.0, "lost_events": 7, "build": "42", "c": "msr-tsc"}
    (row,) = ask("SELECT cause, severity, cpu, count FROM losses", trace)
    assert row == {"cause": "ring-full", "severity": "events", "cpu": 1, "count": 7}


def test_a_strange_footer_is_still_a_row(tmp_path: Path) -> None:
    """Numbers past a column's range become unknown or the largest, never an error."""
    trace = small(tmp_path / "t.parquet", losses=[Loss(cause="ring-full", count=2**70)])
    assert ask("SELECT count FROM losses", trace) == [{"count": 2**64 - 1}]


def test_several_traces_keep_their_names(tmp_path: Path) -> None:
    """Names are as given; a name that looks like a pattern is a name where such a file exists."""
    one, two = small(tmp_path / "a.parquet"), small(tmp_path / "b[1].parquet")
    rows = ask("SELECT trace, count(*) n FROM traps GROUP BY ALL ORDER BY ALL", one, two)
    assert rows == [{"trace": str(one), "n": 3}, {"trace": str(two), "n": 3}]
    rows = ask("SELECT trace, count(*) n FROM events GROUP BY ALL ORDER BY ALL", one, two)
    assert rows == [{"trace": str(one), "n": 5}, {"trace": str(two), "n": 5}]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_text('{text}')",
        "SELECT * FROM read_csv('{text}')",
        "SELECT * FROM read_blob('/proc/self/environ')",
        "SELECT * FROM glob('{text}*')",
        "SELECT * FROM '{text}'",
        "FROM query('SELECT * FROM read_text(''{text}'')')",
        "SELECT * FROM read_parquet('{other}')",
        "SELECT * FROM parquet_metadata('{other}')",
    ],
)
def test_a_query_reads_no_other_file(tmp_path: Path, sql: str) -> None:
    """The statement cannot reach what it was not given; the same files can be read outside."""
    other = small(tmp_path / "other.parquet")
    trace = small(tmp_path / "t.parquet")
    text = tmp_path / "lines.csv"
    text.write_text("a,b\n1,2\n3,4\n")
    asked = sql.format(other=other, text=text)
    assert duckdb.execute(asked).fetchall()  # so that it is the lock that refuses
    with pytest.raises(IretraceError, match=r"SQL: ") as caught:
        ask(asked, trace)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "sql",
    [
        "COPY (SELECT 1) TO '{trace}'",
        "COPY meta TO '{new}'",
        "ATTACH '{new}'",
        "CREATE TABLE t (i INTEGER)",
        "DROP VIEW events",
        "SET memory_limit = '1TB'",
        "INSTALL httpfs",
        "SELECT 1; SELECT 2",
        "SELECT 1; COPY meta TO '{new}'",
        "PRAGMA database_list",
        "EXPORT DATABASE '{new}'",
        "",
        "-- nothing",
    ],
)
def test_a_query_changes_nothing(tmp_path: Path, sql: str) -> None:
    """Everything but one SELECT is refused, and the trace and its directory are as they were."""
    trace = small(tmp_path / "t.parquet")
    before = trace.read_bytes()
    with pytest.raises(UsageError, match="expected one SELECT"):
        ask(sql.format(trace=trace, new=tmp_path / "new"), trace)
    assert trace.read_bytes() == before
    assert list(tmp_path.iterdir()) == [trace]


@pytest.mark.parametrize(
    "sql", ["SELECT nothing FROM events", "SELECT", "SELEC 1", "SELECT * FROM nowhere", "SELECT 1 +"]
)
def test_errors_are_one_line(tmp_path: Path, sql: str, run_iretrace: RunIretrace) -> None:
    """A statement that DuckDB refuses is an error of one line and exit status 2."""
    done = run_iretrace("query", small(tmp_path / "t.parquet"), sql, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("iretrace: SQL: ")
    assert not done.stdout


def test_explain_is_allowed() -> None:
    """EXPLAIN reads only."""
    check("EXPLAIN SELECT 1")


def test_damaged_rows_are_told(tmp_path: Path) -> None:
    """A row group that cannot be read is an error of the trace, whichever table finds it."""
    trace = small(tmp_path / "t.parquet")
    data = bytearray(trace.read_bytes())
    data[4:60] = bytes(56)
    trace.write_bytes(data)
    for table in ("events", "traps"):
        with pytest.raises(InputError):
            ask(f"SELECT sum(tsc) FROM {table}" if table == "events" else "FROM traps", trace)  # noqa: S608


def test_formats_hold_the_same_rows(tmp_path: Path, run_iretrace: RunIretrace) -> None:
    """CSV, JSON and Parquet of one query say the same."""
    trace = small(tmp_path / "t.parquet")
    sql = "SELECT trap, name, entry_tsc, [1, 2] AS l, sum(exit_tsc) OVER () AS s FROM traps ORDER BY trap"
    printed = json.loads(run_iretrace("query", trace, sql, "--json").stdout)
    assert [column["name"] for column in printed["columns"]] == ["trap", "name", "entry_tsc", "l", "s"]
    assert printed["rows"][0] == {"trap": 0, "name": "reschedule", "entry_tsc": None, "l": [1, 2], "s": 3100}
    run_iretrace("query", trace, sql, "-o", tmp_path / "o.parquet")
    rows = pq.read_table(tmp_path / "o.parquet").to_pylist()
    assert [{**row, "s": int(row["s"])} for row in rows] == printed["rows"]
    text = run_iretrace("query", trace, sql, "--format", "csv").stdout
    frame = pd.read_csv(io.StringIO(text), keep_default_na=False)
    assert frame["name"].tolist() == [row["name"] for row in rows]
    assert frame["l"].tolist() == ["[1, 2]"] * 3
    refused = run_iretrace("query", trace, sql, "-o", tmp_path / "o.parquet", check=False)
    assert refused.returncode == 2
    assert "--force" in refused.stderr


def test_a_table_counts_what_it_does_not_show(tmp_path: Path, run_iretrace: RunIretrace) -> None:
    """--max-rows cuts a table, and the table says so."""
    trace = small(tmp_path / "t.parquet")
    lines = run_iretrace("query", trace, "SELECT tsc FROM events ORDER BY tsc", "--max-rows", "2").stdout.splitlines()
    assert [line.strip() for line in lines[:3]] == ["tsc", "100", "1000"]
    assert "3 more rows" in lines[3]


def test_a_table_shows_large_numbers_whole(tmp_path: Path, run_iretrace: RunIretrace) -> None:
    """A frequency in kHz is no power of ten; what is very large or small has an exponent."""
    trace = small(tmp_path / "t.parquet")
    shown = run_iretrace("query", trace, "SELECT 2596122.4::DOUBLE AS a, 1.5::DOUBLE AS b, 1e300::DOUBLE AS c").stdout
    assert shown.splitlines()[1].split() == ["2596122", "1.5", "1e+300"]


def test_statement_from_file_and_standard_input(tmp_path: Path, run_iretrace: RunIretrace) -> None:
    """A file called *.sql is read; a missing one is told."""
    trace = small(tmp_path / "t.parquet")
    (tmp_path / "q.sql").write_text("SELECT count(*) AS n FROM events")
    assert run_iretrace("query", trace, "q.sql").stdout.split() == ["n", "5"]
    missing = run_iretrace("query", trace, "none.sql", check=False)
    assert missing.returncode == 2
    assert "none.sql" in missing.stderr


def test_patterns_and_object_stores(tmp_path: Path, run_iretrace: RunIretrace) -> None:
    """Patterns, directories and URLs name traces; what matches nothing is an error."""
    for name in ("a", "b"):
        small(tmp_path / f"{name}.parquet")
    sql = "SELECT count(DISTINCT trace) AS n, count(*) AS traps FROM traps"
    for names in ("*.parquet", ".", f"file://{tmp_path}/*.parquet", f"file://{tmp_path}"):
        assert run_iretrace("query", names, sql).stdout.split() == ["n", "traps", "2", "6"], names
    for names in ("nothing*.parquet", f"file://{tmp_path}/no*.parquet", "nosuch://x/*.parquet", f"file://{tmp_path}/x"):
        done = run_iretrace("query", names, sql, check=False)
        assert done.returncode == 2, names
        assert done.stderr.count("\n") == 1


def test_values_of_every_kind_can_be_written(tmp_path: Path) -> None:
    """Dates, intervals, decimals, blobs, maps and not-a-number become text or JSON, not an error."""
    sql = (
        "SELECT DATE '2020-01-02' d, TIMESTAMP '2020-01-02 03:04:05' t, INTERVAL 1 DAY i, 1.50::DECIMAL(5,2) c, "
        "'ab'::BLOB b, MAP {'k': 1} m, {'x': 1} s, 'nan'::DOUBLE f, true q, NULL n, uuid() u, TIME '01:02:03' h"
    )
    trace = small(tmp_path / "t.parquet")
    for kind in ("csv", "json"):
        file = io.BytesIO()
        with query(sql, [str(trace)], OPTIONS) as reader:
            assert write_rows(reader, file, kind) == 1
        if kind == "json":
            (row,) = json.loads(file.getvalue())["rows"]
            assert row["m"] == {"k": 1}
            assert row["f"] is None
            assert row["c"] == 1.5


def test_tables_are_listed(run_iretrace: RunIretrace) -> None:
    """--tables needs no trace."""
    text = run_iretrace("query", "--tables").stdout
    for table in TABLES:
        assert f"{table.name}: {table.doc}" in text
    listed = json.loads(run_iretrace("query", "--tables", "--json").stdout)
    assert [table["table"] for table in listed["tables"]] == [table.name for table in TABLES]
