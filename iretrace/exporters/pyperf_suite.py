"""pyperf's JSON: how long each class of trap lasts, as a benchmark that ``python -m pyperf compare_to`` compares.

pyperf's value is the mean time of an operation over the loops of a run. Here the operation is a trap, a run is one of
:data:`RUNS` equal parts of the recorded window, and its loops are the traps of that part. A value is what the trap took
itself, traps inside it taken out. Classes whose exits no hook sees have no duration, and are left out.
"""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import numpy as np

from iretrace.errors import UsageError
from iretrace.replay import run
from iretrace.replay.contexts import N_SLOTS
from iretrace.replay.policies import DEVICE, IRET
from iretrace.vectors import vector_name

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import BinaryIO

    from iretrace.replay.policies import Policy
    from iretrace.replay.run import Returns
    from iretrace.trace import Trace

RUNS: Final = 20


def export(
    trace: Trace, _policies: Sequence[Policy], file: BinaryIO, *, progress: Callable[[int], None] | None = None
) -> int:
    """Write a trace's durations as a suite of pyperf.

    Args:
        trace: an opened trace.
        _policies: as the other formats have them; a duration is the same under all.
        file: where to.
        progress: called with the number of events of each batch.

    Returns:
        The number of benchmarks: of classes of trap with a duration.

    Raises:
        UsageError: the TSC's frequency or the window is not known, or no trap has a duration.
        Damaged: the trace holds what it must not.
    """
    import pyperf  # noqa: PLC0415 - 0.2 s

    footer, khz = trace.footer, trace.footer.clock.tsc_khz
    cycles = footer.duration_cycles()
    if khz is None or cycles is None or footer.window.start_tsc is None:
        found = "the TSC's frequency is not known" if khz is None else "the recorded window is not known"
        raise UsageError("--format pyperf", f"{trace.path}: {found}", expected="a trace that can be told in seconds")
    start = np.uint64(footer.window.start_tsc)
    total = np.zeros((N_SLOTS, RUNS))
    count = np.zeros((N_SLOTS, RUNS), np.int64)

    def add(batch: Returns) -> None:
        rows = batch.rows[batch.rows["self_known"]]
        since = np.maximum(rows["exit_tsc"], start) - start
        part = np.minimum(since * (RUNS / cycles), RUNS - 1).astype(np.intp)
        where = rows["slot"].astype(np.intp) * RUNS + part
        total.ravel()[:] += np.bincount(where, rows["self_cycles"], minlength=total.size)
        count.ravel()[:] += np.bincount(where, minlength=count.size)

    run.replay(trace, [IRET], sink=add, progress=progress)
    benchmarks = []
    for slot in np.flatnonzero(count.any(axis=1)).tolist():
        metadata = _metadata(trace, None if slot == DEVICE else slot)
        seen = np.flatnonzero(count[slot])
        runs = [
            pyperf.Run(
                [float(max(total[slot, part], 1) / count[slot, part] / khz / 1e3)],
                metadata={**metadata, "loops": int(count[slot, part])},
                collect_metadata=False,
            )
            for part in seen.tolist()
        ]
        benchmarks.append(pyperf.Benchmark(runs))
    if not benchmarks:
        raise UsageError("--format pyperf", f"{trace.path}: no trap's entry and exit were both seen")
    text = io.StringIO()
    pyperf.BenchmarkSuite(benchmarks).dump(text)
    file.write(text.getvalue().encode())
    return len(benchmarks)


def _metadata(trace: Trace, vector: int | None) -> dict[str, str | float]:
    footer = trace.footer
    known: dict[str, str | float] = {
        "name": vector_name(vector),
        "unit": "second",
        "description": "self time of a trap, mean over a part of the recorded window",
        "hostname": footer.host.name,
        "platform": f"Linux {footer.host.kernel}" if footer.host.kernel else "",
        "cpu_model_name": footer.cpu.name,
        "tsc_khz": footer.clock.tsc_khz or 0.0,
    }
    if footer.clock.anchors and 0 < footer.clock.anchors[0].realtime_ns < 4e18:
        when = datetime.fromtimestamp(footer.clock.anchors[0].realtime_ns / 1e9, tz=UTC)
        known["date"] = when.replace(tzinfo=None).isoformat(sep=" ")
    return {key: value for key, value in known.items() if value}
