"""What tests of importers share: a file's rows as a trace, and what becomes of a damaged file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from iretrace.errors import IretraceError
from iretrace.importers.job import ImportOptions
from iretrace.importers.run import Imported, import_file

if TYPE_CHECKING:
    from pathlib import Path


def rows_of(path: Path, target: Path, **options: Any) -> tuple[list[dict[str, Any]], Imported]:
    """Import a file: the trace's rows, and the account."""
    done = import_file(path, target, options=ImportOptions(**options), force=True)
    return pq.read_table(target).to_pylist(), done


def read_damaged(data: bytes, directory: Path, *, noise: bytes, at: int, cut: int) -> None:
    """Import a file of which some bytes are others, and maybe the end is missing: some events, or one line of refusal.

    Args:
        data: the file as it should be.
        directory: an empty one.
        noise: the bytes that stand there instead.
        at: where, modulo the file's length.
        cut: how much is missing, modulo the file's length, where it divides by three.
    """
    made = bytearray(data)
    at %= len(made)
    made[at : at + len(noise)] = noise[: len(made) - at]
    path = directory / "p"
    path.write_bytes(bytes(made[: len(made) - cut % len(made)] if cut % 3 == 0 else made))
    try:
        rows_of(path, directory / "t.parquet")
    except IretraceError as error:
        assert "\n" not in str(error)  # noqa: PT017 - either outcome is right
