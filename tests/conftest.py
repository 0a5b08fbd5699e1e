"""Fixtures shared by all tests; kernel tests fail instead of skipping where they are required.

With pytest-xdist (``-n``) tests run beside each other, but in these groups one after the other: ``vm``, ``live``, and
otherwise those of a file. What takes the longest begins first.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import hypothesis
import pytest

import iretrace
from iretrace.collect import preflight
from iretrace.errors import MachineError
from tests import browser as browsers
from tests import surroundings
from tests.waiting import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

ROOT: Final = Path(__file__).resolve().parent.parent
TESTED: Final = Path(iretrace.__file__).resolve().parent.parent  # the checkout, or where a wheel is installed
# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile("busy", deadline=None)
hypothesis.settings.load_profile("busy")

REQUIRED: Final = os.environ.get("IRETRACE_KERNEL_TESTS") == "1"
VM_REQUIRED: Final = os.environ.get("IRETRACE_VM_TESTS") == "1"
_FIRST: Final = {"vm": 0, "live": 1}
_PROCESSES: Final = {"run_iretrace", "server", "cluster", "sources", "wheel", "installed", "prefix"}
"""Fixtures that start processes, each of which takes a second to import what it needs."""
_VM_PROGRAMS: Final = ("qemu-system-x86_64", "busybox", "cpio", "modprobe", "gcc", "apt-get")


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Generator[None]:
    """Tests on a kernel run where that can be; where they are required they run anyway, and fail if it cannot."""
    reasons = {"kernel": "" if REQUIRED else _cannot_record(), "vm": "" if VM_REQUIRED else _cannot_emulate()}
    for item in items:
        needs = set(getattr(item, "fixturenames", ()))
        if "browser" in needs:
            item.add_marker(pytest.mark.browser)
        if needs & _PROCESSES:
            item.add_marker(pytest.mark.slow)
        for marker, reason in reasons.items():
            if reason and marker in item.keywords:
                item.add_marker(pytest.mark.skip(reason=reason))
    yield
    items.sort(key=lambda item: _FIRST.get(_group(item.nodeid.partition("::")[0]), len(_FIRST)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With ``--dist loadgroup`` groups are these: xdist's own are by marks, which it loses with pytest 9.2."""
    if config.getvalue("dist") != "loadgroup":
        return None
    from xdist.scheduler import LoadScopeScheduling  # noqa: PLC0415 - where xdist asks, it is there

    class Groups(LoadScopeScheduling):  # type: ignore[misc] # xdist is no need of those who check types
        def _split_scope(self, nodeid: str) -> str:
            return _group(nodeid.partition("::")[0])

    return Groups(config, log)


@cache
def _group(path: str) -> str:
    """The tests of which one runs at a time, all by the same worker: files by the marks that are in them.

    Tests of the live kernel count what it holds, and take a CPU from it, which none may be bound to then.
    """
    marks = set(re.findall(r"\bpytest\.mark\.(vm|kernel|pinned)\b", (ROOT / path).read_text(encoding="utf-8")))
    return "vm" if "vm" in marks else "live" if marks else path


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


@pytest.fixture(scope="session", autouse=True)
def _surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The same on every machine."""
    with surroundings.known(tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("elsewhere"), ROOT):
        yield


@pytest.fixture(scope="session")
def tracefs() -> Iterator[Path]:
    """Tracefs, mounted if it must be."""
    with surroundings.tracefs() as path:
        yield path


@pytest.fixture(autouse=True)
def _nothing_is_left_mounted(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test on the live kernel that needs tracefs asks for it; another that has it mounted would help the next."""
    before = surroundings.mounted()
    yield
    if request.node.get_closest_marker("kernel"):
        assert surroundings.mounted() == before, "ask for the fixture tracefs, which unmounts it again"


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
            subprocess.run([needed("gcc", "gcc"), "-O2", "-Wall", "-Werror", "-o", program, source], check=True)
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
            timeout=PATIENCE_S,
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
