"""The savings of many traces in sum, from the documents of each (:func:`iretrace.analysis.saved.document`).

Counts add up, and so does CPU time, which unlike TSC cycles is the same on every machine. The ends of intervals are
added as if all traces erred the same way: exact for recordings of one machine, whose cost they share, and wider than
needed for independent ones. Distributions do not add up: of latencies there is none in sum.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from iretrace.analysis.saved import MAX_ROWS

if TYPE_CHECKING:
    from collections.abc import Mapping

_ADDED: Final = ("saved_cycles", "cost_low_cycles", "cost_high_cycles")


class SavedSum:
    """Adds up traces, one after the other.

    Args:
        policy: of which policy.
    """

    def __init__(self, policy: str) -> None:
        self.policy = policy
        self._traces = self._unknown = self._no_interval = 0
        self._counts = {"returns": 0, "RET": 0}
        self._totals: dict[str, list[float]] = {name: [] for name in (*_ADDED, "low_cycles", "high_cycles", "ns")}
        self._cpu_ns: list[float | None] = []
        self._comms: dict[str, dict[str, list[float]]] = {}

    def add(self, document: Mapping[str, Any]) -> None:
        """Add a trace's document, as ``iretrace replay --savings --json`` has it, with all of its commands."""
        (found,) = (policy["savings"] for policy in document["policies"] if policy["policy"] == self.policy)
        total = found["total"]
        self._traces += 1
        for name in self._counts:
            self._counts[name] += total[name]
        for row in found["by_comm"]:
            parts = self._comms.setdefault(row["comm"], {name: [] for name in ("returns", "RET", "ns", *_ADDED)})
            for name in ("returns", "RET"):
                parts[name].append(row[name])
            self._gain(parts, row, document["trace"], _ADDED)
        if total["saved_cycles"] is None:
            self._unknown += 1
            return
        duration = document["trace"]["duration_ns"]
        self._cpu_ns.append(None if duration is None else duration * len(found["by_cpu"]))
        names: tuple[str, ...] = _ADDED
        if total["low_cycles"] is None:
            self._no_interval += 1
        else:
            names = (*_ADDED, "low_cycles", "high_cycles")
        self._gain(self._totals, total, document["trace"], names)

    @staticmethod
    def _gain(
        parts: dict[str, list[float]], row: Mapping[str, Any], trace: Mapping[str, Any], names: tuple[str, ...]
    ) -> None:
        """Note what a row saves, in cycles and in time, where that is known."""
        if row["saved_cycles"] is None:
            return
        for name in names:
            parts[name].append(row[name])
        khz = trace["tsc_khz"]
        parts["ns"].append(row["saved_cycles"] / khz * 1e6 if khz else math.nan)

    def document(self) -> dict[str, Any]:
        """The sum.

        Returns:
            ``{"policy", "traces", "known" (traces that say what a RET saves: only these are in what follows
            ``RET``), "returns", "RET", "saved_cycles", "cost_low_cycles", "cost_high_cycles", "low_cycles",
            "high_cycles", "saved_ns" (CPU time), "share_pct" (of the CPU time that was recorded), "reason",
            "by_comm": [{"comm", "traces", "returns", "RET", "saved_cycles", "cost_low_cycles", "cost_high_cycles",
            "saved_ns"}]}``, ``None`` for what is not known; commands with most RETs first.
        """
        known = self._traces - self._unknown
        totals = {name: _sum(values) if known else None for name, values in self._totals.items()}
        if self._no_interval:
            totals |= dict.fromkeys(("low_cycles", "high_cycles"))
        reasons = []
        if self._unknown:
            reasons.append(f"{self._unknown} of {self._traces} traces do not say what a RET saves")
        if self._no_interval:
            reasons.append(f"{self._no_interval} of {self._traces} traces are too short for an interval over time")
        saved_ns = totals.pop("ns")
        cpu_ns = None if None in self._cpu_ns else math.fsum(ns for ns in self._cpu_ns if ns is not None)
        return {
            "policy": self.policy,
            "traces": self._traces,
            "known": known,
            **self._counts,
            **totals,
            "saved_ns": saved_ns,
            "share_pct": 100 * saved_ns / cpu_ns if saved_ns is not None and cpu_ns else None,
            "reason": "; ".join(reasons),
            "by_comm": self._by_comm(),
        }

    def _by_comm(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = [
            {
                "comm": comm,
                "traces": len(parts["returns"]),
                "returns": int(sum(parts["returns"])),
                "RET": int(sum(parts["RET"])),
                **{name: _sum(parts[name]) if parts[name] else None for name in _ADDED},
                "saved_ns": _sum(parts["ns"]) if parts["ns"] else None,
            }
            for comm, parts in self._comms.items()
        ]
        rows.sort(key=lambda row: (-row["RET"], -row["returns"], row["comm"]))
        return rows[:MAX_ROWS]


def _sum(values: list[float]) -> float | None:
    """A sum that does not depend on the order; ``None`` where a part is not known."""
    found = math.fsum(values)
    return None if math.isnan(found) else found
