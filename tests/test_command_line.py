"""What holds for every verb at a terminal: outputs that cannot be written, readers that go away, Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from iretrace.verbs import VERBS
from tests.conftest import ROOT, RunIretrace
from tests.traces import KERNEL_CS, event, write_trace
from tests.waiting import PATIENCE_S, until

SAMPLE = str(ROOT / "samples" / "mixed.parquet")
PRINTING = [
    ("--help",),
    ("--version",),
    ("policy", "list"),
    ("policy", "show", "rfc2014"),
    ("verify", "--policy", "rfc2014", "--depth", "3"),
    ("replay", SAMPLE, "--policy", "rfc2014"),
    ("replay", SAMPLE, SAMPLE, "--policy", "rfc2014", "--json"),
    ("check", SAMPLE),
    ("query", SAMPLE, "SELECT * FROM events LIMIT 2000", "--format", "csv"),
]
EACH = pytest.mark.parametrize("arguments", PRINTING, ids=lambda arguments: " ".join(arguments[:1]))


def printing_to(
    descriptor: int, arguments: tuple[str, ...], run_iretrace: RunIretrace
) -> subprocess.CompletedProcess[str]:
    """Run a verb whose standard output is ``descriptor``."""
    return subprocess.run(
        run_iretrace.command(*arguments),
        stdout=descriptor,
        stderr=subprocess.PIPE,
        env=run_iretrace.environment(),
        text=True,
        check=False,
    )


@EACH
def test_a_full_disk_is_told_in_one_line(arguments: tuple[str, ...], run_iretrace: RunIretrace) -> None:
    """Standard output that takes nothing: exit status 2 and why, whichever verb prints."""
    with Path("/dev/full").open("w") as full:
        done = printing_to(full.fileno(), arguments, run_iretrace)
    assert done.stderr == "iretrace: standard output: could not be written (No space left on device); free space\n"
    assert done.returncode == 2


@EACH
def test_a_reader_that_went_away(arguments: tuple[str, ...], run_iretrace: RunIretrace) -> None:
    """Quietly, and with the status of a program that SIGPIPE ended: neither fine nor a finding of a check."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = printing_to(writer, arguments, run_iretrace)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


@EACH
def test_closed_streams(arguments: tuple[str, ...], run_iretrace: RunIretrace) -> None:
    """As of a daemon: the status is what it would be, and nothing takes the place of the streams."""

    def status(redirections: str) -> int:
        shell = ["sh", "-c", f'"$@" {redirections}', "sh", *run_iretrace.command(*arguments)]
        return subprocess.run(shell, env=run_iretrace.environment(), capture_output=True, check=False).returncode

    assert status("<&- >&- 2>&-") == status("")


def test_an_encoding_without_our_characters(run_iretrace: RunIretrace) -> None:
    """They are spelled otherwise."""
    latin = {"PYTHONIOENCODING": "latin-1"}
    assert "(s3://, gs://, ... by fsspec)" in run_iretrace("runs", "--help", env=latin).stdout
    assert run_iretrace("query", SAMPLE, "SELECT 'a → b ▲ ☃' AS text", env=latin).stdout == "text\na -> b ^ ?\n"


@pytest.mark.parametrize("verb", ["replay", "check", "report", "export"])
def test_a_file_name_that_is_no_text(tmp_path: Path, run_iretrace: RunIretrace, verb: str) -> None:
    """Arrow opens no such file; the name is told byte by byte as it is."""
    path = os.fsencode(tmp_path) + b"/\xff.parquet"
    Path(os.fsdecode(path)).write_bytes(Path(SAMPLE).read_bytes())
    command: list[str | bytes] = [*run_iretrace.command(verb), path]
    done = subprocess.run(command, env=run_iretrace.environment(), cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(b"iretrace: " + path + b": the name holds bytes that are not UTF-8"), done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_no_arguments_show_the_help(run_iretrace: RunIretrace) -> None:
    """Line by line, as --help does, but nothing was done."""
    done = run_iretrace(check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines() == run_iretrace("--help").stdout.splitlines()


def test_a_trace_that_is_missing_is_no_store(run_iretrace: RunIretrace) -> None:
    """The dashboard shows both; a name that ends as a trace's is missed as one."""
    done = run_iretrace("dashboard", "missing.parquet", check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("iretrace: missing.parquet: there is no such file; record one with: ")
    assert "no such store" in run_iretrace("dashboard", "missing", check=False).stderr


def test_every_verb_has_examples(run_iretrace: RunIretrace) -> None:
    """And every verb of a verb."""
    inner = {"runs": ("add", "list", "show", "rm"), "policy": ("list", "show")}
    for verb in VERBS:
        for names in [(verb.name,), *((verb.name, name) for name in inner.get(verb.name, ()))]:
            assert "Examples:\n    " in run_iretrace(*names, "--help").stdout, names


def test_a_device_is_no_output(tmp_path: Path, run_iretrace: RunIretrace) -> None:
    """A file is renamed into place, which would replace /dev/null itself."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    done = run_iretrace("report", SAMPLE, "--force", "-o", str(pipe), check=False)
    assert done.returncode == 2
    assert done.stderr == f"iretrace: {pipe}: is a device, a pipe or a socket; expected the name of an ordinary file\n"
    assert pipe.is_fifo()


def test_a_name_that_would_be_standard_output(tmp_path: Path, run_iretrace: RunIretrace) -> None:
    """``-o -`` does not make a file that is called so."""
    done = run_iretrace("export", SAMPLE, "--format", "csv", "-o", "-", check=False)
    assert done.returncode == 2
    assert "expected a file name" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments",
    [
        ("replay", "big.parquet", "--policy", "rfc2014", "-o", "out"),
        ("report", "big.parquet", "-o", "out"),
        ("export", "big.parquet", "--format", "csv", "-o", "out"),
    ],
    ids=lambda arguments: str(arguments[0]),
)
def test_an_interrupt_leaves_nothing(arguments: tuple[str, ...], tmp_path: Path, run_iretrace: RunIretrace) -> None:
    """Ctrl-C in the middle: one line, exit status 2, and no file but what was there before."""
    events = [event(10 * i, "entry", 14, cs=KERNEL_CS, to_kernel=True) for i in range(1000)]
    write_trace(tmp_path / "big.parquet", events)
    stopped = tmp_path / "sitecustomize.py"  # stops when the output is written and not yet in its place
    stopped.write_text(
        "import os, signal, sys, time\n"
        "def hook(name, args):\n"
        "    if name == 'os.link':\n"
        "        os.kill(os.getpid(), signal.SIGSTOP)\n"
        "        time.sleep(1)\n"  # no wait: another thread may be the one that takes the signal
        "sys.addaudithook(hook)\n"
    )
    environment = run_iretrace.environment()
    environment["PYTHONPATH"] = f"{tmp_path}{os.pathsep}{environment['PYTHONPATH']}"
    process = subprocess.Popen(
        run_iretrace.command(*arguments), cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
    )
    until(lambda: Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] in "TZ", "it has stopped")
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGCONT)
    _, complaint = process.communicate(timeout=PATIENCE_S)
    # A line of its own: a terminal shows ^C first.
    assert (process.returncode, complaint) == (2, "\niretrace: interrupted\n")
    assert sorted(path.name for path in tmp_path.iterdir() if path.name[:2] != "__") == ["big.parquet", stopped.name]
