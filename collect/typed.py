"""Tracepoints whose programs get arguments with types, so that what they point to is read without a helper's call.

A raw tracepoint's program of type TRACING (``BPF_TRACE_RAW_TP``; ``btf_ctx_access()``, kernel/bpf/btf.c) is the same
program at the same place, and the verifier knows by the kernel's BTF that an argument is a ``struct pt_regs *``. BCC
does not load such programs; it compiles them, and they are loaded here.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from iretrace.collect import syscalls

if TYPE_CHECKING:
    from collections.abc import Mapping

    from iretrace.collect.btf import Prototypes

TRACEPOINTS: Final = ("page_fault_user", "page_fault_kernel")
"""Those whose programs in ``bpf/trap.bpf.c`` follow a pointer, where they may."""

_READ_FRAME: Final = bytes.fromhex(
    "7911080000000000"  # r1 = *(u64 *)(r1 + 8): the second argument, pt_regs
    "7910800000000000"  # r0 = *(u64 *)(r1 + 128): its ip
    "6910880000000000"  # r0 = *(u16 *)(r1 + 136): its cs
    "b700000000000000"  # r0 = 0
    "9500000000000000"  # exit
)


def typed_tracepoints(prototypes: Prototypes) -> Mapping[str, int]:
    """BTF type id of each of :data:`TRACEPOINTS`; empty where the kernel takes no such programs, found by trying."""
    found = {}
    for name in TRACEPOINTS:
        btf_id = prototypes.tracepoint(name)
        if btf_id is None:
            return {}
        try:
            os.close(syscalls.load_tracing(_READ_FRAME, btf_id=btf_id))
        except OSError:
            return {}
        found[name] = btf_id
    return found
