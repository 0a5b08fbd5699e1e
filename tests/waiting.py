"""Tests wait until something is so, not for a while: a busy machine takes longer, and a quick one need not."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

PATIENCE_S: Final = 300
"""After which a test gives up: no measure of anything, and so long that a busy machine does not come near it."""
_FLUSHED: Final = 3
"""So many growths of a partial file have one batch between them that was drained after the first was seen."""
LOOKED: Final = 12
"""In so many the recorder has looked at the machine: twice a second, while batches are a tenth of a second apart."""


def until(condition: Callable[[], object], what: str, process: subprocess.Popen[Any] | None = None) -> None:
    """Wait until a condition holds.

    Args:
        condition: looked at twenty times a second.
        what: the condition in words, for the failure.
        process: one without which it cannot come about: its end is a failure.
    """
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if process is not None and process.poll() is not None and not condition():
            said = process.stderr.read() if process.stderr else ""
            raise AssertionError(f"{what}: not before the process ended with {process.returncode}: {said}")
        assert time.monotonic() < deadline, f"{what}: not within {PATIENCE_S} s"
        time.sleep(0.05)


def until_written(path: Path, process: subprocess.Popen[str], size: int = 1) -> None:
    """Wait until a file of at least ``size`` bytes is there."""
    until(lambda: path.exists() and path.stat().st_size >= size, f"{size} bytes of {path}", process)


def until_batches(partial: Path, process: subprocess.Popen[str], n: int = _FLUSHED) -> None:
    """Wait until a partial file has grown so many times: then all is in it that happened before the call.

    What is seen first may have been drained before the call, and two sizes may be those of one batch.
    """
    for _ in range(n):
        before = partial.stat().st_size
        until(lambda before=before: partial.stat().st_size > before, f"more of {partial}", process)  # type: ignore[misc]
