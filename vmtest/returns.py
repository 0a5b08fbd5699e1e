"""IRETQs executed, against the returns that the replay finds: each has exactly one with the same target."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

from vmtest import unmatched
from vmtest.pairs import WAY_TO_USER, CpuReturns, Item, MatchedReturns, Pair, Traps, remove, target

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmtest.log import Executed
    from vmtest.seen import Return


def match(cpus: Sequence[CpuReturns]) -> MatchedReturns:
    """Match all CPUs' returns: by their trap and the same target; then by target alone; then by cause.

    An IRETQ's trap is known from the emulator's story, the trap's entry in the trace from matching entries, and the
    entry's return from the replay: so each IRETQ has one return that must be its, and the targets must agree. Where a
    signal changed the target the story does not tell the trap, and the target decides.
    """
    found = MatchedReturns()
    executed = [Item(cpu, one) for cpu in cpus for one in cpu.executed[slice(*cpu.window)]]
    inside = [Item(cpu, one) for cpu in cpus for one in cpu.returns if _in_window(cpu, one)]
    outside = [Item(cpu, one) for cpu in cpus for one in cpu.returns if not _in_window(cpu, one)]
    before_or_after = [
        Item(cpu, one) for cpu in cpus for one in (*cpu.executed[: cpu.window[0]], *cpu.executed[cpu.window[1] :])
    ]
    traps = Traps(cpus)
    for mine, theirs in _by_trap(traps, executed, inside):
        _add(found, mine, theirs, traps)
    unmatched.match_mended(found, executed, inside, traps)
    # What no hook shows has no return, and takes none from a trap with the same target: many interrupt the idle loop.
    hidden = [item for item in executed if _is_unseen(item)]
    executed = [item for item in executed if not _is_unseen(item)]
    for mine, theirs in _by_latest(traps, executed, inside):
        _add(found, mine, theirs, traps)
    for mine, theirs in _by_target(traps, executed, inside):
        _add(found, mine, theirs, traps)
    executed += hidden
    _order(found)
    for mine, theirs in _across_edge(traps, cpus, executed, outside):
        _edge(found, mine, theirs, count=True)
    for mine, theirs in _across_edge(traps, cpus, before_or_after, inside):
        _edge(found, mine, theirs, count=False)
    unmatched.explain(found, cpus, executed, inside, traps)
    return found


def _is_unseen(item: Item[Executed]) -> bool:
    """Whether an IRETQ is of a trap that the trace cannot have, by the entries' own comparison."""
    trap = item.cpu.nesting.trap.get(item.one.at)
    return trap is not None and trap.at in item.cpu.unseen


def _in_window(cpu: CpuReturns, one: Return) -> bool:
    return cpu.tsc_window[0] <= one.tsc < cpu.tsc_window[1]


def _by_trap(
    traps: Traps, executed: list[Item[Executed]], returns: list[Item[Return]]
) -> list[tuple[Item[Executed], Item[Return]]]:
    """Match what is of the same trap and has the same target; what was matched leaves both lists."""
    by_entry = {(item.cpu.cpu, item.one.entry_tsc): item for item in returns if item.one.entry_tsc is not None}
    pairs = []
    for mine in executed:
        entry = traps.entry_of(mine)
        theirs = None if entry is None else by_entry.get(entry)
        if entry is not None and theirs is not None and target(mine.one) == target(theirs.one):
            del by_entry[entry]
            pairs.append((mine, theirs))
    remove(pairs, executed, returns)
    return pairs


def _by_latest(
    traps: Traps, executed: list[Item[Executed]], returns: list[Item[Return]]
) -> list[tuple[Item[Executed], Item[Return]]]:
    """Match IRETQs whose trap the story does not tell: with the latest before that returned to their target.

    Where the return was seen on the way to user mode, no other IRETQ to user mode can lie between trap and IRETQ.
    """
    pairs = []
    waiting: dict[tuple[int, bool, int | None, int | None], list[tuple[int, Item[Return]]]] = {}
    for item in returns:
        trap = traps.trap_of(item)
        if trap is not None:
            waiting.setdefault((item.cpu.cpu, *target(item.one)), []).append((trap.at, item))
    to_user = {item.cpu.cpu: [one.at for one in item.cpu.executed if not one.to_kernel] for item in executed}
    for mine in executed:
        fitting = waiting.get((mine.cpu.cpu, *target(mine.one)), [])
        irets = to_user[mine.cpu.cpu]
        earlier = [
            (at, item)
            for at, item in fitting
            if at < mine.one.at and (item.one.hook != WAY_TO_USER or irets[bisect_left(irets, at)] == mine.one.at)
        ]
        if earlier:
            latest = max(earlier, key=lambda entry: entry[0])
            fitting.remove(latest)
            pairs.append((mine, latest[1]))
    remove(pairs, executed, returns)
    return pairs


def _by_target(
    traps: Traps, executed: list[Item[Executed]], returns: list[Item[Return]]
) -> list[tuple[Item[Executed], Item[Return]]]:
    """Match what has the same target, on any CPU, one to one, in order; what was matched leaves both lists.

    Not a return of a known trap that was seen on the way to user mode: its IRETQ is the next one, or missing.
    """
    by_target: dict[tuple[bool, int | None, int | None], list[Item[Return]]] = {}
    for item in returns:
        if item.one.hook != WAY_TO_USER or traps.trap_of(item) is None:
            by_target.setdefault(target(item.one), []).append(item)
    pairs = []
    for mine in executed:
        fitting = by_target.get(target(mine.one), [])
        if fitting:
            pairs.append((mine, fitting.pop(0)))
    remove(pairs, executed, returns)
    return pairs


def _across_edge(
    traps: Traps, cpus: Sequence[CpuReturns], executed: list[Item[Executed]], returns: list[Item[Return]]
) -> list[tuple[Item[Executed], Item[Return]]]:
    """Match what an edge of the window cuts in two, so that only one of IRETQ and return is inside.

    Either both are of a trap inside the window, which ended after it; or of one that was open when it began: on both
    sides taken before and with the same target, the return in the trace before the window, its IRETQ behind. The window
    of the CPU that the trap began on: where its task went to another one, that begins at another time.
    """
    begins = {cpu.cpu: cpu.begins_at for cpu in cpus}
    by_entry = {(item.cpu.cpu, item.one.entry_tsc): item for item in returns if item.one.entry_tsc is not None}
    before: dict[tuple[int, bool, int | None, int | None], list[Item[Return]]] = {}
    for item in returns:
        if item.one.tsc < item.cpu.tsc_window[0]:
            before.setdefault((item.cpu.cpu, *target(item.one)), []).append(item)
    pairs = []
    for mine in executed:
        entry = traps.entry_of(mine)
        trap = mine.cpu.nesting.trap.get(mine.one.at)
        theirs = None if entry is None else by_entry.get(entry)
        began = mine.cpu.nesting.adopted.get(mine.one.at, mine.cpu.cpu)
        if theirs is None and trap is not None and trap.at < begins[began] and mine.cpu.begins_at <= mine.one.at:
            waiting = before.get((began, *target(mine.one)), [])
            theirs = waiting.pop() if waiting else None  # the latest
        if theirs is not None and target(mine.one) == target(theirs.one):
            pairs.append((mine, theirs))
    remove(pairs, executed, returns)
    return pairs


def _edge(found: MatchedReturns, mine: Item[Executed], theirs: Item[Return], *, count: bool) -> None:
    pair = Pair(cpu=mine.cpu, executed=mine.one, returned=theirs.one, trap=None, moved=True)
    found.pairs.append(pair)
    found.differs(pair, "edge", count=count)


def _add(found: MatchedReturns, mine: Item[Executed], theirs: Item[Return], traps: Traps) -> None:
    moved = mine.cpu is not theirs.cpu
    pair = Pair(cpu=mine.cpu, executed=mine.one, returned=theirs.one, trap=traps.trap_of(theirs), moved=moved)
    found.pairs.append(pair)
    if moved:
        found.differs(pair, "moved")  # the others are counted by _order()


def _order(found: MatchedReturns) -> None:
    """How many of the pairs on one CPU are in one order on both sides, and why the others are not."""
    by_cpu: dict[int, list[Pair]] = {}
    for pair in found.pairs:
        if not pair.moved:
            by_cpu.setdefault(pair.cpu.cpu, []).append(pair)
    for pairs in by_cpu.values():
        pairs.sort(key=lambda pair: pair.executed.at)
        kept = longest_rising([pair.returned.tsc for pair in pairs])
        for index, pair in enumerate(pairs):
            if index in kept:
                found.tally(to_kernel=pair.executed.to_kernel).in_order += 1
            else:
                found.differs(pair, _order_cause(pair, pairs))


def longest_rising(values: Sequence[int]) -> frozenset[int]:
    """Indices of a longest strictly rising part of a sequence (patience sorting)."""
    tails: list[int] = []
    heads: list[int] = []
    before: list[int] = []
    for index, value in enumerate(values):
        place = bisect_left(tails, value)
        before.append(heads[place - 1] if place else -1)
        tails[place : place + 1] = [value]
        heads[place : place + 1] = [index]
    kept = set()
    index = heads[-1] if heads else -1
    while index >= 0:
        kept.add(index)
        index = before[index]
    return frozenset(kept)


def _order_cause(pair: Pair, pairs: Sequence[Pair]) -> str | None:
    """Why a return is elsewhere in the trace's order than its IRETQ is in the emulator's."""
    if pair.returned.end != "exit":
        return "order-unseen"
    crossed = [
        other
        for other in pairs
        if other is not pair and (other.executed.at < pair.executed.at) != (other.returned.tsc < pair.returned.tsc)
    ]
    return "nested-after-hook" if all(_overlap(pair, other) for other in crossed) else None


def _overlap(one: Pair, other: Pair) -> bool:
    """Whether the trap of one of two returns was open when the other's IRETQ was executed."""
    (begin, end), (other_begin, other_end) = _span(one), _span(other)
    return begin < other_end < end or other_begin < end < other_end


def _span(pair: Pair) -> tuple[int, int]:
    """From where in its CPU's story the trap was open, to its IRETQ."""
    return (-1 if pair.trap is None else pair.trap.at), pair.executed.at
