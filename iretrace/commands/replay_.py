"""``iretrace replay``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from iretrace.commands import fleet_options
from iretrace.errors import EXIT_OK, UsageError
from iretrace.output import check_target, replacing

if TYPE_CHECKING:
    from iretrace.replay.policies import Policy
    from iretrace.replay.run import Result
    from iretrace.trace import Trace

DEFAULT_POLICIES = ("iret", "rfc2014")


@click.command(
    epilog="""\b
Examples:
  iretrace replay trace.parquet
  iretrace replay trace.parquet --policy rfc2014 --policy rfc2014-reviewed
  iretrace replay trace.parquet --policy ./mine.py:decide --json | jq '.policies[0].hazards'
  iretrace replay trace.parquet --policy rfc2014 --savings
  iretrace replay trace.parquet --policy rfc2014 -o predictions.parquet
  iretrace replay 'runs/*.parquet' s3://bucket/runs/ --jobs 0 --json
  iretrace replay 'runs/*.parquet' --policy rfc2014 --savings -o predictions/
  iretrace replay 'runs/*.parquet' --scheduler tcp://head:8786

\b
iretrace policy list shows the policies, iretrace policy show NAME one of them as a table.
"""
)
@click.argument("traces", metavar="TRACE...", nargs=-1, required=True)
@click.option(
    "-p", "--policy", "names", multiple=True, metavar="NAME", help="May be repeated.  [default: iret and rfc2014]"
)
@click.option(
    "-o",
    "--output",
    "target",
    metavar="FILE|DIR",
    type=click.Path(path_type=Path),
    help="Write one row a return here, as Parquet; of several traces, a file each in this directory.",
)
@click.option("-f", "--force", is_flag=True, help="Replace an existing output.")
@click.option("--savings", is_flag=True, help="Say where the saving falls: CPU, command, process, latency (slower).")
@fleet_options.fleet_options
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(  # noqa: PLR0913 - one parameter an option
    *,
    traces: tuple[str, ...],
    names: tuple[str, ...],
    target: Path | None,
    force: bool,
    savings: bool,
    jobs: int,
    scheduler: str | None,
    retries: int,
    as_json: bool,
) -> int:
    """Put a trace through the algorithm: RET or IRET for every return.

    Says for every policy by which instruction the returns would be made, which rule said so, what is dangerous
    about it, and what it would save. A replay is no check: its exit status is 0 whatever it finds.

    TRACE is a file; or several files, a directory, a pattern or an object store's URL, which give a line a trace and
    policy; --savings adds each trace's savings and their sum. A file that cannot be replayed is told, and the others
    are done; the exit status is then 2.
    """
    from iretrace.replay.own import find  # noqa: PLC0415 - heavy imports wait for the verb
    from iretrace.sources import is_many  # noqa: PLC0415
    from iretrace.trace import open_trace  # noqa: PLC0415

    names = tuple(dict.fromkeys(names or DEFAULT_POLICIES))
    if target is not None and len(names) != 1:
        raise UsageError(
            "--output", f"holds one policy, not {', '.join(names)}", remedy=f"add --policy {names[-1]} alone"
        )
    policies = [find(name) for name in names]
    if len(traces) > 1 or is_many(traces[0]) or scheduler is not None:
        from iretrace.commands.replay_many import Asked, replay_many  # noqa: PLC0415

        asked = Asked(policies=names, target=target, force=force, savings=savings, as_json=as_json)
        return replay_many(traces, asked, fleet_options.chosen(jobs, scheduler, retries))
    if target is not None:
        check_target(target, force=force)
    opened = open_trace(traces[0])
    result = _replay(opened, policies) if target is None else _predict(opened, policies, target, force=force)
    if as_json:
        from iretrace.replay.summary import document  # noqa: PLC0415

        printed = document(result)
        if savings:
            from iretrace.commands.replay_savings import documents, find_savings  # noqa: PLC0415

            found = documents(find_savings(opened, policies), [policy.name for policy in policies])
            for policy in printed["policies"]:
                policy["savings"] = found[policy["policy"]]
        click.echo(json.dumps(printed, indent=2))
    else:
        from iretrace.commands.replay_tables import show  # noqa: PLC0415 - rich is for terminals

        show(result)
        if savings:
            from iretrace.commands.replay_savings import find_savings, show_savings  # noqa: PLC0415

            show_savings(find_savings(opened, policies), [policy.name for policy in policies])
        if target is not None:
            click.echo(f"\n{target}: one row a return")
    return EXIT_OK


def _replay(trace: Trace, policies: list[Policy]) -> Result:
    from iretrace.console import progress  # noqa: PLC0415
    from iretrace.replay.run import replay  # noqa: PLC0415

    with progress("replaying", trace.n_events) as advance:
        return replay(trace, policies, progress=advance)


def _predict(trace: Trace, policies: list[Policy], target: Path, *, force: bool) -> Result:
    """Replay, and write every return on the way."""
    from iretrace.console import progress  # noqa: PLC0415
    from iretrace.replay.predictions import predict  # noqa: PLC0415

    with replacing(target, force=force) as temporary, progress("replaying", trace.n_events) as advance:
        return predict(trace, policies[0], temporary, progress=advance)
