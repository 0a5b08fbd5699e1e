"""Arrow tables of traps, and of what policies decide about their returns: a batch of a replay in, a table out.

:data:`TRAP_COLUMNS` and :data:`DECISION_COLUMNS` declare the columns, as :mod:`iretrace.schema` does a trace's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa

from iretrace.replay import contexts, hazards
from iretrace.replay.contexts import N_SLOTS, Target
from iretrace.replay.engine import End
from iretrace.replay.policies import DEVICE, Choice
from iretrace.schema import PREDICTION_COLUMNS, Column, arrow_schema
from iretrace.vectors import vector_name

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from iretrace.replay.costs import Saving
    from iretrace.replay.run import Decisions, Returns

_CATEGORY: Final = pa.dictionary(pa.int32(), pa.string())

TRAP_COLUMNS: Final = (
    Column(name="entry_tsc", type=pa.uint64(), nullable=True, unit="TSC cycles", doc="at the entry; null: not seen"),
    Column(name="exit_tsc", type=pa.uint64(), nullable=True, unit="TSC cycles", doc="at the exit; null: not seen"),
    Column(
        name="duration_cycles", type=pa.uint64(), nullable=True, unit="TSC cycles", doc="exit minus entry, if both seen"
    ),
    Column(
        name="self_cycles",
        type=pa.uint64(),
        nullable=True,
        unit="TSC cycles",
        doc="duration less the traps directly inside; null where an end of one of them was not seen",
    ),
    Column(name="cpu", type=pa.uint16(), doc="logical CPU"),
    Column(name="vector", type=pa.uint8(), nullable=True, doc="x86 vector; null for a device interrupt (see irq)"),
    Column(name="name", type=_CATEGORY, doc="the vector's name: #PF, NMI, timer; device where it is null"),
    Column(name="irq", type=pa.uint16(), nullable=True, doc="Linux IRQ number of a device interrupt"),
    Column(name="depth", type=pa.uint8(), doc="traps open below it on its CPU"),
    Column(name="to_kernel", type=pa.bool_(), nullable=True, doc="whether it returns to the kernel's CS"),
    Column(name="pid", type=pa.uint32(), doc="process it interrupted; 0 is the idle task"),
    Column(
        name="end",
        type=_CATEGORY,
        doc="how its end was found: exit (seen), no_hook (no probe sees such exits), implied (something below it "
        "ended), orphan (only the exit was seen), open (the trace ended), overflow (too deep a stack)",
    ),
)

DECISION_COLUMNS: Final = tuple(
    column
    for column in PREDICTION_COLUMNS
    if column.name in ("decision", "rule", "nest_count", "hazard", "saved_cycles")
)
"""Of each policy; in a table the policy's name follows a dot: ``decision.rfc2014``."""

_NAMES: Final = pa.array([vector_name(None if slot == DEVICE else slot) for slot in range(N_SLOTS)])
_ENDS: Final = pa.array([end.name.lower() for end in End])
_CHOICES: Final = pa.array([choice.name for choice in Choice])


def trap_table(batch: Returns) -> pa.Table:
    """The traps of a batch, in its order, as :data:`TRAP_COLUMNS`."""
    rows = batch.rows
    entered = rows["end"] != End.ORPHAN
    left = (rows["end"] == End.EXIT) | ~entered
    device = rows["slot"] == DEVICE
    target = contexts.decode(rows["context"]).target
    columns = {
        "entry_tsc": pa.array(rows["entry_tsc"], mask=~entered),
        "exit_tsc": pa.array(rows["exit_tsc"], mask=~left),
        "duration_cycles": pa.array(rows["exit_tsc"] - rows["entry_tsc"], mask=~(entered & left)),
        "self_cycles": pa.array(rows["self_cycles"], mask=~rows["self_known"]),
        "cpu": pa.array(rows["cpu"]),
        "vector": pa.array(rows["slot"].astype(np.uint8), mask=device),
        "name": _named(rows["slot"], _NAMES),
        "irq": pa.array(rows["irq"], mask=~rows["irq_known"]),
        "depth": pa.array(rows["depth"]),
        "to_kernel": pa.array(target == Target.KERNEL, mask=target == Target.UNKNOWN),
        "pid": pa.array(rows["pid"]),
        "end": _named(rows["end"], _ENDS),
    }
    return pa.table(columns, schema=arrow_schema(TRAP_COLUMNS))


def return_table(batch: Returns, saving: Saving | None) -> pa.Table:
    """The traps of a batch and, for each of its policies, :data:`DECISION_COLUMNS` with the policy's name after a dot.

    Args:
        batch: returns under any number of policies.
        saving: what a RET saves over IRET; ``None``: not known. What ERETS and ERETU save is never known.
    """
    table = trap_table(batch)
    for decisions in batch.decisions:
        name = decisions.table.policy.name
        for field, column in zip(arrow_schema(DECISION_COLUMNS), _decided(decisions, saving), strict=True):
            table = table.append_column(field.with_name(f"{field.name}.{name}"), column.cast(field.type, safe=False))
    return table


def return_schema(policies: tuple[str, ...]) -> pa.Schema:
    """The schema of :func:`return_table` under policies of these names."""
    schema = arrow_schema(TRAP_COLUMNS)
    for name in policies:
        for field in arrow_schema(DECISION_COLUMNS):
            schema = schema.append(field.with_name(f"{field.name}.{name}"))
    return schema


def _decided(decisions: Decisions, saving: Saving | None) -> tuple[pa.Array, ...]:
    choice, hazard = decisions.choice, decisions.hazard
    known = (choice <= Choice.IRET) & (saving is not None)
    saved = np.where(choice == Choice.RET, np.float32(saving.cycles if saving else 0), np.float32(0))
    met, index = np.unique(np.append(hazard, np.uint16(0)), return_inverse=True)  # so that index 0 is "none"
    texts = pa.array([hazards.names(int(bits)) for bits in met[1:]], pa.string())
    return (
        _named(choice, _CHOICES),
        _named(decisions.rule, pa.array(decisions.table.rules, pa.string())),
        pa.array(decisions.nest),
        pa.DictionaryArray.from_arrays(pa.array(index[:-1].astype(np.int32) - 1, mask=hazard == 0), texts),
        pa.array(saved, mask=~known),
    )


def _named(index: NDArray[np.uint8] | NDArray[np.uint16], names: pa.Array) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(index.astype(np.int32)), names)
