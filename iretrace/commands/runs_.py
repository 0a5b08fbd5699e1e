"""``iretrace runs``."""

from __future__ import annotations

import json
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from iretrace.commands import fleet_options
from iretrace.commands.store_option import parse_tags, store_option
from iretrace.errors import EXIT_FAILED, EXIT_FOUND, EXIT_OK

if TYPE_CHECKING:
    from iretrace.store import Store


@click.group(
    epilog="""\b
Examples:
  iretrace runs add trace.parquet --tag commit=1f2e3d --tag workload=build
  iretrace runs add 'fleet/*.parquet' --store s3://bucket/iretrace --jobs 0
  sudo iretrace collect -d 10 --store runs/ --tag commit=1f2e3d
  iretrace runs list --where commit=1f2e3d
  iretrace runs show 20261124T101500Z
  iretrace runs rm 20261124T101500Z-5c1f08a2b9 --yes

\b
A store is a directory, or a prefix of an object store (s3://, gs://, … by fsspec), of one small file a run.
It is where iretrace compare, regress and dashboard find the runs of a fleet; docs/runs.md says what lies where.
"""
)
def command() -> None:
    """Keep what a fleet's runs say in a store: add, list, show and remove runs."""


@command.command(
    "add",
    short_help="Replay traces and add what they say to the store.",
    epilog="""\b
Examples:
  iretrace runs add trace.parquet --tag commit=1f2e3d
  iretrace runs add 'today/*.parquet' --store runs/ --jobs 0
""",
)
@click.argument("traces", metavar="TRACE...", nargs=-1, required=True)
@store_option
@click.option("--tag", "tags", multiple=True, metavar="KEY=VALUE", callback=parse_tags, help="Your words for the run.")
@click.option(
    "-p", "--policy", "names", multiple=True, metavar="NAME", help="May be repeated.  [default: all that come with it]"
)
@fleet_options.fleet_options
@click.option("--json", "as_json", is_flag=True, help="Print what was added as JSON.")
def add_runs(  # noqa: PLR0913 - one parameter an option
    *,
    traces: tuple[str, ...],
    url: str,
    tags: dict[str, str],
    names: tuple[str, ...],
    jobs: int,
    scheduler: str | None,
    retries: int,
    as_json: bool,
) -> int:
    """Replay traces and add what they say to the store; the store is made if it is not there.

    TRACE is a file, a directory, a pattern or an object store's URL. A file that cannot be added is told, and the
    others are; the exit status is then 2.
    """
    from iretrace.errors import OutputError  # noqa: PLC0415 - heavy imports wait for the verb
    from iretrace.fleet_tasks import run_of_trace  # noqa: PLC0415
    from iretrace.redaction import redacted  # noqa: PLC0415
    from iretrace.replay.own import find  # noqa: PLC0415
    from iretrace.sources import expand  # noqa: PLC0415
    from iretrace.store import open_store  # noqa: PLC0415

    policies = tuple(dict.fromkeys(names)) or None
    for name in policies or ():
        find(name)  # an error of the command line, not of each file
    found = expand(traces)
    store = open_store(url, create=True)
    store.check_writable()  # now, and not when the first trace has been read
    added, failed = [], []
    task = partial(run_of_trace, policies, tags)
    for outcome in fleet_options.run("reading", task, found, fleet_options.chosen(jobs, scheduler, retries)):
        run = outcome.value
        trace = redacted(outcome.name)
        if run is None:
            failed.append({"trace": trace, "error": outcome.error})
            continue
        try:
            name = store.add(run)
        except OutputError as error:
            failed.append({"trace": trace, "error": str(error)})
            click.echo(f"iretrace: {trace}: {error}", err=True)
            continue
        added.append({"run": name, "trace": trace, "lossy": run.footer.is_lossy()})
        if not as_json:
            lossy = "; it lost events, and is compared only if asked" if run.footer.is_lossy() else ""
            click.echo(f"{name}: {trace} added to {store.location}{lossy}")
    if as_json:
        document = {"schema": 1, "store": str(store.location), "added": added, "failed": failed}
        click.echo(json.dumps(document, indent=2))
    store.index()
    return EXIT_FAILED if failed else EXIT_OK


@command.command(
    "list",
    epilog="""\b
Examples:
  iretrace runs list runs/
  iretrace runs list --where commit=1f2e3d
  iretrace runs list runs/ --json | jq -r '.runs[].run'
""",
)
@click.argument("where", metavar="[STORE]", required=False)
@store_option
@click.option(
    "--where",
    "wanted",
    multiple=True,
    metavar="KEY=VALUE",
    callback=parse_tags,
    help="Only runs whose tag, or column (host, kernel, workload, …), is this.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
def list_runs(*, where: str | None, url: str, wanted: dict[str, str], as_json: bool) -> int:
    """List the runs of the store, the oldest first.

    Members that cannot be read are named with the reason; the exit status is then 1.
    """
    from iretrace.store import open_store, records  # noqa: PLC0415

    store = open_store(where or url)
    runs = [row for row in records(store.runs()) if _matches(row, wanted)]
    bad = store.unreadable()
    if as_json:
        document = {
            "schema": 1,
            "store": str(store.location),
            "runs": [plain(row) for row in runs],
            "unreadable": [{"name": one.name, "reason": one.reason} for one in bad],
        }
        click.echo(json.dumps(document, indent=2))
    else:
        _print_runs(store, runs)
    store.index()
    return EXIT_FOUND if bad else EXIT_OK


@command.command(
    "show",
    epilog="""\b
Examples:
  iretrace runs show 20261124T101500Z --store runs/
  iretrace runs show 5c1f08a2b9 --policy rfc2014-fixed
""",
)
@click.argument("run")
@store_option
@click.option(
    "-p", "--policy", "name", metavar="NAME", help="Show what it decides.  [default: each policy in one line]"
)
@click.option("--json", "as_json", is_flag=True, help="Print the run as JSON.")
def show_run(*, run: str, url: str, name: str | None, as_json: bool) -> int:
    """Show one run: RUN is its name, or the beginning or end of it."""
    from iretrace.store import open_store, records  # noqa: PLC0415

    store = open_store(url)
    found = store.find(run)
    loaded = store.load(found)
    if name is not None:
        loaded.policy(name)
    row = next(row for row in records(store.runs()) if row["run"] == found)
    metrics = [row for row in records(store.metrics()) if row["run"] == found]
    if as_json:
        policies = [
            {"policy": policy.name, "doc": policy.doc, "hazards": policy.hazards} for policy in loaded.document.policies
        ]
        rows = [plain(one) for one in metrics if name is None or one["policy"] in ("", name)]
        document = {"schema": 1, **plain(row), "saving": loaded.document.cost_source}
        click.echo(json.dumps({**document, "details": policies, "metrics": rows}, indent=2))
        return EXIT_OK
    from iretrace.commands.runs_text import show  # noqa: PLC0415 - rich is for terminals

    show(loaded, row, metrics, name)
    return EXIT_OK


@command.command(
    "rm",
    short_help="Remove runs for ever.",
    epilog="""\b
Examples:
  iretrace runs rm 20261124T101500Z-5c1f08a2b9
  iretrace runs rm truncated.parquet --store runs/ --yes
""",
)
@click.argument("runs", nargs=-1, required=True)
@store_option
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def remove_runs(*, runs: tuple[str, ...], url: str, yes: bool) -> int:
    """Remove runs for ever; also those that cannot be read, by the name of their file."""
    from iretrace.errors import UsageError  # noqa: PLC0415
    from iretrace.store import open_store  # noqa: PLC0415

    store = open_store(url)
    bad = {one.name.removesuffix(".parquet") for one in store.unreadable()}
    names = [name if (name := run.removesuffix(".parquet")) in bad else store.find(name) for run in runs]
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError("runs rm", "would remove for ever, and there is nobody to ask", remedy="add --yes")
        click.confirm(f"Remove {', '.join(names)} from {store.location} for ever?", abort=True)
    for name in dict.fromkeys(names):
        store.remove(name)
        click.echo(f"{name}: removed")
    return EXIT_OK


def plain(row: dict[str, Any]) -> dict[str, Any]:
    """A row of a frame as JSON takes it: times in ISO 8601, unknown is null."""
    return {key: _plain(value) for key, value in row.items()}


def _plain(value: Any) -> Any:  # noqa: ANN401 - anything a frame may hold
    if isinstance(value, list | dict | str | bool):
        return value
    if value is None or value != value:  # noqa: PLR0124 - NaN and NaT alone differ from themselves
        return None
    if hasattr(value, "isoformat"):
        return value.isoformat()
    # What only counts is whole; pandas makes floats of it where a row has none.
    return int(value) if float(value).is_integer() else float(value)


def _matches(row: dict[str, Any], wanted: dict[str, str]) -> bool:
    return all(row["tags"].get(key, str(row.get(key, ""))) == value for key, value in wanted.items())


def _print_runs(store: Store, runs: list[dict[str, Any]]) -> None:
    from iretrace.commands.runs_text import print_list  # noqa: PLC0415 - rich is for terminals

    print_list(str(store.location), runs, store.unreadable())
