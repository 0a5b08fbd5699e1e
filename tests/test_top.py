"""What top makes of counts: rates, shares, unknowns; and its refusal where the machine does not allow it."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from rich.console import Console

from iretrace.collect.live import Snapshot
from iretrace.commands.top_ import document, table
from iretrace.console import print_table
from iretrace.replay.contexts import N_SLOTS

PF, TIMER = 14, 0xEC


def snapshot(*, saved: float | None = 100.0, lost: int = 0) -> Snapshot:
    """Two seconds with two vectors."""
    counts = {name: np.zeros(N_SLOTS, np.int64) for name in ("returns", "kernel", "known", "ret")}
    for name, faults, timers in (("returns", 300, 100), ("kernel", 30, 50), ("known", 300, 100), ("ret", 20, 50)):
        counts[name][[PF, TIMER]] = faults, timers
    return Snapshot(
        seconds=2.0,
        **counts,
        saved_cycles=saved,
        cost_source="no cost is known",
        lost=lost,
        losses={"ring-full": lost} if lost else {},
        fill_pct=3.0,
    )


def test_rates_and_shares_are_of_the_interval() -> None:
    """Counts are by second, shares of what is known, the saving of the RETs; the most frequent vector first."""
    found = document(snapshot(), "rfc2014")
    assert [row["name"] for row in found["vectors"]] == ["#PF", "timer"]
    assert found["total"] == {
        "name": "all",
        "per_s": 200.0,
        "to_kernel_pct": pytest.approx(20.0),
        "ret_pct": pytest.approx(17.5),
        "saved_per_s_cycles": 3500.0,
    }
    assert found["vectors"][1]["ret_pct"] == 50.0


def test_what_is_not_known_is_null() -> None:
    """Without a cost there is no saving; without traps there are no shares."""
    assert document(snapshot(saved=None), "fred")["total"]["saved_per_s_cycles"] is None
    quiet = snapshot()
    for counts in (quiet.returns, quiet.kernel, quiet.known, quiet.ret):
        counts[:] = 0
    found = document(quiet, "rfc2014")
    assert found["vectors"] == []
    assert found["total"]["to_kernel_pct"] is None


def test_a_narrow_terminal_shows_whole_numbers() -> None:
    """Columns give way before numbers are cut: a part of a number would be another number."""
    text = io.StringIO()
    Console(file=text, width=50).print(table(snapshot(saved=60.0, lost=0), "rfc2014", wide=False))
    wide = io.StringIO()
    Console(file=wide, width=120).print(table(snapshot(saved=60.0, lost=0), "rfc2014"))
    numbers = re.findall(r"[\d,]+$", wide.getvalue().replace(" \n", "\n"), re.MULTILINE)
    assert len(numbers) >= 2
    assert all(f" {number}\n" in text.getvalue() for number in numbers), text.getvalue()


def test_the_table_tells_losses_and_unknowns(capsys: pytest.CaptureFixture[str]) -> None:
    """Losses stand in the heading, and why nothing is known of the saving below."""
    print_table(table(snapshot(saved=None, lost=12), "rfc2014"))
    out = capsys.readouterr().out
    assert "LOST 12: ring-full" in out
    assert "no cost is known" in out
    assert "unknown" in out
