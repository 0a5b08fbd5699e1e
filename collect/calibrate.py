"""Timing the return paths: IRETQ against the RET paths, in TSC cycles.

Clock: RDTSCP, LFENCE around batches of returns; resolution one TSC step over the length of a batch. A batch that an
interrupt fell into is longer than the others, and medians pass it over. One *round* times every path once and gives
one figure a path: its median batch less the median batch of its base, which only builds the frame, from the same
round, so that a change of the core's frequency between rounds cancels. Rounds, not batches, are what is counted:
their median is the estimate and their order statistics its interval (see :func:`median_interval`), as it is between
rounds that the machine changes (Kalibera & Jones, "Rigorous benchmarking in reasonable time", ISMM 2013). Two blocks
of rounds are one run each; where the two disagree, the calibration is not stable.

Known error: the frame's stores overlap with what follows them, so the subtraction is right within a few cycles.
"""

from __future__ import annotations

import math
import os
import platform
import statistics
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from iretrace.errors import MachineError, UsageError
from iretrace.footer import Calibration, Cost

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

QUICK_METHOD: Final = "quick: rounds of batches timed with RDTSCP, frame building subtracted"


@dataclass(frozen=True, kw_only=True)
class ReturnPath:
    """One way to return at the same privilege, as collect/returns.c times it.

    Attributes:
        name: its name in :class:`iretrace.footer.Cost`.
        base: the path that builds the same frame and returns no way at all; ``None`` for a base itself.
        doc: what it stands for, one line.
    """

    name: str
    base: str | None
    doc: str


PATHS: Final = (
    ReturnPath(name="frame", base=None, doc="build the five words that the CPU pushes on a trap"),
    ReturnPath(name="frame-call", base=None, doc="the same after a CALL that leaves a wrong top in the RSB"),
    ReturnPath(name="iretq", base="frame", doc="IRETQ: today's kernel"),
    ReturnPath(name="lretq", base="frame", doc="far RET, no flags: for comparison"),
    ReturnPath(name="ret", base="frame-call", doc="RET, no flags: stands in for STI; RET"),
    ReturnPath(name="ret-thunk", base="frame-call", doc="JMP to an aligned RET, no flags"),
    ReturnPath(name="ret-safe", base="frame-call", doc="JMP to Safe RET, no flags"),
    ReturnPath(name="popfq-ret", base="frame-call", doc="POPFQ; RET"),
    ReturnPath(name="popfq-ret-thunk", base="frame-call", doc="POPFQ; JMP to an aligned RET (retbleed, ITS)"),
    ReturnPath(name="popfq-ret-safe", base="frame-call", doc="POPFQ; JMP to Safe RET (SRSO)"),
    ReturnPath(name="popfq-ret-predicted", base="frame-call", doc="POPFQ; RET that the RSB predicts: a lower bound"),
)
BY_NAME: Final = {path.name: path for path in PATHS}

_RUNS: Final = 2
_ROUNDS_PER_RUN: Final = 8
_BATCHES: Final = 120
_ITERATIONS: Final = 200
_BUDGET_S: Final = 0.25
_WARM_UP_S: Final = 0.01


@dataclass(frozen=True, kw_only=True)
class Timed:
    """A calibration, and what in it not to trust.

    Attributes:
        calibration: the costs of each path.
        unstable: the paths whose repeated runs disagreed beyond their intervals.
    """

    calibration: Calibration
    unstable: tuple[str, ...]


def refusals(*, shadow_stack: bool, balanced: Mapping[str, bool]) -> dict[str, str]:
    """The paths that must not run, and why.

    A user shadow stack faults (#CP) on a RET to where no CALL came from, and on an IRETQ or far RET to a frame
    that the CPU did not push; a CALL whose return address is dropped leaves it out of step.

    Args:
        shadow_stack: whether the thread runs under one (:func:`iretrace._native.shadow_stack`).
        balanced: by path, whether what it does to a shadow stack adds up (:func:`iretrace._native.return_paths`).
    """
    if not shadow_stack:
        return {}
    reason = "a user shadow stack is on, and would fault on it"
    refused = {path.name: reason for path in PATHS if not balanced[path.name]}
    for path in PATHS:
        if path.base in refused and path.name not in refused:
            refused[path.name] = f"its base {path.base} cannot run: {reason}"
    return refused


def check_machine() -> dict[str, str]:
    """Check that return paths can be timed here; return :func:`refusals`.

    Raises:
        MachineError: this is not x86_64 Linux, or the compiled part is not built.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise MachineError(
            "calibrate", f"this is {platform.machine()} {sys.platform}", expected="an x86_64 CPU under Linux"
        )
    try:
        from iretrace._native import return_paths, shadow_stack  # noqa: PLC0415 - absent on other machines
    except ImportError as error:
        raise MachineError(
            "iretrace._native", f"not to be had ({error})", remedy="build it: python setup.py build_ext --inplace"
        ) from None
    return refusals(shadow_stack=shadow_stack(), balanced=return_paths())


@contextmanager
def pinned(cpu: int) -> Iterator[None]:
    """Keep this thread on one CPU meanwhile.

    Raises:
        UsageError: the CPU is offline or not allowed to this process.
    """
    home = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {cpu})
    except (OSError, ValueError, OverflowError):
        allowed = ", ".join(map(str, sorted(home)))
        raise UsageError(
            f"CPU {cpu}", "offline, or not allowed to this process", expected=f"one of {allowed}"
        ) from None
    try:
        yield
    finally:
        os.sched_setaffinity(0, home)


def median_interval(values: Sequence[float], *, confidence: float = 0.95) -> tuple[float, float]:
    """Confidence interval of the median by order statistics, distribution-free.

    Of n values sorted, [x(k), x(n+1-k)] covers the median with probability 1 - 2 P(Binomial(n, 1/2) < k)
    (Conover, "Practical Nonparametric Statistics", 3rd ed., section 3.2); k is the largest that gives
    ``confidence``. Fewer than six values cannot give 95 %: then it is the lowest and the highest.

    Raises:
        ValueError: there are no values.
    """
    ordered = sorted(values)
    n = len(ordered)
    if n == 0:
        raise ValueError("no values")
    below, k = 0, 0
    while k < n // 2:
        below += math.comb(n, k)
        if 2 * below > (1 - confidence) * 2**n:
            break
        k += 1
    k = max(k, 1)
    return ordered[k - 1], ordered[n - k]


def is_stable(runs: Sequence[Sequence[float]]) -> bool:
    """Whether repeated runs of one path agree: no two of their intervals lie apart.

    Less than a cycle, or 5 % of the median, is not called a disagreement: where the loops happen to lie in the
    caches and predictors moves as much, and no projected saving hangs on it.
    """
    intervals = [median_interval(run) for run in runs if run]
    if len(intervals) < 2:
        return True
    highest_low, lowest_high = max(low for low, _ in intervals), min(high for _, high in intervals)
    slack = max(1.0, 0.05 * abs(statistics.median([value for run in runs for value in run])))
    return highest_low - lowest_high <= slack


def cost_of(path: str, figures: Sequence[float], samples: int) -> Cost:
    """The median of a path's figures (cycles, base subtracted) with its interval."""
    low, high = median_interval(figures)
    return Cost(
        path=path,
        median_cycles=statistics.median(figures),
        low_cycles=low,
        high_cycles=high,
        samples=samples,
    )


def quick(cpu: int) -> Calibration:
    """Time every return path on one CPU within 0.3 s, for the footer of a trace.

    Raises:
        MachineError: not x86_64 Linux.
        UsageError: the CPU is offline or not allowed to this process.
    """
    return time_quickly(cpu).calibration


def time_quickly(cpu: int) -> Timed:
    """As :func:`quick`, and tell which paths' runs disagreed."""
    refused = check_machine()
    names = [path.name for path in PATHS if path.name not in refused]
    with pinned(cpu):
        deadline = time.monotonic() + _BUDGET_S
        warm = time.monotonic() + _WARM_UP_S
        while time.monotonic() < warm:
            _round(names)
        rounds: list[dict[str, float]] = []
        while len(rounds) < _RUNS or (len(rounds) < _RUNS * _ROUNDS_PER_RUN and time.monotonic() < deadline):
            rounds.append(_round(names))
        overhead = clock_overhead_cycles()
    half = len(rounds) // 2
    costs, unstable = [], []
    for name in names:
        figures = [figure[name] for figure in rounds]
        costs.append(cost_of(name, figures, samples=_BATCHES * len(figures)))
        if not is_stable([figures[:half], figures[half:]]):
            unstable.append(name)
    return Timed(
        calibration=Calibration(method=QUICK_METHOD, clock_overhead_cycles=overhead, costs=costs, stable=not unstable),
        unstable=tuple(unstable),
    )


def _round(names: Sequence[str]) -> dict[str, float]:
    """One round: cycles a return by each path, base subtracted."""
    from iretrace._native import time_return  # noqa: PLC0415 - absent on other machines

    raw = {name: statistics.median(time_return(name, _ITERATIONS, _BATCHES)) for name in names}
    bases = {name: BY_NAME[name].base for name in names}
    return {name: raw[name] - (raw[base] if base is not None else 0.0) for name, base in bases.items()}


def clock_overhead_cycles() -> float:
    """Median cycles between two readings of the clock with one turn of an empty loop between them."""
    from iretrace._native import time_return  # noqa: PLC0415

    return statistics.median(time_return("empty", 1, 1000))
