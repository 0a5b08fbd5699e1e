"""The thorough calibration: pyperf's processes, its file, and the way back to cycles."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pyperf
import pytest

import iretrace
from iretrace.cli import main
from iretrace.collect import calibrate_machine, calibrate_pyperf, calibrate_worker
from iretrace.collect.calibrate import BY_NAME
from iretrace.collect.calibrate_machine import CoreClock
from iretrace.collect.tsc_khz import measure_tsc_khz
from iretrace.errors import InputError, MachineError, UsageError
from tests.conftest import REQUIRED

pytestmark = pytest.mark.pinned

X86 = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="the return paths are x86_64 Linux's"
)
CPU = max(os.sched_getaffinity(0)) if sys.platform == "linux" else 0
KHZ = 2_000_000.0
TWO = (BY_NAME["frame"], BY_NAME["iretq"])


@pytest.fixture
def two_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only IRETQ and its base, once: a second rather than twenty."""
    monkeypatch.setattr(calibrate_pyperf, "PATHS", TWO)


def benchmark(path: str, runs: list[list[float]], name: str = "") -> pyperf.Benchmark:
    """A path's benchmark whose runs hold these TSC cycles."""
    metadata = {"name": name or path, "return_path": path, "tsc_khz": KHZ, "loops": 1}
    return pyperf.Benchmark(
        [
            pyperf.Run([cycles / (KHZ * 1e3) for cycles in run], metadata=metadata, collect_metadata=False)
            for run in runs
        ]
    )


def suite(**runs: list[list[float]]) -> pyperf.BenchmarkSuite:
    """Benchmarks by path (``_`` for ``-``)."""
    return pyperf.BenchmarkSuite([benchmark(path.replace("_", "-"), values) for path, values in runs.items()])


def test_cycles_come_back_from_seconds_less_their_base() -> None:
    """Each process against the base's process of the same pass."""
    timed = calibrate_pyperf.summarize(
        suite(
            frame=[[10.0, 10.0], [10.5, 10.5], [11.0, 11.0]],
            iretq=[[110.0, 110.0], [112.5, 112.5], [112.0, 112.0]],
        )
    )
    frame, iretq = timed.calibration.costs
    assert (frame.path, iretq.path) == ("frame", "iretq")
    assert iretq.median_cycles == pytest.approx(101)
    assert [iretq.low_cycles, iretq.high_cycles] == pytest.approx([100, 102])
    assert timed.calibration.stable
    assert iretq.samples == 6 * calibrate_worker.BATCHES


def test_passes_that_disagree_are_told_by_path() -> None:
    """IRETQ at 100 cycles in one pass and at 150 in the next is no figure to trust."""
    timed = calibrate_pyperf.summarize(
        suite(frame=[[10.0] * 5, [10.0] * 5, [10.0] * 5], iretq=[[110.0] * 5, [160.0] * 5, [110.0] * 5])
    )
    assert timed.unstable == ("iretq",)
    assert not timed.calibration.stable


def test_a_negative_cost_stays_negative() -> None:
    """A path cheaper than its base is shown as it was measured."""
    timed = calibrate_pyperf.summarize(suite(frame=[[10.0] * 3] * 3, iretq=[[9.0] * 3] * 3))
    assert timed.calibration.costs[1].median_cycles == pytest.approx(-1)


@pytest.mark.parametrize(
    "wrong",
    [
        pyperf.BenchmarkSuite([benchmark("iretq", [[1.0]])]),
        pyperf.BenchmarkSuite([benchmark("frame", [[1.0]]), benchmark("iretq", [[1.0], [1.0]])]),
        pyperf.BenchmarkSuite([benchmark("frame", [[1.0]]), benchmark("frame", [[1.0]], name="again")]),
        pyperf.BenchmarkSuite([benchmark("json_dumps", [[1.0]])]),
    ],
    ids=["no base", "base run less often", "a path twice", "another benchmark"],
)
def test_a_suite_of_something_else_is_refused(wrong: pyperf.BenchmarkSuite) -> None:
    """Naming what is off."""
    with pytest.raises(InputError, match="expected one CPU's calibration"):
        calibrate_pyperf.summarize(wrong)


@X86
@pytest.mark.usefixtures("two_paths")
@pytest.mark.slow
def test_the_file_is_pyperfs_own(tmp_path: Path) -> None:
    """It loads, names the paths and the CPU, and ``python -m pyperf show`` reads it."""
    target = tmp_path / "costs.json"
    called = []
    measured = calibrate_pyperf.measure(CPU, tsc_khz=measure_tsc_khz(), passes=1, progress=lambda: called.append(1))
    measured.dump(str(target))
    loaded = pyperf.BenchmarkSuite.load(str(target))
    assert loaded.get_benchmark_names() == ["frame", "iretq"]
    assert len(called) == calibrate_pyperf.steps(passes=1) == 2
    iretq = loaded.get_benchmark("iretq")
    assert iretq.get_nvalue() == calibrate_worker.PROCESSES * calibrate_worker.VALUES
    assert iretq.get_metadata()["return_base"] == "frame"
    assert iretq.get_metadata()["cpu_affinity"] == str(CPU)
    timed = calibrate_pyperf.summarize(loaded, passes=1)
    assert [cost.path for cost in timed.calibration.costs] == ["frame", "iretq"]
    assert timed.calibration.costs[1].median_cycles > 0
    shown = subprocess.run(
        [sys.executable, "-m", "pyperf", "show", "-q", str(target)], capture_output=True, text=True, check=True
    )
    assert "iretq" in shown.stdout


@X86
@pytest.mark.usefixtures("two_paths")
@pytest.mark.slow
def test_the_command_keeps_the_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``-o``: a pyperf file, no progress bar in a pipe; the table says what follows."""
    monkeypatch.setattr(calibrate_pyperf, "PROCESSES", 1)
    target = tmp_path / "costs.json"
    with pytest.raises(SystemExit) as ended:
        main(["calibrate", "--cpu", str(CPU), "-o", str(target)])
    assert ended.value.code == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert "iretq" in said.out
    assert f"pyperf show {target}" in said.out
    assert "iretq" in pyperf.BenchmarkSuite.load(str(target)).get_benchmark_names()
    assert list(tmp_path.iterdir()) == [target]


@X86
@pytest.mark.slow
def test_workers_find_an_iretrace_that_only_this_process_knows(tmp_path: Path) -> None:
    """A checkout put on sys.path by hand, from a directory of no help, with no PYTHONPATH."""
    root = Path(iretrace.__file__).resolve().parent.parent
    code = (
        f"import sys; sys.path.insert(0, {str(root)!r})\n"
        "from iretrace.collect import calibrate_pyperf as c, calibrate as b\n"
        "c.PATHS = (b.BY_NAME['frame'],)\n"
        f"print(c.measure({CPU}, tsc_khz=1e6, passes=1).get_benchmark_names())\n"
    )
    bare = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=bare, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "['frame']", done.stderr


@X86
@pytest.mark.usefixtures("two_paths")
def test_a_worker_that_fails_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the last of what it said."""
    monkeypatch.setattr(calibrate_pyperf, "_MODULE", "iretrace.no_such_worker")
    with pytest.raises(MachineError, match=r"calibrate frame: the worker ended with status 1 \(.*no_such_worker"):
        calibrate_pyperf.measure(CPU, tsc_khz=KHZ, passes=1)


@X86
def test_a_cpu_that_cannot_be_had_starts_no_worker() -> None:
    """As with the quick calibration."""
    with pytest.raises(UsageError, match="one of"):
        calibrate_pyperf.measure(CPU + 4096, tsc_khz=KHZ)


def write(path: Path, text: str) -> None:
    """A file as sysfs would show it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="ascii")


def test_a_hybrid_cpu_is_timed_once_a_core_type(tmp_path: Path) -> None:
    """The highest CPU of each type that this process may use."""
    write(tmp_path / "cpu_core" / "cpus", "0-7")
    write(tmp_path / "cpu_atom" / "cpus", "8-15")
    types = calibrate_machine.core_types(tmp_path)
    assert types == {"cpu_core": list(range(8)), "cpu_atom": list(range(8, 16))}
    assert calibrate_machine.choose_cpus(types, set(range(12))) == {7: "cpu_core", 11: "cpu_atom"}
    assert calibrate_machine.choose_cpus(types, {2}) == {2: "cpu_core"}
    assert calibrate_machine.choose_cpus({}, {0, 1, 2}) == {2: ""}
    assert calibrate_machine.core_types(tmp_path / "none") == {}


def test_each_core_types_cycles_are_counted_by_its_own_pmu(tmp_path: Path) -> None:
    """The PMU's number is in the upper half of the event; where there is one PMU or none, it is 0."""
    write(tmp_path / "cpu_atom" / "type", "10")
    write(tmp_path / "cpu_core" / "type", "four")
    assert calibrate_machine.cycles_event("cpu_atom", tmp_path) == 10 << 32
    assert calibrate_machine.cycles_event("cpu_core", tmp_path) == 0
    assert calibrate_machine.cycles_event("cpu_lowpower", tmp_path) == 0
    assert calibrate_machine.cycles_event("", tmp_path) == 0


@X86
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two core types need two CPUs")
def test_the_command_on_a_hybrid_cpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """One table a core type, with core cycles where that type's PMU counts them and the reason where it does not.

    sysfs and the PMU are made up; both CPUs are timed.
    """
    first, second = sorted(os.sched_getaffinity(0))[:2]
    asked = []

    def counted(cpu: int, *, config: int) -> CoreClock:
        asked.append((cpu, config))
        return (
            CoreClock(per_tsc=2.0) if cpu == first else CoreClock(per_tsc=None, lacks="no counter of core cycles here")
        )

    monkeypatch.setattr(calibrate_machine, "core_types", lambda: {"cpu_core": [first], "cpu_atom": [second]})
    monkeypatch.setattr(calibrate_machine, "cycles_event", {"cpu_core": 4 << 32, "cpu_atom": 10 << 32}.__getitem__)
    monkeypatch.setattr(calibrate_machine, "core_clock", counted)
    with pytest.raises(SystemExit) as ended:
        main(["calibrate", "--quick", "--json"])
    assert ended.value.code == 0
    cpus = json.loads(capsys.readouterr().out)["cpus"]
    assert [(one["cpu"], one["core_type"]) for one in cpus] == [(first, "cpu_core"), (second, "cpu_atom")]
    assert [one["core_cycles_per_tsc_cycle"] for one in cpus] == [2.0, None]
    assert asked == [(first, 4 << 32), (second, 10 << 32)]

    with pytest.raises(SystemExit):
        main(["calibrate", "--quick"])
    core, atom = capsys.readouterr().out.split(f"CPU {second} cpu_atom")
    assert f"CPU {first} cpu_core" in core
    assert "core cycles: 2.000 a TSC cycle" in core
    words = next(line.split() for line in core.splitlines() if line.startswith("iretq "))
    assert float(words[5]) == pytest.approx(2 * float(words[1]), abs=0.11)
    assert "core cycles: no counter of core cycles here" in atom


def test_only_what_the_kernel_says_is_told(tmp_path: Path) -> None:
    """Files that are not there are left out."""
    write(tmp_path / "system/cpu/cpu3/cpufreq/scaling_governor", "powersave")
    write(tmp_path / "system/cpu/smt/control", "on")
    assert calibrate_machine.conditions(3, tmp_path) == {"SMT": "on", "governor": "powersave"}
    assert calibrate_machine.conditions(2, tmp_path) == {"SMT": "on"}


@X86
def test_a_counter_that_is_not_there_has_a_reason() -> None:
    """No PMU of that number: no core clock, and why."""
    missing = calibrate_machine.core_clock(CPU, kind=0x7FFF)
    assert missing.per_tsc is None
    assert "no counter" in missing.lacks


@X86
def test_a_counter_is_taken_per_tsc_cycle() -> None:
    """Oracle: the software clock counts nanoseconds, so its rate is known from the TSC's frequency."""
    found = calibrate_machine.core_clock(CPU, kind=1, config=0)
    if found.per_tsc is None and not REQUIRED:
        pytest.skip(f"perf is not for this user: {found.lacks}")
    assert found.per_tsc is not None, found.lacks
    assert found.per_tsc * measure_tsc_khz() * 1e3 == pytest.approx(1e9, rel=0.02)
