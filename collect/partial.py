"""The append-only file of a run that has not finished, and how it becomes a trace.

While collecting, drained events go to an Arrow IPC stream beside the target: one column of wire events
(:data:`iretrace.collect.wire.TRAP_EVENT`, 56 bytes, as the probes wrote them, TSC made absolute), so that the
collector does as little as it can. The stream's schema carries what was known at the start, each batch what had
been lost by then. Every batch is handed to the kernel at once and to the disk once a second: after ``kill -9``, a
full disk or a power cut everything up to then can be salvaged.

Pure: salvaging works on any machine.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
import numpy as np
import pyarrow as pa

from iretrace import footer as footers
from iretrace.collect.wire import TRAP_EVENT, Addresses, to_events
from iretrace.errors import Damaged, InputError
from iretrace.merge import safe_until
from iretrace.processes import in_order

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from iretrace.trace_writer import TraceWriter

_KEY: Final = b"iretrace-partial"
_STATUS_KEY: Final = b"iretrace-status"
_SLOTS: Final = pa.binary(TRAP_EVENT.itemsize)

_ROOM_FOR_TRACE: Final = 0.25
"""Share of a stream given up on a full disk, so that the finished trace (at most 8 bytes an event) fits."""


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """What a run knew when it began."""

    footer: footers.Footer
    text_base: Annotated[int, msgspec.Meta(ge=0)]
    raw_addresses: bool


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """What a run knew when it wrote a batch."""

    losses: list[footers.Loss]
    anchor: footers.Anchor
    """TSC and clocks when the batch was drained."""
    processes: list[footers.Process] = []
    """Names learnt since the batch before."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Where a batch lies in the file and which span of time it holds."""

    begin_byte: int
    n_events: int
    first_tsc: int
    last_tsc: int


class PartialWriter:
    """Appends drained events to the partial file; survives a full disk."""

    def __init__(self, path: Path, header: Header) -> None:
        self.path = path
        self.batches: list[Batch] = []
        self.dropped: dict[int, int] = {}
        """Events dropped since the disk was full, by CPU."""
        self.full = False
        self._unsynced = False
        self._file = pa.OSFile(str(path), "wb")
        schema = pa.schema([pa.field("event", _SLOTS, nullable=False)], metadata={_KEY: msgspec.json.encode(header)})
        self._writer = pa.ipc.new_stream(self._file, schema)
        self._sync_fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def write(self, events: NDArray[np.void], status: Status) -> None:
        """Append events, sorted by TSC; on a full disk count them as dropped."""
        if self.full:
            self._drop(events)
            return
        begin = self._file.tell()
        if self._unsynced:
            self._give_up(begin)
            self._drop(events)
            return
        array = pa.FixedSizeBinaryArray.from_buffers(_SLOTS, len(events), [None, pa.py_buffer(events)])
        batch = pa.RecordBatch.from_arrays([array], schema=pa.schema([pa.field("event", _SLOTS, nullable=False)]))
        try:
            self._writer.write_batch(batch, custom_metadata={_STATUS_KEY: msgspec.json.encode(status)})
        except OSError:
            self._give_up(begin)
            self._drop(events)
            return
        if len(events):
            self.batches.append(
                Batch(
                    begin_byte=begin,
                    n_events=len(events),
                    first_tsc=int(events["tsc"][0]),
                    last_tsc=int(events["tsc"][-1]),
                )
            )

    def sync(self) -> None:
        """Ask for what was written to reach the disk; where that fails, the next write finds the disk full.

        A file system that finds room only when it writes, or is asked over a network, refuses here and not before.
        """
        try:
            os.fdatasync(self._sync_fd)
        except OSError:
            self._unsynced = True

    def _drop(self, events: NDArray[np.void]) -> None:
        cpus, counts = np.unique(events["cpu"], return_counts=True)
        for cpu, count in zip(cpus.tolist(), counts.tolist(), strict=True):
            self.dropped[cpu] = self.dropped.get(cpu, 0) + count

    def _give_up(self, end: int) -> None:
        """The disk is full: cut the torn batch, and the last quarter so that the trace itself has room."""
        self.full = True
        keep = end - int(end * _ROOM_FOR_TRACE)
        while self.batches and end > keep:
            last = self.batches.pop()
            with self.path.open("rb") as file:
                file.seek(last.begin_byte)
                torn = _read_batches(file.read(end - last.begin_byte), self._writer_schema())
            for events in torn:
                self._drop(events)
            end = last.begin_byte
        os.truncate(self.path, end)

    def _writer_schema(self) -> pa.Schema:
        with pa.OSFile(str(self.path), "rb") as file:
            return pa.ipc.read_schema(file)

    def close(self) -> None:
        """Close the stream; the file stays."""
        if not self.full:
            try:
                self._writer.close()
            except OSError:
                self.full = True
        try:
            self._file.close()
        except OSError:
            self.full = True
        os.close(self._sync_fd)


def _read_batches(data: bytes, schema: pa.Schema) -> Iterator[NDArray[np.void]]:
    """Wire events of the messages in ``data``."""
    source = pa.BufferReader(data)
    while True:
        try:
            message = pa.ipc.read_message(source)
        except (EOFError, pa.ArrowException, OSError):
            return
        batch = pa.ipc.read_record_batch(message, schema)
        yield _events(batch.column(0))


def _events(array: pa.FixedSizeBinaryArray) -> NDArray[np.void]:
    data = array.buffers()[1]
    if data is None or not len(array):
        return np.empty(0, TRAP_EVENT)
    return np.frombuffer(data, TRAP_EVENT, count=len(array), offset=array.offset * TRAP_EVENT.itemsize)


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a partial file holds.

    Attributes:
        header: what was known at the start.
        status: what was known at the last complete batch; ``None`` where there is none.
        batches: its complete batches.
        cut: the file ends inside a batch.
        complete: the stream was closed properly (the run was not killed while collecting).
        processes: names of processes, of all complete batches.
    """

    header: Header
    status: Status | None
    batches: list[Batch]
    cut: bool
    complete: bool
    processes: tuple[footers.Process, ...] = ()


def read_contents(path: Path) -> Contents:
    """Scan a partial file without keeping its events.

    Raises:
        InputError: it is not one of ours, or holds what no run writes.
    """
    header: Header | None = None
    status: Status | None = None
    batches: list[Batch] = []
    processes: list[footers.Process] = []
    cut, complete = False, False
    try:
        with pa.OSFile(str(path), "rb") as file, pa.ipc.open_stream(file) as reader:
            header = _header(path, reader.schema)
            while True:
                begin = file.tell()
                try:
                    batch, metadata = reader.read_next_batch_with_custom_metadata()
                except StopIteration:
                    complete = _ends_with_eos(path)
                    cut = not complete and file.tell() < path.stat().st_size
                    break
                except (pa.ArrowException, OSError):
                    cut = True
                    break
                events = _events(batch.column(0))
                if metadata is not None and _STATUS_KEY in metadata:
                    status = msgspec.json.decode(metadata[_STATUS_KEY], type=Status)
                    processes += status.processes
                if len(events):
                    tsc = events["tsc"]
                    batches.append(
                        Batch(begin_byte=begin, n_events=len(events), first_tsc=int(tsc.min()), last_tsc=int(tsc.max()))
                    )
    except (pa.ArrowException, OSError, ValueError) as error:  # text that is not UTF-8 is a ValueError
        raise InputError(
            path, f"is no partial file of iretrace ({' '.join(str(error).split())[:120]})", expected="FILE.partial"
        ) from None
    return Contents(
        header=header,
        status=status,
        batches=batches,
        cut=cut,
        complete=complete,
        processes=tuple(in_order(processes)),
    )


def _ends_with_eos(path: Path) -> bool:
    """Whether the file ends with Arrow's end-of-stream marker."""
    with path.open("rb") as file:
        file.seek(-8, os.SEEK_END)
        return file.read(8) == b"\xff\xff\xff\xff\x00\x00\x00\x00"


def _header(path: Path, schema: pa.Schema) -> Header:
    document = (schema.metadata or {}).get(_KEY)
    if document is None or schema.names != ["event"] or schema.field(0).type != _SLOTS:
        raise InputError(path, "an Arrow stream, but none of iretrace's", expected="FILE.partial of a killed run")
    header = msgspec.json.decode(document, type=Header)
    footers.decode(header.footer.to_json(), str(path))
    return header


def read_batches(path: Path, contents: Contents) -> Iterator[NDArray[np.void]]:
    """Wire events of each complete batch, in the file's order."""
    with pa.memory_map(str(path), "rb") as file, pa.ipc.open_stream(file) as reader:
        for _ in contents.batches:
            events = _events(reader.read_next_batch().column(0))
            while not len(events):
                events = _events(reader.read_next_batch().column(0))
            yield events


def copy_sorted(
    path: Path,
    contents: Contents,
    writer: TraceWriter,
    progress: Callable[[int], None] = lambda _: None,
) -> None:
    """Write the events of a partial file to a trace, in TSC order, a few batches in memory at a time.

    A batch is written out up to the earliest TSC of all batches that follow it, so the order is exact however late
    an event was drained.

    Args:
        path: the partial file.
        contents: what :func:`read_contents` found, or what the writer of the file knows.
        writer: where to.
        progress: called with the number of events written so far.

    Raises:
        Damaged: an event holds what no probe writes.
    """
    addresses = Addresses(text_base=contents.header.text_base, raw=contents.header.raw_addresses)
    held = np.empty(0, TRAP_EVENT)
    done = 0
    limits = safe_until([batch.first_tsc for batch in contents.batches])
    for batch, earliest in zip(read_batches(path, contents), limits, strict=True):
        events = np.concatenate([held, batch])
        events = events[np.argsort(events["tsc"], kind="stable")]
        n = int(np.searchsorted(events["tsc"], earliest, side="right"))
        held = events[n:]
        if not n:
            continue
        try:
            writer.write(to_events(events[:n], addresses))
        except ValueError as error:
            raise Damaged(path, f"an event has {error}", expected="what the probes write") from None
        done += n
        progress(done)
