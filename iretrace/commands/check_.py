"""``iretrace check``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from iretrace.errors import EXIT_FOUND, EXIT_OK, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

DEFAULT_POLICY = "rfc2014"


@click.command(
    epilog="""\b
Examples:
  iretrace check trace.parquet
  iretrace check trace.parquet --policy rfc2014 --policy rfc2014-fixed
  iretrace check trace.parquet --drop ist-list --json | jq .ok

\b
Exit status: 0 nothing is wrong, 1 something is, 2 it could not be done.
"""
)
@click.argument("trace", type=click.Path(path_type=Path, readable=False))
@click.option(
    "-p", "--policy", "names", multiple=True, metavar="NAME", help=f"May be repeated.  [default: {DEFAULT_POLICY}]"
)
@click.option("--drop", multiple=True, metavar="NAME,…", help="Leave these assumptions out.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(*, trace: Path, names: tuple[str, ...], drop: tuple[str, ...], as_json: bool) -> int:
    """Say what is wrong with a trace, and with a policy on it.

    Brings together what was lost while recording, what pairing could not explain, the hazards of the policies
    with the stack of traps at the first of each, and whether what the mail of 2014 takes for granted held here.
    """
    from iretrace.console import progress  # noqa: PLC0415 - heavy imports wait for the verb
    from iretrace.replay.check import check, document  # noqa: PLC0415
    from iretrace.replay.own import find  # noqa: PLC0415
    from iretrace.trace import open_trace  # noqa: PLC0415

    dropped = _claims(drop)
    policies = [find(name) for name in dict.fromkeys(names or (DEFAULT_POLICY,))]
    opened = open_trace(trace)
    with progress("checking", 2 * opened.n_events) as advance:
        found = check(opened, policies, drop=dropped, progress=advance)
    if as_json:
        click.echo(json.dumps(document(found), indent=2))
    else:
        from iretrace.commands.check_text import show  # noqa: PLC0415

        show(found)
    return EXIT_OK if found.ok else EXIT_FOUND


def _claims(values: Iterable[str]) -> tuple[str, ...]:
    from iretrace.replay.claims import BY_NAME  # noqa: PLC0415

    names = tuple(name.strip() for value in values for name in value.split(",") if name.strip())
    for name in names:
        if name not in BY_NAME:
            raise UsageError(f"--drop {name}", "no such assumption", expected="one of " + ", ".join(BY_NAME))
    return names
