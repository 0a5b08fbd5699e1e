"""The lock: all that setup.py asks for, in releases that it allows, with hashes and nothing of a machine."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Final

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement

from tests.conftest import ROOT
from tools.lock import KINDS, PYTHONS, requirements

NAME: Final = re.compile(r"[-_.]+")
FAMILY: Final = {"aiobotocore", "boto3", "botocore", "moto", "s3fs"}


def entries(kind: str) -> list[tuple[Requirement, list[str]]]:
    """What a lock pins, with the hashes of each."""
    text = (ROOT / "lock" / f"{kind}.txt").read_text().replace("\\\n", " ")
    found = []
    for line in text.splitlines():
        if line and not line.startswith("#"):
            requirement, *hashes = line.split("--hash=")
            found.append((Requirement(requirement.strip()), [one.strip() for one in hashes]))
    return found


def pinned(kind: str, python: str) -> dict[str, str]:
    """Releases for one Python on Linux; no package has two."""
    environment = {
        **{name: str(value) for name, value in default_environment().items()},
        "python_version": python,
        "python_full_version": f"{python}.1",
        "platform_python_implementation": "CPython",
        "sys_platform": "linux",
    }
    found: dict[str, str] = {}
    for requirement, _ in entries(kind):
        if requirement.marker is None or requirement.marker.evaluate(environment):
            (specifier,) = requirement.specifier
            assert specifier.operator == "=="
            assert requirement.name not in found
            found[requirement.name] = specifier.version
    return found


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_requirement_is_locked_within_its_range(kind: str, python: str) -> None:
    """On each Python; what fails here is mended by make lock."""
    locked = pinned(kind, python)
    environment = {"python_version": python, "python_full_version": f"{python}.1"}
    for wanted in map(Requirement, requirements(kind)):
        name = NAME.sub("-", wanted.name).lower()
        if wanted.marker is None or wanted.marker.evaluate(environment):
            assert name in locked, f"lock/{kind}.txt has no {name}: make lock"
            assert wanted.specifier.contains(locked[name], prereleases=True), f"{wanted}, {locked[name]}: make lock"
        else:
            assert name not in locked


@pytest.mark.parametrize("python", PYTHONS)
def test_the_tests_run_on_what_users_get(python: str) -> None:
    """What iretrace runs on is the same release in both locks."""
    run, dev = pinned("run", python), pinned("dev", python)
    assert run.items() <= dev.items()
    assert not {"pytest", "moto", "s3fs", "ruff"} & set(run)


@pytest.mark.parametrize("kind", KINDS)
def test_a_lock_names_no_machine(kind: str) -> None:
    """Hashes for each release; no index, no address, no path: it holds behind any mirror."""
    assert all(hashes and all(one.startswith("sha256:") for one in hashes) for _, hashes in entries(kind))
    text = (ROOT / "lock" / f"{kind}.txt").read_text()
    assert not re.search(r"://|^-|\s-(?!-hash=)|(^|[\s=])/", text, re.MULTILINE)


def test_the_s3_family_is_tied_from_both_sides() -> None:
    """Each has a range in setup.py, and those wanted to the day a narrow one, or pip tries every release."""
    wanted = {one.name: one for one in map(Requirement, requirements("dev"))}
    assert set(wanted) >= FAMILY
    for name in ("aiobotocore", "boto3", "botocore"):
        assert {one.operator for one in wanted[name].specifier} == {">=", "<"}
    assert wanted["boto3"].specifier == wanted["botocore"].specifier


def test_without_the_lock_the_ranges_are_installed() -> None:
    """What make fresh installs is what setup.py says, one requirement a line, for a Python without any package."""
    command = [sys.executable, "-I", "tools/lock.py", "--show", "run"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == requirements("run")
    assert {"click", "numpy", "setuptools"} <= {Requirement(line).name for line in done.stdout.splitlines()}
