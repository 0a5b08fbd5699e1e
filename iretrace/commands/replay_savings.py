"""``iretrace replay --savings``: where the saving falls, by CPU, command, process and latency."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from iretrace.console import cycles, duration, print_table, say, three
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

    from iretrace.analysis.histogram import RELATIVE_ERROR  # noqa: PLC0415

    for name, savings in documents(found, names).items():
        total = savings["total"]
        click.echo(f"\nsavings of {name}:")
        if total["reason"]:
            click.echo(f"  {total['reason']}")
        if total["saved_cycles"] is None:
            continue
        say(f"  {_interval(total)}", "    ")
        table = Table(box=None, pad_edge=False)
        table.add_column("of")
        for heading in ("returns", "RET", "saved cycles", "of CPU time"):
            table.add_column(heading, justify="right")
        rows = [(f"CPU {row['cpu']}", row) for row in savings["by_cpu"]]
        rows += [(_command(row), row) for row in savings["by_comm"][:_SHOWN]]
        rows += [(_process(row), row) for row in savings["by_pid"][:_SHOWN] if row["pid"]]
        for label, row in rows:
            saved = (_cycles(row["saved_cycles"]), _share(row["share_pct"]))
            table.add_row(Text(label), f"{row['returns']:,}", f"{row['RET']:,}", *saved)
        print_table(table)
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
        print_table(latency)
        say(f"(percentiles are right within {100 * RELATIVE_ERROR:.1f} %: a smaller saving shows in the average alone)")


def show_sum(total: dict[str, Any], traces: Sequence[tuple[str, dict[str, Any]]]) -> None:
    """Print what a policy saves on several traces.

    Args:
        total: of :meth:`iretrace.analysis.saved_sum.SavedSum.document`.
        traces: name and ``total`` of each.
    """
    from rich.table import Table  # noqa: PLC0415 - rich is for terminals
    from rich.text import Text  # noqa: PLC0415

    click.echo(f"\nsavings of {total['policy']}:")
    if total["reason"]:
        click.echo(f"  {total['reason']}")
    if total["saved_cycles"] is None:
        return
    time = "" if total["saved_ns"] is None else f"; {duration(total['saved_ns'])} of CPU time"
    part = "" if total["share_pct"] is None else f", {three(total['share_pct'])} % of what was recorded"
    say(f"  {_interval(total)}{time}{part}", "    ")
    table = Table(box=None, pad_edge=False)
    table.add_column("trace")
    for heading in ("returns", "RET", "saved cycles", "by the cost's interval", "with the load's", "of CPU time"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, row in traces:
        ends = [_range(row["cost_low_cycles"], row["cost_high_cycles"]), _range(row["low_cycles"], row["high_cycles"])]
        saved = [_cycles(row["saved_cycles"]), *ends, _share(row["share_pct"])]
        table.add_row(Text(name), f"{row['returns']:,}", f"{row['RET']:,}", *saved)
    print_table(table)
    commands = Table(box=None, pad_edge=False)
    commands.add_column("command")
    for heading in ("traces", "returns", "RET", "saved cycles", "CPU time"):
        commands.add_column(heading, justify="right")
    for row in total["by_comm"][:_SHOWN]:
        time = "unknown" if row["saved_ns"] is None else duration(row["saved_ns"])
        counts = [f"{row[name]:,}" for name in ("traces", "returns", "RET")]
        commands.add_row(Text(_called(row)), *counts, _cycles(row["saved_cycles"]), time)
    print_table(commands)


def _interval(total: dict[str, Any]) -> str:
    """A saving with both of its intervals."""
    spread = (
        f", with that of the load (moving block bootstrap) {_range(total['low_cycles'], total['high_cycles'])}"
        if total["low_cycles"] is not None
        else ""
    )
    return (
        f"{_cycles(total['saved_cycles'])} TSC cycles; by the cost's interval "
        f"{_range(total['cost_low_cycles'], total['cost_high_cycles'])}{spread}"
    )


def _range(low: float | None, high: float | None) -> str:
    return "unknown" if low is None else f"{_cycles(low)} to {_cycles(high)}"


def _share(pct: float | None) -> str:
    return "unknown" if pct is None else f"{three(pct)} %"


def _called(row: dict[str, Any]) -> str:
    return "idle" if row["comm"] == IDLE else row["comm"] or "command not known"


def _command(row: dict[str, Any]) -> str:
    comm = _called(row)
    return comm if comm == "idle" or row["pids"] == 1 else f"{comm} ({row['pids']:,} processes)"


def _process(row: dict[str, Any]) -> str:
    called = row["comm"].split(ARROW)
    if len(called) > _SHOWN_NAMES:
        called = [called[0], "…", *called[1 - _SHOWN_NAMES :]]
    return f"pid {row['pid']} {ARROW.join(called)}"


def _cycles(value: float | None) -> str:
    return "unknown" if value is None else cycles(value)
