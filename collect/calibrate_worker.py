"""One return path under pyperf: ``python -m iretrace.collect.calibrate_worker --path iretq --tsc-khz KHZ -o FILE``.

pyperf starts this module again for every process. It imports no more of iretrace than it times. A value is the median
batch's seconds a return, frame building included (pyperf wants positive values; the base is a benchmark of its own).
"""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Final

from iretrace._native import time_return

if TYPE_CHECKING:
    import argparse

ITERATIONS: Final = 200
BATCHES: Final = 400
PROCESSES: Final = 2
VALUES: Final = 5

_MODULE: Final = "iretrace.collect.calibrate_worker"


def time_loops(loops: int, path: str, tsc_khz: float) -> float:
    """Seconds that ``loops`` returns by a path take, by the median of their batches of :data:`ITERATIONS`."""
    samples = time_return(path, ITERATIONS, max(1, loops // ITERATIONS))
    return statistics.median(samples) * loops / (tsc_khz * 1e3)


def _pass_on(command: list[str], args: argparse.Namespace) -> None:
    command.extend(("--path", args.path, "--name", args.name, "--tsc-khz", repr(args.tsc_khz)))


def main() -> None:
    """Run the benchmark as pyperf's options say."""
    import pyperf  # noqa: PLC0415 - time_loops is of use without it

    runner = pyperf.Runner(
        processes=PROCESSES,
        values=VALUES,
        warmups=1,
        loops=ITERATIONS * BATCHES,
        program_args=("-P", "-m", _MODULE),
        add_cmdline_args=_pass_on,
    )
    runner.argparser.add_argument("--path", required=True)
    runner.argparser.add_argument("--name", required=True)
    runner.argparser.add_argument("--tsc-khz", type=float, required=True)
    args = runner.parse_args()
    runner.metadata["return_path"] = args.path
    runner.metadata["tsc_khz"] = args.tsc_khz
    runner.bench_time_func(args.name, time_loops, args.path, args.tsc_khz)


if __name__ == "__main__":
    main()
