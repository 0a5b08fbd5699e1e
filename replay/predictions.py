"""One row a return, as a Parquet file of :data:`iretrace.schema.PREDICTION_SCHEMA`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from iretrace.replay import hazards
from iretrace.replay.costs import saving_per_return
from iretrace.replay.policies import DEVICE, Choice
from iretrace.replay.run import replay
from iretrace.schema import PREDICTION_SCHEMA

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from numpy.typing import NDArray

    from iretrace.replay.costs import Saving
    from iretrace.replay.policies import Policy
    from iretrace.replay.run import Result, Returns
    from iretrace.trace import Trace

_CHOICES = pa.array([choice.name for choice in Choice])


def predict(trace: Trace, policy: Policy, path: Path, *, progress: Callable[[int], None] | None = None) -> Result:
    """Replay a trace under a policy, and write every return on the way.

    Args:
        trace: an opened trace.
        policy: which.
        path: the file, which is made.
        progress: called after every batch with the number of its events.

    Raises:
        Damaged: the trace holds what it must not.
        UsageError: the policy is not a pure function from contexts to choices.
    """
    with PredictionWriter(path, saving_per_return(trace.footer)) as writer:
        return replay(trace, [policy], sink=writer.write, progress=progress)


class PredictionWriter:
    """Writes batches of returns under one policy; use as a context manager.

    A batch's rows are sorted by TSC; a trap whose exit was not seen stands at its entry, so that it may precede
    rows of earlier batches.

    Args:
        path: the file.
        saving: what a RET saves; ``None``: not known.
    """

    def __init__(self, path: Path, saving: Saving | None) -> None:
        self._writer = pq.ParquetWriter(path, PREDICTION_SCHEMA, compression="zstd")
        self._saving = saving

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()

    def write(self, returns: Returns) -> None:
        """Append a batch, judged by its first policy."""
        if returns.rows.size:
            self._writer.write_batch(predictions(returns, self._saving))


def predictions(returns: Returns, saving: Saving | None) -> pa.RecordBatch:
    """A batch of returns under its first policy, sorted by TSC, as :data:`~iretrace.schema.PREDICTION_SCHEMA`."""
    decisions = returns.decisions[0]
    tsc = returns.tsc
    order = np.argsort(tsc, kind="stable")
    rows, choice = returns.rows[order], decisions.choice[order]
    known = (choice == Choice.RET) | (choice == Choice.IRET) if saving is not None else np.zeros(len(choice), bool)
    saved = np.where(choice == Choice.RET, np.float32(saving.cycles if saving is not None else 0), np.float32(0))
    device = rows["slot"] == DEVICE
    hazard, names = _named(decisions.hazard[order])
    columns = [
        pa.array(tsc[order]),
        pa.array(rows["cpu"]),
        pa.array(rows["slot"].astype(np.uint8), mask=device),
        pa.DictionaryArray.from_arrays(pa.array(choice.astype(np.int8)), _CHOICES),
        pa.DictionaryArray.from_arrays(pa.array(decisions.rule[order].astype(np.int32)), list(decisions.table.rules)),
        pa.array(decisions.nest[order]),
        pa.DictionaryArray.from_arrays(pa.array(hazard, mask=hazard < 0), pa.array(names, pa.string())),
        pa.array(saved, mask=~known),
    ]
    arrays = [column.cast(field.type, safe=False) for column, field in zip(columns, PREDICTION_SCHEMA, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=PREDICTION_SCHEMA)


def _named(bits: NDArray[np.uint16]) -> tuple[NDArray[np.int32], list[str]]:
    """Index into the names of the bit sets that occur; -1 for the empty one."""
    values, inverse = np.unique(bits, return_inverse=True)
    texts = [hazards.names(int(value)) for value in values]
    names = [text for text in texts if text is not None]
    index = np.array([-1 if text is None else names.index(text) for text in texts], np.int32)
    return index[inverse], names
