"""Holds a trace against the emulator's log of the same window.

``python -m vmtest.compare DIR`` reads what ``vmtest.recording`` left there and prints the report; ``--json`` prints
everything as JSON. Exit status 0: the two tell one story, within the bounds of :data:`BOUNDS`; 1: they do not; 2: it
could not be done.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final

from iretrace.collect.kernel import Symbols, parse_kallsyms
from iretrace.errors import IretraceError
from iretrace.vectors import MC, NMI, PF
from vmtest import decisions, entries, log, nesting, report, returns, seen
from vmtest.pairs import CpuReturns, MatchedReturns, show_return, still_counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from iretrace.footer import Footer

MARKERS: Final = 0x600000000000
"""``guest/window.c``: where its faulting instructions lie."""
RETURN_SITE: Final = "native_irq_return_iret"
"""The IRETQ of every return but the NMI's own (arch/x86/entry/entry_64.S)."""

FIRST_EXTERNAL: Final = 0x20
FIRST_SYSTEM: Final = 0xEC
SYSTEM_CALL: Final = 0x80

BOUNDS: Final = {
    "seconds": 5.0,
    "traps": 8000,
    "nmis": 50,
    "cpus": 2,
    "entries_in_order": 0.999,
    "to_user": 0.999,
    "to_kernel": 0.99,
}
"""What a comparison must reach."""
MOST_BEFORE_HOOK: Final = 0.025
"""Share of the NMIs that may be in the trace before the trap that they came in."""


class CompareError(Exception):
    """The recording is not one that can be compared."""


def compare(directory: Path) -> report.Comparison:
    """Compare.

    Raises:
        CompareError, LogError, IretraceError: the recording is incomplete.
    """
    stories = log.read(directory)
    trace = seen.read(directory / "trace.parquet")
    with (directory / "kallsyms").open() as lines:
        symbols = parse_kallsyms(lines)
    footer = trace.footer
    found = report.Comparison(kernel=footer.host.kernel, cpus=len(stories))
    for loss in footer.losses:
        found.losses[loss.cause] = found.losses.get(loss.cause, 0) + loss.count
    visible, keys = _visible(footer, trace)
    nests = nesting.nestings(stories)
    matched: dict[int, entries.MatchedEntries] = {}
    windows: dict[int, Sequence[log.Taken]] = {}
    parts: list[CpuReturns] = []
    unseen: dict[int, dict[int, str]] = {
        cpu: {trap.at: "hidden" for trap in story.taken() if trap.vector not in visible}
        for cpu, story in stories.items()
    }
    counts: Counter[tuple[int, str]] = Counter()
    for cpu, story in sorted(stories.items()):
        mine = trace.cpus.get(cpu, seen.Seen(cpu=cpu))
        found.zero_tsc += mine.zero_tsc
        found.out_of_order += mine.out_of_order
        begin, end = _window_there(story)
        first, last = _window_here(mine)
        windows[cpu] = [trap for trap in story.taken() if begin < trap.at < end]
        here = [entry for entry in mine.entries if first.at < entry.at < last.at]
        there = [trap for trap in windows[cpu] if _is_visible(trap, visible)]
        for trap in windows[cpu]:
            if _is_visible(trap, visible):
                counts[keys.vector(trap.vector), "there"] += 1
            else:
                found.hidden[trap.vector] = found.hidden.get(trap.vector, 0) + 1
        for entry in here:
            counts[keys.vector(entry.vector), "here"] += 1
        matched[cpu] = entries.match(cpu, there, here, keys, nests[cpu])
        sites = [one for one in story.executed() if _is_return(one, symbols, footer)]
        found.other_irets += sum(1 for one in story.executed() if begin < one.at < end) - sum(
            1 for one in sites if begin < one.at < end
        )
        parts.append(
            CpuReturns(
                cpu=cpu,
                executed=sites,
                returns=mine.returns,
                window=(sum(1 for one in sites if one.at < begin), sum(1 for one in sites if one.at < end)),
                begins_at=begin,
                tsc_window=(first.tsc, last.tsc),
                nesting=nests[cpu],
                taken=story.taken(),
                entries=matched[cpu].pairs,
                unseen=unseen[cpu],
            )
        )
        khz = footer.clock.tsc_khz or 0
        length = (last.tsc - first.tsc) / (khz * 1000) if khz else 0.0
        found.seconds = min(found.seconds or length, length)
    for cpu, at in entries.explain_bystanders(matched, windows):
        unseen[cpu][at] = "bystander"
    for cpu, entered in matched.items():
        unseen[cpu] |= dict.fromkeys(entered.skipped, "skipped")
    found.counts = {
        vector: (counts[vector, "there"], counts[vector, "here"]) for vector in {vector for vector, _ in counts}
    }
    _add_entries(found, matched)
    _add_returns(found, returns.match(parts), footer)
    return found


def _visible(footer: Footer, trace: seen.Trace) -> tuple[frozenset[int], entries.Keys]:
    """Vectors that the trace says it can see, and what can be compared of them."""
    vectors: set[int] = set()
    for item in footer.classes:
        if item.entry is not None:
            vectors |= set(item.vectors)
    devices = frozenset(range(FIRST_EXTERNAL, FIRST_SYSTEM)) - {SYSTEM_CALL}
    if any(item.entry is not None and not item.vectors for item in footer.classes):
        vectors |= devices
    all_entries = [entry for cpu in trace.cpus.values() for entry in cpu.entries]
    with_stack = {entry.vector for entry in all_entries if entry.sp is not None}
    without_stack = {entry.vector for entry in all_entries if entry.vector is not None} - with_stack
    any_device = any(entry.vector is None for entry in all_entries)
    return frozenset(vectors), entries.Keys(
        devices=devices if any_device else frozenset(),
        without_stack=frozenset(v for v in without_stack if v is not None),
    )


def _is_visible(trap: log.Taken, visible: frozenset[int]) -> bool:
    return trap.vector in visible


def _is_return(executed: log.Executed, symbols: Symbols, footer: Footer) -> bool:
    """Whether an IRETQ ends a trap or system call: not one that serializes, nor one inside the NMI's own code."""
    if executed.site == symbols.address(RETURN_SITE):
        return True
    in_nmi = any(low <= executed.site < high for low, high in footer.nmi_text)
    to_nmi = any(low <= executed.ip < high for low, high in footer.nmi_text)
    return in_nmi and not to_nmi


def _window_there(story: log.CpuStory) -> tuple[int, int]:
    begin = [trap.at for trap in story.taken() if _is_marker(trap.vector, trap.ip, story.cpu, 0)]
    end = [trap.at for trap in story.taken() if _is_marker(trap.vector, trap.ip, story.cpu, 1)]
    if not begin or not end:
        raise CompareError(f"the emulator's log of CPU {story.cpu} has no window")
    return begin[-1], end[0]


def _window_here(mine: seen.Seen) -> tuple[seen.Entry, seen.Entry]:
    begin = [entry for entry in mine.entries if _is_marker(entry.vector, entry.ip, mine.cpu, 0)]
    end = [entry for entry in mine.entries if _is_marker(entry.vector, entry.ip, mine.cpu, 1)]
    if not begin or not end:
        raise CompareError(f"the trace has no window on CPU {mine.cpu}")
    return begin[-1], end[0]


def _is_marker(vector: int | None, ip: int | None, cpu: int, which: int) -> bool:
    return vector == PF and ip == MARKERS + 16 * (2 * cpu + which)


def _add_entries(found: report.Comparison, matched: dict[int, entries.MatchedEntries]) -> None:
    same: Counter[str] = Counter()
    other: Counter[str] = Counter()
    for mine in matched.values():
        found.entries.total += mine.tally.total
        found.entries.in_order += mine.tally.in_order
        found.entries.otherwise += mine.tally.otherwise
        found.entries.differences += mine.tally.differences
        for trap, entry in mine.pairs:
            if entry.ip is not None:
                kind = decisions.class_of(trap, ())
                found.seen[kind] = found.seen.get(kind, 0) + 1
            for name, there, here in (
                ("cs", trap.cs, entry.cs),
                # RF is the CPU's to set in what it pushes (SDM vol. 3B, 17.3.1.1); the log has RFLAGS before that.
                (
                    "flags",
                    trap.flags & ~decisions.FLAG_RF,
                    None if entry.flags is None else entry.flags & ~decisions.FLAG_RF,
                ),
                ("error_code", trap.error_code, entry.error_code),
            ):
                if here is not None:
                    (same if there == here else other)[name] += 1
    found.frames = {name: (same[name], other[name]) for name in sorted({*same, *other})}


def _add_returns(found: report.Comparison, matched: MatchedReturns, footer: Footer) -> None:
    found.to_user, found.to_kernel = matched.to_user, matched.to_kernel
    found.system_calls = matched.system_calls
    rets = [pair for pair in matched.pairs if pair.returned.decisions["rfc2014"][0] == "RET"]
    unmatched = sum(1 for _, one in matched.unmatched_returns if one.decisions["rfc2014"][0] == "RET")
    found.ret_predictions = (len(rets) + unmatched, sum(1 for pair in rets if pair.executed.to_kernel))
    for pair in matched.pairs:
        if pair.trap is None:
            continue
        below = pair.cpu.nesting.below.get(pair.executed.at, ())
        kind = decisions.class_of(pair.trap, below)
        counted = still_counted(pair.cpu, pair.cpu.nesting.counted.get(pair.executed.at, ()), pair.returned.tsc)
        judged = decisions.judge(pair.trap, pair.executed, counted, pair.returned, footer)
        if MC in counted:
            # Of the kernel's machine checks no hook shows the end, nor a bystander's beginning: what came inside one
            # may be judged as if it had not been there, and is then counted apart.
            without = tuple(vector for vector in counted if vector != MC)
            lacking = decisions.judge(pair.trap, pair.executed, without, pair.returned, footer)
            unseen = {policy for policy, (wanted, got) in judged.items() if wanted != got == lacking[policy][0]}
            found.in_unseen_checks += bool(unseen)
            judged = {policy: both for policy, both in judged.items() if policy not in unseen}
        for policy, (wanted, got) in judged.items():
            by_class = found.decisions.setdefault(policy, {})
            total, wrong = by_class.get(kind, (0, 0))
            by_class[kind] = (total + 1, wrong + (wanted != got))
            if wanted != got:
                found.wrong_decisions.append(
                    f"CPU {pair.cpu.cpu}, {kind}, {policy}: must be {wanted}, is {got}: {show_return(pair.returned)}"
                )


def failures(found: report.Comparison) -> list[str]:
    """What keeps a comparison from showing that the two tell one story; empty: nothing."""
    said = [*_too_small(found), *_counted_otherwise(found)]
    entered = found.entries
    if entered.in_order < BOUNDS["entries_in_order"] * entered.total:
        said.append(f"{entered.in_order} of {entered.total} entries matched in order")
    for name, tally in (("to_user", found.to_user), ("to_kernel", found.to_kernel)):
        if tally.matched < BOUNDS[name] * tally.total or not tally.total:
            said.append(f"{tally.matched} of {tally.total} IRETs matched, {name}")
    for name, tally in (("entries", entered), ("IRETs to user", found.to_user), ("IRETs to kernel", found.to_kernel)):
        if tally.unexplained:
            said.append(f"{name}: {len(tally.unexplained)} differences unexplained")
    if found.ret_predictions[0] != found.ret_predictions[1]:
        said.append("rfc2014 predicts {} RETs, and {} were IRETs to the kernel".format(*found.ret_predictions))
    said += [f"{other} of the {name} of matched entries differ" for name, (_, other) in found.frames.items() if other]
    if found.zero_tsc or found.out_of_order:
        said.append(f"TSC: {found.zero_tsc} zero, {found.out_of_order} out of order")
    said += _too_often(found)
    if found.wrong_decisions:
        said.append(f"{len(found.wrong_decisions)} decisions are not what they must be")
    return said


def _too_small(found: report.Comparison) -> list[str]:
    traps = sum(there for there, _ in found.counts.values()) + sum(found.hidden.values())
    nmis = found.counts.get(NMI, (0, 0))[0]
    reached = {"seconds": found.seconds, "traps": traps, "nmis": nmis, "cpus": found.cpus}
    return [
        f"the window has {value:.1f} {name}, not {BOUNDS[name]}"
        for name, value in reached.items()
        if value < BOUNDS[name]
    ]


def _too_often(found: report.Comparison) -> list[str]:
    """Causes that must stay rare: those the trace counts itself, and what the recorder could not mend."""
    named = Counter(one.cause for one in found.entries.differences)
    said = []
    skipped = found.losses.get("probe-skipped", 0)
    if named["skipped"] > skipped:
        said.append(f"{named['skipped']} entries skipped, of which the trace counts {skipped} as probe-skipped")
    most = MOST_BEFORE_HOOK * found.counts.get(NMI, (0, 0))[0]
    if named["nmi-before-hook"] > most:
        said.append(f"{named['nmi-before-hook']} entries nmi-before-hook, more than {most:.1f}")
    return said


def _counted_otherwise(found: report.Comparison) -> list[str]:
    explained = Counter(_vector_of(one) for one in found.entries.differences if one.cause and one.what == "only there")
    return [
        f"vector {vector:#x}: {there} by the emulator, {here} in the trace, {explained[vector]} explained"
        for vector, (there, here) in sorted(found.counts.items())
        if there - explained[vector] != here
    ]


def _vector_of(one: report.Difference) -> int:
    return int(one.emulator.partition("v=")[2].partition(" ")[0], 16)


def main(arguments: list[str]) -> int:
    """Compare and report."""
    parser = argparse.ArgumentParser(
        prog="python -m vmtest.compare", description="Hold a trace against the emulator's log of the same window."
    )
    parser.add_argument("directory", type=Path, metavar="DIR", help="what python -m vmtest.recording left")
    parser.add_argument("--json", action="store_true", help="print everything, as JSON")
    chosen = parser.parse_args(arguments)
    try:
        found = compare(chosen.directory)
    except (CompareError, log.LogError, IretraceError, OSError) as error:
        sys.stderr.write(f"vmtest: {error}\n")
        return 2
    sys.stdout.write((found.as_json() if chosen.json else report.text(found)) + "\n")
    said = failures(found)
    for line in said:
        sys.stderr.write(f"FAILED: {line}\n")
    return 1 if said else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
