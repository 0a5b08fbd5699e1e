"""iretrace's story: a trace's events on each CPU, and where each return that a replay finds goes to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import iretrace

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from iretrace.footer import Footer

POLICIES: Final = ("iret", "rfc2014", "rfc2014-reviewed", "rfc2014-host-ist", "rfc2014-fixed", "fred")


@dataclass(slots=True)
class Entry:
    """A trap's entry, as the trace has it.

    Attributes:
        at: its place among its CPU's entries.
        tsc: its time stamp.
        vector: x86 vector; ``None`` for a device interrupt whose vector no hook saw.
        ip, sp, cs, flags: the saved frame; ``None``: not seen.
        hook: which probe saw it.
        error_code: what the CPU pushed; ``None``: not seen.
    """

    at: int
    tsc: int
    vector: int | None
    ip: int | None
    sp: int | None
    cs: int | None
    flags: int | None
    hook: str
    error_code: int | None


@dataclass(slots=True)
class Return:
    """A return that the replay finds, with its target.

    Attributes:
        tsc: of the exit, or of the entry where no exit was seen.
        entry_tsc: of the entry; ``None``: not seen.
        vector: as in :class:`Entry`.
        end: how its end was found (:data:`iretrace.traps.TRAP_COLUMNS`).
        ip, sp, cs, flags: the frame that is judged.
        hook: which probe saw the event that the frame is from.
        came_from: (ip, sp) of the frame saved at entry; ``None``: not seen.
        decisions: by policy, the instruction and the rule.
    """

    tsc: int
    entry_tsc: int | None
    vector: int | None
    end: str
    ip: int | None
    sp: int | None
    cs: int | None
    flags: int | None
    hook: str
    came_from: tuple[int, int] | None
    decisions: dict[str, tuple[str, str]]

    @property
    def to_kernel(self) -> bool:
        """Whether it goes to code of privilege level 0."""
        return self.cs is not None and self.cs & 3 == 0


@dataclass
class Seen:
    """What the trace says of one CPU."""

    cpu: int
    entries: list[Entry] = field(default_factory=list)
    returns: list[Return] = field(default_factory=list)
    zero_tsc: int = 0
    out_of_order: int = 0


@dataclass(frozen=True, kw_only=True)
class Trace:
    """A trace, CPU by CPU.

    Attributes:
        footer: the trace's.
        cpus: by number.
    """

    footer: Footer
    cpus: dict[int, Seen]


def read(path: Path) -> Trace:
    """Read a trace and replay it."""
    trace = iretrace.open(path)
    events = trace.events()
    returns = iretrace.replay(trace, list(POLICIES)).returns()
    cpus: dict[int, Seen] = {}
    for number, mine in events.groupby("cpu"):
        cpu = int(str(number))
        seen = cpus[cpu] = Seen(cpu=cpu)
        tsc = mine["tsc"].to_numpy(dtype="uint64")
        seen.zero_tsc = int((tsc == 0).sum())
        seen.out_of_order = int((tsc[1:] < tsc[:-1]).sum())
        frames = {(row["tsc"], row["phase"]): row for row in _rows(mine)}
        entered = [row for row in _rows(mine) if row["phase"] == "entry"]
        seen.entries = [
            Entry(
                at=at,
                tsc=row["tsc"],
                vector=row["vector"],
                ip=row["ip"],
                sp=row["sp"],
                cs=row["cs"],
                flags=row["flags"],
                hook=row["hook"],
                error_code=row["error_code"],
            )
            for at, row in enumerate(entered)
        ]
        seen.returns = [_return(row, frames) for row in _rows(returns[returns["cpu"] == number])]
        seen.returns.sort(key=lambda one: one.tsc)
    return Trace(footer=trace.footer, cpus=cpus)


def _return(row: dict[str, Any], frames: dict[tuple[int, str], dict[str, Any]]) -> Return:
    """The frame saved at exit is judged; what the exit's hook does not see is taken from the entry."""
    at_exit = frames.get((row["exit_tsc"], "exit"))
    at_entry = frames.get((row["entry_tsc"], "entry"))
    frame = at_exit if at_exit is not None and at_exit["ip"] is not None else at_entry or at_exit
    if frame is None:
        raise ValueError(f"a return without an event: {row}")
    return Return(
        tsc=row["exit_tsc"] if row["exit_tsc"] is not None else row["entry_tsc"],
        entry_tsc=row["entry_tsc"],
        vector=row["vector"],
        end=row["end"],
        ip=frame["ip"],
        sp=frame["sp"],
        cs=frame["cs"],
        flags=frame["flags"],
        hook=frame["hook"],
        came_from=None if at_entry is None or at_entry["ip"] is None else (at_entry["ip"], at_entry["sp"]),
        decisions={name: (row[f"decision.{name}"], row[f"rule.{name}"]) for name in POLICIES},
    )


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as plain Python values, with ``None`` for what was not seen (there are few: a window of seconds)."""
    plain = frame.astype(object).where(frame.notna(), None)
    return plain.to_dict("records")  # type: ignore[return-value]
