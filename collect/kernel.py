"""What the running kernel says of itself: symbols, IDT, processor, mitigations."""

from __future__ import annotations

import os
import platform
import struct
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

from iretrace.footer import Cpu, Gate, Host

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

IDT_ADDRESS: Final = 0xFFFFFE0000000000
"""CPU_ENTRY_AREA_RO_IDT, the read-only alias of the IDT (arch/x86/include/asm/cpu_entry_area.h)."""
IDT_BYTES: Final = 4096
_GATE_PRESENT: Final = 1 << 15

NMI_STUB: Final = "asm_exc_nmi"
DEVICE_STUB: Final = "asm_common_interrupt"
MACHINE_CHECK_STUB: Final = "asm_exc_machine_check"
DATA: Final = frozenset({"nmi_desc"})
"""Data symbols that are used (there where the kernel has CONFIG_KALLSYMS_ALL)."""


@dataclass(frozen=True)
class Symbols:
    """Kernel text symbols in the order of their addresses (/proc/kallsyms), and the data of :data:`DATA`."""

    addresses: Sequence[int]
    names: Sequence[str]
    data: Mapping[str, int] = field(default_factory=dict)

    def address(self, name: str) -> int | None:
        """Address of a symbol, ``None`` where the kernel has none of that name."""
        return self._by_name.get(name)

    @cached_property
    def _by_name(self) -> Mapping[str, int]:
        """Each name's lowest address."""
        return dict(zip(reversed(self.names), reversed(self.addresses), strict=True))

    def range_of(self, name: str) -> tuple[int, int] | None:
        """[low, high): from a symbol to the next one at a higher address."""
        low = self.address(name)
        if low is None:
            return None
        high = next((address for address in self.addresses if address > low), None)
        return None if high is None else (low, high)


def parse_kallsyms(lines: Iterable[str]) -> Symbols:
    """Parse /proc/kallsyms; keeps the kernel's own text symbols (types t and T, no module), and :data:`DATA`."""
    found: list[tuple[int, str]] = []
    data: dict[str, int] = {}
    for line in lines:
        parts = line.split()
        if len(parts) == 3 and parts[1] in "tT":
            found.append((int(parts[0], 16), parts[2]))
        elif len(parts) == 3 and parts[2] in DATA:
            data[parts[2]] = int(parts[0], 16)
    found.sort(key=lambda item: item[0])
    return Symbols([address for address, _ in found], [name for _, name in found], data)


def read_symbols(path: Path = Path("/proc/kallsyms")) -> Symbols:
    """Symbols of the running kernel; without CAP_SYSLOG all addresses are zero and none is kept."""
    with path.open(encoding="ascii", errors="replace") as lines:
        symbols = parse_kallsyms(lines)
    if not symbols.addresses or symbols.addresses[-1] == 0:
        return Symbols([], [])
    return symbols


def parse_idt(table: bytes, symbols: Symbols) -> list[Gate]:
    """The present gates of an IDT (Intel SDM vol. 3A, figure 6-8: 64-bit IDT gate descriptors)."""
    by_address = dict(zip(symbols.addresses, symbols.names, strict=True))
    gates = []
    for vector in range(min(256, len(table) // 16)):
        low, _selector, bits, middle, high, _ = struct.unpack_from("<HHHHII", table, 16 * vector)
        if not bits & _GATE_PRESENT:
            continue
        address = low | middle << 16 | high << 32
        gates.append(
            Gate(
                vector=vector,
                handler=by_address.get(address, ""),
                address=address,
                ist=bits & 7,
                dpl=bits >> 13 & 3,
            )
        )
    return gates


def idt_code_segment(table: bytes) -> int | None:
    """The selector that the gates load into CS: the kernel's standard 64-bit code segment."""
    for offset in range(0, len(table) - 15, 16):
        _low, selector, bits = struct.unpack_from("<HHH", table, offset)
        if bits & _GATE_PRESENT:
            return int(selector)
    return None


def nmi_text(symbols: Symbols) -> list[tuple[int, int]]:
    """[low, high) of the NMI entry and exit code in assembly.

    ``asm_exc_nmi`` and the labels of its body (``first_nmi``, ``repeat_nmi``, ``nmi_restore``, …), up to the next
    symbol of something else (arch/x86/entry/entry_64.S).
    """
    if NMI_STUB not in symbols.names:
        return []
    first = symbols.names.index(NMI_STUB)
    last = first
    while last + 1 < len(symbols.names) and "nmi" in symbols.names[last + 1]:
        last += 1
    if last + 1 >= len(symbols.names):
        return []
    return [(symbols.addresses[first], symbols.addresses[last + 1])]


_ON_ENTRY: Final = ("error_entry", "paranoid_entry", "irq_entries_start")


def entry_code(symbols: Symbols) -> dict[int, tuple[int, int]]:
    """Text ranges: 0, all of the entry code; from 1 on, what runs on the way into a trap alone.

    arch/x86/entry/entry_64.S, between the linker's symbols for ``.entry.text``; what is not found is not there.
    """
    found = {}
    low, high = symbols.address("__entry_text_start"), symbols.address("__entry_text_end")
    if low is not None and high is not None:
        found[0] = (low, high)
    for number, name in enumerate(_ON_ENTRY, 1):
        text = symbols.range_of(name)
        if text is not None:
            found[number] = text
    return found


def exception_stubs(gates: Sequence[Gate], symbols: Symbols) -> dict[int, tuple[int, int]]:
    """Text range of the entry stub of each exception."""
    found = {}
    for gate in gates:
        text = symbols.range_of(gate.handler) if gate.handler.startswith("asm_exc_") else None
        if text is not None:
            found[gate.vector] = text
    return found


def entry_stubs(gates: Sequence[Gate], symbols: Symbols) -> dict[int, tuple[int, int]]:
    """Text range of the entry stub of each vector whose frame is looked for on the stack, but for the NMI's.

    Device interrupts share ``asm_common_interrupt``.
    """
    stubs = {}
    for gate in gates:
        if gate.handler.startswith("asm_sysvec_") or gate.handler == MACHINE_CHECK_STUB:
            text = symbols.range_of(gate.handler)
            if text is not None:
                stubs[gate.vector] = text
    return stubs


def host() -> Host:
    """This machine."""
    return Host(name=platform.node(), kernel=platform.release(), machine=platform.machine(), hypervisor=_hypervisor())


def _hypervisor() -> str | None:
    """Name of the hypervisor; CPUID's ``hypervisor`` bit where nothing names it; ``None`` on bare metal."""
    try:
        name = Path("/sys/hypervisor/type").read_text(encoding="ascii").strip()
    except OSError:
        name = ""
    if name and name != "none":
        return name
    return "unnamed" if "hypervisor" in _cpuinfo().get("flags", "").split() else None


def _cpuinfo() -> dict[str, str]:
    """Fields of the first processor in /proc/cpuinfo."""
    fields: dict[str, str] = {}
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return fields
    for line in text.split("\n\n", 1)[0].splitlines():
        name, _, value = line.partition(":")
        fields[name.strip()] = value.strip()
    return fields


def processor() -> Cpu:
    """The processor, by /proc/cpuinfo."""
    fields = _cpuinfo()

    def number(name: str) -> int | None:
        text = fields.get(name, "")
        return int(text) if text.isdigit() else None

    return Cpu(
        vendor=fields.get("vendor_id", ""),
        family=number("cpu family"),
        model=number("model"),
        stepping=number("stepping"),
        microcode=fields.get("microcode", ""),
        name=fields.get("model name", ""),
        online=sorted(cpu_list("online")),
    )


def cpu_list(which: str) -> list[int]:
    """CPUs of /sys/devices/system/cpu/``which`` (``online``, ``possible``)."""
    try:
        text = Path(f"/sys/devices/system/cpu/{which}").read_text(encoding="ascii").strip()
    except OSError:
        return list(range(os.cpu_count() or 1))
    return parse_cpu_list(text)


def parse_cpu_list(text: str) -> list[int]:
    """Parse the kernel's list format: ``0-3,8``."""
    cpus: list[int] = []
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        cpus.extend(range(int(first), int(last or first) + 1))
    return cpus


def mitigations(path: Path = Path("/sys/devices/system/cpu/vulnerabilities")) -> dict[str, str]:
    """The kernel's mitigations, by vulnerability."""
    try:
        files = sorted(path.iterdir())
    except OSError:
        return {}
    return {file.name: file.read_text(encoding="utf-8", errors="replace").strip() for file in files}


def fred_enabled() -> bool:
    """Whether FRED delivers events: the CPU has it and the kernel did not switch it off.

    The flag is cleared from /proc/cpuinfo where the kernel does not use it (setup_clear_cpu_cap(X86_FEATURE_FRED)).
    """
    return "fred" in _cpuinfo().get("flags", "").split()


def lockdown() -> str:
    """The kernel's lockdown mode: ``none``, ``integrity`` or ``confidentiality``."""
    try:
        text = Path("/sys/kernel/security/lockdown").read_text(encoding="ascii")
    except OSError:
        return "none"
    return text.partition("[")[2].partition("]")[0] or "none"
