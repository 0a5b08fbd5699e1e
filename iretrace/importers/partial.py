"""Salvaging the partial file of a run that was killed, or whose disk was full."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from iretrace import footer as footers
from iretrace.collect.partial import copy_sorted, read_contents
from iretrace.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from iretrace.trace import TraceWriter


def load(path: Path, writer: TraceWriter, progress: Callable[[int], None]) -> footers.Footer:
    """Write every complete batch of a partial file to a trace; the footer says what is missing.

    Raises:
        InputError: it is no partial file, or holds no complete batch.
    """
    contents = read_contents(path)
    if not contents.batches:
        raise InputError(path, "holds no complete batch of events", remedy="record again: sudo iretrace collect -d 10")
    copy_sorted(path, contents, writer, progress)
    footer = contents.header.footer
    losses = list(contents.status.losses) if contents.status is not None else []
    losses.append(footers.Loss(cause="killed", count=0))
    if contents.cut:
        losses.append(footers.Loss(cause="stream-cut", count=0))
    last = contents.status.anchor if contents.status is not None else None
    first = footer.clock.anchors[0] if footer.clock.anchors else None
    anchors = [anchor for anchor in (first, last) if anchor is not None]
    khz = footers.khz_between(first, last) if first is not None and last is not None else None
    return msgspec.structs.replace(
        footer,
        events=writer.n_events,
        losses=losses,
        processes=list(contents.processes),
        clock=msgspec.structs.replace(footer.clock, anchors=anchors, tsc_khz=khz),
        window=msgspec.structs.replace(
            footer.window,
            stop_tsc=max(batch.last_tsc for batch in contents.batches),
            ended_by="killed",
        ),
    )
