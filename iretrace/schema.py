"""The trace's table and the predictions' table, declared once, as data.

Everything that names, types, writes, checks or documents a column derives from these tuples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import pyarrow as pa

SCHEMA_VERSION: Final = 1
FOOTER_KEY: Final = b"iretrace"

ROW_GROUP_EVENTS: Final = 1 << 18
"""A trace is written in row groups of so many events, the last one excepted; batches are of no more."""

PHASES: Final = ("entry", "exit")

_CATEGORY = pa.dictionary(pa.int8(), pa.string())


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of a table.

    Attributes:
        name: column name in the file.
        type: Arrow type.
        nullable: whether null ("the hook could not see it") is allowed.
        unit: unit, or an empty string.
        doc: meaning, one line.
    """

    name: str
    type: pa.DataType
    nullable: bool = False
    unit: str = ""
    doc: str


EVENT_COLUMNS: Final = (
    Column(name="tsc", type=pa.uint64(), unit="TSC cycles", doc="time stamp counter at the probe"),
    Column(name="cpu", type=pa.uint16(), doc="logical CPU"),
    Column(name="phase", type=_CATEGORY, doc="entry or exit"),
    Column(name="vector", type=pa.uint8(), nullable=True, doc="x86 vector; null for a device interrupt (see irq)"),
    Column(name="irq", type=pa.uint16(), nullable=True, doc="Linux IRQ number of a device interrupt"),
    Column(name="hook", type=_CATEGORY, doc="which probe saw it"),
    Column(name="cs", type=pa.uint16(), nullable=True, doc="saved CS: the code segment returned to"),
    Column(name="ip", type=pa.uint64(), nullable=True, doc="saved RIP: the address returned to"),
    Column(name="flags", type=pa.uint32(), nullable=True, doc="saved RFLAGS (bits 32-63 are reserved and zero)"),
    Column(name="sp", type=pa.uint64(), nullable=True, doc="saved RSP"),
    Column(name="error_code", type=pa.uint32(), nullable=True, doc="error code pushed by the CPU"),
    Column(name="to_kernel", type=pa.bool_(), nullable=True, doc="whether the trap returns to kernel code"),
    Column(name="pid", type=pa.uint32(), doc="process (thread group) on the CPU; 0 is the idle task"),
)

PREDICTION_COLUMNS: Final = (
    Column(name="tsc", type=pa.uint64(), unit="TSC cycles", doc="of the exit, or of the entry where no exit was seen"),
    Column(name="cpu", type=pa.uint16(), doc="logical CPU"),
    Column(name="vector", type=pa.uint8(), nullable=True, doc="x86 vector; null for a device interrupt"),
    Column(name="decision", type=_CATEGORY, doc="RET, IRET, ERETS or ERETU"),
    Column(name="rule", type=_CATEGORY, doc="the rule that said so"),
    Column(name="nest_count", type=pa.uint16(), doc="the policy's nest counter when the return was judged"),
    Column(name="hazard", type=_CATEGORY, nullable=True, doc="hazards of this return, comma-separated; null: none"),
    Column(
        name="saved_cycles", type=pa.float32(), nullable=True, unit="TSC cycles", doc="projected; null: no cost known"
    ),
)


def arrow_schema(columns: tuple[Column, ...]) -> pa.Schema:
    """The Arrow schema of a table of columns."""
    return pa.schema([pa.field(c.name, c.type, nullable=c.nullable) for c in columns])


EVENT_SCHEMA: Final = arrow_schema(EVENT_COLUMNS)
PREDICTION_SCHEMA: Final = arrow_schema(PREDICTION_COLUMNS)
