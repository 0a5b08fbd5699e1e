"""Where the kernel has the stacks of NMI, #DB and machine check, told to ``bpf/stacks.bpf.c``.

By the kernel's BTF: the order and size of the stacks depend on version and configuration (KASAN doubles them).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from iretrace.collect.kernel import IDT_ADDRESS, IDT_BYTES

if TYPE_CHECKING:
    from iretrace.collect.btf import Prototypes

AREAS_LOW: Final = IDT_ADDRESS + IDT_BYTES
"""CPU_ENTRY_AREA_PER_CPU: behind the alias of the IDT (arch/x86/include/asm/pgtable_areas.h)."""
AREAS_HIGH: Final = 0xFFFFFE8000000000
"""The end of the area's 512 GB (Documentation/arch/x86/x86_64/mm.rst)."""

_STACKS: Final = (("NMI_stack", "DB_stack_guard"), ("DB_stack", "MCE_stack_guard"), ("MCE_stack", "VC_stack_guard"))
"""In the order of ``enum own_stack``: each stack, and what follows it (``struct cea_exception_stacks``,
arch/x86/include/asm/cpu_entry_area.h)."""
LAYOUT: Final = struct.Struct("=QQQ6I")
"""The part of ``struct settings`` (bpf/trap.h) that :func:`entry_areas` makes."""
UNKNOWN: Final = bytes(LAYOUT.size)


def entry_areas(prototypes: Prototypes) -> bytes:
    """Where the stacks lie, as the programs take it; :data:`UNKNOWN` where BTF does not say it."""
    area_bytes = prototypes.structure_bytes("cpu_entry_area")
    begin = prototypes.member_offset("cpu_entry_area", "estacks")
    ranges = [prototypes.member_offset("cea_exception_stacks", name) for pair in _STACKS for name in pair]
    if area_bytes is None or begin is None or None in ranges:
        return UNKNOWN
    return LAYOUT.pack(AREAS_LOW, AREAS_HIGH, area_bytes, *(begin + offset for offset in ranges if offset is not None))
