"""Fixtures shared by all tests; kernel tests fail instead of skipping where they are required."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

import iretrace
from iretrace.collect import preflight
from iretrace.errors import MachineError
from tests import browser as browsers

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).resolve().parent.parent
TESTED: Final = Path(iretrace.__file__).resolve().parent.parent  # the checkout, or where a wheel is installed
REQUIRED: Final = os.environ.get("IRETRACE_KERNEL_TESTS") == "1"
VM_REQUIRED: Final = os.environ.get("IRETRACE_VM_TESTS") == "1"
_VM_PROGRAMS: Final = ("qemu-system-x86_64", "busybox", "cpio", "modprobe", "gcc", "apt-get")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests on a kernel run where that can be; where they are required they run anyway, and fail if it cannot."""
    reasons = {"kernel": "" if REQUIRED else _cannot_record(), "vm": "" if VM_REQUIRED else _cannot_emulate()}
    for item in items:
        for marker, reason in reasons.items():
            if reason and marker in item.keywords:
                item.add_marker(pytest.mark.skip(reason=reason))


def _cannot_record() -> str:
    try:
        preflight.require()
    except MachineError as error:
        return f"{error} (IRETRACE_KERNEL_TESTS=1 makes this a failure)"
    return ""


def _cannot_emulate() -> str:
    missing = [name for name in _VM_PROGRAMS if shutil.which(name) is None]
    if os.geteuid() != 0:
        return "emulated machines need the host's files as root sees them (IRETRACE_VM_TESTS=1 makes this a failure)"
    return f"no {', '.join(missing)}: make vmtest (IRETRACE_VM_TESTS=1 makes this a failure)" if missing else ""


def needed(program: str, package: str) -> str:
    """The path of a program that a test asks; without it the test skips, or fails where all tests are required."""
    found = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")
    if found is None:
        reason = f"no {program}: install Debian's {package} (IRETRACE_KERNEL_TESTS=1 makes this a failure)"
        if REQUIRED:
            pytest.fail(reason)
        pytest.skip(reason)
    return found


@pytest.fixture(scope="session")
def compile_workload(tmp_path_factory: pytest.TempPathFactory) -> CompileWorkload:
    """Compile ``tests/workloads/NAME.c`` once; gives the program's path."""
    return CompileWorkload(tmp_path_factory.mktemp("workloads"))


class CompileWorkload:
    """Compiles C programs of ``tests/workloads``."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __call__(self, name: str) -> Path:
        """The program of that name."""
        program = self._directory / name
        if not program.exists():
            source = ROOT / "tests" / "workloads" / f"{name}.c"
            subprocess.run(["gcc", "-O2", "-Wall", "-Werror", "-o", program, source], check=True)
        return program


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A Chromium without a window."""
    with browsers.playwright() as playwright:
        started = playwright.chromium.launch(executable_path=browsers.CHROMIUM, args=browsers.ARGUMENTS)
        yield started
        started.close()


@pytest.fixture
def run_iretrace(tmp_path: Path) -> RunIretrace:
    """Run the command line in a process of its own, in an empty directory."""
    return RunIretrace(tmp_path)


class RunIretrace:
    """Runs ``iretrace`` as a user would."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def command(self, *arguments: str | Path) -> list[str]:
        """The command line as a list."""
        return [sys.executable, "-m", "iretrace", *map(str, arguments)]

    def environment(self) -> dict[str, str]:
        """The environment: the iretrace that is tested, wherever the command runs."""
        return {**os.environ, "PYTHONPATH": str(TESTED)}

    def __call__(
        self, *arguments: str | Path, check: bool = True, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run it; with ``check`` its exit status must be 0."""
        done = subprocess.run(
            self.command(*arguments),
            cwd=self._directory,
            env={**self.environment(), **(env or {})},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert not check or done.returncode == 0, done.stderr + done.stdout
        assert "Traceback" not in done.stderr
        return done

    def start(self, *arguments: str | Path, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
        """Start it and do not wait."""
        return subprocess.Popen(
            self.command(*arguments),
            cwd=self._directory,
            env={**self.environment(), **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
