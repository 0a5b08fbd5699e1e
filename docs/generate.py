"""Writes ``docs/reference.md`` from the code: verbs and options, columns, tables of queries, losses, classes of trap.

Usage: python docs/generate.py (tests/test_docs.py holds the file and the code together)
"""

from __future__ import annotations

import importlib
from pathlib import Path

import click

from iretrace.analysis.query_tables import TABLES
from iretrace.cli import iretrace
from iretrace.collect.hooks import CLASSES, HOOKS, USER_EXITS, HookClass
from iretrace.importers.mapping import RULES, Rule
from iretrace.losses import CAUSES
from iretrace.schema import EVENT_COLUMNS, PREDICTION_COLUMNS, Column
from iretrace.store.schema import DETAIL_COLUMNS, METRIC_COLUMNS, RUN_COLUMNS
from iretrace.verbs import VERBS

TARGET = Path(__file__).resolve().parent / "reference.md"


def reference() -> str:
    """The whole page."""
    parts = ["# Reference", "", "Written by `python docs/generate.py` from the code.", "", "## Verbs", ""]
    for verb in VERBS:
        parts += [f"### iretrace {verb.name}", "", "```text", *_help(verb.name, verb.module), "```", ""]
    parts += ["## Columns of a trace", "", *_columns(EVENT_COLUMNS)]
    parts += ["## Columns of predictions (`replay -o`)", "", *_columns(PREDICTION_COLUMNS)]
    parts += ["## Tables of iretrace query", ""]
    for table in TABLES:
        parts += [f"### {table.name}", "", f"{table.doc[0].upper()}{table.doc[1:]}.", "", *_columns(table.columns)]
    parts += ["## Columns of a store's runs", "", *_columns(RUN_COLUMNS)]
    parts += ["## Columns of a store's metrics", "", *_columns(METRIC_COLUMNS)]
    parts += ["## Further columns of a run's file", "", *_columns(DETAIL_COLUMNS)]
    parts += ["## Losses", "", "| cause | severity | stage | meaning | remedy |", "|---|---|---|---|---|"]
    parts += [f"| `{c.name}` | {c.severity} | {c.stage} | {c.doc} | {c.remedy} |" for c in CAUSES]
    parts += ["", "## Classes of trap and their hooks", ""]
    parts += ["For each class the ways to see it, best first. `†`: its returns to user mode are seen by", ""]
    parts += [", ".join(f"`{hook.name}`" for hook in USER_EXITS) + " where the kernel has them.", ""]
    parts += ["| class | vectors | entry | exit | frame | what it cannot show |", "|---|---|---|---|---|---|"]
    parts += [row for item in CLASSES for row in _ways(item)]
    parts += ["", "### Where the kernel has them", "", "| hook | arguments | source |", "|---|---|---|"]
    parts += [f"| `{hook.name}` | `({', '.join(hook.arguments)})` | {hook.source} |" for hook in HOOKS]
    parts += [
        "",
        "## What import makes of events",
        "",
        "The first row that fits decides; what none fits is unknown.",
        "",
    ]
    parts += ["| tracepoint | becomes | from its fields | to know |", "|---|---|---|---|", *map(_rule, RULES)]
    return "\n".join(parts) + "\n"


def _ways(item: HookClass) -> list[str]:
    vectors = ", ".join(f"{vector:#x}" for vector in item.vectors) or "any"
    rows = []
    for way in item.ways:
        entries = ", ".join(f"`{hook.name}`" for hook in way.entries)
        exits = [f"`{hook.name}`" for hook in way.exits] + ["†"] * way.user_exits
        rows.append(
            f"| {item.name} | {vectors} | {entries} | {', '.join(exits) or 'none'} | {way.frame} | {way.lacks} |"
        )
    return rows


def _rule(rule: Rule) -> str:
    fields = {
        "vector": rule.vector_field,
        "irq": rule.irq_field,
        "ip": rule.ip_field,
        "error_code": rule.error_code_field,
    }
    told = ", ".join(f"`{column}`" for column, name in fields.items() if name)
    if rule.to_kernel is not None:
        told += f"; returns to {'the kernel' if rule.to_kernel else 'user mode'}"
    vector = "" if rule.vector is None else f" (vector {rule.vector})"
    becomes = f"{rule.trap}{vector}, {rule.phase}" if rule.trap else "no trap"
    return f"| `{rule.system}:{rule.event}` | {becomes} | {told} | {rule.doc} |"


def _help(name: str, module: str) -> list[str]:
    """Help of a verb, and after it of each of its own verbs."""
    command: click.Command = importlib.import_module(module).command
    with click.Context(iretrace, info_name="iretrace", **iretrace.context_settings) as parent:
        settings = {**command.context_settings, "terminal_width": 100, "max_content_width": 100}
        with click.Context(command, parent=parent, info_name=name, **settings) as context:
            texts = [command.get_help(context)]
            if isinstance(command, click.Group):
                for inner, sub in command.commands.items():
                    with click.Context(sub, parent=context, info_name=inner, **settings) as within:
                        texts += ["", sub.get_help(within)]
            return texts


def _columns(columns: tuple[Column, ...]) -> list[str]:
    rows = ["| column | type | null | unit | meaning |", "|---|---|---|---|---|"]
    for column in columns:
        null = "yes" if column.nullable else ""
        rows.append(f"| `{column.name}` | `{column.type}` | {null} | {column.unit} | {column.doc} |")
    return [*rows, ""]


if __name__ == "__main__":
    TARGET.write_text(reference(), encoding="utf-8")
