"""``iretrace verify``'s timelines and sentences, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from iretrace.replay import timeline
from iretrace.replay.fixed import ASSUMES, RFC2014_FIXED
from iretrace.replay.states import HAZARDS

if TYPE_CHECKING:
    from iretrace.replay.checker import Conflict, Result, Violation

WIDTH = 100
"""Columns of the timelines, on a terminal at most and in a pipe."""


def show(result: Result, conflicts: tuple[Conflict, ...] | None) -> None:
    """Print what was found of a policy; ``None``: conflicts were not asked for."""
    console = Console(highlight=False)
    if not console.is_terminal or console.width > WIDTH:
        console.width = WIDTH
    _print_result(console, result)
    if conflicts is not None:
        _print_conflicts(console, result, conflicts)


def _print_result(console: Console, result: Result) -> None:
    extent = f"{result.states:,} states in sequences of up to {result.depth} events"
    if result.complete:
        extent += "; longer ones reach no other state"
    name = escape(result.policy.name)
    if not result.violations:
        console.print(f"[bold]{name}[/]: [green]no hazard is reachable[/] ({extent}).")
        return
    count = len(result.violations)
    noun = "counterexample" if count == 1 else "counterexamples"
    console.print(f"[bold]{name}[/]: [red]{count} {noun}[/] ({extent}).")
    for violation in result.violations:
        console.print()
        _print_violation(console, violation)
    if result.policy is RFC2014_FIXED and not result.machine.assume >= ASSUMES:
        console.print(
            f"\n{name} rests on --assume {','.join(sorted(ASSUMES))}: without, no policy is safe (see --conflicts)."
        )
    console.print()


def _print_violation(console: Console, violation: Violation) -> None:
    table = Table(
        title=f"[bold red]{violation.hazard}[/]: {HAZARDS[violation.hazard]}",
        title_justify="left",
        title_style="none",
        box=box.ROUNDED,
        expand=True,
    )
    table.add_column("#", justify="right")
    table.add_column("event", ratio=9)
    table.add_column("stack, oldest first", ratio=8)
    table.add_column("then runs", ratio=6)
    table.add_column("NMIs", width=7)
    table.add_column("count", justify="right")
    arrow = " ▸ " if console.encoding.startswith("utf") else " > "
    timed = timeline.rows(violation)
    for number, row in enumerate(timed, 1):
        table.add_row(
            str(number),
            escape(row.event),
            arrow.join(row.stack),
            row.running,
            row.nmi,
            str(row.counter),
            style="bold red" if number == len(timed) else None,
        )
    console.print(table)


def _print_conflicts(console: Console, result: Result, found: tuple[Conflict, ...]) -> None:
    if not found:
        console.print("Every context has a choice that is safe wherever it arises: a safe policy exists.\n")
        return
    noun = "context" if len(found) == 1 else "contexts"
    console.print(
        f"[bold]{len(found)} {noun} in which neither choice is safe[/], whatever the rules, "
        f"with the nest counter of {escape(result.policy.name)}:"
    )
    for conflict in found:
        console.print(f"\n[bold]{escape(timeline.context_text(conflict.context))}[/]")
        for side in (conflict.ret, conflict.iret):
            console.print(f"  [red]{side.hazard}[/]: {escape(timeline.sentence(side))}", soft_wrap=True)
    console.print()
