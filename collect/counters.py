"""The counters of ``bpf/aggregate.h`` as numpy sees them, and the tables by which BPF counts.

Pure: a run is made of counters on any machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

FIRST_SYSTEM: Final = 0xEC
DEVICE_SLOT: Final = 52
N_SLOTS: Final = 53
CONTEXTS: Final = 3 << 7
BUCKETS: Final = (32 - 6 + 1) << 6
N_CHOICES: Final = 4

AGGREGATE: Final = np.dtype(
    [
        ("latency", "<u8", (N_SLOTS, BUCKETS)),
        ("cells", [("count", "<u8"), ("choice", "<u4"), ("reserved", "<u4")], (N_SLOTS, CONTEXTS)),
        (
            "slots",
            [
                ("open_tsc", "<u8"),
                ("open_context", "<u4"),
                ("effects", "u1"),
                ("exitless", "u1"),
                ("reserved", "u1", (2,)),
                ("decided", "<u8", (N_CHOICES,)),
                ("unused", "<u8", (2,)),
            ],
            (N_SLOTS,),
        ),
        ("kernel_cs", "<u8"),
        ("nmi_low", "<u8"),
        ("nmi_high", "<u8"),
        ("nest", "<u8"),
        ("orphans", "<u8"),
        ("overwritten", "<u8"),
        ("unused", "<u8"),
        ("counting", "<u8"),
    ]
)
"""``struct aggregate``: one a CPU."""


@dataclass(frozen=True, kw_only=True)
class Tables:
    """A policy and a machine, by slot of :data:`AGGREGATE`.

    Attributes:
        exitless: uint8, ``(N_SLOTS,)``: bit set of the targets to which no hook sees a return.
        effects: uint8, ``(N_SLOTS,)``: what a vector does to the nest counter (AGG_UP and so on).
        choice: uint8, ``(N_SLOTS, CONTEXTS)``: the policy's choice by context.
    """

    exitless: NDArray[np.uint8]
    effects: NDArray[np.uint8]
    choice: NDArray[np.uint8]


def vector_of(slot: int) -> int:
    """The vector of a slot; 256 for devices (:data:`iretrace.replay.policies.DEVICE`)."""
    if slot < 32:
        return slot
    return 256 if slot == DEVICE_SLOT else slot - 32 + FIRST_SYSTEM


VECTORS: Final = np.array([vector_of(slot) for slot in range(N_SLOTS)])
