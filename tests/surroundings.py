"""What tests take from the machine, made the same on each: the environment, signals, umask, directory, tracefs."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

TRACEFS: Final = Path("/sys/kernel/tracing")

_FOREIGN: Final = ("AWS_", "BCC_", "DASK_", "FSSPEC_", "GIT_", "LC_", "LESS", "PYTEST_ADDOPTS", "SUDO_", "XDG_")
"""Beginnings of the names of variables that change what the commands say or where they write."""
_ALSO: Final = (
    *("BASH_ENV", "CLICOLOR", "CLICOLOR_FORCE", "COLUMNS", "ENV", "FORCE_COLOR", "IRETRACE_STORE", "LANG", "LANGUAGE"),
    *("LINES", "MANPAGER", "MANPATH", "NO_COLOR", "PAGER", "POSIXLY_CORRECT", "PYTHONIOENCODING", "PYTHONOPTIMIZE"),
    *("PYTHONUTF8", "PYTHONWARNINGS", "TTY_COMPATIBLE", "TTY_INTERACTIVE"),
)
_INHERITED: Final = (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGALRM, signal.SIGCHLD)
"""Signals that processes of the tests send or need; a shell's background job, or nohup, may ignore them."""


def environment(given: dict[str, str], home: Path, checkout: Path) -> dict[str, str]:
    """The environment for tests and what they start.

    Args:
        given: that of the machine. What leads to programs and packages is kept: PIP_*, proxies, IRETRACE_*.
        home: an empty directory.
        checkout: where git may be asked, whoever owns it.
    """
    kept = {name: value for name, value in given.items() if not name.startswith(_FOREIGN) and name not in _ALSO}
    path = f"{given.get('PATH', os.defpath)}:/usr/sbin:/sbin"  # which su without a dash leaves out
    loopback = ",".join(filter(None, (given.get("no_proxy") or given.get("NO_PROXY"), "127.0.0.1,localhost")))
    return kept | {
        "PATH": path,
        "HOME": str(home),
        "LC_ALL": "C.UTF-8",
        "TERM": "xterm",
        "TZ": "UTC",
        "NO_PROXY": loopback,
        "no_proxy": loopback,
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "safe.directory",
        "GIT_CONFIG_VALUE_0": str(checkout),
    }


@contextmanager
def known(home: Path, elsewhere: Path, checkout: Path) -> Iterator[None]:
    """For the time of the tests: that environment, an umask of 022, signals that arrive, another directory.

    Args:
        home: an empty directory.
        elsewhere: likewise; the current directory, so that no test finds the checkout by chance.
        checkout: as for :func:`environment`.
    """
    before, umask = dict(os.environ), os.umask(0o022)
    ignored = [number for number in _INHERITED if signal.getsignal(number) is signal.SIG_IGN]
    directory = Path.cwd()
    try:
        for number in ignored:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        _become(environment(before, home, checkout))
        os.chdir(elsewhere)
        yield
    finally:
        os.chdir(directory)
        _become(before)
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)
        os.umask(umask)


def _become(variables: dict[str, str]) -> None:
    for name in set(os.environ) - set(variables):
        del os.environ[name]
    os.environ.update(variables)
    time.tzset()


@contextmanager
def tracefs() -> Iterator[Path]:
    """Tracefs at its usual place: mounted if nothing was there, and then unmounted again."""
    if (TRACEFS / "trace_clock").exists():
        yield TRACEFS
        return
    done = subprocess.run(["mount", "-t", "tracefs", "none", TRACEFS], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f"tracefs cannot be mounted at {TRACEFS}, which this test needs: {done.stderr.strip()}")
    try:
        yield TRACEFS
    finally:
        subprocess.run(["umount", TRACEFS], check=True)


def mounted() -> set[str]:
    """Where tracefs and debugfs are mounted."""
    lines = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    return {where for _, where, kind, *_ in lines if kind in {"tracefs", "debugfs"}}
