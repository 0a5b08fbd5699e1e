"""Which hooks are used: for each class of trap the best way that was seen to work on this kernel.

A way is passed over where the kernel's BTF has not its prototypes, where a program does not load or attach, and where
it did not run although it was provoked. Nothing here asks for the kernel's version.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from iretrace.collect.hooks import CLASSES, HOOKS, NMI_LAST_HANDLER, USER_EXITS, Hook, HookClass, Kind, Unit, Way
from iretrace.footer import TrapClass
from iretrace.vectors import vector_name

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from iretrace.collect.btf import Prototypes
    from iretrace.footer import Gate

N_EXCEPTIONS: Final = 32

SILENT: Final = "attached, and did not run when provoked"


class Bench(Protocol):
    """What choosing needs of a machine (:class:`iretrace.collect.probes.Probes`)."""

    def attach(self, hook: Hook) -> str:
        """Load and attach; returns why not, or an empty string."""

    def detach(self, hook: Hook) -> None:
        """Take it away again."""

    def runs(self, hook: Hook) -> int | None:
        """How often its program ran; ``None`` where the kernel does not count."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What is used, and why nothing better.

    Attributes:
        ways: by class the way it is seen, ``None`` where there is none; classes not asked for are missing.
        attached: the hooks that are attached.
        refused: why other hooks are not, by name.
        unproven: attached hooks that did not run yet.
        user_exits: whether :data:`~iretrace.collect.hooks.USER_EXITS` are attached.
    """

    ways: Mapping[str, Way | None]
    attached: frozenset[Hook]
    refused: Mapping[str, str]
    unproven: frozenset[Hook]

    @property
    def user_exits(self) -> bool:
        """Whether returns to user mode are seen on their way."""
        return self.attached.issuperset(USER_EXITS)


def handled(classes: Iterable[HookClass], gates: Sequence[Gate] | None) -> list[HookClass]:
    """The classes that this kernel handles: exceptions, device interrupts, and system vectors in its IDT.

    Args:
        classes: those there are.
        gates: the live IDT; ``None`` where it could not be read: then all are.
    """
    if gates is None:
        return list(classes)
    system = {gate.vector for gate in gates if gate.handler.startswith("asm_sysvec_")}
    return [
        item for item in classes if not item.vectors or min(item.vectors) < N_EXCEPTIONS or system & set(item.vectors)
    ]


def unusable(
    prototypes: Prototypes, *, no_fentry: str | None = None, last_nmi_handler: int | None = None
) -> dict[str, str]:
    """Hooks that need not be tried here; each with the reason.

    Args:
        prototypes: the kernel's BTF.
        no_fentry: why programs cannot be attached to functions here; ``None``: they can.
        last_nmi_handler: the function at the end of the list of NMI handlers, where it is known.
    """
    found = {}
    for hook in HOOKS:
        on_tracepoint = hook.kind is Kind.TRACEPOINT
        arguments = prototypes.parameters(hook.target) if on_tracepoint else prototypes.function_parameters(hook.target)
        expected = hook.arguments
        if arguments is None:
            found[hook.name] = f"this kernel has no such {'tracepoint' if on_tracepoint else 'function'}"
        elif arguments[: len(expected)] != expected:
            found[hook.name] = f"its arguments are ({', '.join(arguments)}), not ({', '.join(expected)})"
        elif not on_tracepoint and no_fentry is not None:
            found[hook.name] = no_fentry
    if last_nmi_handler is None or no_fentry is not None:
        found.setdefault(NMI_LAST_HANDLER.name, no_fentry or "which NMI handler is the last could not be read")
    return found


def choose(
    bench: Bench,
    *,
    classes: Iterable[HookClass] = CLASSES,
    refused: Mapping[str, str],
    provoke: Callable[[], frozenset[str]],
) -> Choice:
    """Attach, for each class, the best way that works.

    Args:
        bench: the machine.
        classes: those asked for.
        refused: hooks not to try, with the reason (:func:`unusable`).
        provoke: makes hooks run; returns which stimuli it gave (:func:`iretrace.collect.stimuli.provoke`).
    """
    refused = dict(refused)
    classes = tuple(classes)
    attached: set[Hook] = set()
    while True:
        ways = {item.name: _best(item, refused) for item in classes}
        needed = _needed(ways.values(), refused)
        for hook in attached - set(needed):
            bench.detach(hook)
        attached &= set(needed)
        failed = False
        for hook in needed:
            if hook not in attached:
                reason = bench.attach(hook)
                if reason:
                    refused[hook.name] = reason
                    failed = True
                else:
                    attached.add(hook)
        if failed:
            continue
        given = provoke()
        silent = [hook for hook in attached if hook.stimulus in given and bench.runs(hook) == 0]
        if not silent:
            break
        for hook in silent:
            bench.detach(hook)
            attached.remove(hook)
            refused[hook.name] = SILENT
    _take_silent(bench, classes, ways, attached, refused)
    unproven = frozenset(hook for hook in attached if not bench.runs(hook))
    return Choice(ways=ways, attached=frozenset(attached), refused=refused, unproven=unproven)


def units_for(classes: Iterable[HookClass], refused: Mapping[str, str]) -> frozenset[Unit]:
    """What must be compiled for the best ways, as far as is known before any hook was tried."""
    return frozenset(hook.unit for hook in _needed((_best(item, refused) for item in classes), refused))


def _take_silent(
    bench: Bench,
    classes: Iterable[HookClass],
    ways: dict[str, Way | None],
    attached: set[Hook],
    refused: dict[str, str],
) -> None:
    """Where nothing else is left, a way that did not run when provoked is better than none, and is called unproven."""
    for item in classes:
        if ways[item.name] is not None:
            continue
        way = next(
            (way for way in item.ways if any(refused.get(hook.name, SILENT) == SILENT for hook in way.entries)), None
        )
        if way is None:
            continue
        ways[item.name] = way
        for hook in (*way.entries, *way.exits):
            if refused.get(hook.name, SILENT) == SILENT and hook not in attached and not bench.attach(hook):
                attached.add(hook)
                refused.pop(hook.name, None)


def _best(item: HookClass, refused: Mapping[str, str]) -> Way | None:
    """The first way that has an entry, and its exits if it names any."""
    for way in item.ways:
        if all(hook.name in refused for hook in way.entries):
            continue
        if way.exits and all(hook.name in refused for hook in way.exits):
            continue
        return way
    return next((way for way in item.ways if any(hook.name not in refused for hook in way.entries)), None)


def _needed(ways: Iterable[Way | None], refused: Mapping[str, str]) -> list[Hook]:
    chosen = [way for way in ways if way is not None]
    found = [hook for way in chosen for hook in (*way.entries, *way.exits)]
    if any(way.user_exits for way in chosen) and all(hook.name not in refused for hook in USER_EXITS):
        found += USER_EXITS
    return [hook for hook in dict.fromkeys(found) if hook.name not in refused]


def trap_classes(choice: Choice, gates: Sequence[Gate] | None) -> list[TrapClass]:
    """What each class of trap shows on this kernel, for ``doctor`` and the footer.

    Args:
        choice: what is attached.
        gates: the live IDT, where it could be read: what it handles and no hook sees is listed as unseen.
    """
    classes = [
        _observed(item, choice)
        if item.name in choice.ways
        else TrapClass(name=item.name, vectors=list(item.vectors))  # not asked for
        for item in handled(CLASSES, gates)
    ]
    covered = {vector for item in CLASSES for vector in item.vectors}
    for gate in gates or ():
        if gate.vector in covered or not gate.handler.startswith(("asm_exc_", "asm_sysvec_")):
            continue
        name = vector_name(gate.vector)
        if name.startswith("irq "):
            name = gate.handler.removeprefix("asm_sysvec_").replace("_", "-")
        lacks = "entry and exit: the kernel has no tracepoint for it, and no function of its that could be hooked"
        classes.append(TrapClass(name=name, vectors=[gate.vector], lacks=lacks))
    return classes


def _observed(item: HookClass, choice: Choice) -> TrapClass:
    way = choice.ways[item.name]
    if way is None:
        return TrapClass(
            name=item.name,
            vectors=list(item.vectors),
            lacks="entry and exit: " + _why_not(item.ways, choice),
            passed_over=_passed_over(item, None, choice),
        )
    entries, exits = ([hook for hook in hooks if hook in choice.attached] for hooks in (way.entries, way.exits))
    user_exits = way.user_exits and choice.user_exits
    lacks = [way.lacks] if way.lacks else []
    if way.user_exits and not choice.user_exits and not exits:
        lacks.append(f"returns to user mode: {_reasons(USER_EXITS, choice)}")
    missing = [hook for hook in (*way.entries, *way.exits) if hook not in choice.attached]
    if missing:
        lacks.append(_reasons(missing, choice))
    return TrapClass(
        name=item.name,
        vectors=list(item.vectors),
        entry=_names(entries),
        exit=_names([*exits, *(USER_EXITS if user_exits else ())]),
        exits_to="user" if user_exits and not exits else "any",
        frame=way.frame,
        lacks="; ".join(lacks),
        unproven=[hook.name for hook in (*entries, *exits) if hook in choice.unproven],
        passed_over=_passed_over(item, way, choice),
    )


def _names(hooks: Collection[Hook]) -> str | None:
    return ", ".join(hook.name for hook in hooks) or None


def _reasons(hooks: Iterable[Hook], choice: Choice) -> str:
    """Why hooks are not there: ``name, name: reason; …``."""
    by_reason: dict[str, list[str]] = {}
    for hook in hooks:
        if hook not in choice.attached and hook.name in choice.refused:
            by_reason.setdefault(choice.refused[hook.name], []).append(hook.name)
    return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in by_reason.items())


def _why_not(ways: Sequence[Way], choice: Choice) -> str:
    return _reasons(dict.fromkeys(hook for way in ways for hook in way.entries), choice)


def _passed_over(item: HookClass, used: Way | None, choice: Choice) -> list[str]:
    """The ways that would have been better, each with what it lacked."""
    better = item.ways if used is None else item.ways[: item.ways.index(used)]
    return [reasons for way in better if (reasons := _reasons((*way.entries, *way.exits), choice))]
