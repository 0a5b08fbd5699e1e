"""The mail's assumptions looked at in a trace: held, violated, or not observable and why.

One pass of the replay's engine. A context of the engine has no room for *whether* flags and frame were seen, so it is
given a ``flags`` column of its own: IF as it was, TF where the flags are known, RF where instruction and stack
pointer are. (Nothing here is about TF and RF themselves.) Where entry and exit of a trap each show a part of its
frame, what the exit shows counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from iretrace.replay import contexts
from iretrace.replay.ahead import reading
from iretrace.replay.claims import CLAIMS, IST_LIST, QUIET_NMI_EDGES, Claim, Seen
from iretrace.replay.engine import COLUMNS, End, Engine, Pairing, Rows
from iretrace.replay.examples import Moment
from iretrace.replay.policies import MAIL_IST, RFC2014, NestCounter
from iretrace.replay.repairs import Repair, Triage
from iretrace.replay.run import Returns
from iretrace.schema import ROW_GROUP_EVENTS
from iretrace.vectors import MC, NMI, vector_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray

    from iretrace.footer import Footer
    from iretrace.trace import Trace

Outcome = Literal["held", "violated", "not observable"]

MAX_EXAMPLES: Final = 3

_IF, _FLAGS_SEEN, _PLACE_SEEN = 1 << 9, 1 << 8, 1 << 16
_MC_BELOW: Final = NestCounter(up=frozenset({MC}), down=frozenset({MC}), count_self=False)
_COUNTERS: Final = (_MC_BELOW, RFC2014.counter)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a trace says of one claim.

    Attributes:
        claim: which.
        outcome: ``not observable`` where nothing in the trace could have violated it.
        observed: how many returns (gates, for ``ist-list``) could have violated it.
        violations: how many did.
        examples: the first of those.
        why: why it is not observable, what differs, or what to keep in mind; may be empty.
    """

    claim: Claim
    outcome: Outcome
    observed: int
    violations: int
    examples: tuple[Moment, ...]
    why: str


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What one pass found: every claim in the order of :data:`CLAIMS`, and every kind of repair."""

    findings: tuple[Finding, ...]
    repairs: tuple[Repair, ...]


def observe(trace: Trace, *, progress: Callable[[int], None] | None = None) -> Observation:
    """Look at every claim, and at every repair, in one pass; memory is bounded by a row group.

    Args:
        trace: an opened trace.
        progress: called after every batch with the number of its events.

    Raises:
        Damaged: the trace holds what it must not.
    """
    watch = _Watch(trace.footer)
    with reading(trace, COLUMNS) as batches:
        engine = Engine(Pairing.from_footer(trace.footer), _COUNTERS)
        for rows in _through(engine, batches, progress):
            watch.take(rows)
    repairs = watch.triage.repairs()
    doubt = trace.footer.is_lossy() or any(repair.unexplained for repair in repairs)
    return Observation(findings=tuple(watch.finding(claim, doubt=doubt) for claim in CLAIMS), repairs=repairs)


def _through(
    engine: Engine, batches: Iterable[pa.RecordBatch], progress: Callable[[int], None] | None
) -> Iterator[Rows]:
    for batch in batches:
        told = _telling_what_was_seen(batch.select(COLUMNS))
        for start in range(0, told.num_rows, ROW_GROUP_EVENTS):
            rows = engine.feed(told.slice(start, ROW_GROUP_EVENTS), rows=True)
            if rows is not None:
                yield rows
        if progress is not None:
            progress(batch.num_rows)
    rows = engine.finish(rows=True)
    if rows is not None:
        yield rows


def _telling_what_was_seen(batch: pa.RecordBatch) -> pa.RecordBatch:
    flags = batch.column("flags")
    flags_seen = flags.is_valid()
    place_seen = pc.and_(batch.column("ip").is_valid(), batch.column("sp").is_valid())
    bits = (
        (pc.fill_null(flags, 0).to_numpy() & _IF)
        | flags_seen.to_numpy(zero_copy_only=False) * np.uint32(_FLAGS_SEEN)
        | place_seen.to_numpy(zero_copy_only=False) * np.uint32(_PLACE_SEEN)
    )
    told = pa.array(bits.astype(np.uint32), mask=bits == 0)
    return batch.set_column(batch.schema.get_field_index("flags"), "flags", told)


@dataclass
class _Tally:
    observed: int = 0
    violations: int = 0
    examples: tuple[Moment, ...] = ()


class _Watch:
    """Counts opportunities and violations, and what there was to see at all."""

    def __init__(self, footer: Footer) -> None:
        self.triage = Triage(footer)
        self._footer = footer
        self._tallies = {claim.name: _Tally() for claim in CLAIMS}
        self._returns = np.zeros(contexts.N_SLOTS, np.int64)
        self._were_open = np.zeros(contexts.N_SLOTS, np.int64)
        self._inside = {NMI: 0, MC: 0}
        self._places = 0

    def take(self, rows: Rows) -> None:
        batch = Returns(rows=rows.returns, decisions=())
        self.triage.take(batch)
        seen = _seen(rows)
        self._returns += np.bincount(seen.slot, minlength=contexts.N_SLOTS)
        self._were_open += np.bincount(seen.slot[seen.was_open], minlength=contexts.N_SLOTS)
        self._inside[NMI] += int(np.count_nonzero(seen.in_nmi))
        self._inside[MC] += int(np.count_nonzero(seen.in_mc))
        self._places += int(np.count_nonzero(seen.place_seen))
        for claim in CLAIMS:
            if claim.test is None:
                continue
            could, did = claim.test(seen)
            tally = self._tallies[claim.name]
            tally.observed += int(np.count_nonzero(could))
            tally.violations += int(np.count_nonzero(did))
            if len(tally.examples) < MAX_EXAMPLES and did.any():
                tally.examples = (*tally.examples, *_moments(batch, did))[:MAX_EXAMPLES]

    def finding(self, claim: Claim, *, doubt: bool) -> Finding:
        """What all that was taken says of a claim."""
        if claim.name == IST_LIST:
            return _ist_list(claim, self._footer)
        tally = self._tallies[claim.name]
        missing = "" if tally.violations else next(self._reasons(claim, tally), "")
        if missing:
            return _finding(claim, "not observable", why=missing)
        why = [self._caveat(claim)] if not tally.violations else []
        if doubt and claim.within:
            why.append("doubtful: events are missing, and exits of NMIs or #MCs may be among them")
        return _finding(
            claim, "violated" if tally.violations else "held", tally=tally, why="; ".join(part for part in why if part)
        )

    def _reasons(self, claim: Claim, tally: _Tally) -> Iterator[str]:
        """Why there was nothing to see, the plainest reason first."""
        if claim.never:
            yield claim.never
        if claim.name == QUIET_NMI_EDGES and not self._footer.nmi_text:
            yield "the trace does not say where the NMI entry and exit code lies"
        if claim.watch and not any(self._recorded(vector) for vector in claim.watch):
            if all(self._unseen(vector) for vector in claim.watch):
                yield f"no hook sees {_names(claim.watch)} on this kernel"
            yield f"the trace holds no {_names(claim.watch)}, and does not say whether it would"
        if claim.within:
            yield from self._reasons_inside(claim, tally)
        elif claim.name == QUIET_NMI_EDGES and not tally.observed:
            yield "the trace holds no NMI"
        elif claim.name == QUIET_NMI_EDGES and not self._places:
            yield "no trap of the trace shows where it struck"
        elif not tally.observed:
            yield "no such return of the trace shows a saved stack pointer"

    def _reasons_inside(self, claim: Claim, tally: _Tally) -> Iterator[str]:
        held = [vector for vector in claim.within if self._returns[vector]]
        if not held:
            unseen = [vector for vector in claim.within if self._unseen(vector)]
            hint = f" (no hook sees {_names(unseen)} on this kernel)" if unseen else ""
            yield f"the trace holds no {' and no '.join(map(vector_name, claim.within))}{hint}"
        stacked = int(self._were_open[held].sum())
        if not stacked:
            yield f"{_names(held)} without an exit: nothing is seen inside"
        if tally.observed:
            return
        inside = sum(self._inside[vector] for vector in claim.within)
        if not inside:
            yield f"nothing struck inside the {stacked:,} {_names(held)} of the trace"
        yield f"none of the {inside:,} returns inside {_names(held)} shows {claim.needs}"

    def _caveat(self, claim: Claim) -> str:
        absent = [vector for vector in claim.within if not self._inside[vector]]
        if absent and not claim.watch:
            return f"nothing is seen inside {_names(absent)}"
        unseen = [vector for vector in claim.watch if not self._recorded(vector)]
        return f"{_names(unseen)} not recorded" if unseen else ""

    def _recorded(self, vector: int) -> bool:
        """Whether the trace shows a vector, or would if it struck."""
        return bool(self._returns[vector]) or any(
            vector in trap_class.vectors and trap_class.entry is not None for trap_class in self._footer.classes
        )

    def _unseen(self, vector: int) -> bool:
        """Whether the trace says that no hook sees a vector."""
        classes = [trap_class for trap_class in self._footer.classes if vector in trap_class.vectors]
        return bool(classes) and all(trap_class.entry is None for trap_class in classes)


def _seen(rows: Rows) -> Seen:
    fields = contexts.decode(rows.returns["context"])
    end: NDArray[Any] = rows.returns["end"]
    return Seen(
        slot=rows.returns["slot"],
        target=fields.target,
        end=end,
        in_nmi=fields.nmi_on_stack,
        # An overflow ends the oldest trap: what is counted then lies above it.
        in_mc=(rows.nest[:, 0] != 0) & (end != End.OVERFLOW),
        flags_seen=fields.flag_tf,
        place_seen=fields.flag_rf,
        flag_if=fields.flag_if,
        user_sp=fields.user_sp,
        nmi_text=fields.nmi_text,
        count=rows.nest[:, 1],
    )


def _moments(batch: Returns, which: NDArray[np.bool_]) -> tuple[Moment, ...]:
    first = np.flatnonzero(which)[:MAX_EXAMPLES]
    tsc, rows = batch.tsc[first], batch.rows[first]
    return tuple(
        Moment(tsc=int(t), cpu=int(row["cpu"]), slot=int(row["slot"])) for t, row in zip(tsc, rows, strict=True)
    )


def _ist_list(claim: Claim, footer: Footer) -> Finding:
    if footer.fred:
        return _finding(claim, "not observable", why="FRED delivers events without an IDT")
    gates = {gate.vector: gate.ist != 0 for gate in footer.idt or () if gate.vector != NMI}
    if not gates:
        return _finding(claim, "not observable", why="the trace has no IDT")
    without = sorted(vector for vector, ist in gates.items() if vector in MAIL_IST and not ist)
    beyond = sorted(vector for vector, ist in gates.items() if vector not in MAIL_IST and ist)
    parts = []
    if beyond:
        parts.append(f"{_names(beyond)} on an IST stack here and not in the list")
    if without:
        parts.append(f"{_names(without)} in the list and on no IST stack here")
    tally = _Tally(observed=len(gates), violations=len(without) + len(beyond))
    return _finding(claim, "violated" if parts else "held", tally=tally, why="; ".join(parts))


def _finding(claim: Claim, outcome: Outcome, *, tally: _Tally | None = None, why: str = "") -> Finding:
    tally = tally or _Tally()
    return Finding(
        claim=claim,
        outcome=outcome,
        observed=tally.observed,
        violations=tally.violations,
        examples=tally.examples,
        why=why,
    )


def _names(vectors: Iterable[int]) -> str:
    return ", ".join(map(vector_name, vectors))
