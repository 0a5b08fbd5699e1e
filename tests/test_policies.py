"""Policies: what each says, tables of them, folding, and functions of a user's own."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import pytest

from iretrace.errors import UsageError
from iretrace.footer import Footer, Gate
from iretrace.replay import contexts, hazards, policies
from iretrace.replay.contexts import Target
from iretrace.replay.folding import CONDITIONS, fold, slots_text
from iretrace.replay.own import find
from iretrace.replay.policies import DEVICE, MAIL_IST, Choice, Context, NestCounter, Policy
from iretrace.replay.tables import depends_on_ist, enumerate_policy, ist_vectors
from iretrace.vectors import BP, DB, DF, MC, NM, NMI, PF, SS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MAIL = MAIL_IST | {NMI}
LINUX_6_18 = frozenset({DB, NMI, DF, MC})
VC = 29


def say(policy: Policy, vector: int, *, ist: frozenset[int] = MAIL, **conditions: bool) -> tuple[str, str]:
    """What a policy says of a return to the kernel (unless ``kernel_cs`` says otherwise)."""
    choice, rule = policy.decide(Context(vector=vector, ist=vector in ist, **{"kernel_cs": True, **conditions}))
    return choice.name, rule


def test_the_mail_rule_by_rule() -> None:
    """Each rule of the algorithm, and the exceptions it names."""
    mail = policies.RFC2014
    assert say(mail, PF, kernel_cs=False) == ("IRET", "target-cs")
    assert say(mail, NMI) == ("IRET", "nmi")
    assert say(mail, PF) == say(mail, DEVICE) == say(mail, 0xEC) == ("RET", "non-ist")
    assert say(mail, NM) == say(mail, NM, nested=True) == ("IRET", "nm")
    assert say(mail, DF) == say(mail, SS, nested=True) == ("IRET", "df-ss")
    assert say(mail, DB) == say(mail, BP) == ("IRET", "db-bp")
    assert say(mail, DB, nested=True) == say(mail, BP, nested=True) == ("RET", "db-bp")
    assert say(mail, MC) == say(mail, MC, nested=True) == ("IRET", "mc")
    assert say(mail, MC, nmi_text=True) == ("RET", "mc")


def test_the_mail_never_asks_for_flags() -> None:
    """Its note on IF is no rule of its algorithm; TF and RF it does not mention."""
    table = enumerate_policy(policies.RFC2014, MAIL)
    flags = contexts.IF | contexts.TF | contexts.RF
    plain = np.arange(contexts.N_CONTEXTS) & ~flags
    assert (table.choice == table.choice[plain]).all()
    assert (table.rule == table.rule[plain]).all()


def test_the_review_lets_if_count_in_the_kernel_only() -> None:
    """With IF set every IST vector but the NMI may RET to the kernel, and none to anywhere else."""
    for vector in MAIL_IST:
        rule = say(policies.RFC2014, vector)[1]
        assert say(policies.RFC2014_REVIEWED, vector) == ("IRET", rule)
        assert say(policies.RFC2014_REVIEWED, vector, flag_if=True) == ("RET", rule)
        assert say(policies.RFC2014_REVIEWED, vector, flag_if=True, kernel_cs=False) == ("IRET", "target-cs")
    assert say(policies.RFC2014_REVIEWED, NMI, flag_if=True) == ("IRET", "nmi")


def test_the_review_asks_for_the_target_stack() -> None:
    """An IST stack below makes RET a must, a #MC in the body of the NMI handler included; rule 4 keeps its IRET."""
    for vector in (DB, BP, NM, MC):
        assert say(policies.RFC2014_REVIEWED, vector, nested=True)[0] == "RET"
    for vector in (DF, SS):
        assert say(policies.RFC2014_REVIEWED, vector, nested=True) == ("IRET", "df-ss")
    assert not policies.RFC2014_REVIEWED.counter.count_self
    assert policies.RFC2014_REVIEWED.counter.up == MAIL


def test_host_ist_takes_the_recorded_idt() -> None:
    """On a kernel without those IST entries #BP, #NM and #SS are ordinary; on the mail's list nothing changes."""
    host = policies.RFC2014_HOST_IST
    for vector in (BP, NM, SS):
        assert say(host, vector, ist=LINUX_6_18) == ("RET", "non-ist")
    assert say(host, DB, ist=LINUX_6_18) == ("IRET", "db-bp")
    assert say(host, BP, ist=LINUX_6_18, kernel_cs=False) == ("IRET", "target-cs")
    assert say(host, NMI, ist=frozenset()) == ("IRET", "nmi")
    assert say(host, VC, ist=MAIL | {VC}) == ("IRET", "db-bp")
    assert say(host, VC, ist=MAIL | {VC}, nested=True) == ("RET", "db-bp")
    ours, theirs = enumerate_policy(host, MAIL), enumerate_policy(policies.RFC2014, MAIL)
    assert (ours.choice == theirs.choice).all()
    assert (ours.rule == theirs.rule).all()


def test_fred_asks_only_where_the_return_goes() -> None:
    """ERETS to the kernel, ERETU otherwise, the NMI included."""
    table = enumerate_policy(policies.FRED, MAIL)
    to_kernel = contexts.every().target == Target.KERNEL
    assert (table.choice[to_kernel] == Choice.ERETS).all()
    assert (table.choice[~to_kernel] == Choice.ERETU).all()


@pytest.mark.parametrize("policy", policies.built_in().values(), ids=lambda policy: policy.name)
def test_tables_say_what_the_function_says(policy: Policy) -> None:
    """Every context of a few vectors, and an unknown target like one that is not the kernel's."""
    table = enumerate_policy(policy, LINUX_6_18)
    bits = {
        "nested": contexts.NESTED,
        "nmi_text": contexts.NMI_TEXT,
        "flag_if": contexts.IF,
        "flag_tf": contexts.TF,
        "flag_rf": contexts.RF,
    }
    for slot, target in itertools.product((DB, NMI, BP, PF, MC, 0xEC, DEVICE), Target):
        for chosen in itertools.product((False, True), repeat=len(bits)):
            conditions = dict(zip(bits, chosen, strict=True))
            context = Context(vector=slot, ist=slot in LINUX_6_18, kernel_cs=target is Target.KERNEL, **conditions)
            low = sum(bits[name] for name, is_set in conditions.items() if is_set)
            for unseen in (0, contexts.NMI_ON_STACK, contexts.USER_SP):
                index = contexts.encode(slot, target, low, unseen)
                found = Choice(int(table.choice[index])), table.rules[table.rule[index]]
                assert found == policy.decide(context)


@pytest.mark.parametrize("policy", policies.built_in().values(), ids=lambda policy: policy.name)
def test_folded_rows_are_the_table(policy: Policy) -> None:
    """The rows cover every context exactly once and say what the table says."""
    table = enumerate_policy(policy, MAIL)
    rows = fold(table)
    for slot in (0, *sorted(MAIL), PF, VC, 0xEC, DEVICE):
        for values in itertools.product((False, True), repeat=len(CONDITIONS)):
            holds = dict(zip(CONDITIONS, values, strict=True))
            fitting = [
                row
                for row in rows
                if slot in row.slots and all(holds[name] == wanted for name, wanted in row.conditions.items())
            ]
            assert len(fitting) == 1
            low = sum(bit for bit, is_set in zip((1, 2, 4, 8, 16), values[1:], strict=True) if is_set)
            index = contexts.encode(slot, Target.KERNEL if values[0] else Target.OTHER, low)
            assert (fitting[0].choice, fitting[0].rule) == (table.choice[index], table.rules[table.rule[index]])


def test_folding_reads_well() -> None:
    """The mail's algorithm is nine lines."""
    rows = fold(enumerate_policy(policies.RFC2014, MAIL))
    assert [(row.rule, row.choice.name, slots_text(row.slots), row.conditions) for row in rows][-4:] == [
        ("db-bp", "RET", "#DB, #BP", {"kernel CS": True, "nested": True}),
        ("mc", "IRET", "#MC", {"kernel CS": True, "NMI text": False}),
        ("mc", "RET", "#MC", {"kernel CS": True, "NMI text": True}),
        ("non-ist", "RET", "all but #DB, NMI, #BP, #NM, #DF, #SS, #MC", {"kernel CS": True}),
    ]
    assert len(rows) == 9
    assert slots_text(tuple(range(contexts.N_SLOTS))) == "all"


def test_every_rule_of_the_built_in_policies_is_reached() -> None:
    """No name stands in a policy's list that nothing can give."""
    for policy in policies.built_in().values():
        table = enumerate_policy(policy, MAIL)
        assert set(np.unique(table.rule)) == set(range(len(policy.rules))), policy.name


def test_contexts_take_apart_what_they_put_together() -> None:
    """Layout of the index: every index has fields that give it back."""
    fields = contexts.every()
    bits = {
        contexts.NESTED: fields.nested,
        contexts.NMI_TEXT: fields.nmi_text,
        contexts.IF: fields.flag_if,
        contexts.TF: fields.flag_tf,
        contexts.RF: fields.flag_rf,
        contexts.NMI_ON_STACK: fields.nmi_on_stack,
        contexts.USER_SP: fields.user_sp,
    }
    index = (fields.slot.astype(np.int64) * 3 + fields.target) << contexts.SHIFT
    for bit, is_set in bits.items():
        index |= is_set * bit
    assert (index == np.arange(contexts.N_CONTEXTS)).all()
    assert contexts.describe(contexts.encode(DB, Target.KERNEL, contexts.IF, contexts.NMI_ON_STACK)) == (
        "#DB to kernel, IF, NMI on stack"
    )
    assert contexts.describe(contexts.encode(DEVICE, Target.UNKNOWN)) == "device to unknown"


def test_ist_vectors_of_a_footer() -> None:
    """The recorded IDT counts; without one it is the mail's list and the NMI."""
    assert ist_vectors(Footer()) == MAIL
    gates = [Gate(vector=NMI, ist=2), Gate(vector=BP), Gate(vector=DB, ist=3)]
    assert ist_vectors(Footer(idt=gates)) == {NMI, DB}


def test_who_depends_on_ist() -> None:
    """Only a policy whose answers change with it."""
    assert depends_on_ist(policies.RFC2014_HOST_IST)
    assert not depends_on_ist(policies.RFC2014)


def _asks_twice() -> Callable[[Context], tuple[Choice, str]]:
    calls = itertools.count()
    return lambda _: (Choice.RET if next(calls) % 3 else Choice.IRET, "r")


def _own(decide: object, rules: tuple[str, ...] = ()) -> Policy:
    return Policy(name="own", doc="", rules=rules, decide=decide)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (_own(lambda _: 1 // 0), "for #DE to other it raised ZeroDivisionError"),
        (_own(lambda c: (Choice.RET, "r") if c.vector != DB else None), "for #DB to other it gave None"),
        (_own(lambda _: ("JMP", "r")), "it chose 'JMP'; expected one of RET, IRET, ERETS, ERETU"),
        (_own(lambda _: (0, "r")), "it chose 0"),
        (_own(lambda _: (Choice.RET, 3)), "it named the rule 3"),
        (_own(lambda _: (Choice.RET, "")), "it named the rule ''"),
        (_own(lambda _: (Choice.RET, ["r"])), "it named the rule"),
        (_own(lambda _: (Choice.RET, "x"), rules=("r",)), "it named the rule 'x'; expected one of r"),
        (_own(lambda c: (Choice.RET, str(c.vector))), "names more and more rules"),
        (_own(_asks_twice()), "it gave two answers; expected a pure function"),
        (
            _own(lambda c: (Choice.RET, "r") if not (c.kernel_cs and c.nested and c.flag_tf) else 7),
            "for #DE to kernel, nested, TF it gave 7",
        ),
    ],
)
def test_what_is_no_policy_is_refused(policy: Policy, message: str) -> None:
    """The context in which it went wrong is named."""
    with pytest.raises(UsageError, match="policy own") as caught:
        enumerate_policy(policy, MAIL)
    assert message in str(caught.value)


def test_a_policy_of_ones_own(tmp_path: Path) -> None:
    """A function in a file, with names of choices for choices; its rules are found by asking."""
    file = tmp_path / "mine.py"
    file.write_text(
        "from iretrace.replay.policies import NestCounter\n"
        "COUNTER = NestCounter(up=frozenset({2}), clear=frozenset({2}))\n"
        "def decide(context):\n"
        '    """Never in an NMI."""\n'
        "    if context.nested: return 'RET', 'in-nmi'\n"
        "    return 'IRET', 'else'\n"
    )
    policy = find(f"{file}:decide")
    table = enumerate_policy(policy, MAIL)
    assert (policy.doc, table.rules) == ("Never in an NMI.", ("else", "in-nmi"))
    assert policy.counter == NestCounter(up=frozenset({2}), clear=frozenset({2}))
    assert (table.choice == np.where(contexts.every().nested, Choice.RET, Choice.IRET)).all()


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("def f(c): pass", "g", "has no function 'g'"),
        ("x = (", "f", "raised SyntaxError"),
        ("import nowhere_to_be_found", "f", "raised ModuleNotFoundError"),
        ("COUNTER = 3\ndef f(c): pass", "f", "COUNTER is 3"),
        ("f = 3", "f", "has no function 'f'"),
    ],
)
def test_files_that_hold_no_policy(tmp_path: Path, text: str, name: str, message: str) -> None:
    """What is wrong with the file is said in one line."""
    file = tmp_path / "mine.py"
    file.write_text(text)
    with pytest.raises(UsageError, match="--policy") as caught:
        find(f"{file}:{name}")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["rfc", "rfc2014:x", "nowhere.py:f", ":f"])
def test_names_that_are_no_policy(name: str) -> None:
    """Neither built in nor a file."""
    with pytest.raises(UsageError, match="expected"):
        find(name)


def _bits(choice: Choice, slot: int, target: Target, *bits: int) -> set[str]:
    """Hazards of one context under one choice."""
    table = hazards.table(np.full(contexts.N_CONTEXTS, choice, np.uint8))
    return set((hazards.names(int(table[contexts.encode(slot, target, *bits)])) or "").split(",")) - {""}


def test_hazards_one_by_one() -> None:
    """Each hazard where it is, and not beside it."""
    kernel, other, in_nmi = Target.KERNEL, Target.OTHER, contexts.NMI_ON_STACK
    assert _bits(Choice.IRET, PF, kernel, in_nmi) == {"iret-in-nmi"}
    assert _bits(Choice.IRET, PF, kernel) == set()
    assert _bits(Choice.RET, PF, kernel, in_nmi) == set()
    assert _bits(Choice.ERETS, PF, kernel, in_nmi) == set()
    assert _bits(Choice.RET, NMI, kernel) == {"nmi-masked"}
    assert _bits(Choice.IRET, NMI, kernel) == set()
    assert _bits(Choice.RET, DB, kernel, contexts.USER_SP) == {"ret-invalid-stack"}
    assert _bits(Choice.IRET, DB, kernel, contexts.USER_SP) == set()
    assert _bits(Choice.RET, PF, other) == _bits(Choice.ERETS, PF, other) == {"ret-other-cs"}
    assert _bits(Choice.RET, PF, Target.UNKNOWN) == set()
    assert _bits(Choice.RET, DB, kernel, contexts.TF) == {"ret-tf"}
    assert _bits(Choice.RET, DB, kernel, contexts.RF) == {"ret-rf"}
    assert _bits(Choice.IRET, DB, kernel, contexts.TF, contexts.RF) == set()
    assert _bits(Choice.ERETS, NMI, kernel, in_nmi) == {"nmi-nested"}
    assert _bits(Choice.RET, PF, kernel, in_nmi, contexts.IF) == {"if-in-nmi"}
    assert _bits(Choice.ERETU, PF, other, in_nmi, contexts.IF) == {"cs-changed-in-nmi"}
    assert len(set(hazards.NAMES)) == len(hazards.HAZARDS) <= 16
