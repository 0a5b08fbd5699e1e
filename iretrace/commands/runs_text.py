"""Runs of a store on a terminal."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import click
from rich.markup import escape
from rich.table import Table

from iretrace import losses
from iretrace.console import cycles, duration, print_table
from iretrace.store.comparable import spoken

if TYPE_CHECKING:
    from iretrace.store import Run, Unreadable

DEFAULT_POLICY: Final = "rfc2014"
_MAX_CELL: Final = 48


def print_list(where: str, runs: list[dict[str, Any]], bad: list[Unreadable]) -> None:
    """A table of runs, then what could not be read."""
    if runs:
        table = Table(box=None, pad_edge=False)
        table.add_column("run", no_wrap=True)
        for heading in ("recorded (UTC)", "host", "kernel", "workload", "tags"):
            table.add_column(heading)
        for heading in ("returns", "lost"):
            table.add_column(heading, justify="right")
        for row in runs:
            # The workload has a column of its own.
            tags = " ".join(f"{key}={value}" for key, value in row["tags"].items() if key != "workload")
            table.add_row(
                *(escape(text) for text in (row["run"], f"{row['time']:%Y-%m-%d %H:%M}", row["host"], row["kernel"])),
                *(escape(_shortened(text)) for text in (row["workload"], tags)),
                f"{row['returns']:,}",
                _lost(row),
            )
        print_table(table)
    click.echo(f"{where}: {len(runs):,} {'run' if len(runs) == 1 else 'runs'}")
    for one in bad:
        click.echo(f"{one.name}: cannot be read: {one.reason}", err=True)


def _shortened(text: str) -> str:
    """One run's long command would make a column as wide for all; runs show has it whole."""
    return text if len(text) <= _MAX_CELL else f"{text[: _MAX_CELL - 1]}…"


def _lost(row: dict[str, Any]) -> str:
    return (f"{row['lost_events']:,}" if row["lost_events"] else "yes") if row["lossy"] else "0"


def show(run: Run, row: dict[str, Any], metrics: list[dict[str, Any]], policy: str | None) -> None:
    """One run: what it is, what each policy decides, and the vectors."""
    document, footer = run.document, run.footer
    seconds = duration(document.duration_s * 1e9) if document.duration_s else "unknown"
    facts = {
        "recorded": f"{row['time']:%Y-%m-%d %H:%M:%S} UTC, added {row['added']:%Y-%m-%d %H:%M:%S}",
        "trace": f"{document.trace or 'none'}, {document.events:,} events, {row['returns']:,} returns in {seconds}",
        "host": f"{row['host'] or 'unknown'}, Linux {row['kernel'] or 'unknown'}",
        "CPU": f"{row['cpu'] or 'unknown'} ({spoken(row['cpu_id'])}), {row['cpus']} online",
        "clock": f"{row['clock']}, TSC {row['tsc_khz'] / 1e3:.3f} MHz" if row["tsc_khz"] else row["clock"],
        "workload": row["workload"] or "unknown",
        "tags": " ".join(f"{key}={value}" for key, value in document.tags.items()) or "none",
        "limited": f"to {row['filters']}" if row["filters"] else "no",
        "saving": document.cost_source,
    }
    click.echo(run.id)
    for name, text in facts.items():
        click.echo(f"  {name:<9} {text}")
    lost = footer.losses
    click.echo(f"  losses    {'none recorded' if not lost else ''}".rstrip())
    for name, count in row["losses"].items():
        click.echo(f"    {name} {count:,} ({losses.BY_NAME[name].severity}): {losses.BY_NAME[name].doc}")
    _show_policies(run, metrics)
    known = [one.name for one in run.policies]
    _show_vectors(metrics, policy or (DEFAULT_POLICY if DEFAULT_POLICY in known else known[0]))


def _show_policies(run: Run, metrics: list[dict[str, Any]]) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("policy", no_wrap=True)
    for heading in ("RET", "share", "saved TSC cycles", "a second"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("hazards")
    hazards = {policy.name: policy.hazards for policy in run.document.policies}
    for row in metrics:
        if row["vector"] == -1 and row["policy"]:
            found = ", ".join(f"{name} {count:,}" for name, count in hazards[row["policy"]].items())
            numbers = (f"{row['ret']:,.0f}", f"{row['ret_pct']:.2f} %")
            saved = (_cycles(row["saved_cycles"]), _cycles(row["saved_per_s_cycles"]))
            table.add_row(escape(row["policy"]), *numbers, *saved, found or "none")
    click.echo()
    print_table(table)


def _show_vectors(metrics: list[dict[str, Any]], policy: str) -> None:
    decided = {row["vector"]: row for row in metrics if row["policy"] == policy}
    table = Table(box=None, pad_edge=False)
    table.add_column("vector")
    columns = ("returns", "a second", "to kernel", "RET", "p50", "p99", "self p50", "saved")
    for heading in columns:
        table.add_column(heading, justify="right")
    for row in sorted((row for row in metrics if not row["policy"]), key=lambda row: -row["returns"]):
        of = decided.get(row["vector"], {})
        table.add_row(
            row["name"],
            f"{row['returns']:,}",
            _cycles(row["per_s"]),
            _pct(row["to_kernel_pct"]),
            _pct(of.get("ret_pct", math.nan)),
            _cycles(row["latency_p50_cycles"]),
            _cycles(row["latency_p99_cycles"]),
            _cycles(row["self_p50_cycles"]),
            _cycles(of.get("saved_cycles", math.nan)),
        )
    click.echo(f"\nby vector, RET and saving under {policy}, times in TSC cycles:")
    print_table(table)


def _cycles(value: float) -> str:
    return "unknown" if math.isnan(value) else cycles(value)


def _pct(value: float) -> str:
    return "unknown" if math.isnan(value) else f"{value:.1f} %"
