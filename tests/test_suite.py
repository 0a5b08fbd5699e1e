"""The suite itself: it takes nothing for granted, and waits for what it needs."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import surroundings
from tests.conftest import ROOT
from tests.waiting import until

HOSTILE = {
    "AWS_ENDPOINT_URL": "http://192.0.2.1",
    "COLUMNS": "20",
    "FORCE_COLOR": "1",
    "GIT_DIR": "/nonexistent",
    "HOME": "/nonexistent",
    "LC_ALL": "C",
    "NO_PROXY": "example.org",
    "PYTHONWARNINGS": "ignore",
    "SUDO_UID": "65534",
    "TERM": "dumb",
    "TZ": "Pacific/Chatham",
}


def test_no_test_waits_for_a_duration() -> None:
    """What depends on time waits until something is so (tests/waiting.py); a task that lasts says what it is for."""
    own = {"waiting.py", Path(__file__).name}
    sleeping = [
        f"{path.name}:{number}"
        for path in sorted((ROOT / "tests").rglob("*.py"))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(r"time\.sleep\(", line) and "# no wait: " not in line and path.name not in own
    ]
    assert sleeping == [], "use tests.waiting.until, or say '# no wait: what it is'"


def test_the_environment_is_the_same_on_every_machine(tmp_path: Path) -> None:
    """What a user has set does not reach the tests; what leads to programs and packages does."""
    kept = {"PATH": "/bin", "PIP_INDEX_URL": "x", "IRETRACE_VM_TESTS": "1"}
    found = surroundings.environment(HOSTILE | kept, tmp_path, ROOT)
    bare = surroundings.environment(kept, tmp_path, ROOT)
    assert found.pop("no_proxy") == found.pop("NO_PROXY") == "example.org,127.0.0.1,localhost"
    assert bare.pop("no_proxy") == bare.pop("NO_PROXY") == "127.0.0.1,localhost"
    assert found == bare
    assert found.items() >= {"PIP_INDEX_URL": "x", "IRETRACE_VM_TESTS": "1", "TZ": "UTC"}.items()
    assert found["PATH"].split(":")[0] == "/bin"


def test_all_is_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Environment, umask, directory and ignored signals are, inside, as tests want them, and afterwards as before."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "20")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    umask = os.umask(0o077)
    try:
        with surroundings.known(tmp_path, elsewhere, ROOT):
            assert "COLUMNS" not in os.environ
            assert Path.cwd() == elsewhere
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
            assert os.umask(0o022) == 0o022
        assert os.environ["COLUMNS"] == "20"
        assert Path.cwd() == tmp_path
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(umask)
        signal.signal(signal.SIGINT, previous)


@pytest.mark.slow
def test_the_suite_passes_in_hostile_surroundings(tmp_path: Path) -> None:
    """From another directory, with an umask of 077, SIGINT ignored and everything set that a user may have set.

    It takes some ten seconds: pytest runs once more, on the files that have most to do with a terminal and with files.
    """
    files = [str(ROOT / "tests" / f"test_{name}.py") for name in ("console", "docs", "fuzz_corpus", "report")]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files]
    shell = ["sh", "-c", 'umask 077; trap "" INT; exec "$@"', "sh", *command]
    done = subprocess.run(
        shell, cwd=tmp_path, env={**os.environ, **HOSTILE}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_waiting_ends_with_the_process_that_is_waited_for() -> None:
    """What cannot come about any more is a failure at once, with what the process said."""
    command = [sys.executable, "-c", "import sys; sys.exit('no such thing')"]
    with (
        subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process,
        pytest.raises(AssertionError, match=r"the impossible: not before the process ended with 1: no such thing"),
    ):
        until(lambda: False, "the impossible", process)
