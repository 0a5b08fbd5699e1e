"""Lock what is installed: of every package one release and its hashes, for Python 3.11 to 3.14.

Usage: python tools/lock.py [--upgrade]     write lock/run.txt and lock/dev.txt; by make lock
       python tools/lock.py --show run|dev  what they are made of: setup.py's ranges

A lock is a list of requirements that every pip installs (``--require-hashes``); Debian 12's knows no ``pylock.toml``.
``run`` is what iretrace needs to be built and to run, ``dev`` is that and what the tests need. Releases that are locked
stay while setup.py allows them, unless ``--upgrade`` is given. uv, in an environment of its own, resolves for all
Pythons at once.
"""

from __future__ import annotations

import argparse
import ast
import os
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
LOCKS: Final = ROOT / "lock"
PYTHONS: Final = ("3.11", "3.12", "3.13", "3.14")
KINDS: Final = ("run", "dev")
HEADER: Final = "# Made by make lock from setup.py and pyproject.toml.\n"


def requirements(kind: str) -> list[str]:
    """The ranges that a lock is made of, of the build too: without it in the lock, pip would take its newest."""
    values = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in ast.parse((ROOT / "setup.py").read_text()).body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and node.targets[0].id in {"INSTALL_REQUIRES", "EXTRAS"}
    }
    build: list[str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    return sorted({*build, *values["INSTALL_REQUIRES"], *(values["EXTRAS"]["dev"] if kind == "dev" else ())})


def uv() -> Path:
    """The resolver, in an environment below build/."""
    home = ROOT / "build" / "lock"
    found = home / "bin" / "uv"
    if not found.exists():
        venv.create(home, with_pip=True)
        subprocess.run(
            [home / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "uv"],
            check=True,
        )
    return found


def environment() -> dict[str, str]:
    """This machine's, with the index that pip is set up with, for uv does not read pip's configuration."""
    found = dict(os.environ)
    asked = subprocess.run(
        [sys.executable, "-m", "pip", "config", "get", "global.index-url"], capture_output=True, text=True, check=False
    )
    index = found.get("PIP_INDEX_URL") or asked.stdout.strip()
    if index:
        found.setdefault("UV_DEFAULT_INDEX", index)
    return found


def resolve(kind: str, *options: str) -> None:
    """Write one lock."""
    target = LOCKS / f"{kind}.txt"
    command: list[str | Path] = [uv(), "pip", "compile", "--quiet", "--universal", "--python-version", PYTHONS[0]]
    command += ["--fork-strategy", "fewest", "--generate-hashes", "--no-header", "--no-annotate", "--no-emit-index-url"]
    command += ["--no-emit-find-links", *options, "--output-file", target, "-"]
    wanted = "\n".join(requirements(kind))
    subprocess.run(command, input=wanted, text=True, check=True, env=environment(), cwd=ROOT, stdout=subprocess.DEVNULL)
    target.write_text(HEADER + target.read_text().removeprefix(HEADER))


def try_out(kind: str, python: str) -> None:
    """Say whether every package has a wheel for that Python here; what has none is built, which takes a compiler."""
    command: list[str | Path] = [uv(), "pip", "install", "--quiet", "--dry-run", "--require-hashes"]
    command += ["--python-version", python, "--only-binary", ":all:", "-r", LOCKS / f"{kind}.txt"]
    with tempfile.TemporaryDirectory() as nowhere:
        subprocess.run([*command, "--target", nowhere], check=True, env=environment(), cwd=ROOT)


def main() -> None:
    """Make both locks, the larger first, so that the smaller one has its releases."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--upgrade", action="store_true", help="take the newest releases, not those that are locked")
    parser.add_argument("--show", choices=KINDS, help="print what a lock is made of, and make none")
    options = parser.parse_args()
    if options.show:
        print("\n".join(requirements(options.show)))
        return
    LOCKS.mkdir(exist_ok=True)
    try:
        resolve("dev", *(["--upgrade"] if options.upgrade else []))
        (LOCKS / "run.txt").unlink(missing_ok=True)
        resolve("run", "--constraints", str(LOCKS / "dev.txt"))
        for python in PYTHONS:
            for kind in KINDS:
                try_out(kind, python)
            print(f"Python {python}: every package of lock/run.txt and lock/dev.txt has a wheel here")
    except subprocess.CalledProcessError as error:
        parser.exit(2, f"lock: {Path(error.cmd[0]).name} ended with {error.returncode}; what it wants is above\n")


if __name__ == "__main__":
    main()
