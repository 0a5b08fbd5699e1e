"""``iretrace replay`` of many traces."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from iretrace.commands import fleet_options
from iretrace.errors import EXIT_FAILED, EXIT_OK
from iretrace.fleet_tasks import replay_document
from iretrace.outputs import plan
from iretrace.redaction import redacted
from iretrace.sources import expand, is_one

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from iretrace.analysis.saved_sum import SavedSum
    from iretrace.fleet import FleetOptions, Outcome
    from iretrace.outputs import Outputs

    Outcomes = Iterable[Outcome[dict[str, Any]]]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the command line asks of each trace.

    Attributes:
        policies: names of policies.
        target: where predictions go, a directory for several traces; ``None``: nowhere.
        force: predictions may replace what is there.
        savings: say where the saving falls.
        as_json: print JSON.
    """

    policies: tuple[str, ...]
    target: Path | None
    force: bool
    savings: bool
    as_json: bool


def replay_many(traces: Sequence[str], asked: Asked, options: FleetOptions) -> int:
    """Replay traces and print what came out; the exit status is 2 where one of them could not be replayed."""
    names = expand(traces)
    outputs = None
    if asked.target is not None:
        many = not is_one(traces, names)
        outputs = plan(asked.target, names, many=many, suffix=".predictions.parquet", force=asked.force)
    task = partial(replay_document, asked.policies, savings=asked.savings, outputs=outputs)
    outcomes = _swept(fleet_options.run("replaying", task, names, options), outputs)
    sums = _sums(asked.policies) if asked.savings else []
    failed = _print_json(outcomes, sums) if asked.as_json else _print_table(outcomes, sums)
    if outputs is not None and not asked.as_json and failed < len(names):
        click.echo(f"\n{asked.target}: one row a return" + ("" if outputs.base is None else ", one file a trace"))
    return EXIT_FAILED if failed else EXIT_OK


def _swept(outcomes: Outcomes, outputs: Outputs | None) -> Iterator[Outcome[dict[str, Any]]]:
    """Outcomes to show, and nothing half-written beside them: a worker that was killed could not tidy up."""
    for outcome in outcomes:
        if outputs is not None:
            outputs.sweep(outcome.name)
        yield replace(outcome, name=redacted(outcome.name))


def _sums(policies: Sequence[str]) -> list[SavedSum]:
    from iretrace.analysis.saved_sum import SavedSum  # noqa: PLC0415 - pandas is for those who ask

    return [SavedSum(policy) for policy in policies]


def _add(document: dict[str, Any], sums: Sequence[SavedSum]) -> None:
    """Add a trace to the sums, and shorten its own list of commands to what one trace shows."""
    from iretrace.analysis.saved import MAX_ROWS  # noqa: PLC0415

    for one in sums:
        one.add(document)
    for policy in document["policies"]:
        policy["savings"]["by_comm"] = policy["savings"]["by_comm"][:MAX_ROWS]


def _print_json(outcomes: Outcomes, sums: Sequence[SavedSum]) -> int:
    """One document, written as results come: ``{"schema": 1, "traces": [...], "failed": [...]}``."""
    failed = []
    separator = "\n"
    click.echo('{"schema": 1, "traces": [', nl=False)
    for outcome in outcomes:
        if outcome.value is None:
            failed.append({"trace": outcome.name, "error": outcome.error})
            continue
        if sums:
            _add(outcome.value, sums)
        click.echo(separator + json.dumps(outcome.value), nl=False)
        separator = ",\n"
    click.echo("\n]", nl=False)
    if sums:
        click.echo(', "savings": ' + json.dumps([one.document() for one in sums]), nl=False)
    click.echo(', "failed": ' + json.dumps(failed) + "}")
    return len(failed)


def _print_table(outcomes: Outcomes, sums: Sequence[SavedSum]) -> int:
    from rich.table import Table  # noqa: PLC0415 - rich is for terminals

    from iretrace.console import print_table  # noqa: PLC0415

    table = Table(box=None, pad_edge=False)
    table.add_column("trace")
    table.add_column("policy")
    for heading in ("returns", "not IRET", "share", "saved cycles", "hazards", "lost"):
        table.add_column(heading, justify="right", no_wrap=True)
    done = failed = 0
    totals: dict[str, list[_Line]] = {}
    savings: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for outcome in outcomes:
        if outcome.value is None:
            failed += 1
            continue
        done += 1
        if sums:
            _add(outcome.value, sums)
        for policy in outcome.value["policies"]:
            line = _line(outcome.value["trace"], policy)
            totals.setdefault(policy["policy"], []).append(line)
            table.add_row(outcome.name, policy["policy"], *_cells(line))
            if sums:
                savings.setdefault(policy["policy"], []).append((outcome.name, policy["savings"]["total"]))
    for name, lines in totals.items():
        table.add_row(f"all {done}", name, *_cells(_sum(lines)))
    if done:
        print_table(table)
        _show_sums(sums, savings)
    if failed:
        click.echo(f"{failed} of {done + failed} could not be replayed", err=True)
    return failed


class _Line(NamedTuple):
    """A trace under a policy; ``saved`` is ``None`` where no cost is known."""

    returns: int
    other: int
    saved: float | None
    hazards: int
    lost: int


def _line(trace: dict[str, Any], policy: dict[str, Any]) -> _Line:
    return _Line(
        returns=policy["returns"],
        other=policy["returns"] - policy["iret"],
        saved=policy["saved_cycles"],
        hazards=sum(policy["hazards"].values()),
        lost=sum(loss["count"] for loss in trace["losses"]),
    )


def _sum(lines: Sequence[_Line]) -> _Line:
    """Of all traces; a saving that is not known of one of them is not known of all."""
    known = [line.saved for line in lines if line.saved is not None]
    return _Line(
        returns=sum(line.returns for line in lines),
        other=sum(line.other for line in lines),
        saved=sum(known) if len(known) == len(lines) else None,
        hazards=sum(line.hazards for line in lines),
        lost=sum(line.lost for line in lines),
    )


def _cells(line: _Line) -> list[str]:
    from iretrace.console import cycles, share  # noqa: PLC0415

    saved = "unknown" if line.saved is None else cycles(line.saved)
    counts = (f"{line.returns:,}", f"{line.other:,}", share(line.other, line.returns))
    return [*counts, saved, f"{line.hazards:,}", f"{line.lost:,}"]


def _show_sums(sums: Sequence[SavedSum], savings: dict[str, list[tuple[str, dict[str, Any]]]]) -> None:
    if sums:
        from iretrace.commands.replay_savings import show_sum  # noqa: PLC0415

        for one in sums:
            show_sum(one.document(), savings[one.policy])
