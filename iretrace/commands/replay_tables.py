"""A replay on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from rich.table import Table

from iretrace import losses
from iretrace.console import cycles, duration, plural, print_table, say, share, three
from iretrace.replay import costs
from iretrace.replay.hazards import HAZARDS
from iretrace.replay.policies import Choice
from iretrace.replay.summary import summarize

if TYPE_CHECKING:
    from collections.abc import Callable

    from iretrace.footer import Footer
    from iretrace.replay.run import Result
    from iretrace.replay.summary import PolicySummary, Saved
    from iretrace.trace import Trace

_REPAIRS = {
    "entry_without_exit_hook": "no hook sees their exit: they return at their entry",
    "implied_exit": "exit not seen: ended when what lay below them did",
    "orphan_exit": "entry not seen",
    "open_at_end": "still open when the trace ended",
    "stack_overflow": "the oldest of too many open traps: ended",
    "unknown_target": "target not known: counted as not the kernel's",
}
_MEANING = {hazard.name: hazard.doc for hazard in HAZARDS}


def show(result: Result) -> None:
    """Print a replay: the trace and its losses, then every policy."""
    _show_trace(result.trace)
    summaries = summarize(result)
    for summary, counts in zip(summaries, result.policies, strict=True):
        click.echo()
        say(f"{summary.policy}: {counts.table.policy.doc}")
        click.echo()
        _show_vectors(summary)
        _show_rules(summary)
        _show_saving(summary, result.trace.footer)
        _show_hazards(summary)
    click.echo()
    unpaired = {name: count for name, count in result.repairs.items() if count}
    total = summaries[0].returns
    click.echo("pairing: nothing had to be made up for" if not unpaired else "pairing:")
    for name, count in unpaired.items():
        say(f"  {name} {count:,} ({share(count, total)} of returns): {_REPAIRS[name]}", "    ")
    say(costs.describe(result.trace.footer))
    for note in result.notes:
        say(f"note: {note}")


def _show_trace(trace: Trace) -> None:
    footer = trace.footer
    length, khz = footer.duration_cycles(), footer.clock.tsc_khz
    facts = [plural(trace.n_events, "event")]
    if length is not None:
        facts.append(duration(length / khz * 1e6) if khz is not None else f"{cycles(length)} TSC cycles")
    if footer.cpu.online:
        facts.append(f"{len(footer.cpu.online)} CPUs")
    facts += [fact for fact in (footer.cpu.name, f"Linux {footer.host.kernel}" if footer.host.kernel else "") if fact]
    say(f"{trace.path}: {', '.join(facts)}")
    by_cause: dict[str, int] = {}
    for loss in footer.losses:
        by_cause[loss.cause] = by_cause.get(loss.cause, 0) + loss.count
    if not by_cause:
        click.echo("losses: none recorded")
    for cause, count in by_cause.items():
        known = losses.BY_NAME[cause]
        say(f"LOSS {cause}: {count:,} ({known.severity}). {known.doc} Remedy: {known.remedy}.")


def _show_vectors(summary: PolicySummary) -> None:
    used = [choice for choice in Choice if choice <= Choice.IRET or summary.choices[choice]]
    if summary.choices[Choice.ERETS] or summary.choices[Choice.ERETU]:
        used = [choice for choice in used if summary.choices[choice]]
    main = used[0]
    table = Table(box=None, pad_edge=False, show_footer=len(summary.by_vector) > 1)
    table.add_column("trap", "all")
    numbers = [("returns", f"{summary.returns:,}"), ("to kernel", f"{summary.to_kernel:,}")]
    numbers += [(choice.name, f"{summary.choices[choice]:,}") for choice in used]
    numbers.append((f"{main.name} share", share(summary.choices[main], summary.returns)))
    if summary.saved is not None:
        numbers.append(("saved cycles", cycles(summary.saved.cycles)))
    for heading, total in numbers:
        table.add_column(heading, total, justify="right", no_wrap=True)
    for row in summary.by_vector:
        cells = [f"{row.returns:,}", f"{row.to_kernel:,}", *(f"{row.choices[choice]:,}" for choice in used)]
        cells.append(share(row.choices[main], row.returns))
        if row.saved_cycles is not None:
            cells.append(cycles(row.saved_cycles))
        table.add_row(row.name, *cells)
    print_table(table)


def _show_rules(summary: PolicySummary) -> None:
    if len(summary.by_rule) == 1:
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("rule", no_wrap=True)
    table.add_column("returns", justify="right")
    table.add_column("share", justify="right")
    for rule, count in summary.by_rule.items():
        table.add_row(rule, f"{count:,}", share(count, summary.returns))
    click.echo()
    print_table(table)


def _show_saving(summary: PolicySummary, footer: Footer) -> None:
    saved = summary.saved
    if saved is not None and not summary.choices[Choice.RET]:
        return  # nothing returns by RET: there is nothing to save
    click.echo()
    if saved is None:
        fred = summary.choices[Choice.ERETS] or summary.choices[Choice.ERETU]
        click.echo("saved: not known" + (" (no cost of ERETS and ERETU is known)" if fred else ""))
        return
    say(f"saved: {_between(saved, 1, cycles)} TSC cycles" + _scaled(saved, footer))


def _scaled(saved: Saved, footer: Footer) -> str:
    text = ""
    if saved.ns is not None and saved.cycles:
        text += f"; {duration(saved.ns)} of CPU time"
    if saved.cpu_pct is not None and saved.cycles:
        pct = _between(saved, saved.cpu_pct / saved.cycles, three)
        text += f"; {pct} % of the time of {len(footer.cpu.online)} CPUs"
    return text


def _between(saved: Saved, scale: float, spell: Callable[[float], str]) -> str:
    return f"{spell(saved.cycles * scale)} [{spell(saved.low * scale)}, {spell(saved.high * scale)}]"


def _show_hazards(summary: PolicySummary) -> None:
    found = {name: count for name, count in summary.hazards.items() if count}
    click.echo("hazards: none" if not found else "hazards:")
    for name, count in found.items():
        say(f"  {name} {count:,}: {_MEANING[name]}", "    ")
        for example in summary.examples[name]:
            say(f"    first at TSC {example.tsc} on CPU {example.cpu}: {example.context}", "      ")
