"""``iretrace compare``."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from iretrace.commands import fleet_options
from iretrace.commands.store_option import store_option
from iretrace.errors import EXIT_FAILED, EXIT_FOUND, EXIT_OK, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from iretrace.analysis.compare import Difference
    from iretrace.store.run import Run
    from iretrace.store.sides import Side

SCHEMA = 1
ONE_EACH = (
    "One run on each side: the intervals hold what differs over time within a run, not what differs between runs of "
    "the same thing. Several runs on each side tell more."
)
DEFAULT_POLICY = "rfc2014"


@click.command(
    epilog="""\b
Examples:
  iretrace compare before.parquet after.parquet
  iretrace compare 'before-*.parquet' 'after-*.parquet' --markdown
  iretrace compare 'base/*.parquet' 'new/*.parquet' --jobs 0
  iretrace compare commit=1f2e3d commit=9a8b7c --store runs/
  iretrace compare before.parquet after.parquet --only '#PF.*' --only rate --json
  iretrace compare before.parquet after.parquet --pyperf perf; python -m pyperf compare_to perf.base.json perf.new.json

\b
A side is a trace, a pattern of traces, a run of the store (its name, or the beginning or end of it), KEY=VALUE (all
runs of the store with that tag), or several of these with commas between them: repeats of the same thing.
Exit status: 0 nothing is worse, 1 something is, 2 it could not be done, or the sides must not be compared.
"""
)
@click.argument("base")
@click.argument("new")
@store_option
@click.option(
    "-p", "--policy", "policy_name", default=DEFAULT_POLICY, show_default=True, help="Whose RETs and savings."
)
@click.option(
    "--min-effect",
    default=5.0,
    show_default=True,
    type=click.FloatRange(min=0),
    metavar="PCT",
    help="Smaller changes are of no interest.",
)
@click.option("--only", multiple=True, metavar="PATTERN", help="Only such VECTOR.MEASURE, VECTOR or MEASURE.")
@click.option("--anyway", is_flag=True, help="Compare what differs in CPU, clock, filters, workload, or lost events.")
@click.option("--all", "show_all", is_flag=True, help="Show also what is the same, and what cannot be told.")
@fleet_options.fleet_options
@click.option("--markdown", is_flag=True, help="Print Markdown, for a pull request.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("--pyperf", "prefix", metavar="PREFIX", help="Write the times as PREFIX.base.json and PREFIX.new.json.")
@click.option("-f", "--force", is_flag=True, help="Replace such files if they exist.")
def command(  # noqa: PLR0913 - one parameter an option
    *,
    base: str,
    new: str,
    url: str,
    policy_name: str,
    min_effect: float,
    only: tuple[str, ...],
    anyway: bool,
    show_all: bool,
    jobs: int,
    scheduler: str | None,
    retries: int,
    markdown: bool,
    as_json: bool,
    prefix: str | None,
    force: bool,
) -> int:
    """Say what differs between two recordings, or two sets of them, and what cannot be told.

    Rates, targets, RETs, latencies, self times and the projected saving, by vector and in total; each with an interval
    of 95 %, and corrected for how many were looked at. docs/compare.md says how.
    """
    if markdown and as_json:
        raise UsageError("--markdown", "does not go with --json")
    from iretrace.fleet_tasks import run_of_trace  # noqa: PLC0415 - heavy imports wait for the verb
    from iretrace.replay.own import find  # noqa: PLC0415
    from iretrace.store.comparable import obstacles, remarks  # noqa: PLC0415
    from iretrace.store.sides import find_side  # noqa: PLC0415

    targets = [Path(f"{prefix}.{end}.json") for end in ("base", "new")] if prefix else []
    if targets:
        from iretrace.output import check_target  # noqa: PLC0415

        for target in targets:
            check_target(target, force=force)
    policy = find(policy_name)
    options = fleet_options.chosen(jobs, scheduler, retries)
    task = partial(run_of_trace, (policy_name,), {})

    def replay(names: Sequence[str]) -> list[Run]:
        return fleet_options.all_of("reading", task, names, options)

    sides = [find_side(named, url, policy, replay) for named in (base, new)]
    against = obstacles(sides[0].rows, sides[1].rows)
    notes = [*remarks([*sides[0].rows, *sides[1].rows]), *_notes(sides)]
    found: list[Difference] = []
    if anyway or not against:
        from iretrace.analysis.compare import compare  # noqa: PLC0415

        found = compare(sides[0].runs, sides[1].runs, policy=policy.name, min_effect_pct=min_effect, only=only)
        if only and not found:
            raise UsageError(f"--only {only[0]}", "fits nothing", expected="VECTOR.MEASURE, such as '#PF.latency_*'")
    if targets:
        from iretrace.commands.compare_pyperf import write_suites  # noqa: PLC0415

        write_suites([side.runs for side in sides], targets, force=force)
    if as_json:
        click.echo(json.dumps(document(sides, found, against, notes, policy.name, min_effect), indent=2))
    else:
        from iretrace.commands import compare_text  # noqa: PLC0415

        show = compare_text.markdown if markdown else compare_text.table
        show(sides, found, against, notes, policy=policy.name, min_effect=min_effect, everything=show_all)
    if against and not anyway:
        remedy = "compare what is alike, or add --anyway"
        click.echo(f"iretrace: {base}, {new}: not compared: {against[0]}; {remedy}", err=True)
        return EXIT_FAILED
    return EXIT_FOUND if any(one.verdict == "worse" for one in found) else EXIT_OK


def _notes(sides: list[Side]) -> list[str]:
    if sorted(run.id for run in sides[0].runs) == sorted(run.id for run in sides[1].runs):
        return ["The two sides are the same recordings."]
    counts = [len(side.runs) for side in sides]
    if counts == [1, 1]:
        return [ONE_EACH]
    if min(counts) == 1:
        return ["One side has one run, which is taken to vary as much as those of the other."]
    return []


def document(  # noqa: PLR0913, PLR0917 - the parts of one document
    sides: list[Side], found: list[Difference], against: list[str], notes: list[str], policy: str, min_effect: float
) -> dict[str, Any]:
    """The JSON document: what is not known is null."""
    return {
        "schema": SCHEMA,
        "comparable": not against,
        "obstacles": against,
        "notes": notes,
        "policy": policy,
        "min_effect_pct": min_effect,
        "base": {"named": sides[0].named, "runs": [run.id for run in sides[0].runs]},
        "new": {"named": sides[1].named, "runs": [run.id for run in sides[1].runs]},
        "metrics": [_metric(one) for one in found],
    }


def _metric(one: Difference) -> dict[str, Any]:
    from iretrace.analysis.measures import BY_NAME, name_of  # noqa: PLC0415

    low, high = known(one.low_pct), known(one.high_pct)
    return {
        "name": one.name,
        "vector": name_of(one.vector),
        "measure": one.measure,
        "unit": BY_NAME[one.measure].unit,
        "base": known(one.base),
        "new": known(one.new),
        "change_pct": known(one.change_pct),
        "ci_pct": None if low is None or high is None else [low, high],
        "p": known(one.p),
        "verdict": one.verdict,
        "reason": one.reason,
    }


def known(value: float) -> float | None:
    """A number, or ``None`` where it is not one."""
    return value if -sys.float_info.max <= value <= sys.float_info.max else None
