"""``iretrace calibrate``."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from iretrace.errors import EXIT_OK, UsageError
from iretrace.output import check_target, replacing

if TYPE_CHECKING:
    import pyperf

    from iretrace.collect.calibrate import Timed
    from iretrace.collect.calibrate_machine import CoreClock
    from iretrace.footer import Footer


_WIDE = 120
"""Columns of a terminal that has room for a word on each path."""


@dataclass(frozen=True, kw_only=True)
class _Result:
    """One CPU's calibration with what bears on it."""

    cpu: int
    core_type: str
    timed: Timed
    core_clock: CoreClock
    conditions: dict[str, str]


@click.command(
    epilog="""\b
Examples:
  iretrace calibrate --quick
  iretrace calibrate --cpu 3 -o costs.json
  python -m pyperf compare_to --table before.json costs.json
  iretrace calibrate --quick --json | jq '.cpus[0].saving'

\b
Paths (all return at the same privilege; docs/costs.md says what each does and does not tell):
  iretq                today's return to the kernel
  popfq-ret            the proposal's: POPFQ; RET to where no CALL came from
  popfq-ret-thunk      the same by a JMP to an aligned RET (retbleed, ITS)
  popfq-ret-safe       the same by a JMP to Safe RET (SRSO)
  popfq-ret-predicted  POPFQ; RET after a CALL from there: what a right prediction would give
  ret, ret-thunk, ret-safe  the same without POPFQ; stand in for STI; RET
  lretq                far RET, for comparison
  frame, frame-call    what was subtracted: building the frame, without and with a CALL
"""
)
@click.option(
    "-o", "--output", "target", type=click.Path(path_type=Path), help="Keep all samples here, as pyperf's JSON."
)
@click.option("-f", "--force", is_flag=True, help="Replace an existing output.")
@click.option("--quick", is_flag=True, help="In this process and 0.3 s, as collect does; without, pyperf for 20 s.")
@click.option(
    "--cpu", "only", type=click.IntRange(min=0), metavar="N", help="Time this CPU.  [default: one of each core type]"
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(*, target: Path | None, force: bool, quick: bool, only: int | None, as_json: bool) -> int:
    """Time IRET against the RET paths on this CPU.

    Runs in user mode and needs no privilege. The costs are TSC cycles a return, with the building of the frame
    subtracted; the interval covers the median with 95 %.
    """
    from iretrace.collect import calibrate  # noqa: PLC0415 - heavy imports wait for the verb

    calibrate.check_machine()
    if target is not None:
        if quick:
            raise UsageError("--output", "--quick keeps no samples", remedy="drop --quick or -o")
        if target.suffix == ".gz":
            raise UsageError(f"--output {target}", "is not compressed", expected="FILE.json")
        check_target(target, force=force)
    cpus = _choose(only)
    results, tsc_khz, suite = _measure(cpus, quick=quick)
    if target is not None and suite is not None:
        with replacing(target, force=force) as temporary:
            suite.dump(str(temporary))
    if as_json:
        click.echo(json.dumps(_document(results, tsc_khz), indent=2))
    else:
        _print(results, tsc_khz)
        if target is not None:
            click.echo(f"\n{target}: all samples; see: python -m pyperf show {target}")
    return EXIT_OK


def _choose(only: int | None) -> dict[int, str]:
    """The CPUs to time, by core type."""
    import os  # noqa: PLC0415

    from iretrace.collect.calibrate_machine import choose_cpus, core_types  # noqa: PLC0415

    types = core_types()
    if only is not None:
        return {only: next((name for name, cpus in types.items() if only in cpus), "")}
    return choose_cpus(types, os.sched_getaffinity(0))


def _measure(cpus: dict[int, str], *, quick: bool) -> tuple[list[_Result], float, pyperf.BenchmarkSuite | None]:
    """Time every CPU; the suite holds pyperf's samples where pyperf ran."""
    from iretrace.collect import calibrate  # noqa: PLC0415
    from iretrace.collect.calibrate_machine import conditions, core_clock, cycles_event  # noqa: PLC0415
    from iretrace.collect.tsc_khz import measure_tsc_khz  # noqa: PLC0415

    tsc_khz = measure_tsc_khz(0.05 if quick else 0.5)
    suite: pyperf.BenchmarkSuite | None = None
    results = []
    for cpu, core_type in cpus.items():
        if quick:
            timed = calibrate.time_quickly(cpu)
        else:
            timed, samples = _thorough(cpu, core_type, tsc_khz)
            if suite is None:
                suite = samples
            else:
                for benchmark in samples.get_benchmarks():
                    suite.add_benchmark(benchmark)
        clock = core_clock(cpu, config=cycles_event(core_type))
        results.append(_Result(cpu=cpu, core_type=core_type, timed=timed, core_clock=clock, conditions=conditions(cpu)))
    return results, tsc_khz, suite


def _thorough(cpu: int, core_type: str, tsc_khz: float) -> tuple[Timed, pyperf.BenchmarkSuite]:
    """Run pyperf with a progress bar on a terminal and silence in a pipe."""
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import Progress  # noqa: PLC0415

    from iretrace.collect import calibrate_pyperf  # noqa: PLC0415

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"CPU {cpu}", total=calibrate_pyperf.steps())
        suite = calibrate_pyperf.measure(
            cpu,
            tsc_khz=tsc_khz,
            suffix=f" ({core_type})" if core_type else "",
            progress=lambda: bar.advance(task),
        )
    return calibrate_pyperf.summarize(suite), suite


def _footer(result: _Result) -> Footer:
    """The footer that a trace of this machine would have, as far as costs go."""
    from iretrace.collect import kernel  # noqa: PLC0415
    from iretrace.footer import Footer  # noqa: PLC0415

    return Footer(
        host=kernel.host(),
        cpu=kernel.processor(),
        mitigations=kernel.mitigations(),
        calibration=result.timed.calibration,
    )


def _document(results: list[_Result], tsc_khz: float) -> dict[str, Any]:
    from iretrace.collect.calibrate import check_machine  # noqa: PLC0415
    from iretrace.replay import costs  # noqa: PLC0415

    footer = _footer(results[0])
    cpus = []
    for result in results:
        saving = costs.saving_per_return(_footer(result))
        cpus.append(
            {
                "cpu": result.cpu,
                "core_type": result.core_type or None,
                "conditions": result.conditions,
                "core_cycles_per_tsc_cycle": result.core_clock.per_tsc,
                "calibration": msgspec.to_builtins(result.timed.calibration),
                "unstable": list(result.timed.unstable),
                "refused": check_machine(),
                "saving": asdict(saving) if saving is not None else None,
            }
        )
    return {
        "schema": 1,
        "tsc_khz": tsc_khz,
        "host": msgspec.to_builtins(footer.host),
        "processor": msgspec.to_builtins(footer.cpu),
        "mitigations": footer.mitigations,
        "cpus": cpus,
    }


def _print(results: list[_Result], tsc_khz: float) -> None:
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    from iretrace.collect.calibrate import BY_NAME, check_machine  # noqa: PLC0415
    from iretrace.console import print_table, say  # noqa: PLC0415
    from iretrace.replay import costs  # noqa: PLC0415

    footer = _footer(results[0])
    where = {None: "bare metal", "unnamed": "a virtual machine"}.get(footer.host.hypervisor, footer.host.hypervisor)
    processor = footer.cpu
    click.echo(
        f"{processor.name}, {processor.vendor} family {processor.family} model {processor.model} stepping "
        f"{processor.stepping}, microcode {processor.microcode or 'not known'}; {where}; TSC {tsc_khz / 1e3:.3f} MHz"
    )
    for result in results:
        core = result.core_clock.per_tsc
        noted = ", ".join(f"{name} {said}" for name, said in result.conditions.items())
        click.echo(f"CPU {result.cpu} {result.core_type}".rstrip() + (f": {noted}" if noted else ""))
        click.echo(f"core cycles: {f'{core:.3f} a TSC cycle' if core else result.core_clock.lacks}")
        wide = Console().width >= _WIDE
        table = Table(box=None, pad_edge=False)
        table.add_column("path", no_wrap=True)
        for heading in ("TSC cycles", "interval", *(["core cycles"] if core else []), "batches"):
            table.add_column(heading, justify="right", no_wrap=True)
        for heading in ("runs", *(["what it is"] if wide else [])):
            table.add_column(heading, no_wrap=True)
        for cost in result.timed.calibration.costs:
            table.add_row(
                cost.path,
                f"{cost.median_cycles:.1f}",
                f"{cost.low_cycles:.1f} .. {cost.high_cycles:.1f}",
                *([f"{cost.median_cycles * core:.1f}"] if core else []),
                f"{cost.samples:,}",
                "DISAGREE" if cost.path in result.timed.unstable else "agree",
                *([BY_NAME[cost.path].doc] if wide else []),
            )
        click.echo()
        print_table(table)
        for path, reason in check_machine().items():
            click.echo(f"{path}: not timed, {reason}")
        click.echo()
        say(costs.describe(_footer(result)))
        if result.timed.unstable:
            click.echo(
                "Some paths' repeated runs disagree beyond their intervals: something else uses this core. "
                "Try a quieter moment, or another CPU with --cpu."
            )
