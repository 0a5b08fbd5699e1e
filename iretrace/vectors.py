"""x86 vectors and what Linux puts on them.

Sources: Intel SDM vol. 3A, table 6-1 (exceptions); Linux ``arch/x86/include/asm/trapnr.h`` and
``arch/x86/include/asm/irq_vectors.h`` (system vectors).
"""

from __future__ import annotations

from typing import Final

DB: Final = 1
NMI: Final = 2
BP: Final = 3
NM: Final = 7
DF: Final = 8
SS: Final = 12
PF: Final = 14
MC: Final = 18
VC: Final = 29

EXCEPTIONS: Final[dict[int, str]] = {
    0: "#DE",
    1: "#DB",
    2: "NMI",
    3: "#BP",
    4: "#OF",
    5: "#BR",
    6: "#UD",
    7: "#NM",
    8: "#DF",
    9: "#OLD_MF",
    10: "#TS",
    11: "#NP",
    12: "#SS",
    13: "#GP",
    14: "#PF",
    15: "#SPURIOUS",
    16: "#MF",
    17: "#AC",
    18: "#MC",
    19: "#XM",
    20: "#VE",
    21: "#CP",
    28: "#HV",
    29: "#VC",
    30: "#SX",
}

SYSTEM_VECTORS: Final[dict[int, str]] = {
    0x80: "int80",
    0xEC: "timer",
    0xED: "hyperv-stimer",
    0xEE: "hyperv-reenlightenment",
    0xEF: "managed-irq-shutdown",
    0xF0: "posted-intr-nested",
    0xF1: "posted-intr-wakeup",
    0xF2: "posted-intr",
    0xF3: "hypervisor-callback",
    0xF4: "deferred-error",
    0xF6: "irq-work",
    0xF7: "platform-ipi",
    0xF8: "reboot",
    0xF9: "threshold",
    0xFA: "thermal",
    0xFB: "call-function-single",
    0xFC: "call-function",
    0xFD: "reschedule",
    0xFE: "error",
    0xFF: "spurious",
}


def vector_name(vector: int | None) -> str:
    """Name of a vector as people write it: ``#PF``, ``NMI``, ``timer``, ``irq 0x24``.

    ``None`` stands for a device interrupt whose vector the hook could not see: ``device``.
    """
    if vector is None:
        return "device"
    name = EXCEPTIONS.get(vector) or SYSTEM_VECTORS.get(vector)
    if name is not None:
        return name
    return f"exc 0x{vector:02x}" if vector < 32 else f"irq 0x{vector:02x}"
