"""The system calls that BCC does not offer or refuses: bpf(2) and perf_event_open(2), on x86_64.

Structures and numbers: Linux ``include/uapi/linux/bpf.h``, ``include/uapi/linux/perf_event.h``,
``arch/x86/entry/syscalls/syscall_64.tbl``.
"""

from __future__ import annotations

import ctypes
import os
import struct
from typing import Final

_SYS_PERF_EVENT_OPEN: Final = 298
_SYS_BPF: Final = 321

_BPF_MAP_CREATE: Final = 0
_BPF_MAP_LOOKUP_ELEM: Final = 1
_BPF_MAP_UPDATE_ELEM: Final = 2
_BPF_PROG_LOAD: Final = 5
_BPF_PROG_TEST_RUN: Final = 10
_BPF_OBJ_GET_INFO_BY_FD: Final = 15
_BPF_RAW_TRACEPOINT_OPEN: Final = 17
_BPF_ENABLE_STATS: Final = 32
_BPF_STATS_RUN_TIME: Final = 0

MAP_TYPE_RINGBUF: Final = 27
_PROG_TYPE_TRACING: Final = 26
TRACE_RAW_TP: Final = 23
_TRACE_FENTRY: Final = 24
_INSTRUCTION_BYTES: Final = 8
EXIT_0: Final = bytes.fromhex("b700000000000000 9500000000000000")
"""A program that does nothing: r0 = 0; exit."""


PERF_FLAG_FD_CLOEXEC: Final = 8


class ProgInfo(ctypes.Structure):
    """``struct bpf_prog_info`` up to ``recursion_misses`` (Linux v5.12, 9ed9e9ba2337)."""

    _fields_ = (
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("tag", ctypes.c_uint8 * 8),
        ("jited_prog_len", ctypes.c_uint32),
        ("xlated_prog_len", ctypes.c_uint32),
        ("jited_prog_insns", ctypes.c_uint64),
        ("xlated_prog_insns", ctypes.c_uint64),
        ("load_time", ctypes.c_uint64),
        ("created_by_uid", ctypes.c_uint32),
        ("nr_map_ids", ctypes.c_uint32),
        ("map_ids", ctypes.c_uint64),
        ("name", ctypes.c_char * 16),
        ("ifindex", ctypes.c_uint32),
        ("gpl_compatible", ctypes.c_uint32),
        ("netns_dev", ctypes.c_uint64),
        ("netns_ino", ctypes.c_uint64),
        ("nr_jited_ksyms", ctypes.c_uint32),
        ("nr_jited_func_lens", ctypes.c_uint32),
        ("jited_ksyms", ctypes.c_uint64),
        ("jited_func_lens", ctypes.c_uint64),
        ("btf_id", ctypes.c_uint32),
        ("func_info_rec_size", ctypes.c_uint32),
        ("func_info", ctypes.c_uint64),
        ("nr_func_info", ctypes.c_uint32),
        ("nr_line_info", ctypes.c_uint32),
        ("line_info", ctypes.c_uint64),
        ("jited_line_info", ctypes.c_uint64),
        ("nr_jited_line_info", ctypes.c_uint32),
        ("line_info_rec_size", ctypes.c_uint32),
        ("jited_line_info_rec_size", ctypes.c_uint32),
        ("nr_prog_tags", ctypes.c_uint32),
        ("prog_tags", ctypes.c_uint64),
        ("run_time_ns", ctypes.c_uint64),
        ("run_cnt", ctypes.c_uint64),
        ("recursion_misses", ctypes.c_uint64),
    )


_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def _bpf(command: int, attr: bytes) -> int:
    buffer = ctypes.create_string_buffer(attr, max(len(attr), 128))
    result = _libc.syscall(_SYS_BPF, ctypes.c_long(command), buffer, ctypes.c_long(len(buffer)))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(result)


def create_ring(size_bytes: int, name: str) -> int:
    """Create a BPF ring buffer of ``size_bytes`` (a power of two of pages); return its file descriptor."""
    attr = struct.pack("=IIIIII", MAP_TYPE_RINGBUF, 0, 0, size_bytes, 0, 0)
    attr += struct.pack("=I16s", 0, name.encode()[:15])
    return _bpf(_BPF_MAP_CREATE, attr)


def update_element(map_fd: int, key: bytes, value: bytes) -> None:
    """``bpf_map_update_elem``."""
    key_buffer, value_buffer = (
        ctypes.create_string_buffer(key, len(key)),
        ctypes.create_string_buffer(value, len(value)),
    )
    attr = struct.pack("=IIQQQ", map_fd, 0, ctypes.addressof(key_buffer), ctypes.addressof(value_buffer), 0)
    _bpf(_BPF_MAP_UPDATE_ELEM, attr)


def lookup_element(map_fd: int, key: bytes, value_bytes: int) -> bytes:
    """``bpf_map_lookup_elem``: the value, ``value_bytes`` long."""
    key_buffer, value_buffer = ctypes.create_string_buffer(key, len(key)), ctypes.create_string_buffer(value_bytes)
    attr = struct.pack("=IIQQQ", map_fd, 0, ctypes.addressof(key_buffer), ctypes.addressof(value_buffer), 0)
    _bpf(_BPF_MAP_LOOKUP_ELEM, attr)
    return value_buffer.raw


def program_info(program_fd: int) -> ProgInfo:
    """``bpf_obj_get_info_by_fd`` of a program."""
    info = ProgInfo()
    attr = struct.pack("=IIQ", program_fd, ctypes.sizeof(info), ctypes.addressof(info))
    _bpf(_BPF_OBJ_GET_INFO_BY_FD, attr)
    return info


def run_raw_tracepoint_once(program_fd: int) -> None:
    """``BPF_PROG_TEST_RUN`` of a raw tracepoint program, here and now (Linux v5.10, 1b4d60ec162f)."""
    arguments = ctypes.create_string_buffer(8)
    # prog_fd, retval, data_size_in/out, data_in/out, repeat, duration, ctx_size_in/out, ctx_in/out, flags, cpu
    attr = struct.pack("=IIIIQQIIIIQQII", program_fd, 0, 0, 0, 0, 0, 0, 0, 8, 0, ctypes.addressof(arguments), 0, 0, 0)
    _bpf(_BPF_PROG_TEST_RUN, attr)


def try_fentry(btf_id: int) -> None:
    """Load a program that does nothing, attach it to the entry of a kernel function, and take it away again.

    Args:
        btf_id: the function's type id in the kernel's BTF.

    Raises:
        OSError: this kernel has no fentry, or not for this function.
    """
    program = load_tracing(EXIT_0, btf_id=btf_id, attach_type=_TRACE_FENTRY)
    try:
        os.close(attach_tracing(program))
    finally:
        os.close(program)


def load_tracing(code: bytes, *, btf_id: int, attach_type: int = TRACE_RAW_TP, name: str = "") -> int:
    """Load a program of type TRACING, whose arguments have types; return its file descriptor.

    Args:
        code: instructions, with maps' file descriptors in them.
        btf_id: the type id, in the kernel's BTF, of the function or of the tracepoint's ``btf_trace_*``.
        attach_type: ``BPF_TRACE_*``; a raw tracepoint's arguments have had types since Linux v5.5.
        name: the program's.

    Raises:
        OSError: the kernel refuses it.
    """
    instructions = ctypes.create_string_buffer(code, len(code))
    licence = ctypes.create_string_buffer(b"GPL")
    # prog_type, insn_cnt, insns, license, nothing of the log, kern_version and prog_flags, prog_name,
    # then zeros to expected_attach_type (68) and attach_btf_id (108)
    attr = struct.pack(
        "=IIQQ24x16s",
        _PROG_TYPE_TRACING,
        len(code) // _INSTRUCTION_BYTES,
        ctypes.addressof(instructions),
        ctypes.addressof(licence),
        name.encode()[:15],
    )
    attr = attr.ljust(68, b"\0") + struct.pack("=I", attach_type)
    attr = attr.ljust(108, b"\0") + struct.pack("=I", btf_id)
    return _bpf(_BPF_PROG_LOAD, attr)


def attach_tracing(program_fd: int) -> int:
    """Attach a program of type TRACING where it was loaded for; attached until the returned descriptor is closed.

    Raises:
        OSError: the kernel refuses it.
    """
    return _bpf(_BPF_RAW_TRACEPOINT_OPEN, struct.pack("=QI", 0, program_fd))


def enable_run_time_stats() -> int:
    """Let the kernel time every BPF program until the returned file descriptor is closed (Linux v5.8, d46edd671a14)."""
    return _bpf(_BPF_ENABLE_STATS, struct.pack("=I", _BPF_STATS_RUN_TIME))


def perf_event_open(*, kind: int, config: int, cpu: int) -> int:
    """Open a counting event on a CPU, for all processes."""
    size = 112  # PERF_ATTR_SIZE_VER5
    attr = ctypes.create_string_buffer(struct.pack("=IIQ", kind, size, config).ljust(size, b"\0"), size)
    result = _libc.syscall(
        ctypes.c_long(_SYS_PERF_EVENT_OPEN),
        attr,
        ctypes.c_long(-1),
        ctypes.c_long(cpu),
        ctypes.c_long(-1),
        ctypes.c_long(PERF_FLAG_FD_CLOEXEC),
    )
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(result)
