"""What a policy would save by command: RETs counted by what the interrupted process was called at that moment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from iretrace.processes import Commands
from iretrace.replay.engine import End
from iretrace.replay.policies import Choice

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from iretrace.footer import Process
    from iretrace.replay.costs import Saving
    from iretrace.replay.run import Returns

COLUMNS: Final = ("comm", "RET", "saved_cycles", "low_cycles", "high_cycles")


class RetsByCommand:
    """Counts a replay's RETs by command; only of these names are looked up, which is what takes time.

    Args:
        processes: the footer's.

    Attributes:
        commands: the names.
        ret: int64, shape ``(names,)``: RETs of the first policy.
    """

    def __init__(self, processes: Sequence[Process]) -> None:
        self.commands = Commands(processes)
        self.ret: NDArray[np.int64] = np.zeros(len(self.commands.names), np.int64)

    def add(self, batch: Returns) -> None:
        """Count a batch."""
        rows = batch.rows[batch.decisions[0].choice == Choice.RET]
        entered = np.where(rows["end"] == End.ORPHAN, rows["exit_tsc"], rows["entry_tsc"])
        self.ret += np.bincount(self.commands.find(rows["pid"], entered), minlength=self.ret.size)

    def frame(self, saving: Saving | None) -> pd.DataFrame:
        """One row a command with RETs, the one with most first.

        Returns:
            Columns ``comm`` (``swapper``: idle, empty: not known), ``RET`` (int64), ``saved_cycles``, ``low_cycles``
            and ``high_cycles`` (TSC cycles of the recording, interval of the cost alone; NaN: no cost is known).
        """
        met = np.flatnonzero(self.ret)
        met = met[np.argsort(-self.ret[met], kind="stable")]
        each = (np.nan, np.nan, np.nan) if saving is None else (saving.cycles, saving.low, saving.high)
        frame = pd.DataFrame({"comm": [self.commands.names[k] for k in met.tolist()], "RET": self.ret[met]})
        for column, cycles in zip(COLUMNS[2:], each, strict=True):
            frame[column] = frame["RET"] * cycles
        return frame
