"""Putting a trace through policies: one pass, any number of policies, memory bounded by a row group.

:func:`replay` gives the counts of which every summary is made; :func:`returns` gives every return, a batch at a
time. Both read the trace in a thread of its own while the engine runs without the GIL.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from iretrace.errors import UsageError
from iretrace.replay import contexts
from iretrace.replay.ahead import reading
from iretrace.replay.engine import COLUMNS, End, Engine, Pairing, Rows
from iretrace.replay.tables import Table, depends_on_ist, enumerate_policy, ist_vectors
from iretrace.schema import ROW_GROUP_EVENTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import pyarrow as pa
    from numpy.typing import NDArray

    from iretrace.footer import Footer
    from iretrace.replay.policies import NestCounter, Policy
    from iretrace.trace import Trace


@dataclass(frozen=True, kw_only=True)
class Decisions:
    """What one policy decides about the returns of a batch; arrays have shape ``(n,)``.

    Attributes:
        table: the policy's answers by context.
        nest: uint16, the policy's nest counter as each return was judged by it.
        context: uint32, index into the table's arrays (:mod:`iretrace.replay.contexts`).
    """

    table: Table
    nest: NDArray[np.uint16]
    context: NDArray[np.uint32]

    @property
    def choice(self) -> NDArray[np.uint8]:
        """A :class:`~iretrace.replay.policies.Choice` a return."""
        return self.table.choice[self.context]

    @property
    def rule(self) -> NDArray[np.uint8]:
        """Index into ``table.rules`` a return."""
        return self.table.rule[self.context]

    @property
    def hazard(self) -> NDArray[np.uint16]:
        """Bit set over :data:`iretrace.replay.hazards.HAZARDS` a return."""
        return self.table.hazard[self.context]


@dataclass(frozen=True, kw_only=True)
class Returns:
    """Returns of one batch, one row a trap.

    Order: as found. On one CPU ends do not fall and a nested trap comes before the one it is in; a trap whose exit
    was not seen stands where its end was found out, which may be batches after its entry.

    Attributes:
        rows: :data:`iretrace.replay.engine.RETURN_DTYPE`, shape ``(n,)``.
        decisions: one a policy, in the order in which they were given.
    """

    rows: NDArray[Any]
    decisions: tuple[Decisions, ...]

    @property
    def tsc(self) -> NDArray[np.uint64]:
        """TSC of each exit, or of the entry where no exit was seen."""
        seen = (self.rows["end"] == End.EXIT) | (self.rows["end"] == End.ORPHAN)
        return np.where(seen, self.rows["exit_tsc"], self.rows["entry_tsc"])


@dataclass(frozen=True, kw_only=True)
class PolicyCounts:
    """One policy over a whole trace; arrays have shape ``(N_CONTEXTS,)``.

    Attributes:
        table: the policy's answers by context.
        counts: uint64, returns by context.
        first_tsc: uint64, TSC of the first return of a context; 0 where there is none.
        first_cpu: uint16, the CPU of that return.
    """

    table: Table
    counts: NDArray[np.uint64]
    first_tsc: NDArray[np.uint64]
    first_cpu: NDArray[np.uint16]


@dataclass(frozen=True, kw_only=True)
class Result:
    """A replayed trace.

    Attributes:
        trace: what was replayed.
        policies: one a policy, in the order in which they were given.
        repairs: what pairing had to make up for, by the names of :data:`iretrace.replay.engine.REPAIRS`.
        notes: assumptions that a reader of the numbers must know, one sentence each.
    """

    trace: Trace
    policies: tuple[PolicyCounts, ...]
    repairs: dict[str, int]
    notes: tuple[str, ...]


def replay(
    trace: Trace,
    policies: Sequence[Policy],
    *,
    sink: Callable[[Returns], None] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Result:
    """Put a trace through policies.

    Args:
        trace: an opened trace.
        policies: at least one; five cost little more than one.
        sink: called with every batch of returns, where they are wanted too.
        progress: called after every batch with the number of its events.

    Raises:
        Damaged: the trace holds what it must not.
        UsageError: a policy is not a pure function from contexts to choices.
    """
    with reading(trace, _columns(rows=sink is not None)) as batches:
        run = _Run(trace.footer, policies)
        for rows in run.through(batches, rows=sink is not None, progress=progress):
            if sink is not None and rows is not None:
                sink(run.decide(rows))
    return run.result(trace)


def returns(trace: Trace, policies: Sequence[Policy]) -> Iterator[Returns]:
    """Every return of a trace, a batch (at most a row group of events) at a time.

    Raises:
        Damaged: the trace holds what it must not.
        UsageError: a policy is not a pure function from contexts to choices.
    """
    with reading(trace, _columns(rows=True)) as batches:
        run = _Run(trace.footer, policies)
        for rows in run.through(batches, rows=True):
            if rows is not None and rows.returns.size:
                yield run.decide(rows)


def _columns(*, rows: bool) -> tuple[str, ...]:
    return (*COLUMNS, "pid") if rows else COLUMNS


class _Run:
    """Policies made ready for a trace, and the engine that counts for them."""

    def __init__(self, footer: Footer, policies: Sequence[Policy]) -> None:
        if not policies:
            raise UsageError("--policy", "no policy given", expected="at least one")
        ist = ist_vectors(footer)
        self.tables = [enumerate_policy(policy, ist) for policy in policies]
        counters: list[NestCounter] = []
        for policy in policies:
            if policy.counter not in counters:
                counters.append(policy.counter)
        self._counter_of = [counters.index(policy.counter) for policy in policies]
        self._engine = Engine(Pairing.from_footer(footer), counters)
        self._notes = tuple(_notes(footer, policies))

    def through(
        self,
        batches: Iterable[pa.RecordBatch],
        *,
        rows: bool,
        progress: Callable[[int], None] | None = None,
    ) -> Iterator[Rows | None]:
        columns = _columns(rows=rows)
        for batch in batches:
            # A row group may be large, and rows are made of all of a batch at once.
            for part in _parts(batch.select(columns)) if rows else (batch.select(columns),):
                yield self._engine.feed(part, rows=rows)
            if progress is not None:
                progress(batch.num_rows)
        yield self._engine.finish(rows=rows)

    def decide(self, rows: Rows) -> Returns:
        decisions = []
        for table, counter in zip(self.tables, self._counter_of, strict=True):
            nest = rows.nest[:, counter]
            context: NDArray[np.uint32] = rows.returns["context"] | (nest != 0).astype(np.uint32) * contexts.NESTED
            decisions.append(Decisions(table=table, nest=nest, context=context))
        return Returns(rows=rows.returns, decisions=tuple(decisions))

    def result(self, trace: Trace) -> Result:
        policies = tuple(
            PolicyCounts(
                table=table,
                counts=self._engine.counts[counter],
                first_tsc=self._engine.first_tsc[counter],
                first_cpu=self._engine.first_cpu[counter],
            )
            for table, counter in zip(self.tables, self._counter_of, strict=True)
        )
        return Result(trace=trace, policies=policies, repairs=self._engine.repairs, notes=self._notes)


def _parts(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    for start in range(0, batch.num_rows, ROW_GROUP_EVENTS):
        yield batch.slice(start, ROW_GROUP_EVENTS)


def _notes(footer: Footer, policies: Sequence[Policy]) -> Iterator[str]:
    yield from footer.limits()
    if footer.idt is None:
        asking = [policy.name for policy in policies if depends_on_ist(policy)]
        if asking:
            yield f"The trace has no IDT: {', '.join(asking)} took the mail's list of IST vectors instead."
    if footer.kernel_cs is None:
        yield "The trace does not name the kernel's CS: a target of privilege level 0 counts as the kernel's."
