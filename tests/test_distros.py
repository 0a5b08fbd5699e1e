"""make distros: its options, its time limits, and what it takes over from this machine; roots themselves need root."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.waiting import until
from tools import distros, limits, roots


def _run(tmp_path: Path, script: str, limit_s: float, ended_after: float = 600) -> tuple[bool, str, str]:
    """Whether it ended well, what was told, and the log; what runs is asked for once, and leaves a file."""
    told = io.StringIO()
    log, asked = tmp_path / "demo.log", tmp_path / "asked"
    command = ["sh", "-c", script, "sh", str(asked)]
    step = limits.Step(name="sid: demo", command=command, limit_s=limit_s, log=log, ended_after=ended_after)

    def running() -> list[str]:
        asked.touch(exist_ok=False)
        return ["pip install everything"]

    good = limits.run(step, running=running, out=told)
    return good, told.getvalue(), log.read_text()


def test_a_step_tells_its_time_and_keeps_what_it_prints(tmp_path: Path) -> None:
    """One line; the log has each line with the second at which it came, errors among them."""
    good, told, log = _run(tmp_path, "echo one; echo two >&2", 60)
    assert good
    assert told.startswith("sid: demo: ")
    assert told.endswith(" s of 60 s\n")
    seconds, printed = zip(*(line.split() for line in log.splitlines()), strict=True)
    assert printed == ("one", "two")
    assert all(0 <= float(one) <= 60 for one in seconds)


def test_a_limit_that_passes_is_told_with_what_runs(tmp_path: Path) -> None:
    """The step goes on, and ends well, for a busy machine is no failure; the line says that it took too long."""
    good, told, _ = _run(tmp_path, 'while ! [ -e "$1" ]; do sleep 0.05; done', 0.1)
    assert good
    first, running, last = told.splitlines()
    assert first == "sid: demo: over its limit of 0 s, and goes on; what runs:"
    assert running.strip() == "pip install everything"
    assert last.endswith("OVER ITS LIMIT")


def test_a_step_that_does_not_end_is_ended(tmp_path: Path) -> None:
    """At so many times its limit, with all that it started, and the end of its log is shown."""
    good, told, log = _run(tmp_path, "sleep 600 & echo child $!; wait", 1, ended_after=2)
    assert not good
    assert "OVER ITS LIMIT, ENDED" in told
    assert told.rstrip().endswith(log.split(maxsplit=1)[1].strip())
    child = Path("/proc") / log.split()[-1]
    until(lambda: not child.exists() or ") Z " in (child / "stat").read_text(), "what it started is gone")


def test_a_step_that_fails_says_with_what(tmp_path: Path) -> None:
    """The exit status, and what it printed last."""
    good, told, _ = _run(tmp_path, "echo no such package; exit 3", 60)
    assert not good
    assert "FAILED with 3\n" in told
    assert "no such package" in told


@pytest.mark.parametrize(
    ("arguments", "said"), [(["--steps", "demo prod"], "prod: not a step"), (["--faster"], "--faster")]
)
def test_what_cannot_be_done_is_refused(arguments: list[str], said: str) -> None:
    """Exit 2 and a line, before any root is made."""
    command = [sys.executable, "-m", "tools.distros", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert said in done.stderr.splitlines()[-1]


def test_all_steps_of_all_suites_are_the_default() -> None:
    """And every step that is run has a limit."""
    options = distros.parser().parse_args([])
    assert options.steps == ["demo", "wheel"]
    assert set(distros.LIMITS_S) == {"root", "machine", "clone", "demo", "wheel", "tests"}


def test_what_leads_to_the_mirrors_is_passed_on_and_nothing_else() -> None:
    """Proxies, certificates and pip's variables; not what a session, a desktop or this Python set."""
    passed = {"https_proxy": "http://p:1", "NO_PROXY": "x", "PIP_FIND_LINKS": "/w", "SSL_CERT_FILE": "/c"}
    found = roots.variables({**passed, "PYTHONPATH": "/x", "VIRTUAL_ENV": "/y", "PATH": "/z", "MAKEFLAGS": "-j"})
    assert set(found) - set(passed) == {"PATH", "HOME", "LANG", "DEBIAN_FRONTEND"}
    assert passed.items() <= found.items()
    assert "/z" not in found["PATH"]


def test_apt_settings_are_those_of_the_way_to_a_mirror() -> None:
    """No hooks, which would run this machine's programs there."""
    dump = (
        'APT::Architecture "amd64";\nAcquire::http::Proxy "http://p:1";\nAcquire::Check-Valid-Until "false";\n'
        'Acquire::Languages "";\nDPkg::Post-Invoke:: "rm -f x";\nAcquire::https::CAInfo "/c";\n'
    )
    assert roots.apt_settings(dump).splitlines() == [
        'Acquire::http::Proxy "http://p:1";',
        'Acquire::Check-Valid-Until "false";',
        'Acquire::https::CAInfo "/c";',
    ]


def test_pip_configuration_is_found_with_what_it_names(tmp_path: Path) -> None:
    """Files that pip reads, and in them directories of packages, with the files that an index has beside itself."""
    debug = f"env:\nsite:\n  {tmp_path}/pip.conf, exists: True\n    global.cert: /x\n  /no/pip.conf, exists: False\n"
    assert roots.pip_files(debug) == [tmp_path / "pip.conf"]
    for name in ("wheels", "more", "index/simple"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "constraints.txt").write_text("")
    listed = (
        f"global.find-links='{tmp_path}/wheels\\n{tmp_path}/more'\nglobal.timeout='60'\n"
        f"global.extra-index-url='file://{tmp_path}/index/simple https://example.org/simple'\n"
        f"global.constraint='{tmp_path}/constraints.txt'\nglobal.cert='/not/there'\n"
    )
    expected = [tmp_path / name for name in ("wheels", "more", "index", "constraints.txt")]
    assert roots.pip_paths(listed) == expected


def test_processes_of_a_root_are_those_that_run_in_it(tmp_path: Path) -> None:
    """None runs in a new directory; this one runs in the machine's own root."""
    root = roots.Root(tmp_path / "sid", "sid")
    (tmp_path / "sid").mkdir()
    assert list(root.processes()) == []
    root.directory = Path("/")
    assert os.getpid() in dict(root.processes())
