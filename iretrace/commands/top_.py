"""``iretrace top``."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from iretrace.commands.privileges import import_arrow
from iretrace.errors import EXIT_OK

if TYPE_CHECKING:
    from rich.table import Table

    from iretrace.collect.live import Snapshot

DEFAULT_POLICY = "rfc2014"
WIDE = 72
"""Columns that the table asks for, so that its own do not move."""


@click.command(
    epilog="""\b
Examples:
  sudo iretrace top
  sudo iretrace top --policy rfc2014-fixed -i 2
  sudo iretrace top -n 1
  sudo iretrace top -n 60 --json | jq -c '[.time, .total.per_s, .total.ret_pct]'
"""
)
@click.option(
    "-p", "--policy", "name", default=DEFAULT_POLICY, show_default=True, metavar="NAME", help="Whose RETs and savings."
)
@click.option(
    "-i",
    "--interval",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0.5, 3600),
    help="Seconds between updates.",
)
@click.option("-n", "--updates", type=click.IntRange(1), help="End after so many.  [default: at Ctrl-C]")
@click.option("--only", multiple=True, metavar="CLASS,...", help="Classes of trap or groups, as collect takes them.")
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON each time.")
def command(*, name: str, interval: float, updates: int | None, only: tuple[str, ...], as_json: bool) -> int:
    """Watch traps as they come: how many, where they return to, what would be RET, and what that would save.

    Needs root and BCC, as collect does, with the same probes; nothing is kept. Ends at Ctrl-C, or after --updates.
    """
    import_arrow()
    from iretrace.collect import preflight  # noqa: PLC0415 - heavy imports wait for the verb

    preflight.require("top")
    from iretrace.collect.live import WatchOptions, watch  # noqa: PLC0415
    from iretrace.replay.own import find  # noqa: PLC0415

    words = tuple(word.strip() for value in only for word in value.split(",") if word.strip())
    options = WatchOptions(policy=find(name), interval_seconds=interval, snapshots=updates, only=words)
    if as_json:
        watch(options, lambda snapshot: click.echo(json.dumps(document(snapshot, name))))
        return EXIT_OK
    if not sys.stdout.isatty():
        from iretrace.console import print_table  # noqa: PLC0415

        watch(options, lambda snapshot: print_table(table(snapshot, name)))
        return EXIT_OK
    from rich.console import Console  # noqa: PLC0415 - rich is for terminals
    from rich.live import Live  # noqa: PLC0415

    console = Console(highlight=False)
    with Live(console=console, auto_refresh=False, transient=False) as live:
        live.update("attaching the probes …", refresh=True)
        watch(options, lambda snapshot: live.update(table(snapshot, name, wide=console.width >= WIDE), refresh=True))
    return EXIT_OK


def document(snapshot: Snapshot, policy: str) -> dict[str, Any]:
    """One update; what is not known is null."""
    rows = _rows(snapshot)
    return {
        "schema": 1,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seconds": snapshot.seconds,
        "policy": policy,
        "total": rows[0],
        "vectors": rows[1:],
        "lost_events": snapshot.lost,
        "losses": snapshot.losses,
        "buffer_pct": snapshot.fill_pct,
        "saving": snapshot.cost_source,
    }


def _rows(snapshot: Snapshot) -> list[dict[str, Any]]:
    """All vectors, then each that was met, the most frequent first."""
    from iretrace.replay.policies import DEVICE  # noqa: PLC0415
    from iretrace.vectors import vector_name  # noqa: PLC0415

    met = sorted(snapshot.returns.nonzero()[0].tolist(), key=lambda slot: -int(snapshot.returns[slot]))
    rows = []
    for label, slots in [("all", met), *((vector_name(None if s == DEVICE else s), [s]) for s in met)]:
        returns, kernel, known, ret = (
            int(counts[slots].sum()) for counts in (snapshot.returns, snapshot.kernel, snapshot.known, snapshot.ret)
        )
        saved = snapshot.saved_cycles
        rows.append(
            {
                "name": label,
                "per_s": returns / snapshot.seconds,
                "to_kernel_pct": 100 * kernel / known if known else None,
                "ret_pct": 100 * ret / returns if returns else None,
                "saved_per_s_cycles": None if saved is None else ret * saved / snapshot.seconds,
            }
        )
    return rows


def table(snapshot: Snapshot, policy: str, *, wide: bool = True) -> Table:
    """One update for a terminal; ``wide``: it has :data:`WIDE` columns."""
    from rich.table import Table  # noqa: PLC0415 - rich is for terminals

    from iretrace.console import cycles  # noqa: PLC0415

    lost = f"LOST {snapshot.lost:,}: {', '.join(snapshot.losses)}" if snapshot.lost else "nothing lost"
    made = Table(
        box=None,
        pad_edge=False,
        title=f"{time.strftime('%H:%M:%S')}  {policy}  {lost}  buffer {snapshot.fill_pct:.0f} %",
        title_justify="left",
        title_style="bold red" if snapshot.lost else "bold",
        caption=None if snapshot.saved_cycles is not None else snapshot.cost_source,
        caption_justify="left",
    )
    # Wide enough that columns stand still while numbers grow; a narrow terminal would cut the last of them away.
    made.add_column("vector", min_width=20 if wide else None)
    for heading, width in (("traps/s", 10), ("to kernel", 10), ("RET", 8), ("cycles saved/s", 14)):
        made.add_column(heading, justify="right", min_width=width if wide else None)
    for row in _rows(snapshot):
        saved = row["saved_per_s_cycles"]
        made.add_row(
            row["name"],
            f"{row['per_s']:,.0f}",
            _pct(row["to_kernel_pct"]),
            _pct(row["ret_pct"]),
            "unknown" if saved is None else cycles(saved),
            style="bold" if row["name"] == "all" else None,
        )
    return made


def _pct(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1f} %"
