"""What one RET instead of one IRET saves on the recorded machine, in TSC cycles.

From the footer's calibration where it has one, else from the reference table ``costs.toml``, else unknown: a saving
needs the cost of IRETQ and of the RET path for the same CPU, and none is made up. Which RET path a kernel would take
depends on the mitigations in force, which the footer names by their files under
``/sys/devices/system/cpu/vulnerabilities`` (Linux ``Documentation/admin-guide/hw-vuln/``).

Paths, as ``collect/returns.c`` times them: ``iretq``; ``popfq-ret`` (POPFQ; RET), ``popfq-ret-thunk`` (POPFQ; JMP to an
aligned RET) and ``popfq-ret-safe`` (POPFQ; JMP to Safe RET), each to where no CALL came from.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from iretrace.errors import Damaged
from iretrace.footer import Cost

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from iretrace.footer import Cpu, Footer

IRETQ: Final = "iretq"
PLAIN: Final = "popfq-ret"
THUNK: Final = "popfq-ret-thunk"
SAFE: Final = "popfq-ret-safe"
RET_PATHS: Final = (PLAIN, THUNK, SAFE)

_SPELLED: Final = {
    IRETQ: "IRETQ",
    PLAIN: "POPFQ; RET",
    THUNK: "POPFQ; return thunk",
    SAFE: "POPFQ; Safe RET",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Saving:
    """Cycles saved by one RET instead of one IRET; negative where RET is the dearer.

    Attributes:
        cycles: the estimate, in TSC cycles.
        low: lower end of its interval.
        high: upper end of its interval.
        source: where it comes from, for people.
    """

    cycles: float
    low: float
    high: float
    source: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Mitigation:
    """A mitigation that replaces the kernel's RET.

    Attributes:
        file: name under /sys/devices/system/cpu/vulnerabilities.
        marker: text in that file that says it is in force.
        path: the RET path under it; ``None``: one that nothing here times.
        source: the Linux commit that brought it.
    """

    file: str
    marker: str
    path: str | None
    source: str


MITIGATIONS: Final = (
    # Linux applies these in the order retbleed, its, srso, and the last thunk set stays (arch/x86/kernel/cpu/bugs.c,
    # set_return_thunk): so srso is asked first. "Vulnerable: Safe RET, no microcode" has the thunk too (Linux commit
    # dc6306ad5b0d ("x86/srso: Fix vulnerability reporting for missing microcode") (in v6.7)), while "Vulnerable:
    # Microcode, no safe RET" has not.
    Mitigation(
        file="spec_rstack_overflow",
        marker="Safe RET",
        path=SAFE,
        source='Linux commit fb3bd914b3ec ("x86/srso: Add a Speculative RAS Overflow mitigation") (in v6.5)',
    ),
    # Call depth tracking: its thunk counts returns in a per-CPU variable, and refills the RSB now and then.
    Mitigation(
        file="retbleed",
        marker="Stuffing",
        path=None,
        source='Linux commit 5d8213864ade ("x86/retbleed: Add SKL return thunk") (in v6.2)',
    ),
    Mitigation(
        file="indirect_target_selection",
        marker="Stuffing",
        path=None,
        source='Linux commit 5d8213864ade ("x86/retbleed: Add SKL return thunk") (in v6.2)',
    ),
    Mitigation(
        file="indirect_target_selection",
        marker="return thunks",
        path=THUNK,
        source='Linux commit a75bf27fe41a ("x86/its: Add support for ITS-safe return thunk") (in v6.15)',
    ),
    # "Vulnerable: untrained return thunk / IBPB on non-AMD based uarch" does not say which of the two.
    Mitigation(
        file="retbleed",
        marker="untrained return thunk / IBPB",
        path=None,
        source="Linux arch/x86/kernel/cpu/bugs.c, retbleed_show_state",
    ),
    Mitigation(
        file="retbleed",
        marker="untrained return thunk",
        path=THUNK,
        source='Linux commit a149180fbcf3 ("x86: Add magic AMD return-thunk") (in v5.19)',
    ),
)
"""In the order in which they are asked. Others (IBRS, IBPB, retpolines) leave a plain RET a plain RET."""


class Reference(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One row of ``costs.toml``: one figure and who found it."""

    vendor: str
    """CPUID's vendor string."""
    family: int
    models: list[int]
    """CPUID models that the figure holds for."""
    cpu: str
    """The microarchitecture's name."""
    path: str
    """A return path, or ``popfq``: a PUSHFQ; POPFQ pair, which returns nowhere."""
    clock: Literal["tsc", "core"]
    """The cycles that the figure is in."""
    cycles: float
    low: float | None = None
    """Lower end of its interval; ``None``: the source gives no spread."""
    high: float | None = None
    source: str
    """Who measured it, when and where."""
    note: str = ""
    """What to know of it."""


def saving_per_return(footer: Footer) -> Saving | None:
    """Cycles that one RET instead of one IRET saves on the recorded machine.

    Returns:
        The saving as it comes out, negative or not; ``None`` where it is not known (:func:`describe` says why).
    """
    return _decide(footer)[0]


def describe(footer: Footer) -> str:
    """One line for people: what a RET saves and where that comes from, or why it is unknown."""
    saving, reason = _decide(footer)
    if saving is None:
        return f"saving by RET unknown: {reason}"
    interval = f"[{_number(saving.low)}, {_number(saving.high)}]"
    return f"RET saves {_number(saving.cycles)} {interval} TSC cycles a return: {saving.source}"


def mitigation_in_force(mitigations: Mapping[str, str]) -> Mitigation | None:
    """The mitigation that replaces the kernel's RET; ``None`` where RET is plain.

    Args:
        mitigations: by file of /sys/devices/system/cpu/vulnerabilities, its text. A missing file is a kernel without
            that mitigation.
    """
    for mitigation in MITIGATIONS:
        if mitigation.marker in mitigations.get(mitigation.file, ""):
            return mitigation
    return None


def _decide(footer: Footer) -> tuple[Saving | None, str]:
    """The saving, or ``None`` and the reason."""
    in_force = mitigation_in_force(footer.mitigations)
    if in_force is not None and in_force.path is None:
        return None, f"the kernel returns by a thunk that is not timed ({_said(in_force, footer)})"
    wanted: tuple[str, ...]
    if not footer.mitigations:
        wanted, why = RET_PATHS, "the mitigations in force are not recorded: spans the RET paths timed"
    elif in_force is None or in_force.path is None:
        wanted, why = (PLAIN,), "no mitigation replaces RET"
    else:
        wanted, why = (in_force.path,), _said(in_force, footer)
    reasons = []
    if footer.calibration is not None:
        saving = _between(_timed(footer.calibration.costs), wanted, f"{_method(footer)} ({why})")
        if saving is not None:
            return saving, ""
        reasons.append(_lack("the trace's calibration", _timed(footer.calibration.costs), wanted))
    else:
        reasons.append("the trace has no calibration")
    if not footer.mitigations:
        return None, "; ".join([*reasons, "and the mitigations in force are not recorded"])
    rows = [row for row in references() if _is_of(row, footer.cpu)]
    saving = _between(_referred(rows), wanted, f"reference table, {_sources(rows, wanted)} ({why})")
    if saving is not None:
        return saving, ""
    reasons.append(_lack(f"the reference table, for {_cpu_name(footer.cpu, rows)},", _referred(rows), wanted))
    if rows:
        reasons.append("it knows of " + ", ".join(f"{row.path} {row.cycles:g} {row.clock} cycles" for row in rows))
    return None, "; ".join(reasons)


def _said(mitigation: Mitigation, footer: Footer) -> str:
    # The text comes from a file that anyone may have written: one short printable line.
    text = "".join(char for char in footer.mitigations[mitigation.file] if char.isprintable())
    return f"{mitigation.file}: {text[:100]}"


def _method(footer: Footer) -> str:
    shaky = footer.calibration is not None and not footer.calibration.stable
    return "timed on the recorded machine" + (", where repeated runs disagreed" if shaky else "")


def _between(costs: Mapping[str, Cost], wanted: Iterable[str], source: str) -> Saving | None:
    """IRETQ's cost less that of the RET paths wanted; of several, the least saving, and the span of all."""
    iret = costs.get(IRETQ)
    paths = [costs[path] for path in wanted if path in costs]
    if iret is None or not paths:
        return None
    dearest = max(paths, key=lambda cost: cost.median_cycles)
    low = min(iret.low_cycles - cost.high_cycles for cost in paths)
    high = max(iret.high_cycles - cost.low_cycles for cost in paths)
    cycles = iret.median_cycles - dearest.median_cycles
    if not (math.isfinite(low) and math.isfinite(high)):
        return None
    spelled = " or ".join(f"{_SPELLED[cost.path]} {_number(cost.median_cycles)}" for cost in paths)
    return Saving(
        cycles=cycles, low=low, high=high, source=f"IRETQ {_number(iret.median_cycles)} against {spelled}, {source}"
    )


def _number(cycles: float) -> str:
    """One decimal; a figure that no CPU can have (footers are untrusted) stays short."""
    return f"{cycles:.1f}" if abs(cycles) < 1e6 else f"{cycles:.1e}"


def _timed(costs: Iterable[Cost]) -> dict[str, Cost]:
    """Calibrated costs by path; one whose interval does not hold its median is no measurement and is left out."""
    return {cost.path: cost for cost in costs if cost.low_cycles <= cost.median_cycles <= cost.high_cycles}


def _lack(where: str, costs: Mapping[str, Cost], wanted: Iterable[str]) -> str:
    missing = [_SPELLED[path] for path in (IRETQ, *wanted) if path not in costs]
    return f"{where} lacks {' and '.join(missing)}" if missing else f"{where} has figures out of range"


@cache
def references() -> tuple[Reference, ...]:
    """The rows of ``costs.toml``.

    Raises:
        Damaged: the table is not what this module expects.
    """
    import tomllib  # noqa: PLC0415 - only where a trace has no calibration

    table = resources.files("iretrace.replay") / "costs.toml"
    try:
        rows = msgspec.convert(tomllib.loads(table.read_text(encoding="utf-8"))["cost"], list[Reference])
    except (OSError, KeyError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise Damaged("costs.toml", f"the table of costs is off ({error})", remedy="install iretrace again") from None
    return tuple(rows)


def _is_of(row: Reference, cpu: Cpu) -> bool:
    return row.vendor == cpu.vendor and row.family == cpu.family and cpu.model in row.models


def _referred(rows: Iterable[Reference]) -> dict[str, Cost]:
    """Reference figures by path. Those in core cycles do not add up with a trace's TSC cycles and are left out."""
    return {
        row.path: Cost(
            path=row.path,
            median_cycles=row.cycles,
            low_cycles=row.cycles if row.low is None else row.low,
            high_cycles=row.cycles if row.high is None else row.high,
        )
        for row in rows
        if row.clock == "tsc"
    }


def _sources(rows: Iterable[Reference], wanted: Iterable[str]) -> str:
    used = [row for row in rows if row.clock == "tsc" and row.path in {IRETQ, *wanted}]
    spread = "" if all(row.low is not None and row.high is not None for row in used) else ", no spread recorded"
    return "; ".join(dict.fromkeys(row.source for row in used)) + spread


def _cpu_name(cpu: Cpu, rows: list[Reference]) -> str:
    if cpu.family is None or cpu.model is None:
        return "a CPU that is not recorded"
    name = f" ({rows[0].cpu})" if rows else ""
    vendor = "".join(char for char in cpu.vendor[:16] if char.isprintable())
    return f"{vendor or 'a CPU'} family {cpu.family} model {cpu.model}{name}"
