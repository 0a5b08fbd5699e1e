"""The result of a query, and the tables it may ask, on a terminal."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import click
import pyarrow as pa
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from iretrace.analysis.query_tables import TABLES
from iretrace.exporters.rows import plain

if TYPE_CHECKING:
    from collections.abc import Iterator

_NO_LIMIT = 100_000
_EXACT = 2**53
"""Floats below hold every integer."""


def table_text(reader: pa.RecordBatchReader, max_rows: int) -> str:
    """Rows as aligned columns, nothing cut; what is past ``max_rows`` is counted, not shown."""
    table = Table(box=None, pad_edge=False, header_style="")
    for field in reader.schema:
        number = pa.types.is_integer(field.type) or pa.types.is_floating(field.type) or pa.types.is_decimal(field.type)
        table.add_column(Text(field.name), justify="right" if number else "left", no_wrap=True)
    left = max_rows
    beyond = 0
    for batch in reader:
        for row in _rows(batch.slice(0, left)):
            table.add_row(*row)
        left -= min(left, batch.num_rows)
        beyond += batch.num_rows
    shown = max_rows - left
    beyond -= shown
    text = io.StringIO()
    console = Console(file=text, highlight=False, color_system=None, width=_NO_LIMIT)
    console.width = max(1, Measurement.get(console, console.options, table).maximum)
    if reader.schema.names:
        console.print(table)
    lines = [line.rstrip() for line in text.getvalue().splitlines()]
    if not shown:
        lines.append("(no rows)")
    if beyond:
        lines.append(f"(and {beyond:,} more rows: --max-rows, or another --format, shows them)")
    return "\n".join(lines) + "\n"


def _rows(batch: pa.RecordBatch) -> Iterator[list[Text]]:
    for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
        yield [Text(_cell(value)) for value in row]


def _cell(value: Any) -> str:  # noqa: ANN401 - a cell may hold anything
    if value is None:
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        shown = f"{value:.6g}"
        return f"{value:.0f}" if "e+" in shown and abs(value) < _EXACT else shown
    value = plain(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def show_tables(*, as_json: bool) -> None:
    """Print the tables and their columns."""
    if as_json:
        document = [
            {
                "table": table.name,
                "doc": table.doc,
                "columns": [
                    {"name": c.name, "type": str(c.type), "null": c.nullable, "unit": c.unit, "doc": c.doc}
                    for c in table.columns
                ],
            }
            for table in TABLES
        ]
        click.echo(json.dumps({"schema": 1, "tables": document}, indent=2))
        return
    for table in TABLES:
        click.echo(f"{table.name}: {table.doc}")
        width = max(len(column.name) for column in table.columns)
        for column in table.columns:
            unit = f" [{column.unit}]" if column.unit else ""
            click.echo(f"  {column.name:<{width}}  {column.doc}{unit}")
        click.echo()
