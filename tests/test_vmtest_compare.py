"""The comparison with an emulator: its log is understood, what differs is found, only what was checked is explained."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmtest import entries, log, returns
from vmtest.align import align, shifted
from vmtest.compare import failures
from vmtest.decisions import by_the_mail, class_of
from vmtest.nesting import Nesting, nestings
from vmtest.pairs import CpuReturns, MatchedReturns, still_counted
from vmtest.report import CAUSES, Comparison, Difference, text
from vmtest.seen import Entry, Return

IDLE: Final = 0xFFFFFFFF81A592EB
STACK: Final = 0xFFFFFFFF82A03E98
USER_IP: Final = 0x401000
USER_SP: Final = 0x7FFF0000
SITE: Final = 0xFFFFFFFF81C01220

# As QEMU 7.2 and the plugin wrote it: a timer that interrupts the idle loop, a breakpoint of user mode, their returns.
SNIPPET: Final = """\
Servicing hardware INT=0xec
     0: v=ec e=0000 i=0 cpl=0 IP=0010:ffffffff81a592eb pc=ffffffff81a592eb SP=0018:ffffffff82a03e98 env->regs[R_EAX]=ff
RAX=ffffffff81a59180 RBX=0000000000000000 RCX=0000000000000000 RDX=4000000000000000
RSI=0000000000000000 RDI=0000000000089fac RBP=ffffffff82a1aa40 RSP=ffffffff82a03e98
RIP=ffffffff81a592eb RFL=00000246 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=0
IRET cpu=1 site=ffffffff81c01220 at=ffffc90000003f58 ip=ffffffff81a592eb cs=0010 flags=00000246 sp=ffffffff82a03e98 \
ss=0018 before=
check_exception old: 0xffffffff new 0xe
     1: v=03 e=0000 i=1 cpl=3 IP=0033:000055b10bd68370 pc=000055b10bd68370 SP=002b:00007fff5fcf4588 env->regs[R_EAX]=00
RIP=000055b10bd68370 RFL=00000202 [-------] CPL=3 II=0 A20=1 SMM=0 HLT=0
IRET cpu=1 site=ffffffff81c01220 at=fffffe0000002fd8 ip=000055b10bd685b0 cs=0033 flags=00000206 sp=00007fff5fcf3878 \
ss=002b before=4000
     2: v=ec e=0000 i=0 cpl=0 IP=0010:ffffffff81a592eb pc=ffffffff81a592eb SP=0018:ffffffff82a03e98 env->regs[R_EAX]=ff
"""


def test_the_emulators_log_is_understood() -> None:
    """Traps with the frame that was saved, IRETQs with the one that was popped; the cut end is left out."""
    story = log.parse(SNIPPET.splitlines(keepends=True))
    assert story is not None
    assert story.cpu == 1
    timer, timer_end, breakpoint_, handler = story.events
    assert isinstance(timer, log.Taken)
    assert (timer.vector, timer.cpl, timer.ip, timer.sp, timer.flags) == (0xEC, 0, IDLE, STACK, 0x246)
    assert isinstance(timer_end, log.Executed)
    assert (timer_end.site, timer_end.ip, timer_end.to_kernel, timer_end.before) == (SITE, IDLE, True, "")
    assert isinstance(breakpoint_, log.Taken)
    assert breakpoint_.ip == 0x55B10BD68371, "int3 saves the address behind it"
    assert isinstance(handler, log.Executed)
    assert not handler.to_kernel


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda lines: [line.replace("cpu=1", "cpu=0") if "ss=0018" in line else line for line in lines], "CPUs"),
        (lambda lines: [line for line in lines if not line.startswith("IRET")], "no IRETQ"),
        (lambda lines: [line for line in lines if not line.startswith("RIP")], "without the state"),
        (lambda lines: [line.replace("site=", "seat=") for line in lines], "not understood"),
    ],
)
def test_a_log_that_is_not_as_expected_is_refused(damage: object, expected: str) -> None:
    """Rather than compared by half."""
    assert callable(damage)
    with pytest.raises(log.LogError, match=expected):
        log.parse(damage(SNIPPET.splitlines(keepends=True)))


def test_a_thread_that_ran_no_cpu_has_no_story() -> None:
    """QEMU's other threads have logs too."""
    assert log.parse(["Servicing hardware INT=0xec\n"]) is None


def taken(at: int, vector: int = 0xEC, *, ip: int = IDLE, sp: int = STACK, cpl: int = 0) -> log.Taken:
    """A trap."""
    return log.Taken(
        at=at,
        vector=vector,
        error_code=0,
        cpl=cpl,
        cs=0x33 if cpl else 0x10,
        ip=ip,
        sp=sp,
        flags=0x246,
        software=False,
    )


def executed(
    at: int, *, ip: int = IDLE, sp: int = STACK, user: bool = False, flags: int = 0x246, before: str = ""
) -> log.Executed:
    """An IRETQ."""
    cs = 0x33 if user else 0x10
    return log.Executed(at=at, site=SITE, frame=0, cs=cs, ip=ip, sp=sp, flags=flags, before=before)


def entry(at: int, vector: int | None = 0xEC, *, ip: int = IDLE, sp: int | None = STACK) -> Entry:
    """An entry in the trace."""
    return Entry(at=at, tsc=1000 + at, vector=vector, ip=ip, sp=sp, cs=0x10, flags=0x246, hook="h", error_code=None)


def returned(
    tsc: int,
    vector: int = 0xEC,
    *,
    ip: int = IDLE,
    sp: int = STACK,
    user: bool = False,
    end: str = "exit",
    came_from: tuple[int, int] | None = None,
    choice: str = "RET",
) -> Return:
    """A return that the replay found."""
    return Return(
        tsc=tsc,
        entry_tsc=tsc,
        vector=vector,
        end=end,
        ip=ip,
        sp=sp,
        cs=0x33 if user else 0x10,
        flags=0x246,
        hook="exit_to_user" if user else "function_exit",
        came_from=came_from or (ip, sp),
        decisions={"iret": ("IRET", "always"), "rfc2014": (choice, "non-ist")},
    )


def nest(events: list[log.Taken | log.Executed]) -> Nesting:
    """The nesting of one CPU's story."""
    return nestings({0: log.CpuStory(cpu=0, events=events)})[0]


def match_entries(traps: list[log.Taken], seen: list[Entry], nesting: Nesting | None = None) -> entries.MatchedEntries:
    """Match one CPU's entries."""
    return entries.match(0, traps, seen, entries.Keys(), nesting or Nesting())


def causes(differences: list[Difference]) -> list[tuple[str, str | None]]:
    """What differs, and why."""
    return [(one.what, one.cause) for one in differences]


def test_entries_that_agree_match_in_order() -> None:
    """By vector, address and stack pointer."""
    found = match_entries([taken(0), taken(1, 14, ip=5)], [entry(0), entry(1, 14, ip=5)])
    assert (found.tally.total, found.tally.in_order, found.tally.differences) == (2, 2, [])


def test_an_nmi_before_the_outer_ones_hook_is_explained_only_if_it_was_inside() -> None:
    """The trace has the two the other way round; the emulator's story says which lay in which."""
    timer, nmi = taken(0), taken(1, 2, ip=7, sp=8)
    swapped = [entry(0, 2, ip=7, sp=8), entry(1)]
    inside = nest([timer, nmi, executed(2, ip=7, sp=8), executed(3)])
    found = match_entries([timer, nmi], swapped, inside)
    assert causes(found.tally.differences) == [("order", "nmi-before-hook")]
    one_after_the_other = nest([timer, executed(1), taken(2, 2, ip=7, sp=8), executed(3, ip=7, sp=8)])
    found = match_entries([timer, taken(2, 2, ip=7, sp=8)], swapped, one_after_the_other)
    assert causes(found.tally.differences) == [("order", None)]


def test_what_only_one_side_has_is_unexplained() -> None:
    """A lost event, an invented one, and a frame that is not the CPU's."""
    assert causes(match_entries([taken(0), taken(1, 3)], [entry(0)]).tally.differences) == [("only there", None)]
    assert causes(match_entries([taken(0)], [entry(0), entry(1, 3)]).tally.differences) == [("only here", None)]
    assert causes(match_entries([taken(0)], [entry(0, sp=1)]).tally.differences) == [("frame", None)]


def test_a_bystander_needs_another_cpu_that_logged_the_broadcast() -> None:
    """A machine check that no CPU's trace has stays unexplained."""
    check = taken(0, 18)
    seen, unseen = match_entries([check], [entry(0, 18)]), match_entries([check], [])
    assert entries.explain_bystanders({0: seen, 1: unseen}, {0: [check], 1: [check]}) == [(1, 0)]
    assert causes(unseen.tally.differences) == [("only there", "bystander")]
    neither = match_entries([check], [])
    assert entries.explain_bystanders({0: neither, 1: match_entries([check], [])}, {0: [check], 1: [check]}) == []
    assert causes(neither.tally.differences) == [("only there", None)]


def match_returns(
    events: list[log.Taken | log.Executed],
    seen: list[Return],
    window: tuple[int, int] = (0, 10**9),
    seen_of: dict[int, int] | None = None,
) -> MatchedReturns:
    """Match the returns of a machine of one CPU; the arguments are those of :func:`of_cpu`."""
    return returns.match([of_cpu(0, nest(events), events, seen, window, seen_of)])


def of_cpu(  # noqa: PLR0917 - a table's columns
    number: int,
    nesting: Nesting,
    events: list[log.Taken | log.Executed],
    seen: list[Return],
    window: tuple[int, int],
    seen_of: dict[int, int] | None = None,
) -> CpuReturns:
    """One CPU's returns.

    Args:
        number: the CPU's.
        nesting: of its story.
        events: the emulator's story.
        seen: the trace's returns.
        window: its edges, as places in the story and as TSCs alike.
        seen_of: by the place of a trap the TSC of its entry; by default they are of one order.
    """
    irets = [event for event in events if isinstance(event, log.Executed)]
    traps = [event for event in events if isinstance(event, log.Taken)]
    if seen_of is None:
        seen_of = {trap.at: one.entry_tsc for trap, one in zip(traps, seen, strict=False) if one.entry_tsc is not None}
    return CpuReturns(
        cpu=number,
        executed=irets,
        returns=seen,
        window=(sum(one.at < window[0] for one in irets), sum(one.at < window[1] for one in irets)),
        begins_at=window[0],
        tsc_window=window,
        nesting=nesting,
        taken=traps,
        entries=[
            (
                trap,
                Entry(
                    at=0,
                    tsc=tsc,
                    vector=trap.vector,
                    ip=trap.ip,
                    sp=trap.sp,
                    cs=trap.cs,
                    flags=0,
                    hook="h",
                    error_code=None,
                ),
            )
            for trap in traps
            if (tsc := seen_of.get(trap.at)) is not None
        ],
        unseen={},
    )


def test_each_iret_has_exactly_one_return() -> None:
    """Two to one target need two; a third return has no IRETQ."""
    events: list[log.Taken | log.Executed] = [taken(0), executed(1), taken(2), executed(3)]
    assert match_returns(events, [returned(1), returned(2)]).to_kernel.in_order == 2
    one_too_few = match_returns(events, [returned(1)])
    assert causes(one_too_few.to_kernel.differences) == [("only there", None)]
    one_too_many = match_returns(events, [returned(1), returned(2), returned(3)])
    assert causes(one_too_many.to_kernel.differences) == [("only here", None)]
    assert len(one_too_many.unmatched_returns) == 1


def test_returns_of_system_calls_are_told_from_those_of_traps() -> None:
    """By flags that no trap saves, by SYSCALL below more returns than traps, by the frame that a signal left."""
    signalled = taken(0, 3, ip=50, sp=60, cpl=3)
    events: list[log.Taken | log.Executed] = [
        signalled,
        executed(1, ip=90, sp=20, user=True),  # to the handler
        executed(2, ip=50, sp=60, user=True),  # rt_sigreturn
        executed(3, ip=1, sp=2, user=True, flags=0x200),  # a new program
        executed(4, ip=3, sp=4, user=True, before="0f05"),  # a new process
    ]
    found = match_returns(events, [returned(1, 3, ip=90, sp=20, user=True, came_from=(50, 60), choice="IRET")])
    assert found.system_calls == {"exec": 1, "system-call": 1, "signal-return": 1}
    assert (found.to_user.in_order, found.to_user.total, found.to_user.differences) == (1, 1, [])


def test_a_return_to_user_mode_that_no_trap_has_is_unexplained() -> None:
    """Being behind a SYSCALL does not explain it where a trap was taken at the same place."""
    events: list[log.Taken | log.Executed] = [
        taken(0, 14, ip=3, sp=4, cpl=3),
        executed(1, ip=3, sp=4, user=True, before="0f05"),
    ]
    assert causes(match_returns(events, []).to_user.differences) == [("only there", None)]


def test_a_mended_fault_is_matched_by_its_trap() -> None:
    """Its IRETQ goes elsewhere on the same stack; that needs a class whose exits are not seen."""
    events: list[log.Taken | log.Executed] = [taken(0, 14, ip=100, sp=7), executed(1, ip=200, sp=7)]
    unseen = match_returns(events, [returned(1, 14, ip=100, sp=7, end="no_hook")])
    assert causes(unseen.to_kernel.differences) == [("frame", "fixup-unseen")]
    wrong = match_returns(events, [returned(1, 14, ip=100, sp=7)])
    assert sorted(what for what, cause in causes(wrong.to_kernel.differences) if cause is None) == [
        "only here",
        "only there",
    ]


def test_a_signal_that_no_hook_saw_lies_on_the_stack_of_its_trap() -> None:
    """Its frame is right below; the trap's own return came by rt_sigreturn, however many traps were between."""
    for sp, cause in ((60_000 - 3_000, "signal-unseen"), (60_000 - 9_000, None), (60_008, None)):
        events: list[log.Taken | log.Executed] = [
            taken(0, 3, ip=50, sp=60_000, cpl=3),
            taken(1, 14, ip=7, sp=9_000_000, cpl=3),  # another task's
            executed(2, ip=7, sp=9_000_000, user=True),
            executed(3, ip=90, sp=sp, user=True),  # to the handler
            executed(4, ip=50, sp=60_000, user=True),  # rt_sigreturn
        ]
        seen = [
            replace(returned(1, 3, ip=50, sp=60_000, user=True, choice="IRET"), hook="sched_switch"),
            returned(2, 14, ip=7, sp=9_000_000, user=True, choice="IRET"),
        ]
        found = match_returns(events, seen).to_user
        assert [one.cause for one in found.differences if one.what in ("frame", "only there")] == [cause]
        assert found.unseen == (cause is not None)


def test_a_return_seen_on_its_way_to_user_mode_is_of_the_next_iret() -> None:
    """A lost IRETQ to a signal handler is not made up for by that of another signal, of which the trace saw nothing."""
    unseen_signal: list[log.Taken | log.Executed] = [
        taken(0, 3, ip=50, sp=60_000, cpl=3),
        executed(1, ip=90, sp=59_000, user=True),  # to the handler; its task was switched out before
        executed(2, ip=50, sp=60_000, user=True),  # rt_sigreturn
    ]
    seen_signal: list[log.Taken | log.Executed] = [
        taken(3, 3, ip=51, sp=60_000, cpl=3),
        executed(4, ip=90, sp=59_000, user=True),
        executed(5, ip=51, sp=60_000, user=True),
    ]
    seen = [
        replace(returned(1, 3, ip=50, sp=60_000, user=True, choice="IRET"), hook="sched_switch"),
        returned(2, 3, ip=90, sp=59_000, user=True, came_from=(51, 60_000), choice="IRET"),
    ]
    whole = match_returns([*unseen_signal, *seen_signal], seen)
    assert causes(whole.to_user.differences) == [("frame", "signal-unseen")]
    assert whole.system_calls == {"signal-return": 1}
    lost = match_returns([*unseen_signal, seen_signal[0], seen_signal[2]], seen)
    assert ("only here", None) in causes(lost.to_user.differences)


def test_a_trap_that_no_hook_shows_takes_no_others_return() -> None:
    """A bystander's machine check and a timer, both in the idle loop; the timer's IRETQ is missing."""
    events: list[log.Taken | log.Executed] = [taken(1), taken(3, 18), executed(4)]
    cpu = replace(of_cpu(0, nest(events), events, [returned(1)], (0, 10**9), {1: 1}), unseen={3: "bystander"})
    found = returns.match([cpu])
    assert sorted(causes(found.to_kernel.differences)) == [("only here", None), ("only there", "bystander")]


def test_an_edge_of_the_window_explains_only_what_it_cuts() -> None:
    """A trap open at the edge; an IRETQ whose return is missing is not explained by a like one elsewhere."""
    events: list[log.Taken | log.Executed] = [taken(10), executed(21), taken(25), executed(26)]
    begun_before = match_returns(events, [returned(11), returned(25)], window=(20, 100), seen_of={25: 25})
    assert ("order", "edge") in causes(begun_before.to_kernel.differences)
    assert begun_before.to_kernel.total == begun_before.to_kernel.matched == 2
    ended_after = match_returns([taken(10), executed(21)], [returned(11)], window=(0, 20))
    assert causes(ended_after.to_kernel.differences) == [("order", "edge")]
    assert ended_after.to_kernel.total == 0
    missing = match_returns(
        [taken(5), executed(6), taken(25), executed(26), taken(105), executed(106)],
        [returned(5), returned(105)],
        window=(20, 100),
        seen_of={},
    )
    assert causes(missing.to_kernel.differences) == [("only there", None)]


def test_each_cpus_window_has_edges_of_its_own() -> None:
    """A task that goes to another CPU inside its trap: the one's window had not begun, the other's had."""
    began: list[log.Taken | log.Executed] = [taken(5, ip=3, sp=4, cpl=3)]
    ended: list[log.Taken | log.Executed] = [executed(50, ip=3, sp=4, user=True)]
    nests = nestings({0: log.CpuStory(cpu=0, events=began), 1: log.CpuStory(cpu=1, events=ended)})
    seen = replace(returned(10, ip=3, sp=4, user=True), hook="sched_switch")

    def matched(begins: int, seen: list[Return]) -> MatchedReturns:
        one = of_cpu(0, nests[0], began, seen, (begins, 100), seen_of={})
        return returns.match([one, of_cpu(1, nests[1], ended, [], (0, 100))])

    assert causes(matched(20, [seen]).to_user.differences) == [("order", "edge")]
    assert causes(matched(4, [seen]).to_user.differences) == [("order", "moved")]
    assert causes(matched(20, []).to_user.differences) == [("only there", None)]


def test_a_machine_check_of_user_mode_may_be_switched_out() -> None:
    """Another task runs in user mode before it returns; one in the kernel would be over by then."""
    between = taken(2, 14, ip=30, sp=40, cpl=3)
    of_user = nest([taken(1, 18, ip=3, sp=4, cpl=3), between, executed(3, ip=3, sp=4, user=True)])
    assert of_user.trap[3].vector == 18
    of_kernel = nest([taken(1, 18, ip=3, sp=4), between, executed(3, ip=3, sp=4)])
    assert 3 not in of_kernel.trap


def test_traps_that_end_on_another_cpu_are_followed() -> None:
    """A trap that is open on one CPU alone, and an IRETQ to its frame on the other."""
    stories = {
        0: log.CpuStory(cpu=0, events=[taken(0, 14, ip=3, sp=4, cpl=3)]),
        1: log.CpuStory(cpu=1, events=[executed(0, ip=3, sp=4, user=True)]),
    }
    found = nestings(stories)
    assert found[1].trap[0] is stories[0].events[0]
    assert found[1].adopted == {0: 0}


def test_what_lay_below_a_return_is_known() -> None:
    """A breakpoint inside an NMI inside a timer."""
    events: list[log.Taken | log.Executed] = [
        taken(0),
        taken(1, 2, ip=10, sp=11),
        taken(2, 3, ip=20, sp=21),
        executed(3, ip=20, sp=21),
        executed(4, ip=10, sp=11),
        executed(5),
    ]
    found = nest(events)
    assert [found.below[at] for at in (3, 4, 5)] == [(0xEC, 2), (0xEC,), ()]
    breakpoint_, end = events[2], events[3]
    assert isinstance(breakpoint_, log.Taken)
    assert isinstance(end, log.Executed)
    assert class_of(breakpoint_, found.below[3]) == "#BP, kernel in NMI"
    assert by_the_mail(3, end, found.below[3], in_nmi_text=False) == "RET"
    assert by_the_mail(3, end, (), in_nmi_text=False) == "IRET"


def test_an_nmi_that_ends_clears_the_count_of_what_is_open() -> None:
    """A breakpoint in a machine check: counted as inside it before an NMI came and ended there, and not after."""
    events: list[log.Taken | log.Executed] = [
        taken(0, 18),
        taken(1, 3, ip=20, sp=21),
        executed(2, ip=20, sp=21),
        taken(3, 2, ip=10, sp=11),
        taken(4, 3, ip=20, sp=21),
        executed(5, ip=20, sp=21),
        executed(6, ip=10, sp=11),
        taken(7, 3, ip=20, sp=21),
        executed(8, ip=20, sp=21),
    ]
    found = nest(events)
    assert [found.below[at] for at in (2, 5, 6, 8)] == [(18,), (18, 2), (18,), (18,)]
    assert [tuple(trap.vector for trap in found.counted[at]) for at in (2, 5, 6, 8)] == [(18,), (18, 2), (18,), ()]


def test_a_trap_of_user_mode_whose_task_left_is_open_no_more() -> None:
    """From the moment the trace has it leave; what came before is inside, and a trap of the kernel's stays open."""
    debug, timer = taken(0, 1, ip=USER_IP, sp=USER_SP, cpl=3), taken(1)
    left = replace(returned(10, 1, ip=USER_IP, sp=USER_SP, user=True), hook="sched_switch", tsc=30)
    cpu = of_cpu(0, nest([debug, timer]), [debug, timer], [left], (0, 100))
    assert still_counted(cpu, (debug, timer), 30) == (1, 0xEC)
    assert still_counted(cpu, (debug, timer), 31) == (0xEC,)


@pytest.mark.parametrize("by", ["an IRETQ that no trap is known of", "a trap"])
def test_a_trap_of_user_mode_lies_below_nothing_once_user_mode_ran(by: str) -> None:
    """It returned to a signal's handler, or its task left the CPU: what comes then is not inside it."""
    ran = executed(1, ip=USER_IP + 8, user=True) if by != "a trap" else taken(1, 14, ip=USER_IP + 8, cpl=3)
    found = nest([taken(0, 1, ip=USER_IP, sp=USER_SP, cpl=3), ran, taken(2, 3), executed(3)])
    assert found.below[3][0] == 1
    assert 1 not in [trap.vector for trap in found.counted[3]]


def test_what_the_kernel_skipped_inside_an_nmi_is_told_from_what_was_lost() -> None:
    """Of two breakpoints that the trace lacks, the one in an NMI that interrupted a breakpoint has a cause."""
    events: list[log.Taken | log.Executed] = [
        taken(0, 3),
        taken(1, 2, ip=10, sp=11),
        taken(2, 3, ip=20, sp=21),
        executed(3, ip=20, sp=21),
        executed(4, ip=10, sp=11),
        executed(5),
        taken(6, 2, ip=10, sp=11),
        taken(7, 3, ip=30, sp=31),
        executed(8, ip=30, sp=31),
        executed(9, ip=10, sp=11),
    ]
    story = [event for event in events if isinstance(event, log.Taken)]
    found = entries.match(0, story, [], entries.Keys(), nest(events))
    assert found.skipped == [2]
    assert [one.cause for one in found.tally.differences] == [None, None, "skipped", None, None]


def test_causes_that_must_stay_rare_explain_no_more() -> None:
    """Skipped traps, as many as the trace counts; NMIs before the outer trap's hook, a small share of the NMIs."""
    for cause, said in (("skipped", "probe-skipped"), ("nmi-before-hook", "more than 2.5")):
        one = Difference(cpu=0, what="order", cause=cause, emulator="v=0x3 ", trace="")
        found = Comparison(losses={"probe-skipped": 2}, counts={2: (100, 100)})
        found.entries.differences = [one, one]
        assert not [line for line in failures(found) if said in line]
        found.entries.differences = [one, one, one]
        assert [line for line in failures(found) if said in line]


def test_alignment_keeps_order_and_says_where_the_rest_was() -> None:
    """What is left has the number of pairs before it."""
    found = align("abcXd", "abYcd", str, str)
    assert found.pairs == [(c, c) for c in "abcd"]
    assert found.only_a == [(3, "X")]
    assert found.only_b == [(2, "Y")]


@given(
    st.lists(st.sampled_from("abc"), max_size=60),
    st.lists(st.tuples(st.integers(0, 60), st.sampled_from("abcd"), st.booleans()), max_size=8),
)
def test_what_is_left_of_two_sequences_is_all_that_does_not_match(
    first: list[str], edits: list[tuple[int, str, bool]]
) -> None:
    """Every item is matched once with its like, in order, or left; and no more is left than was edited."""
    second = list(first)
    for place, item, insert in edits:
        second[place : place + (not insert)] = [item] if insert else []
    found = align(list(enumerate(first)), list(enumerate(second)), lambda one: one[1], lambda one: one[1])
    assert all(one[1] == other[1] for one, other in found.pairs)
    for pairs, left, items in (
        ([one for one, _ in found.pairs], found.only_a, first),
        ([other for _, other in found.pairs], found.only_b, second),
    ):
        assert pairs == sorted(pairs)
        assert sorted([*pairs, *(item for _, item in left)]) == list(enumerate(items))
        assert all(sum(pair < item for pair in pairs) == place for place, item in left)


def test_alignment_finds_swaps_in_the_midst_of_equal_items() -> None:
    """Where nearly all are alike, what is left has its like near."""
    story = ["p"] * 500 + ["n", "p"] + ["p"] * 500 + ["q"]
    told = ["p"] * 500 + ["p", "n"] + ["p"] * 499 + ["q"]  # two in the other order, and one less
    found = align(story, told, str, str)
    assert len(found.pairs) == len(told) - 1
    assert sorted(item for _, item in found.only_a) in (["n", "p"], ["p", "p"])
    assert len(found.only_b) == 1
    assert abs(found.only_a[0][0] - found.only_b[0][0]) <= 1


def test_equal_items_are_shifted_one_by_one() -> None:
    """The last of three equal items left over means that each matches its neighbour's partner."""
    moves = shifted("x", ["y", "x", "x"], str, back=True)
    assert [(mover, list(crossed)) for mover, crossed in moves] == [("x", ["y"]), ("x", []), ("x", [])]


def enough() -> Comparison:
    """A comparison that shows nothing wrong."""
    found = Comparison(kernel="6", seconds=6.0, cpus=2, counts={2: (60, 60), 0xEC: (9000, 9000)})
    found.entries.total = found.entries.in_order = 9060
    found.to_user.total = found.to_user.in_order = 1000
    found.to_kernel.total = found.to_kernel.in_order = 8000
    found.ret_predictions = (8000, 8000)
    return found


def test_a_comparison_passes_and_fails_by_what_it_found() -> None:
    """Each bound can be missed."""
    assert failures(enough()) == []
    for field, value, said in (
        ("seconds", 4.0, "seconds"),
        ("cpus", 1, "cpus"),
        ("counts", {2: (60, 59), 0xEC: (9000, 9000)}, "vector 0x2"),
        ("counts", {2: (40, 40), 0xEC: (9000, 9000)}, "nmis"),
        ("counts", {2: (60, 60)}, "traps"),
        ("ret_predictions", (8000, 7999), "7999"),
        ("zero_tsc", 1, "1 zero"),
        ("out_of_order", 1, "1 out of order"),
        ("frames", {"flags": (10, 1)}, "1 of the flags"),
        ("wrong_decisions", ["one"], "1 decisions"),
    ):
        found = enough()
        setattr(found, field, value)
        assert any(said in line for line in failures(found)), field
    for tally, share in (("entries", 9050), ("to_user", 998), ("to_kernel", 7919)):
        found = enough()
        getattr(found, tally).in_order = share
        assert failures(found), tally
    found = enough()
    found.entries.differences.append(Difference(cpu=0, what="only there", cause=None, emulator="#1 v=0xec", trace=""))
    assert any("unexplained" in line for line in failures(found))


def test_the_report_shows_every_difference_with_its_cause() -> None:
    """Both stories of what is unexplained; of what is explained, what was checked."""
    found = enough()
    found.entries.differences += [
        Difference(cpu=0, what="frame", cause=None, emulator="there it is", trace="here it is"),
        Difference(cpu=1, what="only there", cause="bystander", emulator="#1 v=0x12", trace=""),
    ]
    shown = text(found)
    assert "UNEXPLAINED: 1" in shown
    assert "emulator there it is; trace here it is" in shown
    assert CAUSES["bystander"] in shown
