"""Steps with time limits: what a step prints is kept with the time at which it came, a limit that passes is told."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

_TAIL: Final = 30


@dataclass(frozen=True, kw_only=True)
class Step:
    """A command and how long it may take.

    Attributes:
        name: as it is told.
        command: and its arguments.
        limit_s: after so many seconds it is told that the step goes on, and what runs.
        log: file that takes what the step prints, each line with the second at which it came.
        ended_after: times its limit, it is ended.
    """

    name: str
    command: Sequence[str]
    limit_s: float
    log: Path
    ended_after: float = 4


def run(
    step: Step,
    *,
    running: Callable[[], Sequence[str]],
    environment: Mapping[str, str] | None = None,
    out: IO[str] = sys.stdout,
) -> bool:
    """Run a step; whether it ended well.

    Args:
        step: what to run.
        running: asked for what runs, when the limit passes.
        environment: of the command.
        out: takes one line a step, one when its limit passes, and the end of its log if it fails.
    """
    begin = time.monotonic()
    process = subprocess.Popen(
        step.command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        start_new_session=True,
    )
    reader = threading.Thread(target=_keep, args=(process, step.log, begin))
    reader.start()
    over = ended = False
    try:
        try:
            process.wait(step.limit_s)
        except subprocess.TimeoutExpired:
            over = True
            print(f"{step.name}: over its limit of {step.limit_s:.0f} s, and goes on; what runs:", file=out)
            print("".join(f"    {line[:160]}\n" for line in running()), end="", file=out, flush=True)
            process.wait((step.ended_after - 1) * step.limit_s)
    except subprocess.TimeoutExpired:
        ended = True
    finally:
        # A step that is interrupted leaves nothing that runs either.
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    took = time.monotonic() - begin
    reader.join(timeout=10)
    good = process.returncode == 0 and not ended
    verdict = "" if good else ", ENDED" if ended else f", FAILED with {process.returncode}"
    said = f"{step.name}: {took:.0f} s of {step.limit_s:.0f} s{', OVER ITS LIMIT' if over else ''}{verdict}"
    print(said, file=out, flush=True)
    if not good:
        tail = step.log.read_text(errors="replace").splitlines()[-_TAIL:]
        print(
            "\n".join([f"{step.name}: the end of {step.log}:", *(f"    {line}" for line in tail)]), file=out, flush=True
        )
    return good


def _keep(process: subprocess.Popen[bytes], log: Path, begin: float) -> None:
    assert process.stdout is not None  # noqa: S101 - a pipe was asked for
    with log.open("w") as kept, process.stdout as printed:
        for line in printed:
            kept.write(f"{time.monotonic() - begin:6.1f}  {line.decode(errors='replace').rstrip()}\n")
            kept.flush()
