"""What runs with privileges is iretrace's own: nothing is looked up in the caller's directory or environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from iretrace.collect import bcc
from iretrace.trace import open_trace
from tests.conftest import ROOT
from tests.strangers import Stranger, stranger

if TYPE_CHECKING:
    from collections.abc import Iterator

HEADERS = (
    "trap.h",
    "aggregate.h",
    "linux/ptrace.h",
    "uapi/linux/ptrace.h",
    "linux/kconfig.h",
    "include/uapi/linux/bpf.h",
)
LED_ASTRAY = """
from pathlib import Path
Path({said!r}).write_text("run by " + str(__import__("os").geteuid()))
raise SystemExit("led astray")
"""


@pytest.fixture
def mallory() -> Iterator[Stranger]:
    """Somebody else, in whose directory root works."""
    with stranger() as found:
        yield found


def run(mallory: Stranger, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command line as root in mallory's directory."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "iretrace", *arguments],
        cwd=mallory.home,
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.kernel
@pytest.mark.parametrize(
    "arguments",
    [
        ("collect", "-d", "0.5", "--no-calibrate", "-o", "t.parquet"),
        ("collect", "--aggregate", "-d", "0.5", "--no-calibrate", "-o", "t.parquet"),
        ("top", "-n", "1"),
        ("doctor",),
    ],
    ids=["collect", "aggregate", "top", "doctor"],
)
def test_headers_of_the_working_directory_are_not_compiled(mallory: Stranger, arguments: tuple[str, ...]) -> None:
    """Whatever the headers beside the caller are called, and whichever variable names them, none is read."""
    for name in HEADERS:
        mallory.write(name, '#error "of mallory"\n#include "/etc/shadow"\n')
    here = str(mallory.home)
    astray = {"CPATH": here, "C_INCLUDE_PATH": here, "BCC_KERNEL_SOURCE": here, "BCC_LINUX_VERSION_CODE": "1"}
    for env in ({}, astray):
        done = run(mallory, *arguments, **env)
        assert done.returncode == 0, done.stderr
        (mallory.home / "t.parquet").unlink(missing_ok=True)


@pytest.mark.kernel
def test_the_directory_of_temporary_files_is_not_the_callers(mallory: Stranger) -> None:
    """A TMPDIR that leads nowhere stops nothing, since nothing is put there."""
    done = run(mallory, "collect", "-d", "0.5", "--no-calibrate", "-o", "t.parquet", TMPDIR="/proc/nowhere")
    assert done.returncode == 0, done.stderr
    assert open_trace(mallory.home / "t.parquet").footer.events > 0


def test_sources_hold_their_headers() -> None:
    """No source asks the compiler for a header by a name without a directory."""
    for source in bcc.BPF_DIR.glob("*.bpf.c"):
        assert '#include "' not in bcc.joined(source), source


def test_the_working_directory_and_the_environment_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While BCC compiles the directory is / and what names others is gone; afterwards all is as before."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CPATH", "here")
    monkeypatch.setenv("BCC_PROBE", "x")
    before = dict(os.environ)
    with bcc.sheltered(Path("/stub")):
        assert Path.cwd() == Path("/")
        assert "CPATH" not in os.environ
        assert {name for name in os.environ if name.startswith("BCC_")} == {"BCC_KERNEL_SOURCE"}
    assert Path.cwd() == tmp_path
    assert dict(os.environ) == before


@pytest.mark.kernel
@pytest.mark.parametrize("module", ["struct.py", "iretrace/__init__.py", "pyperf.py", "statistics.py"])
def test_calibrate_runs_no_module_of_the_working_directory(mallory: Stranger, module: str) -> None:
    """The processes that time the return paths look for modules where this one found its own."""
    said = mallory.home / "said"
    mallory.write(module, LED_ASTRAY.format(said=str(said)))
    done = run(mallory, "calibrate", "--json")
    assert not said.exists(), said.read_text()
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("module", ["struct.py", "multiprocessing/__init__.py", "iretrace/__init__.py", "signal.py"])
def test_workers_run_no_module_of_the_working_directory(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, module: str
) -> None:
    """``replay --jobs`` among somebody's traces starts interpreters that do not look there."""
    said = tmp_path / "said"
    (tmp_path / module).parent.mkdir(exist_ok=True)
    (tmp_path / module).write_text(LED_ASTRAY.format(said=str(said)))
    sample = next((ROOT / "samples").glob("*.parquet"))
    for name in ("a.parquet", "b.parquet"):
        (tmp_path / name).write_bytes(sample.read_bytes())
    script = tmp_path_factory.mktemp("bin") / "iretrace"  # as an installed one is started: with its own directory
    script.write_text("from iretrace.cli import main\nif __name__ == '__main__':\n    main()\n")
    done = subprocess.run(
        [sys.executable, script, "replay", "--jobs", "2", "a.parquet", "b.parquet"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert not said.exists(), said.read_text()
    assert done.returncode in {0, 1}, done.stderr
