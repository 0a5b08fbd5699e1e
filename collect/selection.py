"""What ``--only`` asks for: classes of trap by their names, by other words for them, and by groups."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from iretrace.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from iretrace.collect.hooks import HookClass
    from iretrace.footer import TrapClass

_SYNONYMS: Final = {
    "page-faults": "#PF",
    "machine-checks": "#MC",
    "breakpoints": "#BP",
    "debug": "#DB",
    "devices": "device",
}

_IPIS: Final = frozenset({0xF6, 0xF7, 0xF8, 0xFB, 0xFC, 0xFD})
"""Vectors that one CPU sends to another (arch/x86/include/asm/irq_vectors.h): irq_work is one to itself."""


def _is_exception(item: HookClass) -> bool:
    return bool(item.vectors) and max(item.vectors) < 32 and item.name != "NMI"


GROUPS: Final[dict[str, Callable[[HookClass], bool]]] = {
    "exceptions": _is_exception,
    "interrupts": lambda item: not item.vectors or min(item.vectors) >= 32,
    "ipis": lambda item: bool(item.vectors) and _IPIS.issuperset(item.vectors),
    "apic": lambda item: bool(item.vectors) and min(item.vectors) >= 0xEC and not _IPIS.issuperset(item.vectors),
}
"""Groups and what belongs to them."""

NOT_ASKED: Final = "not asked for (--only)"


def words(classes: Sequence[HookClass]) -> list[str]:
    """All words that :func:`select` knows, groups first."""
    names = [item.name for item in classes]
    return [*GROUPS, *(word for word, name in _SYNONYMS.items() if name in names), *(_plain(name) for name in names)]


def _plain(name: str) -> str:
    """A class's name without what a shell would take: ``#PF`` is ``pf``."""
    return name.lower().removeprefix("#")


def select(asked: Iterable[str], classes: Sequence[HookClass]) -> frozenset[str]:
    """Names of the classes that words stand for.

    Args:
        asked: words as given to ``--only``; none: every class.
        classes: the classes there are (:data:`iretrace.collect.hooks.CLASSES`).

    Raises:
        UsageError: a word that stands for nothing.
    """
    asked = list(asked)
    if not asked:
        return frozenset(item.name for item in classes)
    found: set[str] = set()
    for word in asked:
        plain = _plain(word.strip())
        name = _SYNONYMS.get(plain, plain)
        group = GROUPS.get(plain)
        hits = {item.name for item in classes if (group(item) if group else _plain(item.name) == _plain(name))}
        if not hits:
            raise UsageError(
                f"--only {word}", "there is no such class of trap", expected="some of " + ", ".join(words(classes))
            )
        found |= hits
    return frozenset(found)


def not_asked(classes: Sequence[HookClass], wanted: frozenset[str]) -> dict[str, str]:
    """Hooks that serve only classes that were not asked for, with that as the reason."""
    serving = {hook for item in classes if item.name in wanted for hook in item.hooks}
    return {hook.name: NOT_ASKED for item in classes for hook in item.hooks if hook not in serving}


def mark(classes: Iterable[TrapClass], known: Sequence[HookClass], wanted: frozenset[str]) -> list[TrapClass]:
    """``classes`` as a footer tells them; those that were not asked for show nothing, and say why."""
    unwanted = {item.name for item in known} - wanted
    return [
        msgspec.structs.replace(item, entry=None, exit=None, frame=None, lacks=NOT_ASKED)
        if item.name in unwanted
        else item
        for item in classes
    ]
