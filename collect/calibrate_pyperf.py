"""The thorough calibration: every return path in processes of its own, run and stored by pyperf.

A pass runs every path once, each in :data:`~iretrace.collect.calibrate_worker.PROCESSES` fresh processes; several
passes are made, so that paths are compared at several times and in several placements of the code in memory. A figure
is one process's median less that of its base in the same pass; the passes are the runs that have to agree.

The stored values are seconds a return by the TSC, frame building included: ``python -m pyperf show`` and
``compare_to`` read them, and each benchmark's metadata says the path, its base and the TSC's kHz to have cycles again.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import iretrace
from iretrace.collect.calibrate import BY_NAME, PATHS, Timed, check_machine, cost_of, is_stable, pinned
from iretrace.collect.calibrate_worker import BATCHES, PROCESSES
from iretrace.errors import InputError, MachineError
from iretrace.footer import Calibration

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pyperf

PASSES: Final = 3
METHOD: Final = "pyperf: processes timed with RDTSCP, frame building subtracted"

_MODULE: Final = "iretrace.collect.calibrate_worker"


def measure(
    cpu: int, *, tsc_khz: float, passes: int = PASSES, suffix: str = "", progress: Callable[[], None] | None = None
) -> pyperf.BenchmarkSuite:
    """Run every return path under pyperf on one CPU.

    Args:
        cpu: where the processes are pinned.
        tsc_khz: the TSC's frequency, which turns cycles into pyperf's seconds.
        passes: how often every path is run.
        suffix: put after the benchmarks' names, to tell core types apart.
        progress: called after each path of each pass (see :func:`steps`).

    Raises:
        MachineError: not x86_64 Linux, or a worker failed.
        UsageError: the CPU is offline or not allowed to this process.
    """
    import pyperf  # noqa: PLC0415 - 0.2 s that the quick calibration does without

    refused = check_machine()
    with pinned(cpu):
        pass  # only to have the error here rather than from a worker
    benchmarks: dict[str, pyperf.Benchmark] = {}
    with tempfile.TemporaryDirectory(prefix="iretrace-") as directory:
        for number in range(passes):
            for path in PATHS:
                if path.name in refused:
                    continue
                target = Path(directory) / f"{number}-{path.name}.json"
                _run_worker(path.name, path.name + suffix, cpu, tsc_khz, target)
                benchmark = pyperf.Benchmark.load(str(target))
                benchmark.update_metadata(
                    {"return_base": path.base or "none", "description": path.doc, "pinned_cpu": cpu}
                )
                if path.name in benchmarks:
                    for run in benchmark.get_runs():
                        benchmarks[path.name].add_run(run)
                else:
                    benchmarks[path.name] = benchmark
                if progress is not None:
                    progress()
    return pyperf.BenchmarkSuite(list(benchmarks.values()))


def steps(passes: int = PASSES) -> int:
    """How often :func:`measure` calls its ``progress``."""
    return passes * (len(PATHS) - len(check_machine()))


def summarize(suite: pyperf.BenchmarkSuite, *, passes: int = PASSES) -> Timed:
    """Costs in TSC cycles, base subtracted, of the benchmarks of one CPU.

    Raises:
        InputError: the suite does not hold a calibration.
    """
    runs: dict[str, list[list[float]]] = {}
    for benchmark in suite.get_benchmarks():
        metadata = benchmark.get_metadata()
        path, khz = metadata.get("return_path"), metadata.get("tsc_khz")
        if path not in BY_NAME or not isinstance(khz, float) or path in runs:
            raise InputError(
                benchmark.get_name(), "is not one return path's benchmark", expected="one CPU's calibration"
            )
        runs[path] = [[value * khz * 1e3 for value in run.values] for run in benchmark.get_runs()]
    costs, unstable = [], []
    for path, values in runs.items():
        base = BY_NAME[path].base
        if base is not None and len(runs.get(base, ())) != len(values):
            raise InputError(path, f"its base {base} was not run as often", expected="one CPU's calibration")
        bases = [statistics.median(run) for run in runs[base]] if base is not None else [0.0] * len(values)
        figures = [statistics.median(run) - below for run, below in zip(values, bases, strict=True)]
        costs.append(cost_of(path, figures, samples=BATCHES * sum(map(len, values))))
        above = [[value - below for value in run] for run, below in zip(values, bases, strict=True)]
        if not is_stable(_by_pass(above, passes)):
            unstable.append(path)
    calibration = Calibration(method=METHOD, costs=costs, stable=not unstable)
    return Timed(calibration=calibration, unstable=tuple(unstable))


def _by_pass(runs: Sequence[Sequence[float]], passes: int) -> list[list[float]]:
    """Join the runs of each pass; they lie in the order in which they were made."""
    each = max(1, len(runs) // passes)
    return [[value for run in runs[at : at + each] for value in run] for at in range(0, len(runs), each)]


def _run_worker(path: str, name: str, cpu: int, tsc_khz: float, target: Path) -> None:
    """Run one path's processes; pyperf's own words are kept from the terminal.

    Raises:
        MachineError: the worker failed.
    """
    options = ["--path", path, "--name", name, "--tsc-khz", repr(tsc_khz), "--processes", str(PROCESSES)]
    command = [sys.executable, "-P", "-m", _MODULE, *options, "--affinity", str(cpu), "--quiet", "-o", str(target)]
    # pyperf hands PYTHONPATH, and little else, to its processes: with it they find this very iretrace, be it
    # installed, editable or a checkout on a path that only this process knows.
    # Nothing is looked for in the working directory (-P), and none of the directories is relative to it.
    search = [str(Path(iretrace.__file__).resolve().parent.parent)]
    search += [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if os.path.isabs(path)]  # noqa: PTH117
    environment: dict[str, Any] = {**os.environ, "PYTHONPATH": os.pathsep.join(search)}
    done = subprocess.run(
        command, cwd="/", env=environment, capture_output=True, text=True, errors="replace", check=False
    )
    if done.returncode != 0 or not target.exists():
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise MachineError(f"calibrate {path}", f"the worker ended with status {done.returncode} ({last})")
