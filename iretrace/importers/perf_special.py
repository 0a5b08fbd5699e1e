"""The records of perf.data that are no samples: losses, names, the clock, a pipe's header, compressed pieces.

Layout: ``tools/lib/perf/include/perf/event.h``, ``include/uapi/linux/perf_event.h``.
"""

from __future__ import annotations

import dataclasses
import weakref
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from iretrace import footer as footers
from iretrace.importers import perf_header
from iretrace.importers.cursor import Cursor, Short
from iretrace.importers.perf_tasks import COMM, FORK, Tasks

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from numpy.typing import NDArray

    from iretrace.importers.perf_data import Recording

LOST: Final = 2
SAMPLE: Final = 9
LOST_SAMPLES: Final = 13
ATTR: Final = 64
TRACING_DATA: Final = 66
AUXTRACE: Final = 71
TIME_CONV: Final = 79
FEATURE: Final = 80
COMPRESSED: Final = 81
COMPRESSED2: Final = 83
_HANDLED: Final = (
    LOST,
    COMM,
    FORK,
    LOST_SAMPLES,
    ATTR,
    TRACING_DATA,
    AUXTRACE,
    TIME_CONV,
    FEATURE,
    COMPRESSED,
    COMPRESSED2,
)

_SLICE_BYTES: Final = 256
"""So much compressed data goes in at once: what comes out is then at most 8 MiB (64 runs of 128 KiB)."""
_PIECE_BYTES: Final = 4 << 20
_MAX_WINDOW_BYTES: Final = 1 << 27
_MAX_ATTRS: Final = 1 << 14
_MAX_COUNT: Final = 1 << 48


class ToCycles(Protocol):
    """How a file's nanoseconds become cycles."""

    @property
    def khz(self) -> float:
        """Frequency of the cycles."""

    def tsc(self, nanoseconds: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Cycles."""


class TimeConversion:
    """How perf's time follows the TSC (``struct perf_record_time_conv``; ``tools/perf/util/tsc.c``)."""

    def __init__(self, shift: int, multiplier: int, zero: int) -> None:
        if not 0 <= shift <= 32 or not 0 < multiplier < 1 << 32:
            raise ValueError(f"shift {shift}, multiplier {multiplier}")
        self._shift, self._multiplier, self._zero = np.uint64(shift), np.uint64(multiplier), np.uint64(zero)
        self._khz: float = 1e6 * 2**shift / multiplier

    @property
    def khz(self) -> float:
        """TSC frequency."""
        return self._khz

    def tsc(self, nanoseconds: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """TSC cycles, modulo 2^64."""
        with np.errstate(over="ignore"):
            since = nanoseconds - self._zero
            whole, rest = np.divmod(since, self._multiplier)
            return (whole << self._shift) + (rest << self._shift) // self._multiplier


class Special:
    """Takes the records that the walk over the samples leaves to others.

    Args:
        recording: whose records they are.
    """

    def __init__(self, recording: Recording) -> None:
        # Weakly, for it holds this: in a circle its memory would wait for the collector, which does not see how much.
        self._recording = weakref.proxy(recording)
        self.types = bytes(number in _HANDLED for number in range(128))
        """Record types that come here, for the walk."""
        self.read_beyond = 0
        """Bytes read from the file past the piece at hand."""
        self.tasks = Tasks()
        self._lost: dict[int | None, int] = {}
        self._lost_samples = 0
        self._decompressor: object | None = None
        self._rest = b""
        self._broken = False

    def take(self, record: bytes, where: str, after: memoryview, file: BinaryIO | None) -> int:
        """Take one record.

        Args:
            record: all of it.
            where: its offset, for messages.
            after: what follows it in the piece at hand.
            file: where more can be read from.

        Returns:
            Bytes that belong to it and follow it, within ``after``.
        """
        kind = int.from_bytes(record[:4], "little")
        cursor = Cursor(record, 8)
        try:
            if kind == TRACING_DATA:
                return self._beyond(after, -(-cursor.u32() // 8) * 8, file, perf_header.TRACING_DATA)
            if kind == AUXTRACE:
                return self._beyond(after, cursor.u64(), file, None)
            if kind in (COMPRESSED, COMPRESSED2):
                self._decompress(cursor.take(cursor.u64() if kind == COMPRESSED2 else cursor.left), where)
            elif kind in (LOST, LOST_SAMPLES):
                self._count_lost(kind, cursor)
            elif kind in (COMM, FORK):
                self.tasks.take(kind, cursor, self._recording.sample_type)
            elif kind in _HANDLED:
                self._learn(kind, cursor)
            else:
                raise ValueError("it is not known")  # noqa: TRY301 - told as the others are
        except (Short, ValueError, OverflowError, RecursionError) as error:
            self._recording.job.bad(where, f"a record of type {kind} cannot be read ({error})")
        return 0

    def _count_lost(self, kind: int, cursor: Cursor) -> None:
        if kind == LOST_SAMPLES:
            self._lost_samples += min(cursor.u64(), _MAX_COUNT)
            return
        cursor.u64()
        count, cpu = cursor.u64(), self._cpu(cursor)
        self._lost[cpu] = self._lost.get(cpu, 0) + min(count, _MAX_COUNT)

    def _learn(self, kind: int, cursor: Cursor) -> None:
        """What a record says of the recording."""
        recording = self._recording
        if kind == TIME_CONV:
            conversion = TimeConversion(*cursor.u64s(3))
            if not recording.began and recording.conversion is None and recording.job.options.tsc_khz is None:
                recording.conversion = conversion
        elif kind == ATTR:
            self._add_attr(cursor)
        elif kind == FEATURE:
            number = cursor.u64()
            if number in perf_header.KEPT:
                perf_header.add_feature(recording.header, number, cursor.take(cursor.left))

    def _cpu(self, cursor: Cursor) -> int | None:
        """The CPU at the end of a record (``sample_id``), where it has one."""
        kind = self._recording.sample_type
        if not kind & perf_header.SAMPLE_CPU:
            return None
        before = (perf_header.SAMPLE_TID, perf_header.SAMPLE_TIME, perf_header.SAMPLE_ID, perf_header.SAMPLE_STREAM_ID)
        cursor.take(8 * sum(bool(kind & bit) for bit in before))
        cpu = cursor.u32()
        return cpu if cpu < 1 << 16 else None

    def _add_attr(self, cursor: Cursor) -> None:
        attrs = self._recording.header.attrs
        size = int.from_bytes(cursor.data[cursor.at + 4 : cursor.at + 8], "little")
        attr = perf_header.parse_attr(cursor.take(size))
        if len(attrs) >= _MAX_ATTRS:
            raise ValueError(f"more than {_MAX_ATTRS} events")
        attrs.append(dataclasses.replace(attr, ids=cursor.u64s(cursor.left // 8)))

    def _beyond(self, after: memoryview, size: int, file: BinaryIO | None, feature: int | None) -> int:
        """Take data that follows a record; what is not at hand is read."""
        here = min(size, len(after))
        missing = size - here
        if feature is not None and size > perf_header.MAX_SECTION_BYTES:
            raise ValueError(f"{size} bytes follow it")
        if missing and file is None:
            raise ValueError(f"{size} bytes follow it, {here} are there")
        parts = [bytes(after[:here])] if feature is not None else []
        while missing and file is not None:
            piece = file.read(min(missing, 1 << 20))
            if not piece:
                raise ValueError(f"{size} bytes follow it, {size - missing} are there")
            self.read_beyond += len(piece)
            missing -= len(piece)
            if feature is not None:
                parts.append(piece)
        if feature is not None:
            perf_header.add_feature(self._recording.header, feature, b"".join(parts))
        return here

    def _decompress(self, data: bytes, where: str) -> None:
        if self._broken:
            return
        for piece in self._pieces(data, where):
            records = self._rest + piece if self._rest else piece
            used = self._recording.scan(records, 0, None)
            if used < 0:
                self._broken = True
                return
            self._rest = records[used:]

    def _pieces(self, data: bytes, where: str) -> Iterator[bytes]:
        """What compressed data holds, in pieces of bounded size; one zstd stream runs through all records."""
        import zstandard  # noqa: PLC0415 - only where a file is compressed

        parts: list[bytes] = []
        size = 0
        at = 0
        while at < len(data):
            if self._decompressor is None:
                self._decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES).decompressobj()
            stream = self._decompressor
            slice_ = data[at : at + _SLICE_BYTES]
            at += len(slice_)
            try:
                parts.append(stream.decompress(slice_))  # type: ignore[attr-defined]
            except zstandard.ZstdError as error:
                self._broken = True
                self._recording.job.bad(where, f"compressed records cannot be read from here on ({error})")
                break
            size += len(parts[-1])
            if stream.eof:  # type: ignore[attr-defined]
                at -= len(stream.unused_data)  # type: ignore[attr-defined]
                self._decompressor = None
            if size >= _PIECE_BYTES:
                yield b"".join(parts)
                parts, size = [], 0
        if size:
            yield b"".join(parts)

    def finish(self) -> None:
        """Account for what was lost, and for what is left over."""
        job = self._recording.job
        if self._rest:
            job.bad("end of the compressed records", f"{len(self._rest)} bytes of a record are left over")
        lost = sum(self._lost.values())
        job.losses += [
            footers.Loss(cause="overrun", cpu=cpu, count=count)
            for cpu, count in sorted(self._lost.items(), key=lambda item: -1 if item[0] is None else item[0])
            if count
        ]
        # perf tells of the same losses twice: where they happened, and at the end by event.
        if self._lost_samples > lost:
            job.losses.append(footers.Loss(cause="overrun", count=self._lost_samples - lost))
