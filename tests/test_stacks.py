"""Where the kernel has the stacks of NMI, #DB and machine check, by its BTF."""

from __future__ import annotations

import pytest

from iretrace.collect.btf import kernel_prototypes
from iretrace.collect.stacks import AREAS_HIGH, AREAS_LOW, LAYOUT, UNKNOWN, entry_areas


class Prototypes:
    """A BTF that knows these offsets alone."""

    def __init__(self, offsets: dict[str, int], area_bytes: int | None) -> None:
        self._offsets, self._area_bytes = offsets, area_bytes

    def member_offset(self, _structure: str, member: str) -> int | None:
        """Of a member."""
        return self._offsets.get(member)

    def structure_bytes(self, _structure: str) -> int | None:
        """Of the entry area."""
        return self._area_bytes


OFFSETS = {
    "estacks": 0x7000,
    "NMI_stack": 0x4000,
    "DB_stack_guard": 0x6000,
    "DB_stack": 0x7000,
    "MCE_stack_guard": 0x9000,
    "MCE_stack": 0xA000,
    "VC_stack_guard": 0xC000,
}


def test_stacks_lie_where_btf_says() -> None:
    """Each from its own offset to the guard page behind it, in the entry area of its CPU."""
    made = entry_areas(Prototypes(OFFSETS, 0x3B000))  # type: ignore[arg-type]
    assert LAYOUT.unpack(made) == (
        *(AREAS_LOW, AREAS_HIGH, 0x3B000),
        *(0xB000, 0xD000, 0xE000, 0x10000, 0x11000, 0x13000),
    )


@pytest.mark.parametrize("lacking", [*OFFSETS, ""])
def test_what_btf_does_not_say_is_unknown(lacking: str) -> None:
    """Then no stack is taken for one of these."""
    offsets = {name: offset for name, offset in OFFSETS.items() if name != lacking}
    assert entry_areas(Prototypes(offsets, 0x3B000 if lacking else None)) == UNKNOWN  # type: ignore[arg-type]


@pytest.mark.kernel
def test_this_kernel_says_it() -> None:
    """Whole pages, in the order of the kernel's own list, all in the area."""
    low, high, area_bytes, *bounds = LAYOUT.unpack(entry_areas(kernel_prototypes()))
    assert (low, high) == (AREAS_LOW, AREAS_HIGH)
    assert bounds == sorted(bounds)
    assert 0 < bounds[0] < bounds[-1] < area_bytes
    assert all(bound % 4096 == 0 for bound in (area_bytes, *bounds))
