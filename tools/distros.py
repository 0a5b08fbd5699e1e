"""Try a clone of this checkout on machines where nothing was installed: Debian's releases, each in a root of its own.

Usage (as root): python -m tools.distros [--steps "demo wheel"] [--refresh] [SUITE[=PYTHON] ...]

Every suite's root is new, and has what README.md takes for granted, from the suite's own packages: python3, make, git.
Then, on this machine's kernel:

demo   `make demo` in the clone: it records, replays, and leaves report.html
wheel  a wheel of the clone is built and installed, and the unit tests run on that

Each step has a time limit; when that passes it is told, with what runs then. `sid=python3.14` takes that interpreter.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tools import limits, roots

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

ROOT: Final = Path(__file__).resolve().parent.parent
HOME: Final = ROOT / "build" / "distros"
SUITES: Final = ("bookworm", "trixie", "sid")
GRANTED: Final = ("git", "make")
CLONE: Final = "/root/iretrace"

LIMITS_S: Final = {"root": 180, "machine": 120, "clone": 30, "demo": 240, "wheel": 300, "tests": 900}
"""By step; on a quiet machine with two CPUs each takes half of that at most."""

# Beside the clone, not in it: what is imported must be what was installed, by what a test starts in the clone too.
WHEEL: Final = """
set -eux
make --no-print-directory packages-build PYTHON="$1"
rm -rf /root/tested /root/dist
"$1" -m venv /root/tested
sh tools/dependencies.sh /root/tested/bin/python dev
/root/tested/bin/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir /root/dist .
/root/tested/bin/python -m pip install --quiet --no-deps /root/dist/*.whl
/root/tested/bin/python -m pip check
"""
TESTS: Final = """
set -eux
rm -f iretrace/_native*.so
rm -rf /root/beside && mkdir /root/beside
for name in benchmarks docs samples tests tools vmtest; do ln -s "$PWD/$name" /root/beside/; done
export PYTHONSAFEPATH=1 PYTHONPATH=/root/beside
/root/tested/bin/python -c 'import iretrace; print(iretrace.__file__)' | grep ^/root/tested/
cd /root/beside
/root/tested/bin/python -m pytest -q -c "$OLDPWD/pyproject.toml" "$OLDPWD/tests" -m "not kernel and not vm"
"""


class DistroError(Exception):
    """A step failed; it has said why."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A suite's root, and the interpreter to use there."""

    suite: str
    python: str
    root: roots.Root

    def step(self, name: str, command: Sequence[str]) -> None:
        """Run it; ends the suite if it fails."""
        step = limits.Step(
            name=f"{self.suite}: {name}",
            command=command,
            limit_s=LIMITS_S[name],
            log=HOME / f"{self.suite}-{name}.log",
        )
        environment = {**os.environ} if name in {"root", "clone"} else roots.variables(os.environ)
        try:
            good = limits.run(step, running=self._running, environment=environment)
        finally:
            self._end_all()
        if not good:
            raise DistroError(step.name)

    def _running(self) -> list[str]:
        return [line for _, line in self.root.processes()] or ["(nothing in the root)"]

    def _end_all(self) -> None:
        for number, _ in self.root.processes():
            subprocess.run(["kill", "-KILL", str(number)], check=False, capture_output=True)

    def prepare(self, *, refresh: bool) -> None:
        """A new root, with what README.md takes for granted and a clone."""
        if refresh:
            self.root.forget()
        if self.root.is_new:
            self.step("root", self.root.bootstrap())
            self.root.keep()
        self.root.reset()
        names = " ".join((self.python, *GRANTED))
        install = (
            f"apt-get update -qq && apt-get install -y -qq --no-install-recommends {names} && {self.python} --version"
        )
        self.step("machine", self.root.command("sh", "-c", install))
        target = self.root.directory / CLONE.removeprefix("/")
        self.step("clone", ["git", "clone", "--quiet", "--depth=1", f"file://{ROOT}", str(target)])

    def demo(self) -> None:
        """`make demo`, which has to record and to leave a report."""
        self.step("demo", self.root.command("make", "demo", f"PYTHON={self.python}", cwd=CLONE))
        clone = self.root.directory / CLONE.removeprefix("/")
        for name in ("demo/trace.parquet", "report.html"):
            if not (clone / name).exists():
                print(f"{self.suite}: demo: left no {name}; see {HOME}/{self.suite}-demo.log", flush=True)
                raise DistroError(name)
            shutil.copy(clone / name, HOME / f"{self.suite}-{Path(name).name}")

    def wheel(self) -> None:
        """The unit tests on the installed wheel."""
        self.step("wheel", self.root.command("sh", "-c", WHEEL, "sh", self.python, cwd=CLONE))
        self.step("tests", self.root.command("sh", "-c", TESTS, cwd=CLONE))


@contextlib.contextmanager
def alone(suite: str) -> Iterator[None]:
    """No other run has this suite's root meanwhile; it is waited for."""
    HOME.mkdir(parents=True, exist_ok=True)
    with (HOME / f"{suite}.lock").open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{suite}: another run has its root; waiting for that to end", flush=True)
            fcntl.flock(held, fcntl.LOCK_EX)
        yield


STEPS: Final[dict[str, Callable[[Machine], None]]] = {"demo": Machine.demo, "wheel": Machine.wheel}


def parser() -> argparse.ArgumentParser:
    """Options of the command."""
    made = argparse.ArgumentParser(prog="distros", description=(__doc__ or "").partition("\n")[0])
    made.add_argument("suites", nargs="*", metavar="SUITE[=PYTHON]", help=f"default: {' '.join(SUITES)}")
    made.add_argument("--steps", type=str.split, default=list(STEPS), help=f"of: {' '.join(STEPS)}")
    made.add_argument(
        "--refresh", action="store_true", help="make the roots anew, not from what was kept of the last time"
    )
    made.add_argument("--keep", action="store_true", help="leave the roots as they are after the steps, to look at")
    return made


def _tried(suite: str, python: str, options: argparse.Namespace) -> str | None:
    """All steps of one suite; the one that failed."""
    with alone(suite):
        machine = Machine(suite=suite, python=python, root=roots.Root(HOME / suite, suite))
        try:
            machine.prepare(refresh=options.refresh)
            for name in options.steps:
                STEPS[name](machine)
        except DistroError as error:
            return str(error)
        finally:
            if not options.keep:
                machine.root.remove()
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    """All suites, each to its end or its first failure; 1: a step failed, 2: nothing could be tried."""
    options = parser().parse_args(arguments)
    if unknown := [name for name in options.steps if name not in STEPS]:
        parser().error(f"--steps: {unknown[0]}: not a step; there are {', '.join(STEPS)}")
    missing = [
        name
        for name in ("debootstrap", "unshare", "git")
        if shutil.which(name, path="/usr/sbin:/sbin:" + os.defpath) is None
    ]
    if missing:
        parser().error(f"no {missing[0]}: apt-get install {' '.join(missing)}")
    if os.geteuid() != 0:
        parser().error("roots are made by root: sudo make distros")
    if subprocess.run(["git", "diff", "--quiet", "HEAD"], cwd=ROOT, check=False).returncode:
        print("distros: what is not committed is not in the clone", file=sys.stderr)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda got, _: sys.exit(128 + got))  # by way of what cleans up
    specs = [spec.partition("=") for spec in options.suites or SUITES]
    failed = [error for suite, _, python in specs if (error := _tried(suite, python or "python3", options)) is not None]
    print(f"distros: failed: {'; '.join(failed)}" if failed else "distros: all steps passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
