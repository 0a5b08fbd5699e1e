"""``iretrace check``: verdict, exit status, JSON, and what it says when it cannot."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from iretrace.footer import Footer, Gate, Loss, TrapClass
from iretrace.replay.claims import CLAIMS
from iretrace.replay.policies import MAIL_IST
from tests.conftest import ROOT
from tests.traces import IF, KERNEL_CS, USER_CS, event, write_trace

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import RunIretrace

TIMER, PF, NMI, RF = 0xEC, 14, 2, 1 << 16
SP = 0xFFFF_C900_0000_3F58
FRAME: dict[str, Any] = {"cs": KERNEL_CS, "ip": 0x9000, "flags": IF, "sp": SP}
USER: dict[str, Any] = {"cs": USER_CS, "ip": 0x40_0000, "flags": IF, "sp": 0x7000}
FINE = [
    event(1000, "entry", TIMER, **USER),
    event(1010, "entry", PF, **FRAME),
    event(1020, "exit", PF, **FRAME),
    event(1030, "exit", TIMER, **USER),
]
RESTORES_RF = [
    *FINE,
    event(2000, "entry", TIMER, cpu=3, **USER),
    event(2010, "entry", None, cpu=3, irq=9, **FRAME),
    event(2020, "entry", PF, cpu=3, **{**FRAME, "flags": IF | RF}),
    event(2030, "exit", PF, cpu=3),
    event(2040, "exit", None, cpu=3, irq=9),
    event(2050, "exit", TIMER, cpu=3),
]
NMI_WITH_IF = [event(1000, "entry", NMI, **FRAME), *FINE[1:3], event(1030, "exit", NMI, **FRAME)]


def test_a_trace_with_nothing_wrong(tmp_path: Path, run_iretrace: RunIretrace) -> None:
    """The verdict first, then what was looked at; status 0."""
    path = write_trace(tmp_path / "t.parquet", FINE)
    done = run_iretrace("check", path)
    lines = done.stdout.splitlines()
    assert lines[0] == f"{path}: fine"
    assert "losses: none recorded (4 events)" in lines
    assert "repairs: none; every trap was seen from its entry to its exit" in lines
    assert "rfc2014: no hazard" in lines
    assert "  non-ist-stack: held in 1 return that could have shown otherwise" in lines
    assert "  no-sti-in-nmi: not observable: the trace holds no NMI" in lines
    assert lines[-1] == f"  iretrace report {path}"
    assert json.loads(run_iretrace("check", path, "--json").stdout)["ok"] is True


def test_a_hazard_is_found_with_its_stack(tmp_path: Path, run_iretrace: RunIretrace) -> None:
    """Status 1; the stack of traps from the oldest to the one that returns; nothing under a policy that has none."""
    path = write_trace(tmp_path / "t.parquet", RESTORES_RF)
    done = run_iretrace("check", path, check=False)
    assert done.returncode == 1
    assert done.stdout.splitlines()[0] == f"{path}: found: 1 hazard of rfc2014"
    arrow = "▸" if "▸" in done.stdout else ">"
    chain = f" {arrow} ".join(("other CS", "timer", "device 9", "#PF"))
    assert f"    TSC 2030 on CPU 3: {chain}" in done.stdout.splitlines()
    assert f"  iretrace replay {path} --policy rfc2014 -o predictions.parquet" in done.stdout.splitlines()
    assert run_iretrace("check", path, "--policy", "iret").returncode == 0


def test_json(tmp_path: Path, run_iretrace: RunIretrace) -> None:
    """One document: losses, repairs, hazards by policy with examples, and every assumption."""
    footer = Footer(kernel_cs=KERNEL_CS, losses=[Loss(cause="frame-unread", count=2, cpu=1)])
    path = write_trace(tmp_path / "t.parquet", RESTORES_RF, footer)
    done = run_iretrace("check", path, "--policy", "iret", "--policy", "rfc2014", "--json", check=False)
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert list(found) == ["schema", "trace", "ok", "losses", "repairs", "policies", "assumptions", "notes"]
    assert (found["schema"], found["trace"], found["ok"]) == (1, str(path), False)
    assert found["losses"] == [{"cause": "frame-unread", "count": 2, "cpu": 1, "severity": "detail"}]
    assert found["repairs"]["orphan_exit"] == {"count": 0, "unexplained": 0}
    (hazard,) = found["policies"][1]["hazards"]
    assert found["policies"][0] == {"policy": "iret", "returns": 5, "hazards": []}
    assert (hazard["name"], hazard["count"], hazard["by_vector"]) == ("ret-rf", 1, {"#PF": 1})
    (example,) = hazard["examples"]
    assert (example["tsc"], example["cpu"]) == (2030, 3)
    assert example["stack"] == [
        {"vector": TIMER, "irq": None, "name": "timer", "returns_to": "other CS"},
        {"vector": None, "irq": 9, "name": "device 9", "returns_to": "kernel"},
        {"vector": PF, "irq": None, "name": "#PF", "returns_to": "kernel"},
    ]
    assert [finding["name"] for finding in found["assumptions"]] == [claim.name for claim in CLAIMS]
    for finding in found["assumptions"]:
        assert set(finding) == {"name", "sentence", "outcome", "observed", "violations", "examples", "why"}


def test_a_violated_assumption(tmp_path: Path, run_iretrace: RunIretrace) -> None:
    """Found even under a policy without hazards of its own; verify is named as what tells more."""
    path = write_trace(tmp_path / "t.parquet", NMI_WITH_IF)
    done = run_iretrace("check", path, "--policy", "rfc2014-fixed", check=False)
    assert done.returncode == 1
    assert "1 assumption violated" in done.stdout.splitlines()[0]
    assert "  no-sti-in-nmi: violated by 1 of 1 return" in done.stdout.splitlines()
    assert "  iretrace verify --policy rfc2014-fixed --drop no-sti-in-nmi" in done.stdout.splitlines()


def test_an_assumption_can_be_left_out(tmp_path: Path, run_iretrace: RunIretrace) -> None:
    """No kernel of today has the mail's IST list: a script that knows says so."""
    path = write_trace(tmp_path / "t.parquet", FINE, Footer(kernel_cs=KERNEL_CS, idt=[Gate(vector=3), Gate(vector=14)]))
    done = run_iretrace("check", path, check=False)
    assert done.returncode == 1
    assert "  ist-list: violated by 1 of 2 gates" in done.stdout.splitlines()
    left = run_iretrace("check", path, "--drop", "ist-list,gs-unknown", "--json")
    names = {finding["name"] for finding in json.loads(left.stdout)["assumptions"]}
    assert names == {claim.name for claim in CLAIMS} - {"ist-list", "gs-unknown"}


@pytest.mark.parametrize(
    ("loss", "status", "verdict"),
    [
        (Loss(cause="ring-full", count=7), 1, "found: 7 events lost"),
        (Loss(cause="killed", count=0), 1, "found: events lost"),
        (Loss(cause="frame-unread", count=7), 0, "fine"),
    ],
)
def test_losses(tmp_path: Path, run_iretrace: RunIretrace, loss: Loss, status: int, verdict: str) -> None:
    """A lost trap is wrong, and so is not knowing how many were lost; a lost field is shown."""
    path = write_trace(tmp_path / "t.parquet", FINE, Footer(kernel_cs=KERNEL_CS, losses=[loss]))
    done = run_iretrace("check", path, check=False)
    assert done.returncode == status
    assert done.stdout.splitlines()[0] == f"{path}: {verdict}"
    assert f"  {loss.cause} {loss.count}" in done.stdout


def test_repairs(tmp_path: Path, run_iretrace: RunIretrace) -> None:
    """What a class lacks is as it must be; an exit that fell out is not."""
    classes = [TrapClass(name="#PF", vectors=[PF], entry="page_fault_kernel", frame="pt_regs")]
    footer = Footer(kernel_cs=KERNEL_CS, classes=classes, idt=[Gate(vector=v, ist=1) for v in MAIL_IST])
    without_exits = [row for row in FINE if (row["vector"], row["phase"]) != (PF, "exit")]
    path = write_trace(tmp_path / "t.parquet", without_exits, footer)
    assert "repairs: 1, all as they must be" in run_iretrace("check", path).stdout.splitlines()
    path = write_trace(tmp_path / "u.parquet", without_exits)
    done = run_iretrace("check", path, check=False)
    assert done.returncode == 1
    assert done.stdout.splitlines()[0] == f"{path}: found: 1 unexplained repair"


def test_the_sample_reads_at_100_columns(run_iretrace: RunIretrace) -> None:
    """A real recording: no line is wider than a terminal, but those that name commands."""
    done = run_iretrace("check", ROOT / "samples" / "mixed.parquet", check=False)
    assert done.returncode == 1
    reasons, _, commands = done.stdout.partition("\nnext:\n")
    assert all(len(line) <= 100 for line in reasons.splitlines()[1:])
    assert commands.count("iretrace ") >= 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.parquet"], "nowhere.parquet: there is no such file"),
        (["t.parquet", "--policy", "rfc2099"], "--policy rfc2099: no such policy; expected one of"),
        (["t.parquet", "--drop", "gravity"], "--drop gravity: no such assumption; expected one of no-cs-change"),
        (["text.parquet"], "text.parquet: begins with"),
        ([], "Missing argument 'TRACE'"),
    ],
)
def test_what_cannot_be_done(tmp_path: Path, run_iretrace: RunIretrace, arguments: list[str], message: str) -> None:
    """One line on stderr, status 2, nothing on stdout."""
    write_trace(tmp_path / "t.parquet", FINE)
    (tmp_path / "text.parquet").write_text("tsc,cpu\n1,2\n")
    done = run_iretrace("check", *arguments, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"iretrace: {message}")


def test_a_trace_that_falls_is_refused(tmp_path: Path, run_iretrace: RunIretrace) -> None:
    """Damage inside the events is found while they are read."""
    path = write_trace(tmp_path / "t.parquet", FINE)
    import pyarrow.parquet as pq  # noqa: PLC0415 - only here

    whole = pq.read_table(path)
    pq.write_table(whole.take([1, 0, 2, 3]).replace_schema_metadata(whole.schema.metadata), path)
    done = run_iretrace("check", path, check=False)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
