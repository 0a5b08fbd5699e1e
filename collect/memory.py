"""Reading kernel memory through BPF: the live IDT, and the list of NMI handlers."""

from __future__ import annotations

import ctypes
import struct
from typing import TYPE_CHECKING, Any, Final, Self

from iretrace.collect import bcc as bcc_loader
from iretrace.collect import kernel, syscalls
from iretrace.errors import MachineError

if TYPE_CHECKING:
    from iretrace.collect.btf import Prototypes
    from iretrace.collect.kernel import Symbols

_MAX_HANDLERS: Final = 64
_KERNEL_HALF: Final = 1 << 63


class KernelMemory:
    """A program that copies kernel memory, while it is open as a context manager.

    Raises:
        MachineError: BPF may not read kernel memory here.
    """

    def __init__(self) -> None:
        bcc = bcc_loader.load()
        self._module: Any = bcc_loader.new_module(bcc, [bcc_loader.BPF_DIR / "peek.bpf.c"], [])
        with bcc_loader.captured_stderr() as captured:
            try:
                self._program = self._module.load_func(b"peek", bcc.BPF.RAW_TRACEPOINT).fd
            except Exception:  # noqa: BLE001 - BCC raises Exception itself
                self._program = -1
        if self._program < 0:
            self._module.cleanup()
            raise MachineError("kernel memory", f"could not be read ({bcc_loader.first_error(captured.text)})")

    def read(self, address: int, size: int) -> bytes:
        """``size`` bytes, at most 4096.

        Raises:
            MachineError: nothing is mapped there.
        """
        table = self._module[b"window"]
        request = table.Leaf(address, size, 0)
        table[ctypes.c_int(0)] = request
        try:
            syscalls.run_raw_tracepoint_once(self._program)
        except OSError as error:
            raise MachineError("kernel memory", f"could not be read ({error.strerror})") from None
        copy = table[ctypes.c_int(0)]
        if copy.status != 0:
            raise MachineError("kernel memory", f"is not readable at {address:#x} (error {copy.status})")
        return bytes(copy.bytes[:size])

    def idt(self) -> bytes:
        """The live IDT, 4096 bytes."""
        return self.read(kernel.IDT_ADDRESS, kernel.IDT_BYTES)

    def nmi_handlers(self, symbols: Symbols, prototypes: Prototypes) -> list[int]:
        """Addresses of the handlers of NMI_LOCAL, in the order in which every NMI calls them.

        ``nmi_desc[NMI_LOCAL]`` is the head of a list of ``struct nmiaction`` (arch/x86/kernel/nmi.c, asm/nmi.h).
        Empty where it cannot be read.
        """
        head_offset = prototypes.member_offset("nmi_desc", "head")
        link_offset = prototypes.member_offset("nmiaction", "list")
        handler_offset = prototypes.member_offset("nmiaction", "handler")
        base = symbols.data.get("nmi_desc")
        if head_offset is None or link_offset is None or handler_offset is None or base is None:
            return []
        head = base + head_offset
        found: list[int] = []
        try:
            link = self._word(head)
            while link != head and len(found) < _MAX_HANDLERS:
                found.append(self._word(link - link_offset + handler_offset))
                link = self._word(link)
        except MachineError:
            return []
        return found if link == head and all(address >= _KERNEL_HALF for address in found) else []

    def _word(self, address: int) -> int:
        return int(struct.unpack("=Q", self.read(address, 8))[0])

    def close(self) -> None:
        """Unload the program."""
        self._module.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
