"""A million random nested traps: every return as a plain program written from the mail alone has it."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest

from iretrace.footer import Footer
from iretrace.replay.engine import End
from iretrace.replay.policies import RFC2014, Choice
from iretrace.replay.run import returns
from iretrace.schema import EVENT_SCHEMA
from tests.conftest import ROOT
from tests.oracle_2014 import decide_all
from tests.strategies import KERNEL_SP, NMI_TEXT, USER_SP, VECTORS
from tests.traces import KERNEL_CS, USER_CS, InMemory

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

    from iretrace.trace import Trace

TRAPS = 1_000_000
DEEPEST = (1, 2, 3, 4, 8, 16, 40, 100)
"""How deep traps nest, at most, on each CPU."""

_SELECTORS = np.array([KERNEL_CS, KERNEL_CS, KERNEL_CS, USER_CS, 0x18, 0], np.uint16)
_EDGES = np.array([address + i for ends in NMI_TEXT for address in ends for i in (-1, 0, 1)], np.uint64)
_ORACLE_READS = ["tsc", "cpu", "phase", "vector", "cs", "ip"]


def depths(rng: np.random.Generator, events: int, deepest: int) -> NDArray[np.int64]:
    """Open traps before the first event and after each: a random walk, folded into 0 to ``deepest``, back to 0."""
    walk = np.concatenate([[0], np.cumsum(rng.choice([-1, 1], events))])
    folded = deepest - np.abs(walk % (2 * deepest) - deepest)
    return np.concatenate([folded, np.arange(folded[-1] - 1, -1, -1)])


def one_cpu(rng: np.random.Generator, cpu: int, events: int, deepest: int) -> dict[str, NDArray[Any]]:
    """Columns of well-formed nests; ``device`` says where the vector is not known."""
    depth = depths(rng, events, deepest)
    is_exit = np.diff(depth) < 0
    n = is_exit.size
    # Of one level, entries and exits alternate: each entry is followed by its own exit.
    level = np.maximum(depth[:-1], depth[1:])
    pairs = np.lexsort((np.arange(n), level)).reshape(-1, 2)
    assert not is_exit[pairs[:, 0]].any()
    assert is_exit[pairs[:, 1]].all()
    traps = len(pairs)
    listed = rng.choice(np.array(VECTORS, np.uint8), traps)
    columns = {
        "vector": np.where(rng.random(traps) < 0.8, listed, rng.integers(0, 256, traps, np.uint8)),
        "device": rng.random(traps) < 0.05,
        "irq": rng.integers(0, 4, traps, np.uint16),
    }
    spread = {name: np.empty(n, column.dtype) for name, column in columns.items()}
    for name, column in columns.items():
        spread[name][pairs] = column[:, None]
    inside = rng.integers(NMI_TEXT[0][0], NMI_TEXT[0][1], n, np.uint64)
    anywhere = rng.integers(0, 2**64 - 1, n, np.uint64)
    return spread | {
        "cpu": np.full(n, cpu, np.uint16),
        "is_exit": is_exit,
        "cs": rng.choice(_SELECTORS, n),
        "ip": np.choose(rng.integers(0, 3, n), [inside, anywhere, rng.choice(_EDGES, n)]),
        "flags": rng.integers(0, 2**22, n, np.uint32),
        "sp": rng.choice(np.array([KERNEL_SP, USER_SP], np.uint64), n),
    }


def random_nests(seed: int) -> pa.Table:
    """At least :data:`TRAPS` traps on several CPUs, whose events are shuffled into each other, as a trace's table."""
    rng = np.random.default_rng(seed)
    each = 2 * TRAPS // len(DEEPEST)
    parts = [one_cpu(rng, cpu, each, deepest) for cpu, deepest in enumerate(DEEPEST)]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    # Sorting shuffled CPUs stably gives the places of each CPU's events; their own order stays.
    places = np.argsort(rng.permutation(columns["cpu"]), kind="stable")
    columns = {name: column[np.argsort(places)] for name, column in columns.items()}
    n, device = places.size, columns.pop("device")
    phase = pa.DictionaryArray.from_arrays(columns.pop("is_exit").astype(np.int8), ["entry", "exit"])
    hook = pa.DictionaryArray.from_arrays(np.zeros(n, np.int8), ["test"])
    made = {
        "tsc": pa.array(np.cumsum(rng.integers(1, 1000, n, np.uint64))),
        "phase": phase,
        "hook": hook,
        "vector": pa.array(columns.pop("vector"), mask=device),
        "irq": pa.array(columns.pop("irq"), mask=~device),
        "pid": pa.array(np.ones(n, np.uint32)),
        **{name: pa.array(column) for name, column in columns.items()},
    }
    return pa.table(
        [made[field.name] if field.name in made else pa.nulls(n, field.type) for field in EVENT_SCHEMA],
        schema=EVENT_SCHEMA,
    )


def by_the_replay(trace: Trace) -> list[tuple[int, str, str, int]]:
    """What the engine says of every return, as the oracle says it."""
    found: list[tuple[int, str, str, int]] = []
    for batch in returns(trace, [RFC2014]):
        (decision,) = batch.decisions
        assert (batch.rows["end"] == End.EXIT).all()
        choices = [Choice(choice).name for choice in range(len(Choice))]
        rows = zip(
            batch.tsc.tolist(), decision.choice.tolist(), decision.rule.tolist(), decision.nest.tolist(), strict=True
        )
        found += [(tsc, choices[choice], decision.table.rules[rule], nest) for tsc, choice, rule, nest in rows]
    return sorted(found)


def by_the_oracle(table: pa.Table) -> list[tuple[int, str, str, int]]:
    """What the plain program says, a CPU at a time: two million rows of Python's are many."""
    decided: list[tuple[int, str, str, int]] = []
    cpus = table.column("cpu").to_numpy()
    for cpu in range(len(DEEPEST)):
        mine = table.select(_ORACLE_READS).take(np.flatnonzero(cpus == cpu))
        rows = zip(*(mine.column(name).to_pylist() for name in _ORACLE_READS), strict=True)
        decided += decide_all((dict(zip(_ORACLE_READS, row, strict=True)) for row in rows), NMI_TEXT)
    return sorted(decided)


@pytest.mark.slow
def test_a_million_traps_differ_in_nothing() -> None:
    """Decision, rule and nest count of every return; and every way through the algorithm is among them."""
    table = random_nests(20140520)
    footer = Footer(kernel_cs=KERNEL_CS, nmi_text=list(NMI_TEXT))
    found = by_the_replay(InMemory(table, footer, group=50_000))  # type: ignore[arg-type] # all that a replay reads of a trace
    expected = by_the_oracle(table)
    assert len(expected) >= TRAPS
    differing = [pair for pair in zip(found, expected, strict=True) if pair[0] != pair[1]]
    assert not differing[:3], f"{len(differing):,} differ"
    assert {(rule, choice) for _, choice, rule, _ in expected} == {
        ("target-cs", "IRET"),
        ("nmi", "IRET"),
        ("nm", "IRET"),
        ("df-ss", "IRET"),
        ("db-bp", "RET"),
        ("db-bp", "IRET"),
        ("mc", "RET"),
        ("mc", "IRET"),
        ("non-ist", "RET"),
    }
    assert {count for *_, count in expected} >= set(range(10))


def test_the_oracle_shares_nothing_with_the_replay() -> None:
    """It imports nothing of iretrace."""
    program = "import sys, tests.oracle_2014; print(*(name for name in sys.modules if name.startswith('iretrace')))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
