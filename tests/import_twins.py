"""Plain Python readings of what the C walks over: slow, obvious, the oracle of their tests."""

from __future__ import annotations

import struct
from typing import Any, Final

REG_NAMES: Final = {7: "sp", 8: "ip", 9: "flags", 10: "cs"}


def perf_samples(data: bytes, sample_type: int, read_format: int, user_regs: int) -> list[dict[str, Any]]:
    """The samples among perf's records, each as a dictionary; other records are passed over."""
    found, at = [], 0
    while at + 8 <= len(data):
        kind, _misc, size = struct.unpack_from("<IHH", data, at)
        if kind == 9:
            found.append(_sample(data[at + 8 : at + size], sample_type, read_format, user_regs))
        at += size
    return found


def _sample(body: bytes, kind: int, read_format: int, user_regs: int) -> dict[str, Any]:
    """``perf_output_sample()`` of kernel/events/core.c, backwards."""
    words: list[int] = list(struct.unpack(f"<{len(body) // 8}Q", body[: len(body) // 8 * 8]))
    at = 0
    sample: dict[str, Any] = {}

    def word() -> int:
        nonlocal at
        at += 1
        return words[at - 1]

    for bit, name in ((16, "id"), (0, "ip"), (1, "tid"), (2, "time"), (3, "addr"), (6, "id"), (9, "stream")):
        if kind >> bit & 1:
            sample[name] = word()
    for bit, name in ((7, "cpu"), (8, "period")):
        if kind >> bit & 1:
            sample[name] = word()
    if kind >> 4 & 1:
        n = word() if read_format & 8 else 1
        each = 1 + (read_format >> 2 & 1) + (read_format >> 4 & 1)
        at += n * each + (read_format & 1) + (read_format >> 1 & 1)
    if kind >> 5 & 1:
        n = word()
        at += n
    size = struct.unpack_from("<I", body, 8 * at)[0]
    sample["raw"] = body[8 * at + 4 : 8 * at + 4 + size]
    at += (4 + size) // 8
    if kind >> 11 & 1:
        n = word()
        at += 3 * n
    if kind >> 12 & 1 and word():
        sample["regs"] = {REG_NAMES[reg]: word() for reg in range(64) if user_regs >> reg & 1}
    sample["pid"], sample["cpu"] = sample["tid"] & 0xFFFFFFFF, sample["cpu"] & 0xFFFFFFFF
    return sample


def page_events(page: bytes) -> list[tuple[int, bytes]]:
    """(time, data) of each event of a ring buffer's page, read from its start as include/linux/ring_buffer.h has it."""
    time, commit = struct.unpack_from("<QQ", page)
    at, end, found = 16, 16 + (commit & 0xFFFFFFF), []
    while at < end:
        (word,) = struct.unpack_from("<I", page, at)
        kind, delta = word & 31, word >> 5
        following = struct.unpack_from("<I", page, at + 4)[0] if at + 8 <= len(page) else 0
        if kind == 29:
            if delta == 0:
                break
            time, at = time + delta, at + 4 + following
        elif kind == 30:
            time, at = time + (following << 27) + delta, at + 8
        elif kind == 31:
            time, at = (following << 27) + delta | time & 0xF8 << 56, at + 8
        else:
            size = 4 * kind or following - 4
            at += 4 if kind else 8
            time += delta
            found.append((time, page[at : at + size]))
            at += size
    return found
