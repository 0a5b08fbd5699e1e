"""What --only, --cpu, --pid, --comm and --cgroup stand for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from iretrace.collect import filters, selection
from iretrace.collect.filters import Filters
from iretrace.collect.hooks import CLASSES
from iretrace.commands.collect_ import command
from iretrace.errors import UsageError
from iretrace.footer import Filters as Asked
from iretrace.footer import Footer, TrapClass

if TYPE_CHECKING:
    from pathlib import Path


def test_a_class_answers_to_its_names() -> None:
    """The name itself, without its #, in any case, and the word people use."""
    for word in ("#PF", "pf", "PF", "page-faults"):
        assert selection.select([word], CLASSES) == {"#PF"}
    assert selection.select(["nmi"], CLASSES) == {"NMI"}
    assert selection.select(["devices"], CLASSES) == {"device"}


def test_groups_are_what_they_say() -> None:
    """Exceptions and interrupts have nothing in common, and IPIs are interrupts."""
    exceptions, interrupts, ipis = (selection.select([word], CLASSES) for word in ("exceptions", "interrupts", "ipis"))
    assert "#PF" in exceptions
    assert not exceptions & interrupts
    assert ipis < interrupts
    assert {"reschedule", "call-function-single"} <= ipis
    assert "timer" in interrupts - ipis
    assert exceptions | interrupts | {"NMI"} == selection.select([], CLASSES)


def test_an_unknown_class_is_refused_with_all_that_are_known() -> None:
    """One line that names every word."""
    with pytest.raises(UsageError) as caught:
        selection.select(["nmi", "coffee"], CLASSES)
    for word in ("coffee", "page-faults", "ipis", "nmi"):
        assert word in str(caught.value)


def test_hooks_of_other_classes_are_not_attached_and_shown_as_not_asked_for() -> None:
    """Nothing of them is called missing: they were not wanted."""
    wanted = selection.select(["nmi"], CLASSES)
    left = selection.not_asked(CLASSES, wanted)
    assert "nmi_handler" not in left
    assert left["page_fault_user"] == selection.NOT_ASKED
    classes = [TrapClass(name="#PF", vectors=[14], entry="page_fault_user"), TrapClass(name="NMI", entry="nmi_handler")]
    pf, nmi = selection.mark(classes, CLASSES, wanted)
    assert (pf.entry, pf.lacks) == (None, selection.NOT_ASKED)
    assert nmi == classes[1]


def test_values_that_nothing_can_match_are_refused() -> None:
    """A CPU that is not online, a process that does not run, a cgroup that does not exist."""
    for asked in (Filters(cpus=(9,)), Filters(pids=(2**22 + 1,)), Filters(cgroups=("no/such",) * 9)):
        with pytest.raises(UsageError):
            asked.check([0, 1])
    Filters(cpus=(1,), pids=(1,)).check([0, 1])


def test_a_run_without_filters_asks_for_no_code() -> None:
    """Macros are there for the kinds that are asked for, no others."""
    assert Filters().flags() == []
    assert Filters(cpus=(0,), comms=("x",)).flags() == ["-DIRETRACE_FILTER_CPU", "-DIRETRACE_FILTER_COMM"]


def test_the_cgroup_hierarchy_is_found_by_its_type(tmp_path: Path) -> None:
    """The first mount of type cgroup2, wherever it is."""
    mounts = tmp_path / "mounts"
    mounts.write_text("tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup2 /sys/fs/cgroup/my\\040unified cgroup2 rw 0 0\n")
    assert str(filters.cgroup2_root(mounts)) == "/sys/fs/cgroup/my unified"
    mounts.write_text("tmpfs /sys/fs/cgroup tmpfs rw 0 0\n")
    assert filters.cgroup2_root(mounts) is None


def test_a_filtered_trace_says_so() -> None:
    """The footer's limits name every kind that was asked for."""
    assert Footer().limits() == []
    (sentence,) = Footer(filters=Asked(only=["NMI"], cpus=[0, 3], comms=["sh"])).limits()
    for word in ("NMI", "0, 3", "sh"):
        assert word in sentence


@pytest.mark.parametrize(
    ("option", "value"), [("--pid", "x"), ("--cpu", "1-x"), ("--cpu", "-"), ("--buffer", "much"), ("--tag", "x")]
)
def test_values_that_are_none_are_usage_errors(option: str, value: str) -> None:
    """Refused by the command line, before anything is asked of the machine."""
    done = CliRunner().invoke(command, [option, value])
    assert done.exit_code == 2
    assert "expected" in done.output
