"""Reading the kernel's BTF: the prototypes of its tracepoints and functions, and where a structure's members lie.

A raw tracepoint's program gets its arguments untyped, so a kernel with other arguments than the probes assume would
be misread without a sound. BTF has a typedef ``btf_trace_NAME`` of each tracepoint's prototype
(include/trace/bpf_probe.h); :mod:`iretrace.collect.choice` compares it.

Format: Linux ``Documentation/bpf/btf.rst``, ``include/uapi/linux/btf.h``.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Final

from iretrace.errors import MachineError

KERNEL_BTF: Final = Path("/sys/kernel/btf/vmlinux")

_MAGIC: Final = 0xEB9F
_KIND_PTR: Final = 2
_KIND_STRUCT: Final = 4
_KIND_TYPEDEF: Final = 8
_KIND_FUNC: Final = 12
_KIND_FUNC_PROTO: Final = 13

_FIXED_BYTES: Final = {1: 4, 3: 12, 14: 4, 17: 4}  # INT, ARRAY, VAR, DECL_TAG
_BYTES_PER_MEMBER: Final = {
    4: 12,
    5: 12,
    6: 8,
    13: 8,
    15: 12,
    19: 12,
}  # STRUCT, UNION, ENUM, FUNC_PROTO, DATASEC, ENUM64


class Prototypes:
    """Parameters of the kernel's tracepoints and functions.

    Args:
        data: the content of ``/sys/kernel/btf/vmlinux``.

    Raises:
        MachineError: it is not BTF.
    """

    def __init__(self, data: bytes) -> None:
        try:
            magic, _version, _flags, header, type_at, type_bytes, string_at, string_bytes = struct.unpack_from(
                "<HBBIIIII", data
            )
            if magic != _MAGIC:
                raise MachineError(KERNEL_BTF, f"begins with {magic:#x}", expected=f"BTF ({_MAGIC:#x})")
            self._types = data[header + type_at : header + type_at + type_bytes]
            self._strings = data[header + string_at : header + string_at + string_bytes]
            self._index()
        except struct.error:
            raise MachineError(KERNEL_BTF, "is cut short", expected="the kernel's BTF") from None

    def _index(self) -> None:
        self._offsets = [0]
        self._tracepoints: dict[str, int] = {}
        self._typedefs: dict[str, int] = {}
        self._named: dict[tuple[int, int], int] = {}  # (kind, where the name is) -> type id
        unpack = struct.Struct("<III").unpack_from
        at, types = 0, self._types
        while at < len(types):
            name, info, target = unpack(types, at)
            kind, members = info >> 24 & 0x1F, info & 0xFFFF
            self._offsets.append(at)
            if kind == _KIND_TYPEDEF and self._strings.startswith(b"btf_trace_", name):
                tracepoint = self._name(name).removeprefix("btf_trace_")
                self._tracepoints[tracepoint], self._typedefs[tracepoint] = target, len(self._offsets) - 1
            elif kind in {_KIND_FUNC, _KIND_STRUCT}:
                self._named.setdefault((kind, name), len(self._offsets) - 1)
            at += 12 + _FIXED_BYTES.get(kind, 0) + _BYTES_PER_MEMBER.get(kind, 0) * members

    def _name(self, at: int) -> str:
        return self._strings[at : self._strings.index(b"\0", at)].decode(errors="replace")

    def parameters(self, tracepoint: str) -> tuple[str, ...] | None:
        """Types of a tracepoint's arguments as names (``*`` marks a pointer); ``None`` where it does not exist.

        BTF of a tracepoint's prototype has no parameter names, and a first ``void *`` that is left out here.
        """
        target = self._tracepoints.get(tracepoint)
        if target is None:
            return None
        _name, info, proto = struct.unpack_from("<III", self._types, self._offsets[target])
        if info >> 24 & 0x1F == _KIND_PTR:
            _name, info, _ = struct.unpack_from("<III", self._types, self._offsets[proto])
            target = proto
        if info >> 24 & 0x1F != _KIND_FUNC_PROTO:
            return None
        return tuple(self._type_name(type_id) for type_id in self._parameters_of(target)[1:])

    def tracepoint(self, name: str) -> int | None:
        """The type id by which a program with typed arguments names a tracepoint; ``None``: it does not exist."""
        return self._typedefs.get(name)

    def function(self, name: str) -> int | None:
        """The type id of a function that BPF programs can be attached to; ``None`` where the kernel has none."""
        return self._find(_KIND_FUNC, name)

    def function_parameters(self, name: str) -> tuple[str, ...] | None:
        """Types of a function's parameters, as :meth:`parameters` gives them; ``None`` where it does not exist."""
        found = self.function(name)
        if found is None:
            return None
        _name, _info, proto = struct.unpack_from("<III", self._types, self._offsets[found])
        return tuple(self._type_name(type_id) for type_id in self._parameters_of(proto))

    def member_offset(self, structure: str, member: str) -> int | None:
        """Offset in bytes of a member of a structure; ``None`` where either does not exist."""
        found = self._find(_KIND_STRUCT, structure)
        if found is None:
            return None
        at = self._offsets[found]
        _name, info, _size = struct.unpack_from("<III", self._types, at)
        for i in range(info & 0xFFFF):
            name, _type, bits = struct.unpack_from("<III", self._types, at + 12 + 12 * i)
            if self._name(name) == member:
                return int(bits & 0xFFFFFF) // 8  # with kind_flag the upper byte is a bit field's size
        return None

    def structure_bytes(self, structure: str) -> int | None:
        """Size of a structure; ``None`` where it does not exist."""
        found = self._find(_KIND_STRUCT, structure)
        if found is None:
            return None
        _name, _info, size = struct.unpack_from("<III", self._types, self._offsets[found])
        return int(size)

    def _find(self, kind: int, name: str) -> int | None:
        at = self._strings.find(b"\0" + name.encode() + b"\0")
        return None if at < 0 else self._named.get((kind, at + 1))

    def _parameters_of(self, proto: int) -> list[int]:
        base = self._offsets[proto] + 12
        _name, info, _ = struct.unpack_from("<III", self._types, self._offsets[proto])
        return [struct.unpack_from("<II", self._types, base + 8 * i)[1] for i in range(info & 0xFFFF)]

    def _type_name(self, type_id: int) -> str:
        suffix = ""
        for _ in range(8):
            if type_id == 0:
                return "void" + suffix
            name, info, target = struct.unpack_from("<III", self._types, self._offsets[type_id])
            kind = info >> 24 & 0x1F
            if kind == _KIND_PTR:
                suffix = "*" + suffix
            elif kind not in (9, 10, 11):  # VOLATILE, CONST, RESTRICT qualify and have no name
                return self._name(name) + suffix
            type_id = target
        return "?" + suffix


def kernel_prototypes(path: Path = KERNEL_BTF) -> Prototypes:
    """The running kernel's BTF.

    Raises:
        MachineError: the kernel has no BTF.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise MachineError(
            "kernel BTF",
            f"{path} cannot be read ({error.strerror})",
            expected="a kernel built with CONFIG_DEBUG_INFO_BTF=y, by which the tracepoints' arguments are checked",
            remedy="boot your distribution's stock kernel",
        ) from None
    return Prototypes(data)
