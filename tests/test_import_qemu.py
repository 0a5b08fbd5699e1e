"""Importing the emulator's logs: a kernel of the tests' own takes traps whose number and places are known."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING, Any, Final

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iretrace.errors import InputError, IretraceError
from iretrace.importers import lines
from iretrace.importers.run import Imported, import_file
from tests.conftest import ROOT, needed
from tests.waiting import PATIENCE_S

if TYPE_CHECKING:
    from pathlib import Path

ROUNDS: Final = 97
"""As in tests/workloads/kernel.S."""
TRAP: Final = (
    "{n:6d}: v={v:02x} e={e:04x} i={i} cpl={cpl} IP={cs:04x}:{ip:016x} pc={ip:016x} SP=0018:{sp:016x} "
    "env->regs[R_EAX]=0000000000000001\nRAX=0000000000000001 RBX=0000000000000000\n"
    "RIP={ip:016x} RFL={flags:08x} [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=0\n"
)


def rows_of(paths: Path | list[Path], target: Path) -> tuple[list[dict[str, Any]], Imported]:
    """Import logs: the trace's rows, and the account."""
    done = import_file(paths, target, force=True)
    return pq.read_table(target).to_pylist(), done


def trap(n: int, **more: int) -> str:
    """A trap as QEMU logs it."""
    return TRAP.format(
        **{"n": n, "v": 14, "e": 2, "i": 0, "cpl": 0, "cs": 16, "ip": 1 << 63, "sp": 9, "flags": 70, **more}
    )


def test_a_kernels_traps_are_those_it_took(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in the emulator: each trap, in order, with the frame that the program's own symbols tell."""
    monkeypatch.setattr(lines, "BLOCK_BYTES", 5000)  # so that registers lie in another block than their trap
    kernel, log = tmp_path / "kernel", tmp_path / "log"
    compiler, emulator = needed("gcc", "gcc"), needed("qemu-system-x86_64", "qemu-system-x86")
    build = [compiler, "-m32", "-nostdlib", "-static", "-no-pie", "-Wl,--build-id=none,-Ttext=0x100000"]
    subprocess.run([*build, "-o", kernel, ROOT / "tests/workloads/kernel.S"], check=True)
    machine = [emulator, "-accel", "tcg", "-M", "pc", "-m", "64", "-nodefaults", "-display", "none"]
    ending = ["-no-reboot", "-device", "isa-debug-exit,iobase=0xf4,iosize=1"]
    run = [*machine, *ending, "-kernel", str(kernel), "-d", "int", "-D", str(log)]
    assert subprocess.run(run, check=False, timeout=PATIENCE_S).returncode == 1  # isa-debug-exit: 2 * 0 + 1
    rows, done = rows_of(log, tmp_path / "t.parquet")
    symbols = subprocess.run(["nm", str(kernel)], check=True, capture_output=True, text=True).stdout
    at = {name: int(address, 16) for address, name in re.findall(r"^(\w+) \w (at_\w+)$", symbols, re.MULTILINE)}
    once = [
        (3, at["at_int3"] + 1, None),
        (0x80, at["at_int80"] + 2, None),
        (6, at["at_ud2"], None),
        (0, at["at_div"], None),
        (13, at["at_gp"], 0x50),
    ]
    assert [(row["vector"], row["ip"], row["error_code"]) for row in rows] == once * ROUNDS
    assert {(row["cs"], row["to_kernel"], row["flags"] & 0x200) for row in rows} == {(0x10, True, 0)}
    assert done.job.malformed == 0
    # A second reading of the same log, line by line: the flags and the stack of each.
    text = log.read_text()
    again = re.findall(r"^ *\d+: v=.. .*?SP=\w+:(\w+) .*?\n(?:.*\n)*?.*FL=(\w+) ", text, re.MULTILINE)
    assert [(int(sp, 16), int(flags, 16)) for sp, flags in again] == [(row["sp"], row["flags"]) for row in rows]


def test_logs_of_several_cpus_make_one_trace(tmp_path: Path) -> None:
    """QEMU counts the traps of all its CPUs: the count puts them in order; a second run goes on from there."""
    (tmp_path / "log.1").write_text("Servicing hardware INT=0x20\n" + trap(0) + trap(3) + trap(0, v=6))
    (tmp_path / "log.2").write_text(trap(1, v=2) + trap(2, v=3, i=1, ip=100))
    rows, done = rows_of([tmp_path / "log.1", tmp_path / "log.2"], tmp_path / "t.parquet")
    assert [(row["tsc"], row["cpu"], row["vector"]) for row in rows] == [
        (0, 0, 14),
        (1, 1, 2),
        (2, 1, 3),
        (3, 0, 14),
        (4, 0, 6),
    ]
    assert rows[2]["ip"] == 101
    assert {row["event"]: row["records"] for row in done.mapping()} == {"v=0e": 2, "v=02": 1, "v=03": 1, "v=06": 1}
    assert {item.name: (item.entry, item.exit) for item in done.footer.classes}["NMI"] == ("qemu", None)


def test_error_codes_only_where_the_cpu_pushes_one(tmp_path: Path) -> None:
    """QEMU prints 0 for vectors without one, and for software interrupts of any vector."""
    (tmp_path / "log").write_text(trap(0, v=14, e=7) + trap(1, v=6) + trap(2, v=13, i=1) + trap(3, v=8, e=0))
    rows, _ = rows_of(tmp_path / "log", tmp_path / "t.parquet")
    assert [row["error_code"] for row in rows] == [7, None, None, 0]


def test_a_bad_line_is_named(tmp_path: Path) -> None:
    """A trap whose line cannot be read is counted; its flags are not taken for another's."""
    (tmp_path / "log").write_text(trap(0) + trap(1).replace("SP=", "PS=") + trap(2, flags=3))
    rows, done = rows_of(tmp_path / "log", tmp_path / "t.parquet")
    assert [(row["tsc"], row["flags"]) for row in rows] == [(0, 70), (2, 3)]
    assert done.job.told == ["line 4: is no line of a trap"]


def test_other_formats_take_one_file(tmp_path: Path) -> None:
    """Several files are one trace only where they are an emulator's logs."""
    (tmp_path / "a").write_text("tsc,cpu,phase,vector\n1,0,entry,1\n")
    with pytest.raises(InputError, match="one file"):
        import_file([tmp_path / "a", tmp_path / "a"], tmp_path / "t.parquet")


@given(noise=st.text(max_size=30), at=st.integers(0, 1 << 12))
@settings(max_examples=60, deadline=None)
@pytest.mark.slow
def test_damage_never_crashes(tmp_path_factory: pytest.TempPathFactory, noise: str, at: int) -> None:
    """Text overwritten anywhere: some events, or one line of refusal."""
    text = trap(0) + trap(1)
    at %= len(text)
    directory = tmp_path_factory.mktemp("noise")
    (directory / "p").write_text(text[:at] + noise + text[at + len(noise) :], encoding="utf-8")
    try:
        rows_of(directory / "p", directory / "t.parquet")
    except IretraceError as error:
        assert "\n" not in str(error)  # noqa: PT017 - either outcome is right
