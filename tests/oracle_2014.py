"""The mail of May 2014 as a plain recursive program, written from the mail alone; it shares nothing with the replay.

Takes well-formed nests: every trap has its entry and its exit, and both carry whole frames. Returns what the mail
decides for each trap, in the order of their exits on each CPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

KERNEL_CS = 0x10


@dataclass
class PerCpu:
    """The variable that the mail adds."""

    nmi_mce_nest_count: int = 0


def decide_all(events: list[dict[str, Any]], nmi_text: tuple[tuple[int, int], ...]) -> list[tuple[int, str, str, int]]:
    """For each trap ``(tsc of its exit, "RET" or "IRET", rule, count when judged)``, sorted by TSC."""
    decided: list[tuple[int, str, str, int]] = []
    for cpu in {event["cpu"] for event in events}:
        mine = [event for event in events if event["cpu"] == cpu]
        variable = PerCpu()
        while mine:
            mine = _trap(mine, variable, nmi_text, decided)
    return sorted(decided)


def _trap(
    events: list[dict[str, Any]],
    variable: PerCpu,
    nmi_text: tuple[tuple[int, int], ...],
    decided: list[tuple[int, str, str, int]],
) -> list[dict[str, Any]]:
    """Run one trap from its entry to its exit; gives the events that are left."""
    entry, *events = events
    assert entry["phase"] == "entry"
    vector = entry["vector"]
    if vector in (2, 18):  # "increment it at the very beginning of the NMI handler", and "in do_machine_check"
        variable.nmi_mce_nest_count += 1
    while events[0]["phase"] == "entry":
        events = _trap(events, variable, nmi_text, decided)
    leaving, *events = events
    count = variable.nmi_mce_nest_count
    decided.append((leaving["tsc"], *_algorithm(vector, leaving, count, nmi_text), count))
    if vector == 2:
        variable.nmi_mce_nest_count = 0  # "and clear it at the very end"
    elif vector == 18:
        variable.nmi_mce_nest_count = max(0, count - 1)
    return events


def _algorithm(  # noqa: PLR0911 - one return a rule
    vector: int | None, frame: dict[str, Any], count: int, nmi_text: tuple[tuple[int, int], ...]
) -> tuple[str, str]:
    if frame["cs"] != KERNEL_CS:
        return "IRET", "target-cs"
    match vector:
        case 2:
            return "IRET", "nmi"
        case 7:
            return "IRET", "nm"
        case 8 | 12:
            return "IRET", "df-ss"
        case 1 | 3:
            return ("RET" if count != 0 else "IRET"), "db-bp"
        case 18:
            to_nmi_code = any(low <= frame["ip"] < high for low, high in nmi_text)
            return ("RET" if to_nmi_code else "IRET"), "mc"
    return "RET", "non-ist"
