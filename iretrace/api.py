"""iretrace from Python: ``iretrace.open`` and ``iretrace.replay``, which give pandas frames.

Frames of events, traps and returns stand on Arrow: numbers and truth values are ``pandas.ArrowDtype`` (a value that is
not known is ``pd.NA``), names are categories. Frames of counts and savings are of numpy's int64 and float64, where a
value that is not known is NaN. The documentation is ``docs/api.md``.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd
import pyarrow as pa

from iretrace import trace as traces
from iretrace import traps
from iretrace.analysis import frames, saved
from iretrace.errors import UsageError
from iretrace.replay import costs, own, run
from iretrace.replay.policies import IRET, Policy
from iretrace.replay.summary import summarize
from iretrace.schema import EVENT_COLUMNS, arrow_schema

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from iretrace.analysis.saved import Saved

__all__ = ["DEFAULT_POLICIES", "Replay", "Trace", "open_trace", "replay"]

DEFAULT_POLICIES: Final = ("iret", "rfc2014")


@dataclass(frozen=True, kw_only=True)
class Trace(traces.Trace):
    """An opened trace, with frames.

    Attributes:
        path: where it lies.
        footer: what is known of how it was recorded (:class:`iretrace.footer.Footer`).
        n_events: number of events, by the file.
    """

    def events(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """All events, in the order of their TSC; :meth:`batches` gives them a row group at a time.

        Args:
            columns: of :data:`iretrace.schema.EVENT_COLUMNS`; ``None``: all.

        Raises:
            UsageError: there is no such column.
            Damaged: the trace holds what it must not.
        """
        known = [column.name for column in EVENT_COLUMNS]
        chosen = known if columns is None else list(dict.fromkeys(columns))
        strange = [name for name in chosen if name not in known]
        if strange or not chosen:
            found = f"there is no column {strange[0]!r}" if strange else "no column was asked for"
            raise UsageError("events", found, expected="some of " + ", ".join(known))
        schema = pa.schema([arrow_schema(EVENT_COLUMNS).field(name) for name in chosen])
        return _frame((pa.Table.from_batches([batch]).select(chosen) for batch in self.batches(chosen)), schema)

    def traps(self) -> pd.DataFrame:
        """All traps, in the order in which they begin (:meth:`trap_batches` gives them in parts).

        Columns: :data:`iretrace.traps.TRAP_COLUMNS`.

        Raises:
            Damaged: the trace holds what it must not.
        """
        return _begun(_frame(map(traps.trap_table, self._returns()), arrow_schema(traps.TRAP_COLUMNS)))

    def trap_batches(self) -> Iterator[pd.DataFrame]:
        """Traps, a frame for each part of the trace, in bounded memory.

        A trap is in the part in which it ended, in the order of ends: on one CPU a nested trap comes before the one it
        is in.

        Raises:
            Damaged: the trace holds what it must not.
        """
        for batch in self._returns():
            yield _to_pandas(traps.trap_table(batch))

    def processes(self) -> pd.DataFrame:
        """What the interrupted processes were called, by pid and in the order of time.

        Columns: ``pid`` (uint32), ``comm`` (string: the kernel's name of the process's first thread) and ``since_tsc``
        (uint64: from when on, until the next row of that pid; ``pd.NA``: from the beginning, as far as is known). Empty
        where the trace has no names; idle (pid 0) needs none.
        """
        named = self.footer.processes
        return _to_pandas(
            pa.table(
                {
                    "pid": pa.array([process.pid for process in named], pa.uint32()),
                    "comm": pa.array([process.comm for process in named], pa.string()),
                    "since_tsc": pa.array([process.since_tsc for process in named], pa.uint64()),
                }
            )
        )

    def _returns(self) -> Iterator[run.Returns]:
        return run.returns(self, [IRET])


@dataclass(frozen=True, kw_only=True)
class Replay:
    """A trace that was put through policies.

    Attributes:
        trace: what was replayed.
        policies: in the order in which they were given; frames name them in column ``policy``, in this order.
        result: counts by context, repairs of pairing, and notes that a reader of the numbers must know.
    """

    trace: traces.Trace
    policies: tuple[Policy, ...]
    result: run.Result

    @cached_property
    def summary(self) -> pd.DataFrame:
        """One row a policy.

        Columns: ``policy``, ``returns``, ``to_kernel`` (returns to the kernel's CS), ``RET``, ``IRET``, ``ERETS``,
        ``ERETU`` (returns made by each), ``hazards`` (one a return and hazard), ``saved_cycles`` with ``low_cycles``
        and ``high_cycles`` (TSC cycles of the recording, interval of the cost alone; NaN: no cost is known).
        """
        rows = []
        for one in summarize(self.result):
            known = one.saved
            rows.append(
                {
                    "policy": one.policy,
                    "returns": one.returns,
                    "to_kernel": one.to_kernel,
                    **dict(zip(frames.CHOICES, one.choices, strict=True)),
                    "hazards": sum(one.hazards.values()),
                    "saved_cycles": np.nan if known is None else known.cycles,
                    "low_cycles": np.nan if known is None else known.low,
                    "high_cycles": np.nan if known is None else known.high,
                }
            )
        return pd.DataFrame(rows)

    @cached_property
    def by_vector(self) -> pd.DataFrame:
        """One row a policy and vector: ``policy`` and the columns of :func:`iretrace.analysis.frames.by_vector`."""
        return self._each(frames.by_vector(policy) for policy in self.result.policies)

    @cached_property
    def by_rule(self) -> pd.DataFrame:
        """One row a policy and rule: ``policy`` and the columns of :func:`iretrace.analysis.frames.by_rule`."""
        return self._each(frames.by_rule(policy) for policy in self.result.policies)

    @cached_property
    def hazards(self) -> pd.DataFrame:
        """One row a policy and hazard: ``policy`` and the columns of :func:`iretrace.analysis.frames.hazards`."""
        return self._each(frames.hazards(policy) for policy in self.result.policies)

    def returns(self) -> pd.DataFrame:
        """Every return, in the order of :meth:`Trace.traps` (:meth:`return_batches` gives them in parts).

        Columns: :data:`iretrace.traps.TRAP_COLUMNS` and, for every policy, :data:`iretrace.traps.DECISION_COLUMNS` with
        the policy's name after a dot: ``decision.rfc2014``, ``rule.rfc2014``, …

        Raises:
            Damaged: the trace holds what it must not.
        """
        return _begun(_frame(self._tables(), traps.return_schema(tuple(policy.name for policy in self.policies))))

    def return_batches(self) -> Iterator[pd.DataFrame]:
        """Returns, a frame for each part of the trace, in bounded memory and the order of :meth:`Trace.trap_batches`.

        Raises:
            Damaged: the trace holds what it must not.
        """
        return map(_to_pandas, self._tables())

    def savings(self, *, seed: int = 0) -> Saved:
        """What the policies would save: in all, by CPU, by process and command, and of each vector's latency.

        Args:
            seed: of the bootstrap's random numbers; the same seed gives the same frames.

        Raises:
            Damaged: the trace holds what it must not.
        """
        return saved.saved(self.trace, self.policies, seed=seed)

    def _tables(self) -> Iterator[pa.Table]:
        saving = costs.saving_per_return(self.trace.footer)
        for batch in run.returns(self.trace, self.policies):
            yield traps.return_table(batch, saving)

    def _each(self, parts: Iterable[pd.DataFrame]) -> pd.DataFrame:
        named = []
        for policy, part in zip(self.policies, parts, strict=True):
            part.insert(0, "policy", policy.name)
            named.append(part)
        return pd.concat(named, ignore_index=True)


def open_trace(path: str | Path) -> Trace:
    """Open a trace: ``iretrace.open``.

    Raises:
        InputError: no such file, not a trace, too new, truncated, empty, or columns that are off.
    """
    opened = traces.open_trace(path)
    return Trace(**{field.name: getattr(opened, field.name) for field in fields(opened)})


def replay(trace: traces.Trace, policies: str | Policy | Sequence[str | Policy] = DEFAULT_POLICIES) -> Replay:
    """Put a trace through policies: ``iretrace.replay``.

    Args:
        trace: an opened trace.
        policies: names of policies (``iretrace policy list``), ``FILE.py:FUNCTION``, or policies themselves.

    Raises:
        Damaged: the trace holds what it must not.
        UsageError: there is no such policy, two have one name, or one is not a pure function from contexts to choices.
    """
    given = (policies,) if isinstance(policies, str | Policy) else policies
    chosen = tuple(policy if isinstance(policy, Policy) else own.find(policy) for policy in given)
    names = [policy.name for policy in chosen]
    if len(set(names)) < len(names):
        raise UsageError("policies", f"two are called {max(names, key=names.count)}", expected="a name for each")
    return Replay(trace=trace, policies=chosen, result=run.replay(trace, chosen))


def _frame(tables: Iterable[pa.Table], schema: pa.Schema) -> pd.DataFrame:
    """One frame of tables of a schema; with none of them, its columns."""
    return _to_pandas(pa.concat_tables([schema.empty_table(), *(table.cast(schema) for table in tables)]))


def _to_pandas(table: pa.Table) -> pd.DataFrame:
    frame: pd.DataFrame = table.unify_dictionaries().to_pandas(
        types_mapper=lambda found: None if pa.types.is_dictionary(found) else pd.ArrowDtype(found)
    )
    return frame


def _begun(frame: pd.DataFrame) -> pd.DataFrame:
    """Traps in the order in which they begin, the outer of two that begin at once first."""
    begin = frame["entry_tsc"].fillna(frame["exit_tsc"]).to_numpy(dtype=np.uint64)
    return frame.iloc[np.lexsort((frame["depth"].to_numpy(dtype=np.uint8), begin))].reset_index(drop=True)
