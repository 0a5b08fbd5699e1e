"""A policy's table folded to the few rows a person can read: conditions that do not matter are left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from iretrace.replay import contexts
from iretrace.replay.contexts import N_SLOTS, Target
from iretrace.replay.policies import DEVICE, Choice
from iretrace.vectors import EXCEPTIONS, vector_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from iretrace.replay.tables import Table

CONDITIONS: Final = ("kernel CS", "nested", "NMI text", "IF", "TF", "RF")
"""What a policy can ask, in the order in which rows are split by it."""

_BITS: Final = (contexts.NESTED, contexts.NMI_TEXT, contexts.IF, contexts.TF, contexts.RF)


@dataclass(frozen=True, kw_only=True)
class FoldedRow:
    """One line of a folded table.

    Attributes:
        slots: vectors (and :data:`~iretrace.replay.policies.DEVICE`) that it is about, ascending.
        conditions: by name of :data:`CONDITIONS` what must hold; what is not there does not matter.
        choice: what the policy chooses.
        rule: which of its rules says so.
    """

    slots: tuple[int, ...]
    conditions: dict[str, bool]
    choice: Choice
    rule: str


def fold(table: Table) -> list[FoldedRow]:
    """All that a policy says, vectors with the same answers together, by rule in the order in which they are asked."""
    answers = _answers(table)
    groups: dict[bytes, list[int]] = {}
    for slot in range(N_SLOTS):
        groups.setdefault(answers[slot].tobytes(), []).append(slot)
    together: dict[tuple[int, tuple[tuple[str, bool], ...]], list[int]] = {}
    for slots in groups.values():
        for code, conditions in _split(answers[slots[0]], 0):
            together.setdefault((code, tuple(conditions.items())), []).extend(slots)
    rows = [
        FoldedRow(
            slots=tuple(sorted(slots)),
            conditions=dict(conditions),
            choice=Choice(code & 3),
            rule=table.rules[code >> 2],
        )
        for (code, conditions), slots in together.items()
    ]
    return sorted(rows, key=lambda row: (table.rules.index(row.rule), row.slots))


def _answers(table: Table) -> NDArray[np.uint16]:
    """Rule and choice as one number, shape ``(N_SLOTS, 2, 2, 2, 2, 2, 2)`` by slot and :data:`CONDITIONS`."""
    code = table.rule.astype(np.uint16) << 2 | table.choice
    grid = np.indices((N_SLOTS, *(2 for _ in CONDITIONS)))
    target = np.where(grid[1] == 1, int(Target.KERNEL), int(Target.OTHER))
    index = (grid[0] * len(Target) + target) << contexts.SHIFT
    for bit, values in zip(_BITS, grid[2:], strict=True):
        index |= values * bit
    found: NDArray[np.uint16] = code[index]
    return found


def _split(answers: NDArray[np.uint16], depth: int) -> Iterator[tuple[int, dict[str, bool]]]:
    """Split by the conditions that matter, one after the other."""
    if (answers == answers.flat[0]).all():
        yield int(answers.flat[0]), {}
        return
    clear, is_set = answers[0], answers[1]
    if (clear == is_set).all():
        yield from _split(clear, depth + 1)
        return
    for value, half in ((False, clear), (True, is_set)):
        for code, conditions in _split(half, depth + 1):
            yield code, {CONDITIONS[depth]: value, **conditions}


def slots_text(slots: tuple[int, ...]) -> str:
    """Vectors for people: names of a few, else what they are all but: ``all but #DB, NMI``."""
    if len(slots) == N_SLOTS:
        return "all"
    missing = sorted(set(range(N_SLOTS)) - set(slots))
    if len(missing) < len(slots):
        return "all but " + ", ".join(_name(slot) for slot in missing)
    return ", ".join(_name(slot) for slot in slots)


def _name(slot: int) -> str:
    if slot == DEVICE or slot in EXCEPTIONS:
        return vector_name(None if slot == DEVICE else slot)
    return f"{slot:#04x}"
