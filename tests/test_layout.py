"""The map in setup.py, the committed links and the directories are one; the pure core needs no machine."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from iretrace.verbs import VERBS
from tests.conftest import ROOT


def package_dirs() -> dict[str, str]:
    """PACKAGE_DIRS as setup.py has it."""
    tree = ast.parse((ROOT / "setup.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "PACKAGE_DIRS":
            found: dict[str, str] = ast.literal_eval(node.value)
            return found
    raise AssertionError("setup.py has no PACKAGE_DIRS")


def test_map_links_and_directories_agree() -> None:
    """Every package outside iretrace/ has a link in it that leads to the directory of the map."""
    linked = {path.name: path for path in (ROOT / "iretrace").iterdir() if path.is_symlink()}
    mapped = {name.removeprefix("iretrace."): d for name, d in package_dirs().items() if "/" not in d}
    mapped.pop("iretrace")
    assert set(linked) == set(mapped)
    for name, directory in mapped.items():
        assert linked[name].readlink().as_posix() == f"../{directory}"
        assert (ROOT / directory / "__init__.py").exists()


def test_every_directory_with_modules_is_in_the_map() -> None:
    """A package that is not in the map would be missing from the wheel."""
    top = [path for path in (ROOT / "iretrace").iterdir() if path.is_dir() and not path.is_symlink()]
    packages = {f"iretrace/{path.name}" for path in top if (path / "__init__.py").exists()} | {"iretrace"}
    assert packages == {d for d in package_dirs().values() if d.startswith("iretrace")}


PURE = "import sys, importlib\nfor name in {names!r}: importlib.import_module(name)\n"
HEAVY = ("bcc", "iretrace.collect.probes", "iretrace.collect.syscalls", "dash")


@pytest.mark.slow
def test_the_pure_core_imports_without_the_machine() -> None:
    """replay, analysis and dashboards import neither BCC nor what touches the kernel."""
    names = []
    for package in ("replay", "analysis", "dashboards"):
        names += [f"iretrace.{package}.{path.stem}" for path in sorted((ROOT / package).glob("[!_]*.py"))]
    program = PURE.format(names=names) + f"bad = [m for m in {HEAVY!r} if m in sys.modules]; assert not bad, bad"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_help_imports_nothing_heavy() -> None:
    """Iretrace --help knows the verbs without importing what they need."""
    program = (
        "import sys\nfrom iretrace import cli\n"
        "try: cli.main(['--help'])\nexcept SystemExit: pass\n"
        "bad = {'numpy', 'pyarrow', 'pandas', 'plotly', 'rich', 'pyperf', 'msgspec'} & set(sys.modules)\n"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT, capture_output=True)


@pytest.mark.parametrize("name", [verb.name for verb in VERBS])
def test_every_verb_has_help_with_examples(name: str) -> None:
    """--help of each verb shows how it is used."""
    done = subprocess.run(
        [sys.executable, "-m", "iretrace", name, "--help"], check=True, capture_output=True, text=True, cwd=ROOT
    )
    assert "Examples:" in done.stdout
    assert f"iretrace {name}" in done.stdout
