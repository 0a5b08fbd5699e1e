"""``iretrace report``: a trace's predictions as one offline HTML file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from iretrace.commands.store_option import store_option
from iretrace.errors import EXIT_OK

if TYPE_CHECKING:
    from iretrace.analysis.study import Study
    from iretrace.analysis.totals import Estimate, Totals
    from iretrace.dashboards.comparison import Comparison
    from iretrace.replay.policies import Policy
    from iretrace.store.run import Run
    from iretrace.trace import Trace

EPILOG = """\b
Examples:
  iretrace report run.parquet
  iretrace report run.parquet --policy iret -o today.html
  iretrace report run.parquet --force --json
  iretrace report after.parquet --compare before.parquet
  iretrace report after.parquet --compare workload=build --store runs/
  iretrace report s3://bucket/runs/run.parquet
"""


@click.command(name="report", epilog=EPILOG)
@click.argument("name", metavar="TRACE", type=click.Path(readable=False))
@click.option("-p", "--policy", default="rfc2014", show_default=True, metavar="NAME", help="How to choose RET or IRET.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="HTML file to write; default: TRACE's name with .report.html for .parquet, in the current directory.",
)
@click.option(
    "--compare",
    "base",
    metavar="BASE",
    help="Show also what differs from BASE: a trace, or runs of --store (see compare).",
)
@click.option("--anyway", is_flag=True, help="Compare also what differs in CPU, clock, filters or workload.")
@store_option
@click.option("-f", "--force", is_flag=True, help="Replace the file if it exists.")
@click.option("--json", "as_json", is_flag=True, help="Print what was written and the totals as JSON.")
def command(  # noqa: PLR0913 - one parameter an option
    name: str,
    policy: str,
    output: Path | None,
    *,
    base: str | None,
    anyway: bool,
    url: str,
    force: bool,
    as_json: bool,
) -> int:
    """Show what TRACE says of the policy, in one HTML file that works offline.

    Which returns could use RET, which rule said so, rates, latencies, nesting, the projected saving and the hazards;
    written for readers who have never heard of the proposal. TRACE is a file, or an object store's URL.
    """
    from iretrace.console import size  # noqa: PLC0415 - heavy imports only when the verb runs
    from iretrace.output import check_target, replacing  # noqa: PLC0415
    from iretrace.replay.own import find  # noqa: PLC0415
    from iretrace.sources import local  # noqa: PLC0415

    chosen = find(policy)
    with local(name) as trace:
        opened = _opened(trace)
        target = default_output(trace) if output is None else output
        check_target(target, force=force)

        from iretrace.analysis.totals import totals  # noqa: PLC0415
        from iretrace.dashboards.report import report  # noqa: PLC0415

        studied = _study(opened, chosen, trace)
        compared = None if base is None else _compared(trace, base, url, chosen, anyway=anyway)
    document = report(studied, compared)
    with replacing(target, force=force) as temporary:
        # Bytes, because the digests of the scripts hold for these line ends.
        temporary.write_bytes(document.encode())
    if as_json:
        click.echo(to_json(target, chosen.name, totals(studied)))
    else:
        click.echo(f"{target} written ({size(target.stat().st_size)}): open it in a browser")
    return EXIT_OK


def _opened(path: Path) -> Run | Trace:
    """A run that was counted without events, or a trace."""
    from iretrace.store import aggregated  # noqa: PLC0415
    from iretrace.trace import open_trace  # noqa: PLC0415

    return aggregated.read(path) if aggregated.is_run(path) else open_trace(path)


def _study(opened: Run | Trace, policy: Policy, path: Path) -> Study:
    from iretrace.analysis.study import study  # noqa: PLC0415
    from iretrace.console import progress  # noqa: PLC0415
    from iretrace.store.run import Run  # noqa: PLC0415

    if isinstance(opened, Run):
        return _called(opened.study(policy.name), path)
    with progress("reading", opened.n_events) as advance:
        return study(opened, policy, progress=advance)


def _called(studied: Study, path: Path) -> Study:
    """Counters are known by the name of their run; a report is about a file."""
    result = studied.result
    return replace(studied, result=replace(result, trace=replace(result.trace, path=path)))


def _compared(trace: Path, base: str, store: str, policy: Policy, *, anyway: bool) -> Comparison:
    """The trace beside the runs that ``--compare`` names."""
    from iretrace.analysis.compare import MIN_EFFECT_PCT, compare  # noqa: PLC0415
    from iretrace.console import progress  # noqa: PLC0415
    from iretrace.dashboards.comparison import ONE_EACH, Comparison  # noqa: PLC0415
    from iretrace.dashboards.html import clip, text  # noqa: PLC0415
    from iretrace.redaction import redacted  # noqa: PLC0415
    from iretrace.store.comparable import obstacles, remarks  # noqa: PLC0415
    from iretrace.store.rows import run_row  # noqa: PLC0415
    from iretrace.store.run import Run  # noqa: PLC0415
    from iretrace.store.sides import find_side, replaying  # noqa: PLC0415
    from iretrace.store.summarize import summarize  # noqa: PLC0415

    old = find_side(base, store, policy, replaying(policy, progress))
    opened = _opened(trace)
    if isinstance(opened, Run):
        run = opened
    else:
        with progress(f"reading {trace.name} to compare", opened.n_events) as advance:
            run = summarize(opened, [policy], progress=advance)
    rows = [run_row(run.document, int(run.policies[0].count.sum()))]
    against = obstacles(old.rows, rows)
    one_each = [ONE_EACH] if len(old.runs) == 1 and old.runs[0].id != run.id else []
    found = compare(old.runs, [run], policy=policy.name) if anyway or not against else []
    return Comparison(
        found=found,
        base=text(clip(redacted(base) + (f" ({len(old.runs)} runs)" if len(old.runs) > 1 else ""))),
        new=text(clip(trace.name)),
        against=against,
        notes=[*remarks([*old.rows, *rows]), *one_each],
        policy=policy.name,
        min_effect_pct=MIN_EFFECT_PCT,
    )


def default_output(trace: Path) -> Path:
    """``DIR/run.parquet`` → ``run.report.html``, in the current directory."""
    return Path(trace.name.removesuffix(".parquet") + ".report.html")


def to_json(target: Path, policy: str, sums: Totals) -> str:
    """``{"schema": 1, "report": FILE, "policy": P, …}``: estimates are ``null`` where nothing is known."""
    import msgspec  # noqa: PLC0415

    def estimate(value: Estimate | None) -> dict[str, float] | None:
        return None if value is None else {"value": value.value, "low": value.low, "high": value.high}

    document: dict[str, Any] = {
        "schema": 1,
        "report": str(target),
        "policy": policy,
        "returns": sums.returns,
        "to_kernel": sums.to_kernel,
        "to_unknown": sums.to_unknown,
        "ret": sums.ret,
        "erets": sums.erets,
        "hazards": sums.hazardous,
        "lost_events": sums.lost,
        "duration_s": sums.duration_s,
        "saved_cycles": estimate(sums.saved_cycles),
        "saved_cycles_per_s": estimate(sums.saved_cycles_per_s),
        "saved_ns_per_s": estimate(sums.saved_ns_per_s),
        "saved_cpu_pct": estimate(sums.saved_pct),
    }
    return msgspec.json.encode(document).decode()
