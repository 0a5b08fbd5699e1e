"""The mail of May 2014 as a plain recursive program, written from the mail alone; it shares nothing with the replay.

Takes well-formed nests: every trap has its entry and its exit, and both carry whole frames. Returns what the mail
decides for each trap, in the order of their exits on each CPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

KERNEL_CS = 0x10


@dataclass
class PerCpu:
    """The variable that the mail adds."""

    nmi_mce_nest_count: int = 0


def decide_all(
    events: Iterable[dict[str, Any]], nmi_text: tuple[tuple[int, int], ...]
) -> list[tuple[int, str, str, int]]:
    """For each trap ``(tsc of its exit, "RET" or "IRET", rule, count when judged)``, sorted by TSC."""
    by_cpu: dict[int, list[dict[str, Any]]] = {}
    for event in events:
        by_cpu.setdefault(event["cpu"], []).append(event)
    decided: list[tuple[int, str, str, int]] = []
    for mine in by_cpu.values():
        variable = PerCpu()
        left = iter(mine)
        for entry in left:
            _trap(entry, left, variable, nmi_text, decided)
    return sorted(decided)


def _trap(
    entry: dict[str, Any],
    left: Iterator[dict[str, Any]],
    variable: PerCpu,
    nmi_text: tuple[tuple[int, int], ...],
    decided: list[tuple[int, str, str, int]],
) -> None:
    """Run one trap from its entry to its exit; what follows the exit stays in ``left``."""
    assert entry["phase"] == "entry"
    vector = entry["vector"]
    if vector in (2, 18):  # "increment it at the very beginning of the NMI handler", and "in do_machine_check"
        variable.nmi_mce_nest_count += 1
    event = next(left)
    while event["phase"] == "entry":
        _trap(event, left, variable, nmi_text, decided)
        event = next(left)
    count = variable.nmi_mce_nest_count
    decided.append((event["tsc"], *_algorithm(vector, event, count, nmi_text), count))
    if vector == 2:
        variable.nmi_mce_nest_count = 0  # "and clear it at the very end"
    elif vector == 18:
        variable.nmi_mce_nest_count = max(0, count - 1)


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
