"""``iretrace replay --savings``: where the saving falls, by CPU, command, process and latency."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from iretrace.console import cycles, wide_console
from iretrace.processes import ARROW, IDLE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from iretrace.analysis.saved import Saved
    from iretrace.replay.policies import Policy
    from iretrace.trace import Trace

_SHOWN: Final = 10
_SHOWN_NAMES: Final = 3


def find_savings(trace: Trace, policies: Sequence[Policy]) -> Saved:
    """Every policy's savings; a pass of its own, since it needs every return."""
    from iretrace.analysis.saved import saved  # noqa: PLC0415 - pandas is for those who ask

    return saved(trace, policies)


def documents(found: Saved, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The savings of each policy, as JSON takes them."""
    from iretrace.analysis.saved import document  # noqa: PLC0415

    return {name: document(found, name) for name in names}


def show_savings(found: Saved, names: Sequence[str]) -> None:
    """Print the savings of each policy."""
    from rich.table import Table  # noqa: PLC0415 - rich is for terminals
    from rich.text import Text  # noqa: PLC0415

    console = wide_console()
    for name, savings in documents(found, names).items():
        total = savings["total"]
        click.echo(f"\nsavings of {name}:")
        if total["reason"]:
            click.echo(f"  {total['reason']}")
        if total["saved_cycles"] is None:
            continue
        spread = (
            f", with that of the load (moving block bootstrap) {_cycles(total['low_cycles'])} to "
            f"{_cycles(total['high_cycles'])}"
            if total["low_cycles"] is not None
            else ""
        )
        click.echo(
            f"  {_cycles(total['saved_cycles'])} TSC cycles; by the cost's interval "
            f"{_cycles(total['cost_low_cycles'])} to {_cycles(total['cost_high_cycles'])}{spread}"
        )
        table = Table(box=None, pad_edge=False)
        table.add_column("of")
        for heading in ("returns", "RET", "saved", "of CPU time"):
            table.add_column(heading, justify="right")
        rows = [(f"CPU {row['cpu']}", row) for row in savings["by_cpu"]]
        rows += [(_command(row), row) for row in savings["by_comm"][:_SHOWN]]
        rows += [(_process(row), row) for row in savings["by_pid"][:_SHOWN] if row["pid"]]
        for label, row in rows:
            share = "unknown" if row["share_pct"] is None else f"{row['share_pct']:.3g} %"
            table.add_row(Text(label), f"{row['returns']:,}", f"{row['RET']:,}", _cycles(row["saved_cycles"]), share)
        console.print(table)
        latency = Table(box=None, pad_edge=False)
        latency.add_column("latency in TSC cycles")
        for heading in ("traps", "p50", "after", "p99", "after", "saved on average"):
            latency.add_column(heading, justify="right")
        for row in savings["latency"]:
            values = (
                row["before_p50"],
                row["after_p50"],
                row["before_p99"],
                row["after_p99"],
                row["saved_mean_cycles"],
            )
            latency.add_row(row["name"], f"{row['traps']:,}", *map(_cycles, values))
        console.print(latency)


def _command(row: dict[str, Any]) -> str:
    if row["comm"] == IDLE:
        return "idle"
    comm = row["comm"] or "command not known"
    return comm if row["pids"] == 1 else f"{comm} ({row['pids']:,} processes)"


def _process(row: dict[str, Any]) -> str:
    called = row["comm"].split(ARROW)
    if len(called) > _SHOWN_NAMES:
        called = [called[0], "…", *called[1 - _SHOWN_NAMES :]]
    return f"pid {row['pid']} {ARROW.join(called)}"


def _cycles(value: float | None) -> str:
    return "unknown" if value is None else cycles(value)
