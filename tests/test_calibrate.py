"""Timing the return paths: the statistics, the refusals, and that the loops leave the process as they found it."""

from __future__ import annotations

import json
import math
import os
import platform
import random
import signal
import statistics
import sys
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iretrace import _native
from iretrace.cli import main
from iretrace.collect import calibrate
from iretrace.collect.tsc_khz import measure_tsc_khz
from iretrace.errors import MachineError, UsageError
from iretrace.replay import costs

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.pinned

X86 = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="the return paths are x86_64 Linux's"
)
CPU = max(os.sched_getaffinity(0)) if sys.platform == "linux" else 0


@pytest.mark.parametrize(("n", "rank"), [(1, 1), (5, 1), (6, 1), (8, 1), (9, 2), (16, 4), (100, 40)])
def test_the_median_interval_takes_the_ranks_of_the_binomial_table(n: int, rank: int) -> None:
    """Conover's table A3 (p = 0.5): the largest rank whose tail is at most 2.5 %."""
    low, high = calibrate.median_interval(range(1, n + 1))
    assert (low, high) == (rank, n + 1 - rank)
    tail = sum(math.comb(n, k) for k in range(rank)) / 2**n
    assert n < 6 or tail <= 0.025
    assert tail + math.comb(n, rank) / 2**n > 0.025


def test_the_median_interval_covers_the_median_as_often_as_it_says() -> None:
    """Of skewed samples, too: at least 95 % of 2,000."""
    rng = random.Random(20140520)  # noqa: S311 - not for secrets
    truth = math.log(2)  # the median of the exponential distribution
    covered = 0
    for _ in range(2000):
        low, high = calibrate.median_interval([rng.expovariate(1) for _ in range(15)])
        covered += low <= truth <= high
    assert covered / 2000 > 0.94


@given(st.lists(st.floats(allow_nan=False), min_size=1, max_size=60), st.randoms(use_true_random=False))
def test_the_median_interval_holds_the_median_in_any_order(values: list[float], rng: random.Random) -> None:
    """Low <= median <= high, whatever the order of the samples."""
    low, high = calibrate.median_interval(values)
    assert low <= statistics.median_low(values) <= statistics.median_high(values) <= high
    shuffled = values[:]
    rng.shuffle(shuffled)
    assert calibrate.median_interval(shuffled) == (low, high)


def test_no_values_have_no_interval() -> None:
    """Rather an error than an invented figure."""
    with pytest.raises(ValueError, match="no values"):
        calibrate.median_interval([])


def test_runs_that_overlap_are_stable_and_runs_apart_are_not() -> None:
    """Apart means by more than a cycle and by more than 5 %."""
    first = [100.0 + k / 10 for k in range(10)]
    assert calibrate.is_stable([first])
    assert calibrate.is_stable([first, [value + 0.5 for value in first]])
    assert calibrate.is_stable([first, [value + 4 for value in first]])
    assert not calibrate.is_stable([first, [value + 10 for value in first]])
    assert not calibrate.is_stable([first, first, [value - 10 for value in first]])
    assert not calibrate.is_stable([[1.0] * 8, [2.5] * 8])
    assert calibrate.is_stable([[1.0] * 8, [1.5] * 8])


def test_one_interrupted_batch_does_not_move_a_cost() -> None:
    """An outlier of 1,000 times the median changes neither the median nor the interval's lower end."""
    calm = [50.0 + k / 100 for k in range(16)]
    hit = [*calm[:-1], 50_000.0]
    assert calibrate.cost_of("ret", hit, 16).median_cycles == calibrate.cost_of("ret", calm, 16).median_cycles
    assert calibrate.cost_of("ret", hit, 16).high_cycles < 51


def test_a_shadow_stack_refuses_all_that_would_fault_under_it() -> None:
    """Every path but building the frame: also those whose base cannot run."""
    balanced = {path.name: path.name in {"frame", "popfq-ret-predicted"} for path in calibrate.PATHS}
    refused = calibrate.refusals(shadow_stack=True, balanced=balanced)
    assert set(refused) == {path.name for path in calibrate.PATHS} - {"frame"}
    assert "shadow stack" in refused["iretq"]
    assert "frame-call" in refused["popfq-ret-predicted"]
    assert calibrate.refusals(shadow_stack=False, balanced=balanced) == {}


def test_another_machine_is_told_so_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit status 2."""
    monkeypatch.setattr("iretrace.collect.calibrate.platform.machine", lambda: "aarch64")
    with pytest.raises(MachineError, match="aarch64"):
        calibrate.quick(CPU)
    with pytest.raises(SystemExit) as ended:
        main(["calibrate", "--quick"])
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert "x86_64" in said.err


def test_every_ret_path_of_the_costs_is_timed() -> None:
    """The names in replay.costs and in the calibration are the same words."""
    assert {costs.IRETQ, *costs.RET_PATHS} <= set(calibrate.BY_NAME)
    assert all(path.base is None or calibrate.BY_NAME[path.base].base is None for path in calibrate.PATHS)


@X86
def test_the_compiled_part_knows_every_path() -> None:
    """And one more, the empty loop, for the clock's own cost."""
    balanced = _native.return_paths()
    assert set(balanced) == {path.name for path in calibrate.PATHS} | {"empty"}
    assert {name for name, yes in balanced.items() if yes} == {"empty", "frame", "popfq-ret-predicted"}


@X86
@pytest.mark.parametrize("path", [path.name for path in calibrate.PATHS])
def test_a_path_gives_one_positive_sample_a_batch(path: str) -> None:
    """Between a fraction of a cycle and what an emulator might take."""
    samples = _native.time_return(path, 7, 13)
    assert len(samples) == 13
    assert all(0 < sample < 1e7 for sample in samples)


@X86
@pytest.mark.parametrize(
    "arguments",
    [
        ("no such path", 1, 1),
        ("ret", 0, 1),
        ("ret", 1, 0),
        ("ret", -5, 1),
        ("ret", 1_000_001, 1),
        ("ret", 1, 1_000_001),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: tuple[str, int, int]) -> None:
    """Rather than looped over."""
    with pytest.raises(ValueError, match=r"return path|must lie in"):
        _native.time_return(*arguments)


@X86
def test_signals_may_come_at_any_instruction_of_a_path() -> None:
    """The loops run on a stack of their own, and a signal's frame is written under it: two hundred signals."""
    caught = []
    previous = signal.signal(signal.SIGALRM, lambda *_: caught.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
    try:
        while len(caught) < 200:
            for path in calibrate.PATHS:
                _native.time_return(path.name, 500, 10)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


@X86
def test_a_signal_handler_that_raises_ends_the_measurement() -> None:
    """Ctrl-C works while a long measurement runs."""

    class Interrupted(Exception):  # noqa: N818
        pass

    def interrupt(*_: object) -> None:
        raise Interrupted

    previous = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.02)
    began = time.process_time()
    try:
        with pytest.raises(Interrupted):
            _native.time_return("iretq", 10_000, 1_000_000)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert time.process_time() - began < 10  # of some minutes


@X86
def test_quick_times_every_path_and_puts_the_thread_back() -> None:
    """In about 0.1 s of a CPU's time."""
    home = os.sched_getaffinity(0)
    began = time.process_time()
    calibration = calibrate.quick(CPU)
    assert time.process_time() - began < 3
    assert os.sched_getaffinity(0) == home
    assert [cost.path for cost in calibration.costs] == [path.name for path in calibrate.PATHS]
    for cost in calibration.costs:
        assert cost.low_cycles <= cost.median_cycles <= cost.high_cycles
        assert cost.samples > 0
    by_name = {cost.path: cost.median_cycles for cost in calibration.costs}
    assert by_name["iretq"] > 0
    assert by_name["frame"] > 0
    assert calibration.clock_overhead_cycles is not None
    assert calibration.clock_overhead_cycles > 0


@X86
@pytest.mark.parametrize("cpu", [CPU + 4096, -1, 2**40])
def test_a_cpu_that_cannot_be_had_is_a_usage_error(cpu: int) -> None:
    """Without moving the thread."""
    home = os.sched_getaffinity(0)
    with pytest.raises(UsageError, match="one of"):
        calibrate.quick(cpu)
    assert os.sched_getaffinity(0) == home


@X86
def test_the_tsc_frequency_is_the_same_twice() -> None:
    """Two measurements agree to 200 ppm; an x86_64 TSC counts between 100 MHz and 10 GHz."""
    first, second = measure_tsc_khz(), measure_tsc_khz()
    assert abs(first - second) / first < 200e-6
    assert 1e5 < first < 1e7


def test_no_tsc_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on another machine, where the compiled part has no rdtsc."""
    monkeypatch.delattr(_native, "rdtsc", raising=False)
    with pytest.raises(MachineError, match="x86_64"):
        measure_tsc_khz()


@X86
def test_the_command_prints_every_path_and_what_a_ret_saves(capsys: pytest.CaptureFixture[str]) -> None:
    """``--quick``: no file, no progress, exit status 0."""
    with pytest.raises(SystemExit) as ended:
        main(["calibrate", "--quick", "--cpu", str(CPU)])
    assert ended.value.code == 0
    said = capsys.readouterr()
    assert said.err == ""
    for path in calibrate.PATHS:
        assert f"\n{path.name} " in said.out
    assert "saves" in said.out or "saving by RET unknown" in said.out
    assert max(map(len, said.out.splitlines()[:5])) < 200


@X86
def test_the_commands_json_holds_what_the_table_shows(capsys: pytest.CaptureFixture[str]) -> None:
    """The calibration has the footer's own shape."""
    with pytest.raises(SystemExit):
        main(["calibrate", "--quick", "--json"])
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == 1
    assert document["tsc_khz"] > 0
    for result in document["cpus"]:
        assert [cost["path"] for cost in result["calibration"]["costs"]] == [path.name for path in calibrate.PATHS]
        assert result["calibration"]["stable"] is (not result["unstable"])


@X86
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--quick", "-o", "x.json"], "drop --quick"),
        (["-o", "x.json.gz"], "not compressed"),
        (["-o", "there.json"], "--force"),
        (["--quick", "--cpu", "4095"], "one of"),
        (["--cpu", "-1"], "--help"),
    ],
)
def test_what_cannot_be_done_says_what_would(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Before anything is timed, in one line, with exit status 2."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.json").write_text("mine", encoding="ascii")
    with pytest.raises(SystemExit) as ended:
        main(["calibrate", *arguments])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert said in error
    assert (tmp_path / "there.json").read_text(encoding="ascii") == "mine"


def test_the_help_names_every_path(capsys: pytest.CaptureFixture[str]) -> None:
    """And the examples are there."""
    with pytest.raises(SystemExit):
        main(["calibrate", "--help"])
    said = capsys.readouterr().out
    assert "Examples:" in said
    for path in calibrate.PATHS:
        assert path.name in said
