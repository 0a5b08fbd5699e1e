"""What to record, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from iretrace.collect.filters import Filters

if TYPE_CHECKING:
    from pathlib import Path

    from iretrace import footer as footers


@dataclass(frozen=True, kw_only=True)
class CollectOptions:
    """What to record and where to.

    Attributes:
        target: the trace to write.
        force: replace an existing target.
        seconds: how long; ``None``: until the command ends or a signal comes.
        command: a command to run and record during; empty: none.
        ring_bytes: size of each CPU's ring buffer, a power of two.
        clock: ``auto`` takes the TSC where BPF can read it.
        raw_addresses: store kernel addresses as they are.
        calibrate: time the return paths first.
        tags: the user's own words for the footer.
        max_overhead_pct: what the probes may take of the busiest CPU before classes of trap are switched off.
        keep_privileges: do not give up what is not needed once all is attached.
        only: words for classes of trap (:mod:`iretrace.collect.selection`); empty: all.
        filters: CPUs, processes, names and cgroups to which the recording is limited.
    """

    target: Path
    force: bool = False
    seconds: float | None = None
    command: tuple[str, ...] = ()
    ring_bytes: int = 1 << 24
    clock: Literal["auto", "tsc", "ktime"] = "auto"
    raw_addresses: bool = False
    calibrate: bool = True
    tags: dict[str, str] = field(default_factory=dict)
    max_overhead_pct: float | None = None
    keep_privileges: bool = False
    only: tuple[str, ...] = ()
    filters: Filters = field(default_factory=Filters)

    @property
    def partial(self) -> Path:
        """The file events go to while collecting."""
        return self.target.with_name(self.target.name + ".partial")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A finished recording.

    Attributes:
        footer: the trace's.
        seconds: length of the recorded window.
        setup_seconds: from the call to the window.
        finish_seconds: from the window to the finished trace.
        peak_fill_pct: the fullest ring of the run; ``None``: not known.
        size_bytes: of the trace.
    """

    footer: footers.Footer
    seconds: float
    setup_seconds: float
    finish_seconds: float
    peak_fill_pct: float | None
    size_bytes: int
