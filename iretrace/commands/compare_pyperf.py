"""Both sides of a comparison as pyperf's JSON, for ``python -m pyperf compare_to``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from iretrace.errors import UsageError
from iretrace.output import replacing

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pyperf

    from iretrace.store.run import Run


def write_suites(sides: Sequence[Sequence[Run]], targets: Sequence[Path], *, force: bool) -> None:
    """Write one suite a side: every quantile of latency and self time that all runs know, in seconds, a value a run.

    pyperf is about times, where less is better: rates and shares are left out.

    Raises:
        UsageError: a run does not know the TSC's frequency, or the sides have no time in common.
        OutputError: a file cannot be written.
    """
    import pyperf  # noqa: PLC0415 - only for those who ask

    from iretrace.analysis.measures import estimates, name_of  # noqa: PLC0415

    for run in (run for side in sides for run in side):
        if not run.footer.clock.tsc_khz:
            raise UsageError("--pyperf", f"run {run.id} does not know the TSC's frequency", expected="times in seconds")
    known = [[estimates(run, run.policies[0].name) for run in side] for side in sides]
    keys = [
        key
        for key, estimate in known[0][0].items()
        if key[1].startswith(("latency", "self"))
        and all(key in run and run[key].value > 0 for side in known for run in side)
    ]
    if not keys:
        raise UsageError("--pyperf", "no time is known on both sides", expected="traps whose entry and exit were seen")
    for side, values, target in zip(sides, known, targets, strict=True):
        benchmarks = []
        for vector, measure in keys:
            runs = [
                _run(run, f"{name_of(vector)}.{measure}", one[vector, measure].value)
                for run, one in zip(side, values, strict=True)
            ]
            benchmarks.append(pyperf.Benchmark(runs))
        with replacing(target, force=force) as temporary:
            pyperf.BenchmarkSuite(benchmarks).dump(str(temporary))


def _run(run: Run, name: str, cycles: float) -> pyperf.Run:
    import pyperf  # noqa: PLC0415

    khz = run.footer.clock.tsc_khz
    assert khz  # noqa: S101 - checked above
    metadata = {"name": name, "unit": "second", "hostname": run.footer.host.name or "unknown", "iretrace_run": run.id}
    return pyperf.Run([cycles / (khz * 1e3)], metadata=metadata, collect_metadata=False)
