"""The wire format of ``bpf/trap.h`` as numpy sees it, and its translation into the trace's columns.

Pure: salvaging the partial file of a killed run needs this on any machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa

from iretrace.schema import EVENT_SCHEMA, PHASES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

TRAP_EVENT: Final = np.dtype(
    [
        ("tsc", "<u8"),
        ("ip", "<u8"),
        ("sp", "<u8"),
        ("flags", "<u4"),
        ("error_code", "<u4"),
        ("pid", "<u4"),
        ("tid", "<u4"),
        ("cs", "<u2"),
        ("irq", "<u2"),
        ("cpu", "<u2"),
        ("vector", "u1"),
        ("hook", "u1"),
        ("phase", "u1"),
        ("seen", "u1"),
        ("reserved", "u1", (6,)),
    ]
)
"""``struct trap_event``: 56 bytes."""

PROCESS_EVENT: Final = np.dtype(
    [
        ("tsc", "<u8"),
        ("pid", "<u4"),
        ("cpu", "<u2"),
        ("what", "u1"),
        ("reserved", "u1", (9,)),
        ("before", "S16"),
        ("after", "S16"),
    ]
)
"""``struct process_event``: 56 bytes too."""

PROCESS_RENAMED: Final = 0
PROCESS_ENDED: Final = 1
PROCESS_RENAMED_BY_OTHER: Final = 2

SLOT: Final = np.dtype([("length", "<u4"), ("page_offset", "<u4"), ("event", TRAP_EVENT)])
"""A slot of the ring buffer: the kernel's record header (kernel/bpf/ringbuf.c, struct bpf_ringbuf_hdr), the event."""

WORDS: Final = TRAP_EVENT.itemsize // 8
"""An event as 64-bit words: numpy copies rows of words, and structures field by field, ten times as slowly."""

RING_BUSY: Final = 1 << 31
"""BPF_RINGBUF_BUSY_BIT: reserved, not yet submitted."""
RING_DISCARD: Final = 1 << 30

SEEN_VECTOR: Final = 0x01
SEEN_IRQ: Final = 0x02
SEEN_FRAME: Final = 0x04
SEEN_ERROR_CODE: Final = 0x08
SEEN_TARGET: Final = 0x10
TO_KERNEL: Final = 0x20

HOOK_NAMES: Final = (
    "page_fault_user",
    "page_fault_kernel",
    "irq_vectors_entry",
    "irq_vectors_exit",
    "irq_handler_entry",
    "irq_handler_exit",
    "nmi_handler",
    "function_entry",
    "function_exit",
    "die_chain",
    "die_chain_exit",
    "exit_to_user",
    "sched_switch",
    "nmi_last_handler",
)
"""Names of ``enum trap_hook``, as stored in the ``hook`` column."""

LOSS_CAUSES: Final = (
    "ring-full",
    "nmi-ring-busy",
    "tsc-unreadable",
    "frame-unread",
    "target-unknown",
    "process-names",
    "order-mended",
    "order-unsure",
    "nmi-unclosed",
)
"""Causes of ``enum trap_loss``, by :mod:`iretrace.losses`."""

KERNEL_HALF: Final = np.uint64(1 << 63)
_STACK_OFFSET: Final = np.uint64(0x3FFF)


@dataclass(frozen=True, kw_only=True)
class Addresses:
    """How kernel addresses are stored.

    Attributes:
        text_base: address of ``_text``.
        raw: store addresses as they are, instead of relative to ``_text``.
    """

    text_base: int
    raw: bool

    def ip(self, values: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Instruction addresses: those of the kernel half become offsets from ``_text``, modulo 2^64."""
        if self.raw:
            return values
        return np.where(values >= KERNEL_HALF, values - np.uint64(self.text_base), values)

    def sp(self, values: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Stack pointers: of those in the kernel half only that fact and the offset in the stack remain.

        A difference to ``_text`` would give away where the kernel put its stacks, and with it ``_text``.
        """
        if self.raw:
            return values
        return np.where(values >= KERNEL_HALF, KERNEL_HALF | (values & _STACK_OFFSET), values)


def to_events(events: NDArray[np.void], addresses: Addresses) -> pa.RecordBatch:
    """Translate wire events into a batch of the trace's schema.

    Args:
        events: array of :data:`TRAP_EVENT` of shape (n,), ``tsc`` already absolute.
        addresses: how kernel addresses are stored.

    Raises:
        ValueError: a hook or phase that no probe writes.
    """
    hook, phase, seen = events["hook"], events["phase"], events["seen"]
    if events.size and (int(hook.max()) >= len(HOOK_NAMES) or int(phase.max()) >= len(PHASES)):
        raise ValueError(f"hook {int(hook.max())}, phase {int(phase.max())}")
    no_frame = (seen & SEEN_FRAME) == 0
    no_target = (seen & SEEN_TARGET) == 0
    columns: Mapping[str, pa.Array] = {
        "tsc": pa.array(events["tsc"]),
        "cpu": pa.array(events["cpu"]),
        "phase": _dictionary(phase, PHASES),
        "vector": pa.array(events["vector"], mask=(seen & SEEN_VECTOR) == 0),
        "irq": pa.array(events["irq"], mask=(seen & SEEN_IRQ) == 0),
        "hook": _dictionary(hook, HOOK_NAMES),
        "cs": pa.array(events["cs"], mask=no_frame),
        "ip": pa.array(addresses.ip(events["ip"]), mask=no_frame),
        "flags": pa.array(events["flags"], mask=no_frame),
        "sp": pa.array(addresses.sp(events["sp"]), mask=no_frame),
        "error_code": pa.array(events["error_code"], mask=(seen & SEEN_ERROR_CODE) == 0),
        "to_kernel": pa.array((seen & TO_KERNEL) != 0, mask=no_target),
        "pid": pa.array(events["pid"]),
    }
    return pa.RecordBatch.from_arrays([columns[name] for name in EVENT_SCHEMA.names], schema=EVENT_SCHEMA)


def _dictionary(codes: NDArray[np.uint8], names: tuple[str, ...]) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int8)), pa.array(names))
