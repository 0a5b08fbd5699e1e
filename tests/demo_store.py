"""Members of a store that cannot be read."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def damage(directory: Path, name: str) -> dict[str, str]:
    """Put three beside a run: their file names, and what is said of them."""
    runs = directory / "runs"
    whole = (runs / f"{name}.parquet").read_bytes()
    (runs / "truncated.parquet").write_bytes(whole[: len(whole) // 2])
    (runs / "empty.parquet").write_bytes(b"")
    newer = whole.replace(b'{"schema":1,"run":', b'{"schema":9,"run":')
    assert newer != whole
    (runs / "newer.parquet").write_bytes(newer)
    return {"truncated.parquet": "truncated", "empty.parquet": "zero bytes", "newer.parquet": "schema 9"}
