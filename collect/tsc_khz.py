"""The TSC's frequency, against CLOCK_MONOTONIC_RAW.

NTP does not slew CLOCK_MONOTONIC_RAW. Where the clock source is itself the TSC, the result is the kernel's own
calibration of it, seen through the vDSO. Error: the two brackets' widths (tens of nanoseconds) over the span, about
1 ppm in 50 ms.
"""

from __future__ import annotations

import time
from typing import Final

from iretrace.errors import MachineError

_BRACKETS: Final = 200


def measure_tsc_khz(seconds: float = 0.05) -> float:
    """Measure the TSC's frequency over ``seconds`` (at least 0.05), in kHz.

    Raises:
        MachineError: there is no TSC to read, or it did not advance with the clock.
    """
    first_tsc, first_ns = _reading()
    time.sleep(max(seconds, 0.05))
    last_tsc, last_ns = _reading()
    if last_ns <= first_ns or last_tsc <= first_tsc:
        raise MachineError("TSC", "does not advance with CLOCK_MONOTONIC_RAW", expected="an invariant TSC")
    return (last_tsc - first_tsc) / (last_ns - first_ns) * 1e6


def _reading() -> tuple[float, int]:
    """TSC and nanoseconds at one moment: the narrowest of several brackets."""
    # Not at the module's top: the compiled part has no rdtsc elsewhere than on x86_64.
    try:
        from iretrace._native import rdtsc  # noqa: PLC0415
    except ImportError:
        raise MachineError("TSC", "cannot be read here", expected="an x86_64 CPU") from None
    brackets = ((rdtsc(), time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW), rdtsc()) for _ in range(_BRACKETS))
    before, nanoseconds, after = min(brackets, key=lambda bracket: bracket[2] - bracket[0])
    return (before + after) / 2, nanoseconds
