"""Foreign events on their way into a trace: one numpy record each, and the columns they become.

The layouts are those of ``iretrace/importers/rows.h``, where the same is said in C.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa

from iretrace import _native
from iretrace.schema import EVENT_COLUMNS, EVENT_SCHEMA, PHASES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

ROW: Final = np.dtype(
    [
        ("tsc", "<u8"),
        ("ip", "<u8"),
        ("sp", "<u8"),
        ("flags", "<u4"),
        ("error_code", "<u4"),
        ("pid", "<u4"),
        ("cpu", "<u2"),
        ("cs", "<u2"),
        ("irq", "<u2"),
        ("known", "<u2"),
        ("vector", "u1"),
        ("phase", "u1"),
        ("hook", "u1"),
        ("reserved", "u1"),
    ]
)
"""``struct trap_row``: 48 bytes; ``known`` says which of the others hold something."""

KNOWN: Final = {
    "vector": 0x01,
    "irq": 0x02,
    "cs": 0x04,
    "ip": 0x08,
    "flags": 0x10,
    "sp": 0x20,
    "error_code": 0x40,
    "to_kernel": 0x80,
}
"""Bits of ``known`` by column; that of ``to_kernel`` says that the target is known, :data:`TO_KERNEL` which it is."""
TO_KERNEL: Final = 0x100

FIELD: Final = np.dtype([("offset", "<u2"), ("size", "<u2")])
ACTION: Final = np.dtype(
    [
        ("is_trap", "u1"),
        ("phase", "u1"),
        ("hook", "u1"),
        ("target", "u1"),
        ("vector", "<i2"),
        ("reserved", "<u2"),
        ("vector_at", FIELD),
        ("irq_at", FIELD),
        ("ip_at", FIELD),
        ("error_code_at", FIELD),
        ("once_at", FIELD),
    ]
)
"""``struct action``: how the bytes of a tracepoint become a row."""

TARGET_UNKNOWN: Final = 0
TARGET_USER: Final = 1
TARGET_KERNEL: Final = 2
VECTOR_NONE: Final = -2
VECTOR_FIELD: Final = -1

N_CPUS: Final = 1 << 16
MAX_HOOKS: Final = 127
"""So many names a dictionary of the trace's ``hook`` column can hold."""

_ALIGN: Final = 64
_WIDTHS: Final = {
    column.name: 0
    if pa.types.is_boolean(column.type)
    else (1 if pa.types.is_dictionary(column.type) else column.type.bit_width // 8)
    for column in EVENT_COLUMNS
}


class Memory:
    """Memory for the columns of batches, used again when no batch holds it any more: fresh memory costs page faults."""

    def __init__(self) -> None:
        self._free: list[NDArray[np.uint8]] = []

    def take(self, n_bytes: int) -> tuple[NDArray[np.uint8], pa.Buffer]:
        """Memory to be filled, and the same for Arrow: as long as that is held it is not used again."""
        memory = self._free.pop() if self._free else np.empty(n_bytes, np.uint8)
        if len(memory) < n_bytes:
            memory = np.empty(n_bytes, np.uint8)
        address: int = memory.__array_interface__["data"][0]
        return memory, pa.foreign_buffer(address, n_bytes, base=_Lent(memory, self._free))


class _Lent:
    """Gives memory back when Arrow no longer needs it, in whichever thread that is."""

    def __init__(self, memory: NDArray[np.uint8], free: list[NDArray[np.uint8]]) -> None:
        self._memory = memory
        self._free = free

    def __del__(self) -> None:
        self._free.append(self._memory)


@dataclass(frozen=True, kw_only=True)
class Before:
    """Rows of another array that stand before the first one of an array.

    Attributes:
        rows: the other array.
        order: indices into it, shape (n,).
        first: the number of the row behind them; theirs are the n before it.
    """

    rows: NDArray[np.void]
    order: NDArray[np.int64]
    first: int


NOTHING_BEFORE: Final = Before(rows=np.empty(0, ROW), order=np.empty(0, np.int64), first=0)


def to_batch(
    rows: NDArray[np.void],
    order: NDArray[np.int64],
    hooks: Sequence[str],
    memory: Memory,
    before: Before = NOTHING_BEFORE,
) -> pa.RecordBatch:
    """Rows, in an order, as a batch of the trace's schema.

    Args:
        rows: array of :data:`ROW`.
        order: indices into it, shape (n,): which rows, and in which order.
        hooks: names of the numbers in ``hook``.
        memory: where the columns' memory comes from.
        before: rows that stand before those of ``rows``.
    """
    n = len(order)
    spans, total = [], 0
    for width in [*_WIDTHS.values(), *[0] * len(KNOWN)]:
        spans.append(total)
        total += -(-(n * width if width else -(-n // 8)) // _ALIGN) * _ALIGN
    out, buffer = memory.take(total)
    nulls = dict(
        zip(KNOWN, _native.rows_to_columns(rows, order, out, before.rows, before.order, before.first), strict=True)
    )
    valid = {name: buffer.slice(spans[len(_WIDTHS) + i], -(-n // 8)) for i, name in enumerate(KNOWN)}
    columns = []
    for column, start in zip(EVENT_COLUMNS, spans, strict=False):
        width = _WIDTHS[column.name]
        data = buffer.slice(start, n * width if width else -(-n // 8))
        missing = nulls.get(column.name, 0)
        kind = pa.int8() if pa.types.is_dictionary(column.type) else column.type
        array = pa.Array.from_buffers(kind, n, [valid[column.name] if missing else None, data], null_count=missing)
        if pa.types.is_dictionary(column.type):
            # Not checked here whether there is a text for each: whoever asks for the texts does.
            texts = _strings(PHASES if column.name == "phase" else hooks)
            array = pa.DictionaryArray.from_arrays(array, texts, safe=False)
        columns.append(array)
    return pa.RecordBatch.from_arrays(columns, schema=EVENT_SCHEMA)


def _strings(texts: Sequence[str]) -> pa.StringArray:
    """Texts as an array; ``pyarrow.array`` would do, and import pandas, which takes longer than a small import."""
    parts = [text.encode() for text in texts]
    ends = np.cumsum([0, *map(len, parts)]).astype(np.int32)
    return pa.StringArray.from_buffers(len(parts), pa.py_buffer(ends), pa.py_buffer(b"".join(parts)))


def from_batch(batch: pa.RecordBatch, hooks: list[str]) -> NDArray[np.void]:
    """Rows of a batch of the trace's schema.

    Args:
        batch: the events.
        hooks: names of the numbers in ``hook``; those that are new are added.

    Raises:
        ValueError: there are more than :data:`MAX_HOOKS` of them.
    """
    rows = np.zeros(batch.num_rows, ROW)
    for column in EVENT_COLUMNS:
        values = batch.column(column.name)
        if pa.types.is_dictionary(column.type):
            known = hooks if column.name == "hook" else list(PHASES)
            numbers = []
            for name in values.dictionary.to_pylist():
                if name not in known:
                    known.append(name)
                numbers.append(known.index(name))
            if len(known) > MAX_HOOKS:
                raise ValueError(f"more than {MAX_HOOKS} different texts")
            indices = values.indices.to_numpy(zero_copy_only=False)
            rows[column.name] = np.array(numbers, np.uint8)[indices] if numbers else 0
            continue
        bit = KNOWN.get(column.name, 0)
        if bit:
            valid = values.is_valid().to_numpy(zero_copy_only=False)
            rows["known"] |= np.where(valid, np.uint16(bit), np.uint16(0))
        if column.name == "to_kernel":
            truth = values.fill_null(False).to_numpy(zero_copy_only=False)  # noqa: FBT003 - Arrow's signature
            rows["known"] |= np.where(truth, np.uint16(TO_KERNEL), np.uint16(0))
        else:
            rows[column.name] = values.fill_null(0).to_numpy(zero_copy_only=False)
    return rows
