"""``iretrace policy``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from iretrace.errors import EXIT_OK

if TYPE_CHECKING:
    from collections.abc import Iterable

    from iretrace.replay.folding import FoldedRow
    from iretrace.replay.policies import NestCounter, Policy
    from iretrace.replay.tables import Table


@click.group(
    epilog="""\b
Examples:
  iretrace policy list
  iretrace policy show rfc2014
  iretrace policy show ./mine.py:decide
  iretrace policy show rfc2014-host-ist --trace trace.parquet

\b
A policy of your own is a function in a file, def decide(context), that gives a pair: "RET", "IRET", "ERETS" or
"ERETU", and the name of the rule. docs/replay.md shows one.
"""
)
def command() -> None:
    """The policies, and each of them as a table with the sentences it rests on."""


@command.command(
    "list",
    epilog="""\b
Examples:
  iretrace policy list
""",
)
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
def list_policies(*, as_json: bool) -> int:
    """List the policies that come with iretrace."""
    from iretrace.replay.policies import built_in  # noqa: PLC0415 - heavy imports wait for the verb

    if as_json:
        _print_json([{"policy": p.name, "doc": p.doc, "rules": list(p.rules)} for p in built_in().values()], "policies")
        return EXIT_OK
    _list([(policy.name, policy.doc) for policy in built_in().values()])
    return EXIT_OK


@command.command(
    "show",
    epilog="""\b
Examples:
  iretrace policy show rfc2014
  iretrace policy show ./mine.py:decide
  iretrace policy show rfc2014-host-ist --trace trace.parquet
""",
)
@click.argument("name")
@click.option(
    "--trace", type=click.Path(), metavar="TRACE", help="Take the IST vectors from this trace's IDT, not from the mail."
)
@click.option("--json", "as_json", is_flag=True, help="Print the table as JSON.")
def show_policy(*, name: str, trace: str | None, as_json: bool) -> int:
    """Show what a policy chooses, folded to the conditions that matter, and why."""
    from iretrace.footer import Footer  # noqa: PLC0415
    from iretrace.replay.folding import fold  # noqa: PLC0415
    from iretrace.replay.own import find  # noqa: PLC0415
    from iretrace.replay.tables import enumerate_policy, ist_vectors  # noqa: PLC0415
    from iretrace.trace import open_trace  # noqa: PLC0415

    policy = find(name)
    ist = ist_vectors(open_trace(trace).footer if trace is not None else Footer())
    table = enumerate_policy(policy, ist)
    rows = fold(table)
    if as_json:
        _print_json([_as_json(row) for row in rows], "rows", policy=name, ist=sorted(ist))
    else:
        _show(
            policy,
            table,
            rows,
            ist,
            "the trace's IDT" if trace is not None else "the mail's list; a trace's with --trace TRACE",
        )
    return EXIT_OK


def _print_json(items: list[dict[str, object]], key: str, **more: object) -> None:
    import json  # noqa: PLC0415

    click.echo(json.dumps({"schema": 1, **more, key: items}, indent=2))


def _as_json(row: FoldedRow) -> dict[str, object]:
    from iretrace.replay.policies import DEVICE  # noqa: PLC0415

    return {
        "vectors": [None if slot == DEVICE else slot for slot in row.slots],
        "conditions": row.conditions,
        "choice": row.choice.name,
        "rule": row.rule,
    }


def _show(policy: Policy, table: Table, rows: list[FoldedRow], ist: frozenset[int], whence: str) -> None:
    from rich.table import Table as Grid  # noqa: PLC0415

    from iretrace.console import print_table, say  # noqa: PLC0415
    from iretrace.replay.folding import slots_text  # noqa: PLC0415
    from iretrace.replay.tables import depends_on_ist  # noqa: PLC0415

    say(f"{policy.name}: {policy.doc}")
    if depends_on_ist(policy):
        say(f"IST stacks: {_vectors(ist)} ({whence})")
    if policy.counter.up:
        say(_counter(policy.counter))
    grid = Grid(box=None, pad_edge=False)
    for heading in ("rule", "returning from", "where", "choice"):
        grid.add_column(heading, no_wrap=heading in ("rule", "choice"))
    for row in rows:
        where = ", ".join(name if holds else f"not {name}" for name, holds in row.conditions.items())
        grid.add_row(row.rule, slots_text(row.slots), where or "always", row.choice.name)
    click.echo()
    print_table(grid, wraps=True)
    if policy.sources:
        click.echo("\nSources, in the order in which the rules are asked:")
        _list(list(zip(table.rules, policy.sources, strict=True)))


def _list(items: list[tuple[str, str]]) -> None:
    from iretrace.console import text_width  # noqa: PLC0415

    formatter = click.HelpFormatter(width=text_width())
    formatter.write_dl(items)
    click.echo(formatter.getvalue(), nl=False)


def _counter(counter: NestCounter) -> str:
    text = (
        f"nested: a counter, up at the entry of {_vectors(counter.up)}; to 0 at the exit of {_vectors(counter.clear)}"
    )
    if counter.down - counter.clear:
        text += f"; down at the exit of {_vectors(counter.down - counter.clear)}"
    return text + ("" if counter.count_self else "; judged without the trap that returns")


def _vectors(slots: Iterable[int]) -> str:
    from iretrace.replay.folding import slots_text  # noqa: PLC0415

    return slots_text(tuple(sorted(slots))) or "none"
