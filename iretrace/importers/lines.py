"""Text, a block of whole lines at a time, as Arrow arrays; and numbers out of it without a loop over the lines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from numpy.typing import NDArray

    from iretrace.importers.job import Job

BLOCK_BYTES: Final = 4 << 20
_MAX_LINE_BYTES: Final = 1 << 16
_NIBBLE: Final = np.full(256, 255, np.uint8)
_NIBBLE[ord("0") : ord("9") + 1] = np.arange(10)
_NIBBLE[ord("a") : ord("f") + 1] = _NIBBLE[ord("A") : ord("F") + 1] = np.arange(10, 16)


@dataclass(frozen=True, kw_only=True)
class Block:
    """Some lines of a text.

    Attributes:
        first: number of the first line, from 1.
        lines: the lines, without their ends.
        last: no block follows.
    """

    first: int
    lines: pa.StringArray
    last: bool


def blocks(file: BinaryIO, size: int | None, job: Job) -> Iterator[Block]:
    """The lines of a text; one longer than 64 KiB is none of ours, and counted as malformed."""
    rest = b""
    number, done = 1, 0
    while True:
        piece = file.read(BLOCK_BYTES)
        done += len(piece)
        data = rest + piece
        end = data.rfind(b"\n") + 1 if piece else len(data)
        whole, rest = data[:end], data[end:]
        if len(rest) > _MAX_LINE_BYTES:
            rest = rest[: _MAX_LINE_BYTES + 1]  # (what it may still become is told once it ends)
        texts = whole.decode("utf-8", "replace").removesuffix("\n").split("\n") if whole else []
        if whole and max(map(len, texts)) > _MAX_LINE_BYTES:
            for index, text in enumerate(texts):
                if len(text) > _MAX_LINE_BYTES:
                    job.bad(f"line {number + index}", f"is longer than {_MAX_LINE_BYTES} bytes")
                    texts[index] = ""
        if texts or not piece:  # the last block may be empty: it says that there are no more lines
            yield Block(first=number, lines=pa.array(texts, pa.string()), last=not piece)
            number += len(texts)
        job.progress(done, size)
        if not piece:
            return


def extract(lines: pa.StringArray, pattern: str) -> pa.StructArray:
    """Groups of a pattern (RE2) by name; null where it does not match. Lines without a group's text have it empty."""
    return pc.extract_regex(lines, pattern)


def integers(texts: pa.StringArray, bits: int = 64) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """Decimal numbers, and which of them could be read and fit in so many bits."""
    good = pc.match_substring_regex(texts, r"^[0-9]{1,19}$").fill_null(False).to_numpy(zero_copy_only=False)  # noqa: FBT003
    values = pc.if_else(pa.array(good), texts, "0").cast(pa.uint64()).to_numpy()
    if bits < 64:
        good = good & (values < np.uint64(1 << bits))
    return values, good


def hexadecimals(texts: pa.StringArray) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """Hexadecimal numbers of up to 16 digits without a prefix, and which of them could be read."""
    texts = texts.fill_null("")
    lengths = pc.binary_length(texts).to_numpy(zero_copy_only=False)
    good = (lengths > 0) & (lengths <= 16)
    safe = pc.if_else(pa.array(good), texts, "0")
    padded = pc.ascii_lpad(safe, 16, "0").cast(pa.binary(16))
    digits = _NIBBLE[np.frombuffer(padded.buffers()[1], np.uint8, count=16 * len(padded)).reshape(-1, 16)]
    good &= (digits < 16).all(axis=1)
    values = np.zeros(len(padded), np.uint64)
    for column in range(16):
        values = (values << np.uint64(4)) | (digits[:, column] & 15).astype(np.uint64)
    return values, good
