"""How a run ends: a signal, the time, or the command that was traced."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Self

from iretrace.errors import UsageError

if TYPE_CHECKING:
    from iretrace.collect.options import CollectOptions


class Stop:
    """Why the run ends: a signal, the time, or the command."""

    def __init__(self, options: CollectOptions) -> None:
        self.reason = ""
        self._seconds = options.seconds
        self._deadline: float | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._before: dict[int, object] = {}

    def start(self, child: subprocess.Popen[bytes] | None) -> None:
        """From now on the time runs; ``child`` is the command, if there is one."""
        self._child = child
        if self._seconds is not None:
            self._deadline = time.monotonic() + self._seconds

    def reached(self) -> bool:
        """Whether the run is to end; :attr:`reason` then says why."""
        if not self.reason and self._child is not None and self._child.poll() is not None:
            self.reason = "command"
        if not self.reason and self._deadline is not None and time.monotonic() >= self._deadline:
            self.reason = "duration"
        return bool(self.reason)

    def _signalled(self, number: int, _frame: object) -> None:
        self.reason = self.reason or signal.Signals(number).name

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._before[number] = signal.signal(number, self._signalled)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]


def spawn(command: tuple[str, ...]) -> subprocess.Popen[bytes] | None:
    """Start the command to trace, if there is one.

    Raises:
        UsageError: it cannot be run.
    """
    if not command:
        return None
    try:
        return subprocess.Popen(command)
    except OSError as error:
        raise UsageError(
            f"command {command[0]!r}", f"cannot be run ({error.strerror})", expected="a program on PATH"
        ) from None


def end_child(child: subprocess.Popen[bytes] | None) -> None:
    """The recording is over: a command that still runs is asked to end, then made to."""
    if child is None or child.poll() is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        child.terminate()
        try:
            child.wait(timeout=5)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
