"""A checked trace on a terminal: the verdict, the reasons as numbers, and the next command to run."""

from __future__ import annotations

import sys
import textwrap
from typing import TYPE_CHECKING, Final

import click

from iretrace import losses
from iretrace.console import duration, say, share, text_width
from iretrace.replay import assumptions
from iretrace.replay.claims import IST_LIST
from iretrace.replay.examples import TARGETS
from iretrace.replay.hazards import HAZARDS
from iretrace.replay.policies import built_in
from iretrace.replay.repairs import EXPLAINED, MEANINGS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from iretrace.replay.check import Check, PolicyFound
    from iretrace.replay.examples import Moment
    from iretrace.replay.observe import Finding

HOST_IST: Final = "rfc2014-host-ist"

_HAZARD_DOCS: Final = {hazard.name: hazard.doc for hazard in HAZARDS}


def show(found: Check) -> None:
    """Print it."""
    reasons = list(_reasons(found))
    say(f"{found.trace.path}: " + ("fine" if found.ok else "found: " + ", ".join(reasons)))
    _show_losses(found)
    _show_repairs(found)
    for policy in found.policies:
        _show_policy(found, policy)
    _show_assumptions(found)
    for note in found.notes:
        click.echo()
        _wrapped("note: ", note)
    click.echo("\nnext:")
    for step in _next(found):
        say(f"  {step}", "    ")


def _reasons(found: Check) -> Iterator[str]:
    if found.lost:
        total = sum(found.lost.values())
        yield _count(total, "event lost", "events lost") if total else "events lost"
    wrong = sum(repair.unexplained for repair in found.unexplained)
    if wrong:
        yield _count(wrong, "unexplained repair")
    for policy in found.policies:
        if policy.hazards:
            yield f"{_count(len(policy.hazards), 'hazard')} of {policy.policy}"
    if found.violated:
        yield _count(len(found.violated), "assumption violated", "assumptions violated")


def _show_losses(found: Check) -> None:
    by_cause: dict[str, int] = {}
    for loss in found.trace.footer.losses:
        by_cause[loss.cause] = by_cause.get(loss.cause, 0) + loss.count
    click.echo("\nlosses:" + ("" if by_cause else f" none recorded ({_count(found.trace.n_events, 'event')})"))
    for name, count in by_cause.items():
        cause = losses.BY_NAME[name]
        _wrapped(f"  {name} {count:,} ({cause.severity}): ", cause.doc)


def _show_repairs(found: Check) -> None:
    made = [repair for repair in found.repairs if repair.count]
    if not made:
        click.echo("repairs: none; every trap was seen from its entry to its exit")
        return
    total = sum(repair.count for repair in made)
    wrong = sum(repair.unexplained for repair in made)
    click.echo(f"repairs: {total:,}, " + (f"{wrong:,} of them unexplained" if wrong else "all as they must be"))
    for repair in made:
        text = MEANINGS[repair.name]
        if repair.unexplained:
            text += f"; {repair.unexplained:,} unexplained"
        elif repair.name in EXPLAINED:
            text += f"; {EXPLAINED[repair.name]}"
        _wrapped(f"  {repair.name} {repair.count:,}: ", text)


def _show_policy(found: Check, policy: PolicyFound) -> None:
    click.echo(f"\n{policy.policy}: " + (_count(len(policy.hazards), "hazard") if policy.hazards else "no hazard"))
    for hazard in policy.hazards:
        vectors = ", ".join(f"{name} {count:,}" for name, count in hazard.by_vector.items())
        of = f"{hazard.count:,} of {policy.returns:,} returns ({share(hazard.count, policy.returns)})"
        _wrapped(f"  {hazard.name}: ", f"{of}: {vectors}")
        _wrapped("    ", _HAZARD_DOCS[hazard.name])
        _show_examples(found, hazard.examples)


def _show_assumptions(found: Check) -> None:
    by_outcome: dict[str, list[Finding]] = {"violated": [], "held": [], "not observable": []}
    for finding in found.findings:
        by_outcome[finding.outcome].append(finding)
    parts = [f"{len(findings)} {outcome}" for outcome, findings in by_outcome.items() if findings]
    click.echo()
    say("assumptions of the mail: " + ", ".join(parts or ["none checked"]))
    for finding in by_outcome["violated"]:
        of = _count(finding.observed, "gate" if finding.claim.name == IST_LIST else "return")
        _wrapped(f"  {finding.claim.name}: ", f"violated by {finding.violations:,} of {of}")
        _wrapped("    ", f'"{finding.claim.sentence}"')
        _wrapped("    ", finding.why)
        _show_examples(found, finding.examples)
    for finding in by_outcome["held"]:
        of = _count(finding.observed, "gate" if finding.claim.name == IST_LIST else "return")
        why = f" ({finding.why})" if finding.why else ""
        _wrapped(f"  {finding.claim.name}: ", f"held in {of} that could have shown otherwise{why}")
    for finding in by_outcome["not observable"]:
        _wrapped(f"  {finding.claim.name}: ", f"not observable: {finding.why}")


def _show_examples(found: Check, moments: Iterable[Moment]) -> None:
    arrow = " ▸ " if (sys.stdout.encoding or "").lower().startswith("utf") else " > "
    start, khz = found.trace.footer.window.start_tsc, found.trace.footer.clock.tsc_khz
    for moment in moments:
        stack = found.stacks.get(moment, ())
        after = ""
        if start is not None and khz is not None and moment.tsc >= start:
            after = f" ({duration((moment.tsc - start) / khz * 1e6)} after the start)"
        chain = arrow.join([TARGETS[stack[0].target], *(trap.name for trap in stack)]) if stack else "no stack"
        _wrapped(f"    TSC {moment.tsc}{after} on CPU {moment.cpu}: ", chain)


def _next(found: Check) -> Iterator[str]:
    path = found.trace.path
    if found.ok:
        yield f"iretrace report {path}"
        return
    for name in found.lost:
        yield f"{name}: {losses.BY_NAME[name].remedy}"
    if found.unexplained and not found.lost:
        yield "sudo iretrace collect: record it again; docs/checking.md says what else may leave a trap unpaired"
    known = built_in()
    hazardous = [policy.policy for policy in found.policies if policy.hazards]
    if hazardous:
        yield f"iretrace replay {path} --policy {hazardous[0]} -o predictions.parquet"
    for name in hazardous:
        if name in known:
            yield f"iretrace verify --policy {name}"
    for finding in found.violated:
        name = finding.claim.name
        checked = [policy.policy for policy in found.policies if policy.policy in known]
        if name in assumptions.BY_NAME and checked:
            yield f"iretrace verify --policy {checked[0]} --drop {name}"
        elif name == IST_LIST and HOST_IST in known:
            yield f"iretrace check {path} --policy {HOST_IST} --drop {name}"


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _wrapped(label: str, text: str) -> None:
    indent = " " * (len(label) - len(label.lstrip()) + 2)
    width = max(text_width(), 2 * len(indent) + 1)
    for line in textwrap.wrap(text, width, initial_indent=label, subsequent_indent=indent, break_on_hyphens=False):
        click.echo(line)
