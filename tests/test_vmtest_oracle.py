"""iretrace in an emulated machine tells the story that the emulator's own log tells, on two kernels.

The trace and the log are recorded once a kernel (about three minutes on an idle machine); every test looks at the same.
"""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING, Final

import pytest

from iretrace.vectors import DB
from vmtest import KERNELS
from vmtest.compare import compare, failures
from vmtest.kernels import ready
from vmtest.recording import RecordingOptions, record
from vmtest.report import text

if TYPE_CHECKING:
    from pathlib import Path

    from vmtest.report import Comparison

pytestmark = pytest.mark.vm

PROVOKED: Final = {
    # class of trap: what provokes it, by provoked.txt and how often in one; None: through the monitor or by the load
    "#DE, user": ("divide", 1),
    "#DB, user": ("single-step", 5),
    "#DB, kernel": ("kernel-debug", 1),
    "#BP, user": ("int3", 1),
    "#BP, kernel": ("kernel-breakpoint", 2),
    "#OF, user": ("int4", 1),
    "#UD, user": ("ud2", 1),
    "#GP, user": ("hlt", 2),
    "#MF, user": ("x87", 1),
    "#PF, kernel": ("kernel-fills", 1),
    "#PF, user": ("segfault", 1),
    "#MC, kernel": None,
    "NMI, kernel": None,
    "NMI, user": None,
    "timer, kernel": None,
    "timer, user": None,
    "call-function-single, kernel": None,
    "reschedule, kernel": None,
    "device, kernel": None,
}


@pytest.fixture(scope="module", params=KERNELS)
def recording(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording under one of the kernels; it stays where pytest keeps its files."""
    out = tmp_path_factory.mktemp("vm")
    record(RecordingOptions(kernel=ready(request.param)), out)
    return out


@pytest.fixture(scope="module")
def comparison(recording: Path) -> Comparison:
    """What the comparison found, printed for whoever reads a failure."""
    found = compare(recording)
    print(text(found))  # noqa: T201 - pytest shows it where a test fails
    return found


def test_the_two_tell_one_story(comparison: Comparison) -> None:
    """Counts, entries in order, IRETs to both modes, predictions, TSC: all within the bounds, all else explained."""
    assert failures(comparison) == []


def test_every_provoked_class_is_seen_with_its_frame(comparison: Comparison, recording: Path) -> None:
    """Each as often as it was provoked, at least; but for a breakpoint that the emulator itself passed over."""
    counts = dict(line.split() for line in (recording / "provoked.txt").read_text().splitlines())
    provoked = {kind: int(counts[source[0]]) * source[1] for kind, source in PROVOKED.items() if source is not None}
    # Of some hundred rounds QEMU runs one past the kernel's breakpoint without #DB: then its own log has one less, too.
    passed_over = provoked["#DB, user"] + provoked["#DB, kernel"] - comparison.counts[DB][0]
    assert passed_over <= 1
    provoked["#DB, kernel"] -= max(0, passed_over)
    for kind in PROVOKED:
        assert comparison.seen.get(kind, 0) >= provoked.get(kind, 1), kind


def test_every_policy_decides_rightly_on_every_class(comparison: Comparison) -> None:
    """Of the classes that return to the kernel, each was judged; and no return was judged otherwise than it must."""
    for policy, judged in comparison.decisions.items():
        for kind in (kind for kind in PROVOKED if kind.endswith("kernel")):
            assert judged.get(kind, (0, 0))[0] > 0, f"{kind} under {policy}"
        assert {kind: wrong for kind, (_, wrong) in judged.items() if wrong} == {}, policy


def test_what_follows_the_last_handler_is_inside_the_nmi(comparison: Comparison) -> None:
    """The kernel's complaint about an NMI that nobody claimed meets a kprobe: each such #BP gets rule 5's RET.

    Newer kernels complain ten times in five seconds and no more, in two lines, with two #BPs for each.
    """
    judged, wrong = comparison.decisions["rfc2014"]["#BP, kernel in NMI"]
    assert judged >= 40
    assert wrong == 0


@pytest.mark.parametrize("lost", ["trap", "iret"])
def test_a_lost_line_is_found(recording: Path, tmp_path: Path, lost: str) -> None:
    """The same recording with one trap or one IRETQ less in the log is not one story any more."""
    damaged = tmp_path / "damaged"
    shutil.copytree(recording, damaged, ignore=shutil.ignore_patterns("programs"))
    path = max(damaged.glob("log.*"), key=lambda one: one.stat().st_size)
    whole = path.read_text()
    pattern = r"^ *\d+: v=ec .*\n(?:.*\n)*?RIP=.*\n" if lost == "trap" else r"^IRET .* cs=0010 .*\n"
    # The log begins before the window and ends after it; its first and last page fault by a marker's fixed address.
    marks = [found.start() for found in re.finditer(r"v=0e .* IP=0033:00006000000000", whole)]
    places = list(re.compile(pattern, re.MULTILINE).finditer(whole, marks[0], marks[-1]))
    middle = places[len(places) // 2]
    path.write_text(whole[: middle.start()] + whole[middle.end() :])
    assert failures(compare(damaged)) != []
