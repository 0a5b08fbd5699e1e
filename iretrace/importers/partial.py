"""Salvaging the partial file of a run that was killed, or whose disk was full."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np

from iretrace import footer as footers
from iretrace.collect import wire
from iretrace.collect.partial import read_batches, read_contents
from iretrace.errors import Damaged, InputError
from iretrace.importers.rows import KNOWN, ROW, TO_KERNEL
from iretrace.schema import PHASES

if TYPE_CHECKING:
    from typing import BinaryIO

    from numpy.typing import NDArray

    from iretrace.collect.wire import Addresses
    from iretrace.importers.job import Job

_FRAME: Final = KNOWN["cs"] | KNOWN["ip"] | KNOWN["flags"] | KNOWN["sp"]
_BITS: Final = {
    wire.SEEN_VECTOR: KNOWN["vector"],
    wire.SEEN_IRQ: KNOWN["irq"],
    wire.SEEN_FRAME: _FRAME,
    wire.SEEN_ERROR_CODE: KNOWN["error_code"],
    wire.SEEN_TARGET: KNOWN["to_kernel"],
    wire.TO_KERNEL: TO_KERNEL,
}
"""What a bit of a wire event's ``seen`` is in a row's ``known``."""


def load(_file: BinaryIO, _size: int | None, job: Job) -> footers.Footer:
    """Import every complete batch of a partial file; the footer says what is missing.

    Args:
        job: what to fill; the file is opened by its path.

    Raises:
        InputError: it is no partial file, or holds no complete batch.
    """
    contents = read_contents(job.path)
    if not contents.batches:
        raise InputError(job.path, "holds no complete batch of events", remedy="record: sudo iretrace collect -d 10")
    addresses = wire.Addresses(text_base=contents.header.text_base, raw=contents.header.raw_addresses)
    job.sorter.hooks = list(wire.HOOK_NAMES)
    for events in read_batches(job.path, contents):
        job.add(_rows(events, addresses, job))
        job.progress(job.sorter.n_rows, sum(batch.n_events for batch in contents.batches))
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
        events=job.sorter.n_rows,
        losses=losses,
        processes=list(contents.processes),
        clock=msgspec.structs.replace(footer.clock, anchors=anchors, tsc_khz=khz),
        window=msgspec.structs.replace(
            footer.window,
            stop_tsc=max(batch.last_tsc for batch in contents.batches),
            ended_by="killed",
        ),
    )


def _rows(events: NDArray[np.void], addresses: Addresses, job: Job) -> NDArray[np.void]:
    """Wire events as rows.

    Raises:
        Damaged: an event holds what no probe writes.
    """
    hook, phase = int(events["hook"].max()), int(events["phase"].max())
    if hook >= len(wire.HOOK_NAMES) or phase >= len(PHASES):
        raise Damaged(job.path, f"an event has hook {hook}, phase {phase}", expected="what the probes write")
    rows = np.zeros(len(events), ROW)
    for name in ("tsc", "flags", "error_code", "pid", "cpu", "cs", "irq", "vector", "phase", "hook"):
        rows[name] = events[name]
    rows["ip"], rows["sp"] = addresses.ip(events["ip"]), addresses.sp(events["sp"])
    for seen, known in _BITS.items():
        rows["known"] |= np.where(events["seen"] & seen, np.uint16(known), np.uint16(0))
    return rows
