"""Two sequences that should be one: what matches in order, and what is left on either side."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

A = TypeVar("A")
B = TypeVar("B")


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

    difflib leaves the last of several equal items as well as the first. So each of them is taken to match its
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
    """Match what has the same key, in order, as much of it as difflib finds."""
    keys_a, keys_b = [key_a(item) for item in first], [key_b(item) for item in second]
    pairs: list[tuple[A, B]] = []
    only_a: list[tuple[int, A]] = []
    only_b: list[tuple[int, B]] = []
    # What both begin and end with is taken off first: difflib is slow where few keys are met often.
    head = 0
    while head < min(len(keys_a), len(keys_b)) and keys_a[head] == keys_b[head]:
        head += 1
    pairs += list(zip(first[:head], second[:head], strict=True))
    matcher = SequenceMatcher(None, keys_a[head:], keys_b[head:], autojunk=False)
    for tag, begin_a, end_a, begin_b, end_b in matcher.get_opcodes():
        some_a, some_b = first[head + begin_a : head + end_a], second[head + begin_b : head + end_b]
        if tag == "equal":
            pairs += list(zip(some_a, some_b, strict=True))
        else:
            only_a += [(len(pairs), item) for item in some_a]
            only_b += [(len(pairs), item) for item in some_b]
    return Alignment(pairs, only_a, only_b)
