"""What is installed: the wheel by way of the sdist, the system-wide command, its man pages and completion."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path
from typing import Any

import pytest

from iretrace import __version__
from iretrace.schema import SCHEMA_VERSION
from iretrace.shell_files import COMPLETIONS
from iretrace.verbs import VERBS
from tests.conftest import ROOT, RunIretrace, needed
from tests.test_layout import package_dirs

SAMPLE = ROOT / "samples" / "mixed.parquet"
SHIPPED = {".py", ".pyi", ".typed", ".c", ".h", ".toml", ".css", ".js", ".html"}


def tracked() -> list[str]:
    """Files of the repository, without links; what is new and not ignored counts too."""
    listed = subprocess.run(
        [needed("git", "git"), "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean copy of the repository's files, as a clone has them."""
    target = tmp_path_factory.mktemp("clone") / "iretrace"
    names = tracked()
    links = [f"iretrace/{path.name}" for path in (ROOT / "iretrace").iterdir() if path.is_symlink()]
    for name in [*names, *links]:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target / name, follow_symlinks=False)
    return target


@pytest.fixture(scope="session")
def wheel(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that is built from the sdist."""
    made = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "setup.py", "-q", "sdist", "-d", made], cwd=sources, check=True, capture_output=True
    )
    (sdist,) = made.glob("*.tar.gz")
    command: list[object] = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        made,
        sdist,
    ]
    done = subprocess.run([*map(str, command)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (found,) = made.glob("*.whl")
    return found


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that holds the installed wheel and nothing of the checkout."""
    target = tmp_path_factory.mktemp("installed")
    command: list[object] = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", target, wheel]
    subprocess.run([*map(str, command)], check=True, capture_output=True)
    return target


def test_one_wheel_serves_all_pythons(wheel: Path) -> None:
    """The limited API's tag, from Python 3.11."""
    assert f"-{__version__}-cp311-abi3-" in wheel.name.replace("iretrace", "", 1)


def test_the_wheel_holds_every_file_of_the_packages(wheel: Path) -> None:
    """Modules, typing, BPF sources and headers, pages: what is tracked is shipped."""
    names = set(zipfile.ZipFile(wheel).namelist())
    dirs = sorted(package_dirs().items(), key=lambda item: -len(item[1]))
    for name in tracked():
        path = Path(name)
        package = next((p for p, d in dirs if name.startswith(f"{d}/")), None)
        if package is None or path.suffix not in SHIPPED or name.startswith("iretrace/native/"):
            continue
        if path.suffix in {".c", ".h"} and not name.startswith("bpf/"):
            continue  # compiled
        directory = package_dirs()[package]
        assert f"{package.replace('.', '/')}/{name.removeprefix(directory + '/')}" in names, name


def test_a_fresh_environment_has_man_pages_and_completion(wheel: Path, tmp_path: Path) -> None:
    """Where pipx looks for them: below ``share`` of the environment; removing the package takes them away."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path], check=True)
    pip = [str(tmp_path / "bin" / "python"), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--no-deps", str(wheel)], check=True)
    share = tmp_path / "share"
    pages = {f"man/man1/iretrace-{verb.name}.1" for verb in VERBS} | {"man/man1/iretrace.1"}
    expected = pages | set(COMPLETIONS.values())
    assert {str(path.relative_to(share)) for path in share.rglob("*") if path.is_file()} == expected
    environment = {**os.environ, "PYTHONPATH": _site_packages()}
    command = [str(tmp_path / "bin" / "iretrace"), "--version"]
    shown = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert shown.stdout.startswith(f"iretrace {__version__} ")
    subprocess.run([*pip, "uninstall", "--yes", "iretrace"], check=True)
    assert not [path for path in share.rglob("*") if path.is_file()]


def test_the_suite_runs_against_the_wheel(installed: Path, tmp_path: Path) -> None:
    """Tests of the trace, of the replay and of its verb pass with the installed package in place of the checkout."""
    for directory in ("tests", "docs", "samples"):
        shutil.copytree(ROOT / directory, tmp_path / directory)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(installed), "PYTHONDONTWRITEBYTECODE": "1"}
    where = [sys.executable, "-c", "import iretrace.replay.engine as e; print(e.__file__)"]
    found = subprocess.run(where, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert Path(found.stdout.strip()).is_relative_to(installed)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "tests/test_trace.py",
        "tests/test_replay.py",
    ]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert re.search(r"\d+ passed", done.stdout)


LAPTOP = """
import os, select, signal, sys
import duckdb, fsspec, msgspec, numpy, pandas, plotly.graph_objects, pyarrow.csv, pyarrow.parquet, pyperf, rich.console
import rich.progress, rich.table, urllib.request, perfetto.protos.perfetto.trace.perfetto_trace_pb2
import platform

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"bcc", "fcntl_linux", "dash"}:
            raise ImportError(f"{name} is not on this machine")
sys.meta_path.insert(0, Blocked())
for module, names in ((os, "sched_getaffinity sched_setaffinity memfd_create eventfd pidfd_open sched_getscheduler"),
                      (select, "epoll"), (signal, "sigtimedwait sigwaitinfo")):
    for name in names.split():
        delattr(module, name)
sys.platform = "darwin"
platform.system, platform.machine, platform.release = lambda: "Darwin", lambda: "arm64", lambda: "23.0"
os.geteuid = lambda: 501
from iretrace import _native
for name in ("rdtsc", "bracket_read", "bracket_clocks"):
    delattr(_native, name)  # as where the CPU or the kernel is another
from iretrace import cli
cli.main(sys.argv[1:])
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["replay", SAMPLE],
        ["replay", SAMPLE, "--policy", "rfc2014", "--savings", "--json"],
        ["report", SAMPLE, "-o", "r.html"],
        ["query", SAMPLE, "SELECT count(*) FROM decisions"],
        ["export", SAMPLE, "--format", "perfetto"],
        ["export", SAMPLE, "--format", "pyperf"],
        ["policy", "list"],
        ["verify", "--policy", "iret", "--depth", "2"],
        ["compare", SAMPLE, SAMPLE],
        ["runs", "add", "--store", "store", SAMPLE],
    ],
    ids=lambda arguments: " ".join(arguments[:1] + [a for a in arguments[1:] if isinstance(a, str)][:2]),
)
def test_verbs_of_a_laptop_need_no_linux(installed: Path, tmp_path: Path, arguments: list[Any]) -> None:
    """Without BCC, root and Linux-only calls, on what says it is a Mac, the wheel's verbs do their work."""
    done = subprocess.run(
        [sys.executable, "-c", LAPTOP, *map(str, arguments)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("verb", ["collect", "doctor"])
def test_recording_elsewhere_is_refused_in_one_line(installed: Path, tmp_path: Path, verb: str) -> None:
    """What needs Linux says so, and does not crash."""
    done = subprocess.run(
        [sys.executable, "-c", LAPTOP, verb],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    assert "Darwin" in done.stdout + done.stderr


@pytest.mark.parametrize("define", ["-D__linux__=1", "-U__linux__"], ids=["linux", "elsewhere"])
@pytest.mark.slow
def test_the_extension_compiles_for_arm64(define: str) -> None:
    """Every source compiles without a warning where there are no x86 intrinsics, and where there is no Linux."""
    cross = needed("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu")
    listed = re.findall(
        r'"((?:iretrace/native|collect|replay|analysis|dashboards)[\w/]*\.c)"', (ROOT / "setup.py").read_text()
    )
    listed += re.findall(r'"(iretrace/\w+/\w+\.c)"', (ROOT / "setup.py").read_text())
    assert len(set(listed)) >= 6
    flags = ["-fsyntax-only", "-std=c11", "-Wall", "-Wextra", "-Werror", "-Wno-missing-field-initializers"]
    paths = [f"-I{sysconfig.get_path('include')}", "-Iiretrace/native", "-Ireplay", "-DPy_LIMITED_API=0x030b0000"]
    for source in sorted(set(listed)):
        command = [cross, define, *flags, *paths, source]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def prefix(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``make install`` into a directory; the dependencies are those of the running interpreter."""
    target = tmp_path_factory.mktemp("prefix") / "usr"
    (target / "share" / "man").mkdir(parents=True)
    environment = {**os.environ, "LOCK": "none", "PYTHONPATH": _site_packages()}
    command = ["sh", "tools/install.sh", target, sys.executable]
    done = subprocess.run(
        [*map(str, command)], cwd=sources, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return target


def _site_packages() -> str:
    """Where the dependencies lie, wherever .pth files have put them."""
    import pyarrow as pa  # noqa: PLC0415

    return str(Path(pa.__file__).parent.parent)


def _run(prefix: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        env={"PATH": f"{prefix}/bin:/usr/bin:/bin", "HOME": "/nowhere", "PYTHONPATH": _site_packages(), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_is_found_by_its_name(prefix: Path) -> None:
    """With nothing but PREFIX/bin on PATH, as sudo's secure_path has it for /usr/local/bin."""
    done = _run(prefix, "iretrace", "--version")
    assert done.stdout == f"iretrace {__version__} (trace schema {SCHEMA_VERSION})\n"
    assert _run(prefix, "iretrace", "replay", str(SAMPLE)).returncode == 0


def test_version_names_the_schema(run_iretrace: RunIretrace) -> None:
    """The schema that is written, not another."""
    assert f"(trace schema {SCHEMA_VERSION})" in run_iretrace("--version").stdout


def test_bash_completes_verbs_options_and_choices(prefix: Path) -> None:
    """The installed script, sourced by a bash that knows nothing else."""
    script = prefix / "share/bash-completion/completions/iretrace"

    def complete(*words: str) -> set[str]:
        program = (
            f"source {script}; COMP_WORDS=(iretrace {' '.join(words)}); COMP_CWORD={len(words)}; "
            "_iretrace_completion iretrace; printf '%s\\n' \"${COMPREPLY[@]}\""
        )
        done = _run(prefix, "bash", "--norc", "-c", program)
        assert done.returncode == 0, done.stderr
        return set(done.stdout.split())

    assert {"replay", "report"} <= complete("rep")
    assert "--savings" in complete("replay", "--sav")
    assert "perfetto" in complete("export", "--format", "per")


@pytest.mark.parametrize(("shell", "path"), sorted(COMPLETIONS.items()))
def test_completion_is_installed_and_parses(prefix: Path, shell: str, path: str) -> None:
    """Each shell's script is there; a shell that is installed accepts it."""
    script = prefix / "share" / path
    assert "_IRETRACE_COMPLETE" in script.read_text()
    word = "rep" if shell == "fish" else "1"  # fish gives the word itself
    subprocess.run([needed(shell, shell), "-n", script], check=True)
    done = _run(prefix, "iretrace", _IRETRACE_COMPLETE=f"{shell}_complete", COMP_WORDS="iretrace rep", COMP_CWORD=word)
    assert "report" in done.stdout


def test_man_pages_hold_every_verb_and_option(prefix: Path) -> None:
    """One page for iretrace, one a verb; each option is in it; the formatter has no complaint."""
    pages = {path.name: path.read_text() for path in (prefix / "share/man/man1").iterdir()}
    assert set(pages) == {"iretrace.1", *(f"iretrace-{verb.name}.1" for verb in VERBS)}
    for verb in VERBS:
        shown = subprocess.run(
            [sys.executable, "-m", "iretrace", verb.name, "--help"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        page = pages[f"iretrace-{verb.name}.1"].replace(r"\-", "-")
        for option in set(re.findall(r"^  (?:-\w, )?(--[a-z-]+)", shown, re.MULTILINE)):
            assert option in page, (verb.name, option)
    formatter = needed("groff", "groff-base")
    for name in pages:
        command = [formatter, "-man", "-ww", "-z", "-Kutf8", str(prefix / "share/man/man1" / name)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert not done.stderr, done.stderr


def test_uninstall_leaves_nothing(prefix: Path, sources: Path, tmp_path: Path) -> None:
    """All that was installed goes, and only that: of directories, those that were made for it and are empty."""
    copy = shutil.copytree(prefix, tmp_path / "usr", symlinks=True)  # other tests ask what is installed
    (copy / "bin" / "other").write_text("")
    subprocess.run(["sh", "tools/uninstall.sh", copy], cwd=sources, check=True, capture_output=True)
    left = {str(path.relative_to(copy)) for path in copy.rglob("*")}
    assert left == {"bin", "bin/other", "share", "share/man"}


def test_uninstall_spares_what_is_not_its_own(tmp_path: Path) -> None:
    """A directory of that name that make install did not make is left alone."""
    (tmp_path / "lib/iretrace").mkdir(parents=True)
    (tmp_path / "lib/iretrace/mine").write_text("")
    for script in ("install.sh", "uninstall.sh"):
        done = subprocess.run(
            ["sh", f"tools/{script}", tmp_path], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 2
    assert (tmp_path / "lib/iretrace/mine").exists()


def test_sudoers_parse() -> None:
    """The recipe is one that sudo accepts."""
    subprocess.run(
        [needed("visudo", "sudo"), "-cf", ROOT / "packaging/iretrace.sudoers"], check=True, capture_output=True
    )


def test_sudoers_allow_what_they_say_and_no_more() -> None:
    """The expression holds for the whole of the arguments."""
    (pattern,) = re.findall(r"iretrace (\^collect.*\$)", (ROOT / "packaging/iretrace.sudoers").read_text())
    assert re.search(pattern, "collect -d 60 -o /var/lib/iretrace/run-1.parquet")
    for refused in ("collect -- id", "collect -d 1 -o /etc/passwd", "collect -d 1 -o /var/lib/iretrace/../x.parquet"):
        assert not re.search(pattern, refused)


def test_units_are_valid(tmp_path: Path) -> None:
    """systemd-analyze accepts the units (the command they start stands for the installed one)."""
    for path in (ROOT / "packaging").glob("iretrace-collect.*"):
        text = path.read_text().replace("/usr/local/bin/iretrace", "/bin/true").replace("User=iretrace", "User=root")
        (tmp_path / path.name).write_text(text)
    command = [
        needed("systemd-analyze", "systemd"),
        "verify",
        "--man=no",
        tmp_path / "iretrace-collect.timer",
        tmp_path / "iretrace-collect.service",
    ]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert not [line for line in done.stderr.splitlines() if "iretrace-collect" in line], done.stderr


def _usable_by_others() -> str | None:
    """An interpreter that every user can run; ``None``: there is none."""
    for found in (os.path.realpath(sys.executable), "/usr/bin/python3"):
        probe = [
            "setpriv",
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            found,
            "-c",
            "import sys; sys.exit(sys.version_info < (3, 11))",
        ]
        if Path(found).exists() and subprocess.run(probe, capture_output=True, check=False).returncode == 0:
            return found
    return None


@pytest.mark.kernel
@pytest.mark.parametrize("capabilities", ["bpf,perfmon,syslog", ""])
def test_three_capabilities_are_enough_to_collect(installed: Path, capabilities: str) -> None:
    """A user with CAP_BPF, CAP_PERFMON and CAP_SYSLOG and no other right records; with none of them it is refused.

    The wheel is built for it and installed, which takes most of its seconds.
    """
    python = _usable_by_others()
    assert python is not None, "no interpreter that other users can run"
    # Directories of pytest are for their owner alone.
    directory = Path(subprocess.run(["mktemp", "-d"], capture_output=True, text=True, check=True).stdout.strip())
    try:
        directory.chmod(0o777)
        shutil.copytree(installed, directory / "lib")
        subprocess.run(["chmod", "-R", "a+rX", directory], check=True)
        wanted = ",".join(["-all", *(f"+{name}" for name in capabilities.split(",") if name)])
        command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", f"--inh-caps={wanted}"]
        command += [f"--ambient-caps={wanted}", f"--bounding-set={wanted}", "--no-new-privs", python, "-m", "iretrace"]
        done = subprocess.run(
            [*command, "collect", "-q", "--no-calibrate", "-d", "0.5", "-o", "t.parquet"],
            cwd=directory,
            env={"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{directory}/lib:{_site_packages()}", "HOME": str(directory)},
            capture_output=True,
            text=True,
            check=False,
        )
        if capabilities == "":
            assert done.returncode == 2
            assert "CAP_BPF" in done.stderr
        else:
            assert done.returncode == 0, done.stderr
            assert (directory / "t.parquet").stat().st_uid == 65534
            from iretrace.trace import open_trace  # noqa: PLC0415

            trace = open_trace(directory / "t.parquet")
            assert trace.n_events > 0
            assert trace.footer.kernel_cs is not None
            assert trace.footer.idt
    finally:
        shutil.rmtree(directory)
