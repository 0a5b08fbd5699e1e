"""What is known of the machine when a run begins."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from iretrace import __version__
from iretrace import footer as footers
from iretrace.collect import calibrate, kernel
from iretrace.collect.btf import Prototypes, kernel_prototypes
from iretrace.collect.memory import KernelMemory
from iretrace.collect.probes import TEXT_DEVICE, TEXT_ENTRY
from iretrace.collect.wire import Addresses
from iretrace.errors import MachineError
from iretrace.vectors import NMI

if TYPE_CHECKING:
    from iretrace.collect.kernel import Symbols
    from iretrace.collect.options import CollectOptions


@dataclass(frozen=True, kw_only=True)
class Facts:
    """The machine, before a probe is attached.

    Attributes:
        footer: all of the footer that is known now.
        addresses: how kernel addresses are stored.
        gates: the live IDT, addresses as they are.
        stubs: text range of the entry stub of each vector, and of :data:`~iretrace.collect.probes.TEXT_DEVICE`.
        cpus: those online.
        prototypes: the kernel's BTF.
        last_nmi_handler: the function at the end of the list of NMI handlers, where it could be read.
    """

    footer: footers.Footer
    addresses: Addresses
    gates: list[footers.Gate]
    stubs: dict[int, tuple[int, int]]
    cpus: list[int]
    prototypes: Prototypes
    last_nmi_handler: int | None


def gather(options: CollectOptions) -> Facts:
    """Ask the machine.

    Raises:
        MachineError: it does not tell what a trace cannot do without.
    """
    symbols = kernel.read_symbols()
    text_base = text_base_of(symbols, raw_addresses=options.raw_addresses)
    prototypes = kernel_prototypes()
    with KernelMemory() as memory:
        table = memory.idt()
        nmi_handlers = memory.nmi_handlers(symbols, prototypes)
    gates = kernel.parse_idt(table, symbols)
    addresses = Addresses(text_base=text_base, raw=options.raw_addresses)
    return Facts(
        footer=msgspec.structs.replace(
            machine_footer(options, symbols, addresses),
            kernel_cs=kernel.idt_code_segment(table),
            idt=[_shifted(gate, 0 if addresses.raw else text_base) for gate in gates],
        ),
        addresses=addresses,
        gates=gates,
        stubs=_stubs(gates, symbols),
        cpus=kernel.cpu_list("online"),
        prototypes=prototypes,
        last_nmi_handler=nmi_handlers[-1] if nmi_handlers else None,
    )


def machine_footer(options: CollectOptions, symbols: Symbols, addresses: Addresses) -> footers.Footer:
    """What a footer says of the machine and of what was asked for, whatever records. Calibrates, if that was asked."""
    shift = 0 if addresses.raw else addresses.text_base
    return footers.Footer(
        tool=f"iretrace {__version__}",
        host=kernel.host(),
        cpu=kernel.processor(),
        fred=kernel.fred_enabled(),
        mitigations=kernel.mitigations(),
        addresses=footers.ADDRESSES_RAW if addresses.raw else footers.ADDRESSES_RELATIVE,
        nmi_text=[(low - shift, high - shift) for low, high in kernel.nmi_text(symbols)],
        calibration=calibrate.quick(min(os.sched_getaffinity(0))) if options.calibrate else None,
        command=list(options.command),
        tags=options.tags,
    )


def text_base_of(symbols: Symbols, *, raw_addresses: bool) -> int:
    """Address of ``_text``, to which kernel addresses are stored relative.

    Raises:
        MachineError: it is hidden, and addresses as they are were not asked for.
    """
    text = symbols.address("_text")
    if text is None and not raw_addresses:
        raise MachineError(
            "kernel symbols",
            "_text is hidden, so that kernel addresses cannot be stored relative to it",
            remedy="sysctl kernel.kptr_restrict=1, or collect --raw-addresses",
        )
    return text or 0


def _stubs(gates: list[footers.Gate], symbols: Symbols) -> dict[int, tuple[int, int]]:
    stubs = kernel.entry_stubs(gates, symbols) | kernel.exception_stubs(gates, symbols)
    nmi = kernel.nmi_text(symbols)
    if nmi:
        stubs[NMI] = nmi[0]
    device = symbols.range_of(kernel.DEVICE_STUB)
    if device is not None:
        stubs[TEXT_DEVICE] = device
    return stubs | {TEXT_ENTRY + number: text for number, text in kernel.entry_code(symbols).items()}


def _shifted(gate: footers.Gate, shift: int) -> footers.Gate:
    address = None if gate.address is None else (gate.address - shift) % 2**64
    return msgspec.structs.replace(gate, address=address)
