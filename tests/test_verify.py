"""The model checker: shortest counterexamples, counts of states, contexts nothing can decide, and the verb."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from functools import cache
from itertools import combinations, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iretrace.errors import UsageError
from iretrace.replay import hazards
from iretrace.replay.assumptions import ASSUMPTIONS, DEFAULT
from iretrace.replay.checker import MAX_DEPTH, conflicts, explore, machine_for
from iretrace.replay.fixed import ASSUMES, RFC2014_FIXED
from iretrace.replay.machine import IDTS, Cpu, Machine
from iretrace.replay.policies import (
    FRED,
    IRET,
    RFC2014,
    RFC2014_HOST_IST,
    RFC2014_REVIEWED,
    Choice,
    NestCounter,
    Policy,
    built_in,
    by_name,
)
from iretrace.replay.states import FATAL, HAZARDS, START, State
from iretrace.replay.timeline import event_text, sentence, to_json
from iretrace.vectors import BP, DB, MC, NMI, PF

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iretrace.replay.checker import Result
    from iretrace.replay.policies import Context

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "verify.md"
FIXED_MACHINE = Machine(assume=DEFAULT | ASSUMES)


def found(result: Result) -> dict[str, str]:
    """Hazard to counterexample in one line."""
    return {violation.hazard: sentence(violation) for violation in result.violations}


@cache
def reached(name: str, depth: int) -> frozenset[State]:
    """States a plain recursion reaches: no search, no memory of where it was."""
    cpu = Cpu(Machine(traps=(NMI, MC, DB, PF)), by_name(name))

    def below(state: State, left: int) -> Iterator[State]:
        yield state
        if left:
            for _, step in cpu.steps(state):
                if FATAL.isdisjoint(step.hazards):
                    yield from below(step.state, left - 1)

    return frozenset(below(START, depth))


@pytest.mark.parametrize("policy", [IRET, RFC2014, RFC2014_FIXED])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_search_counts_what_a_plain_recursion_reaches(policy: Policy, depth: int) -> None:
    """No state twice, none left out."""
    machine = Machine(traps=(NMI, MC, DB, PF))
    assert explore(policy, depth, machine).states == len(reached(policy.name, depth))


_CPU = Cpu(Machine(), RFC2014)
_DEPTH = 5


@cache
def _states_by_search() -> frozenset[State]:
    from iretrace.replay.checker import _Search  # noqa: PLC0415 - its states are what is tested

    search = _Search(_CPU.steps, _DEPTH)
    for _ in search.run():
        pass
    return frozenset(search.parents)


@given(st.data())
@settings(max_examples=200, deadline=None)
@pytest.mark.slow
def test_random_walks_reach_no_state_that_was_not_counted(data: st.DataObject) -> None:
    """Whatever a walk of as many events comes to, the search came to as well."""
    state = START
    for _ in range(_DEPTH):
        steps = [step for _, step in _CPU.steps(state) if FATAL.isdisjoint(step.hazards)]
        state = data.draw(st.sampled_from(steps)).state
        assert state in _states_by_search()


@given(st.data())
@settings(max_examples=100, deadline=None)
@pytest.mark.slow
def test_no_walk_meets_a_hazard_sooner_than_its_counterexample(data: st.DataObject) -> None:
    """And none meets a hazard that was not found."""
    shortest = {violation.hazard: len(violation.path) for violation in explore_once().violations}
    state = START
    for number in range(1, _DEPTH + 1):
        step = data.draw(st.sampled_from([step for _, step in _CPU.steps(state)]))
        for hazard in step.hazards:
            assert shortest[hazard] <= number
        if not FATAL.isdisjoint(step.hazards):
            break
        state = step.state


@cache
def explore_once() -> Result:
    """The mail's policy to the depth of the walks."""
    return explore(RFC2014, _DEPTH)


def _never_in_nmi(context: Context) -> tuple[Choice, str]:
    """Broken on purpose: RET from #DB whenever the counter is nonzero, and it counts the #DB itself."""
    if context.kernel_cs and context.vector != NMI and context.nested:
        return Choice.RET, "nested"
    return Choice.IRET, "else"


def test_a_broken_policy_gives_the_known_shortest_counterexample() -> None:
    """A counter that counts #DB itself: RET from a #DB in the SYSCALL gap, two events."""
    policy = Policy(
        name="broken",
        doc="",
        rules=("nested", "else"),
        decide=_never_in_nmi,
        counter=NestCounter(up=frozenset({NMI, DB}), down=frozenset({DB}), clear=frozenset({NMI})),
    )
    result = explore(policy, 4, Machine(traps=(NMI, DB)))
    assert found(result)["ret-invalid-stack"] == (
        "#DB strikes the SYSCALL gap; RET from #DB to the SYSCALL gap (rule nested)"
    )


def test_ret_because_of_if_alone() -> None:
    """The mail's note read as a rule, as its review feared: RET to user code."""
    policy = Policy(
        name="if",
        doc="",
        rules=("if", "else"),
        decide=lambda c: (Choice.RET, "if") if c.flag_if and c.vector != NMI else (Choice.IRET, "else"),
    )
    text = found(explore(policy, 3))["ret-other-cs"]
    assert re.fullmatch(r"#MC strikes user code; RET from #MC to user code \(rule if\)", text)


def test_ret_from_nmi_is_found() -> None:
    """RET from everything leaves NMIs masked after two events."""
    policy = Policy(name="ret", doc="", rules=("all",), decide=lambda _: (Choice.RET, "all"))
    assert found(explore(policy, 2))["nmi-masked"].startswith("NMI strikes user code; RET from NMI")


def test_the_mail_to_the_letter() -> None:
    """Rule 6 lets a #MC in the body of an NMI return with IRET; rule 5 a #DB in its entry code."""
    start = "NMI strikes user code; "
    by_rule = {(v.hazard, v.path[-1][1].rule): sentence(v) for v in explore(RFC2014, 4, by_rule=True).violations}
    assert by_rule["iret-in-nmi", "mc"] == start + "#MC strikes NMI body; IRET from #MC to NMI body (rule mc)"
    assert by_rule["iret-in-nmi", "db-bp"] == start + "#DB strikes NMI entry; IRET from #DB to NMI entry (rule db-bp)"
    assert by_rule["iret-in-nmi", "nm"] == start + "#NM strikes NMI body; IRET from #NM to NMI body (rule nm)"
    assert found(explore(RFC2014, 4)) == {
        "ret-rf": "#PF strikes kernel code, IF on; RET from #PF to kernel code, IF on (rule non-ist)",
        "ret-tf": ("#PF strikes single-stepped kernel code; RET from #PF to single-stepped kernel code (rule non-ist)"),
        "iret-in-nmi": by_rule["iret-in-nmi", "mc"],
        "nmi-nested": by_rule["iret-in-nmi", "mc"] + "; NMI strikes NMI body",
    }


@pytest.mark.slow
def test_every_kernel_return_by_iret_is_what_linux_must_mend_by_hand() -> None:
    """``iret`` unmasks in NMIs, which is why Linux has code for nested ones; it does nothing else wrong."""
    result = explore(IRET, 12)
    assert set(found(result)) == {"iret-in-nmi", "nmi-nested"}
    assert result.complete


@pytest.mark.slow
def test_the_fixed_policy_is_safe_at_any_depth() -> None:
    """Under its two assumptions: nothing found, and no longer sequence reaches another state."""
    result = explore(RFC2014_FIXED, 16, FIXED_MACHINE)
    assert result.violations == ()
    assert result.complete


_ROWS = re.findall(
    r"^\| `([a-z0-9-]+)` \| ([^|]+) \| (\d+|any) \| ([\d,]+) \| ([^|]+) \|$", PAGE.read_text(), re.MULTILINE
)


def test_the_page_has_a_row_for_every_policy() -> None:
    """None that comes with iretrace is left out, and no row is of another."""
    assert {row[0] for row in _ROWS} == set(built_in())


@pytest.mark.parametrize(("name", "assumed", "depth", "states", "hazards_found"), _ROWS, ids=lambda cell: cell[:20])
@pytest.mark.slow
def test_the_pages_table_is_what_is_found(name: str, assumed: str, depth: str, states: str, hazards_found: str) -> None:
    """Each row: the states, the hazards, how short their shortest counterexamples are; *any* is exhaustive."""
    named = set(re.findall(r"`([a-z0-9.-]+)`", assumed.partition(", with")[0]))
    idt = re.search(r"`--idt (\S+)`", assumed)
    machine = Machine(assume=DEFAULT | named, ist=IDTS[idt[1] if idt else "mail"])
    result = explore(by_name(name), 16 if depth == "any" else int(depth), machine)
    assert result.complete is (depth == "any")
    assert f"{result.states:,}" == states
    shortest = ", ".join(f"`{violation.hazard}` ({len(violation.path)})" for violation in result.violations)
    assert hazards_found == (shortest or "nothing")


@pytest.mark.slow
def test_the_reviewed_mail_unmasks_in_the_entry_code_alone() -> None:
    """What strikes the body of an NMI returns with RET; what strikes before the count does not."""
    by_rule = {
        (v.hazard, v.path[-1][1].rule): sentence(v) for v in explore(RFC2014_REVIEWED, 4, by_rule=True).violations
    }
    start = "NMI strikes user code; #DB strikes NMI entry; "
    assert {rule: text for (hazard, rule), text in by_rule.items() if hazard == "iret-in-nmi"} == {
        "db-bp": start + "IRET from #DB to NMI entry (rule db-bp)",
        "mc": start + "#MC strikes #DB entry; IRET from #MC to #DB entry (rule mc)",
    }
    assert by_rule["ret-rf", "db-bp"] == (
        "#DB (instruction breakpoint) strikes kernel code, IF on; RET from #DB to kernel code, IF on (rule db-bp)"
    )
    assert by_rule["ret-rf", "nm"].startswith("#NM strikes kernel code, IF on")
    entry = explore(RFC2014_REVIEWED, 5, Machine(assume=DEFAULT | {"no-db-in-nmi-entry"}))
    assert set(found(entry)) == {"ret-rf", "ret-tf"}
    assert found(explore(RFC2014_REVIEWED, 5, Machine(assume=DEFAULT | {"no-db-in-nmi-entry", "no-step"}))) == {}


def test_the_mail_on_todays_ist_stacks_unmasks_by_mc_and_db() -> None:
    """Not by #NM, which has no IST stack there; and no assumption takes NMI, #MC, IRET away."""
    ist = IDTS["linux-6.18"]
    result = explore(RFC2014_HOST_IST, 4, Machine(ist=ist), by_rule=True)
    assert {v.path[-1][1].rule for v in result.violations if v.hazard == "iret-in-nmi"} == {"mc", "db-bp"}
    assert any(sentence(v).startswith("#BP strikes single-stepped kernel code") for v in result.violations)
    machine = Machine(ist=ist, assume=DEFAULT | ASSUMES | {"no-step"})
    assert found(explore(RFC2014_HOST_IST, 5, machine))["iret-in-nmi"] == (
        "NMI strikes user code; #MC strikes NMI body; IRET from #MC to NMI body (rule mc)"
    )


@pytest.mark.parametrize("live", [1, 2])
@pytest.mark.slow
def test_one_frame_a_vector_is_enough(live: int) -> None:
    """A second live frame of a vector brings no hazard that one does not."""
    machine = Machine(assume=DEFAULT | ASSUMES, live=live)
    assert set(found(explore(RFC2014, 5, machine))) == {"ret-rf", "ret-tf", "iret-in-nmi", "nmi-nested"}
    assert found(explore(RFC2014_FIXED, 5, machine)) == {}


@pytest.mark.parametrize("dropped", sorted(ASSUMES))
def test_each_assumption_of_the_fixed_policy_is_needed(dropped: str) -> None:
    """Without it there is a context in which neither choice is safe."""
    machine = Machine(assume=DEFAULT | ASSUMES - {dropped})
    assert explore(RFC2014_FIXED, 4, machine).violations
    assert conflicts(RFC2014_FIXED, 4, machine)


@pytest.mark.parametrize("dropped", ["no-cs-change", "valid-stack", "no-sti-in-nmi", "quiet-mc-edges"])
def test_what_the_mail_assumes_is_needed(dropped: str) -> None:
    """Each assumption of the mail that is dropped opens a hazard for the fixed policy, too."""
    assert explore(RFC2014_FIXED, 5, Machine(assume=(DEFAULT | ASSUMES) - {dropped})).violations


def test_df_and_ss_in_an_nmi_need_not_be_assumed_away() -> None:
    """The fixed policy returns from them by RET there."""
    machine = Machine(assume=(DEFAULT | ASSUMES) - {"no-df-ss-in-nmi"})
    assert explore(RFC2014, 3, machine, by_rule=True).violations
    assert explore(RFC2014_FIXED, 6, machine).violations == ()


def test_a_conflict_is_two_sequences_one_against_each_choice() -> None:
    """With its own #MC counted, no rule can tell an NMI's body from the SYSCALL gap."""
    (conflict,) = conflicts(RFC2014, 4, FIXED_MACHINE)
    assert conflict.context.vector == MC
    assert (conflict.ret.hazard, conflict.iret.hazard) == ("ret-invalid-stack", "iret-in-nmi")
    assert sentence(conflict.ret) == "#MC strikes the SYSCALL gap; RET from #MC to the SYSCALL gap"
    assert sentence(conflict.iret) == ("NMI strikes user code; #MC strikes NMI body; IRET from #MC to NMI body")


def _counters(*vectors: int) -> Iterator[NestCounter]:
    sets = [frozenset(c) for n in range(len(vectors) + 1) for c in combinations(vectors, n)]
    for up, down, clear, own in product(sets, sets, sets, (True, False)):
        if up or (not down and not clear and own):
            yield NestCounter(up=up, down=down, clear=clear, count_self=own)


@pytest.mark.slow
def test_only_a_counter_of_what_is_on_the_target_stack_can_be_safe() -> None:
    """Of all counters of NMI and #MC: both go up, both come down, and a return does not count its own trap."""
    machine = Machine(assume=DEFAULT | ASSUMES, traps=(NMI, MC, DB, BP))
    safe = [
        counter
        for counter in _counters(NMI, MC)
        if not conflicts(Policy(name="any", doc="", rules=(), decide=IRET.decide, counter=counter), 5, machine)
    ]
    both, nmi, mc = frozenset({NMI, MC}), frozenset({NMI}), frozenset({MC})
    assert safe == [
        NestCounter(up=both, down=mc, clear=nmi, count_self=False),
        NestCounter(up=both, down=both, clear=frozenset(), count_self=False),
        NestCounter(up=both, down=both, clear=nmi, count_self=False),
    ]
    assert RFC2014_FIXED.counter in safe


@pytest.mark.slow
def test_a_policy_that_saw_the_gap_would_need_no_counter() -> None:
    """Nor any of the assumptions on #DB and #BP; only the flags remain."""
    machine = Machine(assume=DEFAULT | {"no-step"})
    assert conflicts(IRET, 5, machine)
    assert conflicts(IRET, 5, machine, sees_gap=True) == ()
    assert conflicts(IRET, 5, sees_gap=True)


@pytest.mark.slow
def test_a_conflict_free_machine_has_a_safe_policy() -> None:
    """The choices that no sequence forbids, put together, are a policy without a violation."""
    machine = FIXED_MACHINE
    cpu = Cpu(machine, RFC2014_FIXED)
    wrong: dict[Context, set[Choice]] = {}
    for state in reached_states(cpu, 8):
        for point in cpu.points(state):
            context = cpu.context(point)
            if context is not None:
                for choice in (Choice.RET, Choice.IRET):
                    if cpu.leave(point, choice).hazards:
                        wrong.setdefault(context, set()).add(choice)
    policy = Policy(
        name="table",
        doc="",
        rules=("table",),
        decide=lambda c: (Choice.IRET if Choice.RET in wrong.get(c, set()) else Choice.RET, "table"),
        counter=RFC2014_FIXED.counter,
    )
    assert all(len(choices) == 1 for choices in wrong.values())
    assert explore(policy, 8, machine).violations == ()


def reached_states(cpu: Cpu, depth: int) -> list[State]:
    """States within a depth, by a loop that is not the checker's."""
    seen = {START: 0}
    queue = [START]
    for state in queue:
        if seen[state] < depth:
            for _, step in cpu.steps(state):
                if step.state not in seen:
                    seen[step.state] = seen[state] + 1
                    queue.append(step.state)
    return queue


def test_hazards_have_the_replays_names() -> None:
    """All but the one that a trace cannot show."""
    assert set(HAZARDS) - {"ist-overwritten"} == set(hazards.NAMES)
    assert set(HAZARDS) >= FATAL


@pytest.mark.parametrize("depth", [0, -1, MAX_DEPTH + 1])
def test_a_depth_out_of_range_is_refused(depth: int) -> None:
    """With the range in the message."""
    with pytest.raises(UsageError, match=rf"--depth {depth}: out of range; expected 1 to {MAX_DEPTH}"):
        explore(IRET, depth)


def test_fred_is_known_by_its_policy() -> None:
    """ERETS means FRED's machine, on which the policy is safe and nothing is in conflict."""
    assert machine_for(FRED, Machine()).fred
    assert not machine_for(RFC2014, Machine()).fred
    assert explore(FRED, 4).violations == ()
    assert conflicts(FRED, 4) == ()


def test_json_of_a_counterexample() -> None:
    """Each event with the state after it: what runs, the mask, the counter, the frames and their stacks."""
    violation = next(v for v in explore(RFC2014, 4).violations if v.hazard == "iret-in-nmi")
    document = to_json(violation, Machine())
    assert [step["event"] for step in document["steps"]] == [event_text(step) for _, step in violation.path]
    assert document["steps"][1]["state"] == {
        "running": "#MC entry",
        "flag_if": False,
        "nmi_blocked": True,
        "nest_count": 1,
        "frames": [
            {"vector": 2, "name": "NMI", "returns_to": "user code", "stack": "IST NMI"},
            {"vector": 18, "name": "#MC", "returns_to": "NMI body", "stack": "IST #MC"},
        ],
    }
    assert document["steps"][2]["state"]["nmi_blocked"] is False


def verify(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the verb as a user would."""
    return subprocess.run(
        [sys.executable, "-m", "iretrace", "verify", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_the_verb_prints_json_and_exits_1_on_a_violation() -> None:
    """The contract: exactly these keys."""
    done = verify("--policy", "rfc2014", "--policy", "iret", "--depth", "4", "--json")
    assert done.returncode == 1, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    assert set(document) == {"schema", "policies"}
    assert document["schema"] == 1
    first = document["policies"][0]
    assert set(first) == {"policy", "depth", "states", "violations"}
    assert (first["policy"], first["depth"], first["states"]) == ("rfc2014", 4, explore(RFC2014, 4).states)
    assert [v["hazard"] for v in first["violations"]] == ["ret-rf", "ret-tf", "iret-in-nmi", "nmi-nested"]
    for violation in first["violations"]:
        assert set(violation) == {"hazard", "steps"}
        assert 1 <= len(violation["steps"]) <= 4
        assert all(set(step) == {"event", "state"} for step in violation["steps"])


@pytest.mark.slow
def test_the_verb_says_states_and_depth_where_nothing_is_found() -> None:
    """And exits 0."""
    assumed = ",".join(sorted(ASSUMES))
    done = verify("--policy", "rfc2014-fixed", "--assume", assumed, "--depth", "12")
    assert done.returncode == 0, done.stdout + done.stderr
    states = explore(RFC2014_FIXED, 12, FIXED_MACHINE).states
    assert f"no hazard is reachable ({states:,} states in sequences of up to 12 events; longer ones" in " ".join(
        done.stdout.split()
    )


def test_the_timeline_fits_100_columns() -> None:
    """One table a hazard, each event on a row, and nothing wider."""
    done = verify("--policy", "rfc2014", "--depth", "4", "--conflicts", "--traps", "nmi,#MC,db")
    assert done.returncode == 1
    lines = [line for line in done.stdout.splitlines() if line.startswith(("│", "╭"))]
    assert lines
    assert max(map(len, lines)) <= 100
    assert "#MC strikes NMI body" in done.stdout
    assert "neither choice is safe" in done.stdout


def test_a_policy_of_ones_own_is_checked(tmp_path: Path) -> None:
    """A function in a file, which may name its choice, with the file's COUNTER."""
    mine = tmp_path / "mine.py"
    mine.write_text(
        "from iretrace.replay.policies import NestCounter\n"
        "COUNTER = NestCounter(up=frozenset({2}), clear=frozenset({2}))\n"
        "def decide(context):\n"
        "    if context.kernel_cs and context.nested and context.vector != 2:\n"
        "        return 'RET', 'in-nmi'\n"
        "    return 'IRET', 'else'\n"
    )
    done = verify("--policy", f"{mine}:decide", "--traps", "NMI,#MC,#PF", "--depth", "6", "--json")
    assert (done.returncode, done.stderr) == (1, "")
    (document,) = json.loads(done.stdout)["policies"]
    assert document["policy"] == f"{mine}:decide"
    shortest = {
        violation["hazard"]: [step["event"] for step in violation["steps"]] for violation in document["violations"]
    }
    assert shortest["iret-in-nmi"] == [
        "NMI strikes user code",
        "#MC strikes NMI entry",
        "IRET from #MC to NMI entry (rule else)",
    ]
    # The counter sees the NMI's body: with #PF alone, which does not strike the entry code, only RF is lost.
    done = verify("--policy", f"{mine}:decide", "--traps", "NMI,#PF", "--depth", "6", "--json")
    assert [v["hazard"] for v in json.loads(done.stdout)["policies"][0]["violations"]] == ["ret-rf", "ret-tf"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def f(context):\n    return 'JUMP', 'r'\n", "gave 'JUMP', 'r' for"),
        ("def f(context):\n    return ['RET'], 'r'\n", "gave ['RET'], 'r' for"),
        ("def f(context):\n    return 'RET'\n", "ValueError"),
        ("def f(context):\n    return 1 / 0\n", "ZeroDivisionError"),
        ("def g(context):\n    return 'RET', 'r'\n", "has no function 'f'"),
        ("1 / 0\n", "raised ZeroDivisionError"),
    ],
)
def test_a_policy_that_is_none_is_refused(tmp_path: Path, source: str, message: str) -> None:
    """One line that names the file, exit status 2."""
    mine = tmp_path / "mine.py"
    mine.write_text(source)
    done = verify("--policy", f"{mine}:f")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert str(mine) in done.stderr
    assert message in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--policy", "nonsense"], "no such policy"),
        (["--policy", "nowhere.py:f"], "there is no file nowhere.py"),
        (["--policy", "iret", "--depth", "0"], "--depth 0: out of range"),
        (["--policy", "iret", "--depth", "1000"], "out of range"),
        (["--policy", "iret", "--depth", "x"], "x"),
        (["--policy", "iret", "--live", "9"], "--live 9: out of range"),
        (["--policy", "iret", "--assume", "luck"], "--assume luck: no such assumption"),
        (["--policy", "iret", "--drop", "luck"], "--drop luck: no such assumption"),
        (["--policy", "iret", "--traps", "#XX"], "no such trap"),
        (["--policy", "iret", "--traps", ","], "no such trap"),
        ([], "--policy"),
    ],
)
def test_usage_errors(arguments: list[str], message: str) -> None:
    """One line, exit status 2, nothing on standard output."""
    done = verify(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_help_and_documentation_name_every_assumption_and_hazard() -> None:
    """Nothing is undocumented."""
    text = verify("--help").stdout
    page = PAGE.read_text()
    for assumption in ASSUMPTIONS:
        assert assumption.name in text
        assert f"`{assumption.name}`" in page
    for hazard in HAZARDS:
        assert f"`{hazard}`" in page
    for rule in RFC2014_FIXED.rules:
        assert f"`{rule}`" in page


def test_verify_needs_none_of_the_heavy_libraries() -> None:
    """Neither pyarrow nor numpy: a second's search should not wait for them."""
    program = (
        "import sys; from iretrace.commands import verify_; "
        "print(*sorted({'numpy', 'pyarrow', 'pandas', 'plotly'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
