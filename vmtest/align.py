"""Two sequences that should be one: what matches in order, and what is left on either side."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

A = TypeVar("A")
B = TypeVar("B")

MOST_REORDERED: Final = 64
"""Neighbours among which an item may have another place."""
SURE: Final = 32
"""Items that match in a row, after which two sequences are taken to go on alike."""
_NEAR_ITEMS: Final = 4096
"""How far ahead the two are searched for where they go on alike; two that differ by more are two stories."""


@dataclass(frozen=True)
class Alignment(Generic[A, B]):
    """How two sequences go together.

    Attributes:
        pairs: matched, in order.
        only_a: left of the first sequence, each with how many pairs come before it.
        only_b: left of the second.
    """

    pairs: list[tuple[A, B]]
    only_a: list[tuple[int, A]]
    only_b: list[tuple[int, B]]


def shifted(moved: A, crossed: Sequence[A], key: Callable[[A], Hashable], *, back: bool) -> list[tuple[A, Sequence[A]]]:
    """What an item that matches elsewhere is moved across, where some of what lies between has its key too.

    Of several equal items any may be the one that is left. So each of them is taken to match its
    neighbour's partner, and is moved across what lies between the two alone.

    Args:
        moved: the item that is left over on one side.
        crossed: items of matched pairs between its place and that of its partner, in order.
        key: what items are matched by.
        back: its partner lies before it.

    Returns:
        each item that is moved, and what it is moved across.
    """
    found: list[tuple[A, Sequence[A]]] = []
    begin = 0
    mover = moved
    for index, item in enumerate(crossed):
        if key(item) == key(moved):
            found.append((item if back else mover, crossed[begin:index]))
            begin, mover = index + 1, item
    found.append((moved if back else mover, crossed[begin:]))
    return found


def align(
    first: Sequence[A], second: Sequence[B], key_a: Callable[[A], Hashable], key_b: Callable[[B], Hashable]
) -> Alignment[A, B]:
    """Match what has the same key, in order, as much of it as can be."""
    matched = _in_order([key_a(item) for item in first], [key_b(item) for item in second])
    pairs: list[tuple[A, B]] = []
    only_a: list[tuple[int, A]] = []
    only_b: list[tuple[int, B]] = []
    next_a = next_b = 0
    for index_a, index_b in (*matched, (len(first), len(second))):
        only_a += [(len(pairs), item) for item in first[next_a:index_a]]
        only_b += [(len(pairs), item) for item in second[next_b:index_b]]
        if index_a < len(first):
            pairs.append((first[index_a], second[index_b]))
        next_a, next_b = index_a + 1, index_b + 1
    return Alignment(pairs, only_a, only_b)


def _in_order(first: Sequence[Hashable], second: Sequence[Hashable]) -> list[tuple[int, int]]:
    """Indices of what matches in order: as much as can be, and what is left over near its like.

    Two stories differ in few places, most of them some neighbours in another order. Where a common part ends, the
    shortest such place is looked for first; else the fewest items are left out after which both go on alike.
    """
    matched: list[tuple[int, int]] = []
    a = b = 0
    while a < len(first) and b < len(second):
        if first[a] == second[b]:
            matched.append((a, b))
            a, b = a + 1, b + 1
            continue
        width = _reordered(first[a : a + MOST_REORDERED], second[b : b + MOST_REORDERED])
        if width:
            some = _fewest_edits(first[a : a + width], second[b : b + width], width)
        else:
            some = _fewest_edits(first[a : a + _NEAR_ITEMS], second[b : b + _NEAR_ITEMS], SURE)
        matched += [(a + at_first, b + at_second) for at_first, at_second in some]
        if not width and not some:
            break
        a, b = (a + width, b + width) if width else (matched[-1][0] + 1, matched[-1][1] + 1)
    return matched


def _reordered(first: Sequence[Hashable], second: Sequence[Hashable]) -> int:
    """Length of the shortest beginnings that have the same items, in whichever order; 0 for none."""
    balance: Counter[Hashable] = Counter()
    for width, (one, other) in enumerate(zip(first, second, strict=False), 1):
        balance[one] += 1
        balance[other] -= 1
        if not any(balance.values()):
            return width
    return 0


def _fewest_edits(first: Sequence[Hashable], second: Sequence[Hashable], sure: int) -> list[tuple[int, int]]:
    """Indices of what matches with the fewest items left out, up to the first ``sure`` items that match in a row.

    The greedy algorithm of E. W. Myers, "An O(ND) difference algorithm and its variations" (1986).
    """
    reached = {1: 0}
    steps: list[dict[int, int]] = []
    for edits in range(len(first) + len(second) + 1):
        steps.append(dict(reached))
        for diagonal in sorted(range(-edits, edits + 1, 2), key=abs):
            begin, _ = _enter(steps[-1], diagonal, edits)
            at = begin
            while at < len(first) and 0 <= at - diagonal < len(second) and first[at] == second[at - diagonal]:
                at += 1
            reached[diagonal] = at
            if at - begin >= sure or (at >= len(first) and at - diagonal >= len(second)):
                return _walk_back(steps, at, at - diagonal)
    return []


def _enter(reached: dict[int, int], diagonal: int, edits: int) -> tuple[int, bool]:
    """Where in the first sequence a diagonal is entered, and whether by an item of the second alone."""
    by_second = diagonal == -edits or (diagonal != edits and reached[diagonal - 1] < reached[diagonal + 1])
    return (reached[diagonal + 1], True) if by_second else (reached[diagonal - 1] + 1, False)


def _walk_back(steps: Sequence[dict[int, int]], at_first: int, at_second: int) -> list[tuple[int, int]]:
    """The matches on the way by which the end was reached; ``steps`` has what was reached before each edit."""
    matched: list[tuple[int, int]] = []
    for edits in range(len(steps) - 1, -1, -1):
        entered, by_second = _enter(steps[edits], at_first - at_second, edits)
        while at_first > entered:
            at_first, at_second = at_first - 1, at_second - 1
            matched.append((at_first, at_second))
        at_first, at_second = (at_first, at_second - 1) if by_second else (at_first - 1, at_second)
    matched.reverse()
    return matched
