"""``iretrace verify``: explore nested trap sequences against a policy, and show the shortest counterexamples."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from iretrace.errors import EXIT_FOUND, EXIT_OK, UsageError
from iretrace.replay import assumptions, checker, timeline
from iretrace.replay.fixed import ASSUMES, RFC2014_FIXED
from iretrace.replay.machine import IDTS, TRAPS, Machine
from iretrace.replay.own import find
from iretrace.vectors import vector_name

if TYPE_CHECKING:
    from collections.abc import Iterable

    from iretrace.replay.checker import Conflict, Result

SCHEMA = 1

_TRAP_NAMES = {vector_name(vector).lower().lstrip("#"): vector for vector in TRAPS}


def _assumption_lines() -> str:
    width = max(len(assumption.name) for assumption in assumptions.ASSUMPTIONS)
    return "\n".join(
        f"  {'*' if assumption.default else ' '} {assumption.name:<{width}}  {assumption.doc}"
        for assumption in assumptions.ASSUMPTIONS
    )


_EPILOG = f"""\b
Examples:
  iretrace verify --policy rfc2014 --depth 8
  iretrace verify --policy rfc2014 --traps NMI,#DB --depth 6
  iretrace verify --policy {RFC2014_FIXED.name} --assume {",".join(sorted(ASSUMES))}
  iretrace verify --policy rfc2014-host-ist --idt linux-6.18
  iretrace verify --policy ./mine.py:decide
  iretrace verify --policy rfc2014 --conflicts
\b
Assumptions (* held unless dropped):
{_assumption_lines()}
\b
Exit status: 0 no hazard is reachable, 1 one is, 2 it could not be done.
"""


@click.command(
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)
@click.option(
    "-p",
    "--policy",
    "policies",
    multiple=True,
    required=True,
    metavar="NAME",
    help="Policy to check, or FILE.py:FUNCTION; may be repeated.",
)
@click.option("--depth", default=8, show_default=True, help="Events in a sequence: traps delivered and handlers left.")
@click.option("--assume", multiple=True, metavar="NAME,…", help="Take these for granted too.")
@click.option("--drop", multiple=True, metavar="NAME,…", help="Do not take these for granted.")
@click.option("--traps", metavar="NAME,…", help="Traps that may strike. Default: all of " + ",".join(_TRAP_NAMES) + ".")
@click.option("--idt", type=click.Choice(list(IDTS)), default="mail", show_default=True, help="Who has an IST stack.")
@click.option("--live", default=1, show_default=True, help="Frames a vector may have on the stack (NMI, #MC apart).")
@click.option("--by-rule", is_flag=True, help="The shortest counterexample of each hazard by each rule.")
@click.option("--conflicts", is_flag=True, help="Show the contexts in which no rule could be safe with P's counter.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(  # noqa: PLR0913 - one parameter an option
    *,
    policies: tuple[str, ...],
    depth: int,
    assume: tuple[str, ...],
    drop: tuple[str, ...],
    traps: str | None,
    idt: str,
    live: int,
    by_rule: bool,
    conflicts: bool,
    as_json: bool,
) -> int:
    """Explore nested traps on an abstract x86 CPU, and show how a policy goes wrong.

    Every sequence of traps and returns up to the depth is explored; for each hazard that can be reached, the
    shortest sequence is printed as a timeline. Where no sequence of any length reaches another state, it says so.
    """
    if not 1 <= live <= 3:
        raise UsageError(f"--live {live}", "out of range", expected="1 to 3 frames")
    machine = Machine(
        assume=(assumptions.DEFAULT | _named("--assume", assume)) - _named("--drop", drop),
        ist=IDTS[idt],
        traps=_traps(traps),
        live=live,
    )
    chosen = [find(name) for name in dict.fromkeys(policies)]
    results = [checker.explore(policy, depth, machine, by_rule=by_rule) for policy in chosen]
    beyond = [checker.conflicts(policy, depth, machine) if conflicts else () for policy in chosen]
    if as_json:
        documents = [_document(*pair, with_conflicts=conflicts) for pair in zip(results, beyond, strict=True)]
        click.echo(json.dumps({"schema": SCHEMA, "policies": documents}, indent=2))
    else:
        from iretrace.commands.verify_text import show  # noqa: PLC0415 - rich is for terminals

        for result, found in zip(results, beyond, strict=True):
            show(result, found if conflicts else None)
    return EXIT_FOUND if any(result.violations for result in results) else EXIT_OK


def _named(option: str, values: Iterable[str]) -> frozenset[str]:
    names = frozenset(name.strip() for value in values for name in value.split(",") if name.strip())
    for name in sorted(names):
        if name not in assumptions.BY_NAME:
            raise UsageError(
                f"{option} {name}", "no such assumption", expected="one of " + ", ".join(assumptions.BY_NAME)
            )
    return names


def _traps(value: str | None) -> tuple[int, ...]:
    if value is None:
        return TRAPS
    names = {name.strip().lower().lstrip("#") for name in value.split(",") if name.strip()}
    unknown = sorted(names - set(_TRAP_NAMES))
    if unknown or not names:
        raise UsageError(f"--traps {value}", "no such trap", expected="some of " + ",".join(_TRAP_NAMES))
    return tuple(vector for name, vector in _TRAP_NAMES.items() if name in names)


def _document(result: Result, found: tuple[Conflict, ...], *, with_conflicts: bool) -> dict[str, Any]:
    document: dict[str, Any] = {
        "policy": result.policy.name,
        "depth": result.depth,
        "states": result.states,
        "violations": [timeline.to_json(violation, result.machine) for violation in result.violations],
    }
    if with_conflicts:
        document["conflicts"] = [
            {
                "context": timeline.context_text(conflict.context),
                "ret": timeline.to_json(conflict.ret, result.machine),
                "iret": timeline.to_json(conflict.iret, result.machine),
            }
            for conflict in found
        ]
    return document
