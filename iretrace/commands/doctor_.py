"""``iretrace doctor``."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

import click
import msgspec

from iretrace.errors import EXIT_FAILED, EXIT_OK

if TYPE_CHECKING:
    from iretrace.collect.preflight import Examination
    from iretrace.footer import TrapClass


@click.command(
    epilog="""\b
Examples:
  sudo iretrace doctor
  sudo iretrace doctor --json | jq '.classes[] | select(.exit == null) | .name'
"""
)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def command(*, as_json: bool) -> int:
    """Tell what this machine can and cannot record, per class of trap, and what would mend it.

    Exit status 0: collect works here. 2: it does not; the lines say why and what to do.
    """
    from iretrace.collect import preflight  # noqa: PLC0415 - heavy imports wait for the verb

    found = preflight.examine()
    if as_json:
        document = {
            "schema": 1,
            "can_record": found.can_record,
            "checks": [dataclasses.asdict(check) for check in found.checks],
            "classes": [msgspec.to_builtins(item) for item in found.classes],
            "hooks": [msgspec.to_builtins(hook) for hook in found.hooks],
        }
        click.echo(json.dumps(document, indent=2))
    else:
        _print(found)
    return EXIT_OK if found.can_record else EXIT_FAILED


def _seen_by(item: TrapClass) -> str:
    """The kinds of its entry hooks, with a question mark where none has run yet."""
    names = (item.entry or "").split(", ")
    kinds = dict.fromkeys(name.partition(":")[0] if ":" in name else "tracepoint" for name in names)
    return ", ".join(kinds) + ("?" if set(names) <= set(item.unproven) else "")


def _passed_over(classes: list[TrapClass]) -> dict[str, list[str]]:
    """Why better hooks do not serve, each reason with the classes that it holds for (which hooks: ``--json``)."""
    found: dict[str, dict[str, None]] = {}
    for item in classes:
        for text in item.passed_over:
            found.setdefault(text.rpartition(": ")[2], {})[item.name] = None
    return {reason: list(names) for reason, names in found.items()}


def _print(found: Examination) -> None:
    for check in found.checks:
        mark = "ok  " if check.ok else ("LACK" if check.required else "less")
        remedy = f"  ->  {check.remedy}" if check.remedy else ""
        click.echo(f"{mark}  {check.name}: {check.found}{remedy}")
    if not found.classes:
        click.echo("Nothing can be recorded here until the lines marked LACK are mended.")
        return
    from rich.table import Table  # noqa: PLC0415

    from iretrace.console import print_table, say  # noqa: PLC0415

    table = Table(title="What each class of trap shows on this kernel", title_justify="left", box=None, pad_edge=False)
    for heading in ("class", "vector", "entry by", "exit", "frame", "lacks"):
        table.add_column(heading, overflow="fold")
    seen = [item for item in found.classes if item.entry]
    for item in seen:
        frame = "-" if item.frame is None else ("stack" if "stack" in item.frame else "argument")
        table.add_row(
            item.name,
            ",".join(f"{vector:#x}" for vector in item.vectors) or "any",
            _seen_by(item),
            "no" if item.exit is None else ("yes" if item.exits_to == "any" else "to user"),
            frame,
            item.lacks,
        )
    click.echo()
    print_table(table, wraps=True)
    if any(item.unproven for item in seen):
        click.echo()
        say("?: attached, but not seen to run yet; a class that cannot be provoked harmlessly stays unproven.")
    for reason, names in _passed_over(seen).items():
        say(f"No better way here for {', '.join(names)}: {reason}")
    unseen = [item.name for item in found.classes if not item.entry]
    if unseen:
        click.echo()
        say(f"Handled by this kernel, but shown by no hook: {', '.join(unseen)}")
    click.echo("\nRecord with: sudo iretrace collect -d 10")
