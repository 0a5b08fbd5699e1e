"""``iretrace replay`` of many traces."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from iretrace.commands import fleet_options
from iretrace.errors import EXIT_FAILED, EXIT_OK
from iretrace.fleet_tasks import replay_document

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from iretrace.fleet import FleetOptions, Outcome


def replay_many(names: Sequence[str], policies: Sequence[str], options: FleetOptions, *, as_json: bool) -> int:
    """Replay traces and print what came out; the exit status is 2 where one of them could not be replayed."""
    task = partial(replay_document, tuple(policies))
    outcomes = fleet_options.run("replaying", task, names, options)
    failed = _print_json(outcomes) if as_json else _print_table(list(outcomes))
    return EXIT_FAILED if failed else EXIT_OK


def _print_json(outcomes: Iterable[Outcome[dict[str, Any]]]) -> int:
    """One document, written as results come: ``{"schema": 1, "traces": [...], "failed": [...]}``."""
    failed = []
    separator = "\n"
    click.echo('{"schema": 1, "traces": [', nl=False)
    for outcome in outcomes:
        if outcome.value is None:
            failed.append({"trace": outcome.name, "error": outcome.error})
            continue
        click.echo(separator + json.dumps(outcome.value), nl=False)
        separator = ",\n"
    click.echo('\n], "failed": ' + json.dumps(failed) + "}")
    return len(failed)


def _print_table(outcomes: Sequence[Outcome[dict[str, Any]]]) -> int:
    from rich.table import Table  # noqa: PLC0415 - rich is for terminals

    from iretrace.console import cycles, share, wide_console  # noqa: PLC0415

    table = Table(box=None, pad_edge=False)
    table.add_column("trace")
    table.add_column("policy")
    for heading in ("returns", "not IRET", "share", "saved", "hazards", "lost"):
        table.add_column(heading, justify="right", no_wrap=True)
    done = 0
    totals: dict[str, list[int]] = {}
    for outcome in outcomes:
        if outcome.value is None:
            continue
        done += 1
        lost = sum(loss["count"] for loss in outcome.value["trace"]["losses"])
        for policy in outcome.value["policies"]:
            returns, other = policy["returns"], policy["returns"] - policy["iret"]
            total = totals.setdefault(policy["policy"], [0, 0])
            total[0] += returns
            total[1] += other
            saved = "-" if policy["saved_cycles"] is None else cycles(policy["saved_cycles"])
            cells = [f"{returns:,}", f"{other:,}", share(other, returns), saved]
            cells += [f"{sum(policy['hazards'].values()):,}", f"{lost:,}"]
            table.add_row(outcome.name, policy["policy"], *cells)
    for name, (returns, other) in totals.items():
        table.add_row(f"all {done}", name, f"{returns:,}", f"{other:,}", share(other, returns), "", "", "")
    if done:
        wide_console().print(table)
    failed = len(outcomes) - done
    if failed:
        click.echo(f"{failed} of {len(outcomes)} could not be replayed", err=True)
    return failed
