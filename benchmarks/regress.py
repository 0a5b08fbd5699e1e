"""How often regress is wrong: false alarms on noise, and steps that are missed or misplaced, with known truth.

Usage: python -m benchmarks.regress
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import numpy as np

from benchmarks.common import Row
from iretrace.analysis.changepoints import Options, find_changes

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Maker = Callable[[np.random.Generator], NDArray[np.float64]]

RUNS: Final = 30
NOISE: Final = 1000
STEPS: Final = 400
WITHIN: Final = 2
OPTIONS: Final = Options()


def gaussian(rng: np.random.Generator) -> NDArray[np.float64]:
    """Noise of 2 %."""
    return rng.normal(0, 0.02, RUNS)


def heavy(rng: np.random.Generator) -> NDArray[np.float64]:
    """Student's t with 3 degrees of freedom, of a standard deviation of 2 %."""
    return np.asarray(rng.standard_t(3, RUNS) * 0.02 / np.sqrt(3))


def outliers(rng: np.random.Generator) -> NDArray[np.float64]:
    """Noise of 2 %; one run in fifteen is off by half."""
    return gaussian(rng) + 0.5 * (rng.random(RUNS) < 1 / 15)


def skewed(rng: np.random.Generator) -> NDArray[np.float64]:
    """Lognormal, of a standard deviation of about 2 %."""
    return np.asarray(0.02 * (rng.lognormal(0, 0.5, RUNS) - 1.13) / 0.6)


def dependent(rng: np.random.Generator) -> NDArray[np.float64]:
    """Noise of 2 % whose neighbours correlate by 0.3."""
    made = np.zeros(RUNS)
    for i in range(RUNS):
        made[i] = (0.3 * made[i - 1] if i else 0.0) + rng.normal(0, 0.02 * np.sqrt(1 - 0.09))
    return made


def drift(rng: np.random.Generator) -> NDArray[np.float64]:
    """Noise of 2 % on a drift of 5 % over the series."""
    return gaussian(rng) + np.linspace(0, 0.05, RUNS)


MAKERS: Final[tuple[tuple[str, Maker], ...]] = (
    ("noise of 2 %", gaussian),
    ("heavy tails (t, 3 degrees of freedom)", heavy),
    ("outliers of 50 % in one run of 15", outliers),
    ("lognormal noise", skewed),
    ("neighbours that correlate by 0.3", dependent),
    ("a drift of 5 %", drift),
)


def run() -> list[Row]:
    """All made series."""
    rows = []
    for name, make in MAKERS:
        rng = np.random.default_rng(1)
        series = [1 + make(rng) for _ in range(NOISE)]
        goal = "≤ 5 %" if make is gaussian else ""
        how = f"{NOISE:,} series of {RUNS} runs without a change"
        begin = time.process_time()
        alone = sum(bool(find_changes([values], OPTIONS)[0]) for values in series) / NOISE
        each = (time.process_time() - begin) / NOISE
        rows.append(
            Row(what=f"false alarms, {name}", goal=goal, measured=f"{alone:.1%}", how=how + ", each for itself")
        )
        if make is gaussian:
            together = sum(map(bool, find_changes(series, OPTIONS))) / NOISE
            rows.append(
                Row(what=f"false alarms, {name}, all at once", goal="≤ 5 %", measured=f"{together:.1%}", how=how)
            )
            rows.append(Row(what="CPU time a series", goal="", measured=f"{each * 1e3:.0f} ms", how=how))
    for name, make in MAKERS[:-1]:
        for where, label in ((15, "in the middle"), (None, "anywhere from run 6 to 24")):
            rows += _steps(name, make, where, label)
    return rows


def _steps(name: str, make: Maker, where: int | None, label: str) -> list[Row]:
    rng = np.random.default_rng(2)
    found = placed = 0
    for _ in range(STEPS):
        at = int(rng.integers(6, RUNS - 5)) if where is None else where
        values = 1 + make(rng)
        values[at:] += 0.05
        changes = find_changes([values], OPTIONS)[0]
        found += bool(changes)
        placed += any(abs(change.index - at) <= WITHIN and change.direction == "up" for change in changes)
    goal = "≥ 95 %" if make is gaussian and where is not None else ""
    how = f"{STEPS} series of {RUNS} runs"
    what = f"a step of 5 % {label}, {name}"
    return [
        Row(what=f"{what}: found", goal=goal, measured=f"{found / STEPS:.1%}", how=how),
        Row(what=f"{what}: and placed within {WITHIN} runs", goal=goal, measured=f"{placed / STEPS:.1%}", how=how),
    ]


if __name__ == "__main__":
    for row in run():
        print(f"{row.what}: {row.measured}  [goal {row.goal or 'none'}; {row.how}]", flush=True)
