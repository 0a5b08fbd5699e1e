"""``iretrace replay`` and ``iretrace policy`` as the user runs them."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from iretrace.footer import Footer, Loss
from iretrace.replay.engine import REPAIRS, RETURN_DTYPE
from iretrace.replay.hazards import NAMES
from iretrace.replay.own import find
from iretrace.replay.policies import built_in
from iretrace.replay.tables import enumerate_policy
from iretrace.schema import EVENT_SCHEMA, PREDICTION_SCHEMA
from iretrace.trace_writer import writing
from tests.conftest import ROOT, RunIretrace
from tests.test_replay import GOLDEN, at_times, golden_trace, trap
from tests.traces import KERNEL_CS, write_trace

if TYPE_CHECKING:
    from pathlib import Path


def iretrace(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command line."""
    return subprocess.run(
        [sys.executable, "-m", "iretrace", *map(str, arguments)], capture_output=True, text=True, cwd=ROOT, check=False
    )


def refused(*arguments: object) -> str:
    """Run what must fail: exit status 2, nothing on stdout, one line on stderr and no traceback."""
    done = iretrace(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("iretrace: ")
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The small trace whose document is known."""
    return golden_trace(tmp_path / "t.parquet")


def test_json(path: Path) -> None:
    """One document on stdout, the policies in the order in which they were asked for; a hazard is no failure."""
    done = iretrace("replay", path, "--policy", "rfc2014", "--policy", "fred", "--json")
    document = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    assert [found["policy"] for found in document["policies"]] == ["rfc2014", "fred"]
    assert document["policies"][0] == GOLDEN


def test_json_needs_no_rich(path: Path) -> None:
    """What draws tables is not imported where none is drawn, nor what draws figures anywhere."""
    program = (
        "import sys\nfrom iretrace.cli import main\n"
        f"try: main(['replay', {str(path)!r}, '--json'])\nexcept SystemExit: pass\n"
        "bad = {'rich', 'pandas', 'plotly'} & set(sys.modules)\nassert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT, capture_output=True)


def test_table(path: Path) -> None:
    """A pipe gets the numbers, the losses, the hazards with examples and the repairs, and no progress bar."""
    done = iretrace("replay", path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    lines = done.stdout.splitlines()
    assert lines[0] == f"{path}: 6 events, 5 µs, 2 CPUs, CPU, Linux 6.18.0"
    assert lines[1].startswith("LOSS frame-unread: 2 (detail). The interrupted frame was not found")
    assert [line.split(":")[0] for line in lines if line.startswith(("iret", "rfc2014"))] == ["iret", "rfc2014"]
    assert "#PF           2          1    1     1     50.0 %           250" in lines
    assert "non-ist          2  50.0 %" in lines
    assert "saved: 500 [460, 540] TSC cycles; 250 ns of CPU time; 2.5 [2.3, 2.7] % of the time of 2 CPUs" in lines
    assert "    first at TSC 120 on CPU 0: #PF to kernel, nested, IF, NMI on stack" in lines
    assert any(line.startswith("  entry_without_exit_hook 2 (50.0 % of returns)") for line in lines)


def test_table_without_losses_or_costs(tmp_path: Path) -> None:
    """What is not known is said to be unknown, not left out."""
    done = iretrace("replay", write_trace(tmp_path / "t", at_times(trap(14))), "-p", "rfc2014")
    assert "losses: none recorded" in done.stdout
    assert "saved: not known" in done.stdout
    assert "hazards: none" in done.stdout
    assert "pairing: nothing had to be made up for" in done.stdout


@pytest.mark.slow
def test_losses_are_shown_by_cause(tmp_path: Path) -> None:
    """Losses of all CPUs are added up, each cause with its remedy."""
    losses = [Loss(cause="ring-full", cpu=0, count=1000), Loss(cause="ring-full", cpu=1, count=234)]
    path = write_trace(tmp_path / "t", at_times(trap(14)), Footer(kernel_cs=KERNEL_CS, losses=losses))
    assert "LOSS ring-full: 1,234 (events)." in iretrace("replay", path).stdout


@pytest.mark.slow
def test_predictions(path: Path, tmp_path: Path) -> None:
    """-o writes one row a return; an existing file stays unless --force says otherwise."""
    target = tmp_path / "p.parquet"
    done = iretrace("replay", path, "-p", "rfc2014", "-o", target)
    assert done.stdout.endswith(f"{target}: one row a return\n")
    rows = pq.read_table(target)
    assert rows.num_rows == 4
    assert rows.schema.names == PREDICTION_SCHEMA.names
    before = target.read_bytes()
    assert "exists already; add --force" in refused("replay", path, "-p", "iret", "-o", target)
    assert target.read_bytes() == before
    assert iretrace("replay", path, "-p", "iret", "-o", target, "--force", "--json").returncode == 0
    assert pq.read_table(target).column("rule").to_pylist() == ["always"] * 4
    assert sorted(p.name for p in tmp_path.iterdir()) == ["p.parquet", "t.parquet"]


def test_predictions_are_of_one_policy(path: Path, tmp_path: Path) -> None:
    """Two policies cannot share the file, and the default is two."""
    for chosen in ((), ("-p", "iret", "-p", "rfc2014")):
        message = refused("replay", path, *chosen, "-o", tmp_path / "p")
        assert "--output: holds one policy, not iret, rfc2014; add --policy rfc2014 alone" in message


@pytest.mark.slow
def test_bad_input(tmp_path: Path, path: Path) -> None:
    """Whatever is wrong with the file: one line that says what, and status 2."""
    assert "there is no such file" in refused("replay", tmp_path / "none")
    text = tmp_path / "text"
    text.write_text("hello, world")
    assert "expected a Parquet file" in refused("replay", text)
    cut = tmp_path / "cut"
    cut.write_bytes(path.read_bytes()[:-100])
    assert "truncated after" in refused("replay", cut)
    torn = tmp_path / "torn"
    data = bytearray(path.read_bytes())
    data[4:400] = bytes(396)
    torn.write_bytes(data)
    assert "row group could not be read" in refused("replay", torn)
    plain = tmp_path / "plain"
    pq.write_table(pa.table({"a": [1]}), plain)
    assert "without iretrace's footer" in refused("replay", plain)
    assert "the trace holds no events" in refused("replay", write_trace(tmp_path / "empty", []))
    newer = tmp_path / "newer"
    with writing(newer) as writer:
        writer.write(pa.RecordBatch.from_pylist([], schema=EVENT_SCHEMA))
        writer.finish(Footer(schema=99))
    assert "the trace has schema 99; expected at most 1" in refused("replay", newer)


@pytest.mark.slow
def test_bad_usage(path: Path, tmp_path: Path) -> None:
    """What is wrong with the options is said before the trace is read."""
    assert "no such policy; expected one of iret, rfc2014" in refused("replay", path, "-p", "rfc")
    assert "there is no file nowhere.py" in refused("replay", path, "-p", "nowhere.py:f")
    assert "there is no directory" in refused("replay", path, "-p", "iret", "-o", tmp_path / "a" / "b")
    assert "No such option" in refused("replay", path, "--frobnicate")
    mine = tmp_path / "mine.py"
    mine.write_text("def f(context):\n    return 'JUMP', 'r'\n")
    assert "for #DE to other it chose 'JUMP'" in refused("replay", path, "-p", f"{mine}:f", "-o", tmp_path / "p")
    assert not (tmp_path / "p").exists()


def test_a_policy_of_ones_own(path: Path, tmp_path: Path) -> None:
    """A function in a file runs as any policy does."""
    mine = tmp_path / "mine.py"
    mine.write_text("def f(context):\n    return ('RET' if context.kernel_cs else 'IRET'), 'mine'\n")
    document = json.loads(iretrace("replay", path, "-p", f"{mine}:f", "--json").stdout)
    (found,) = document["policies"]
    assert (found["policy"], found["ret"], found["by_rule"]) == (f"{mine}:f", 3, {"mine": 4})
    assert found["hazards"]["nmi-masked"] == 1


def test_policy_list() -> None:
    """Every policy with what it means."""
    done = iretrace("policy", "list")
    assert [line.split()[0] for line in done.stdout.splitlines() if line[0] != " "][:3] == [
        "iret",
        "rfc2014",
        "rfc2014-reviewed",
    ]
    names = [policy["policy"] for policy in json.loads(iretrace("policy", "list", "--json").stdout)["policies"]]
    assert names[-2:] == ["fred", "rfc2014-fixed"]


@pytest.mark.slow
def test_policy_show(path: Path) -> None:
    """The table folded, the counter in words, and the mail's sentences."""
    done = iretrace("policy", "show", "rfc2014")
    assert done.returncode == 0
    assert "up at the entry of NMI, #MC; to 0 at the exit of NMI; down at the exit of #MC" in done.stdout
    assert "db-bp      #DB, #BP                                   kernel CS, nested        RET" in done.stdout
    assert "3. If we are returning from #NM, then use IRET." in done.stdout
    host = iretrace("policy", "show", "rfc2014-host-ist", "--trace", path)
    assert "IST stacks: #DB, NMI, #BP, #NM, #DF, #SS, #MC" in host.stdout
    rows = json.loads(iretrace("policy", "show", "fred", "--json").stdout)["rows"]
    assert [(row["conditions"], row["choice"]) for row in rows] == [
        ({"kernel CS": True}, "ERETS"),
        ({"kernel CS": False}, "ERETU"),
    ]
    assert "no such policy" in refused("policy", "show", "nope")


DOCUMENTATION = (ROOT / "docs" / "replay.md").read_text()


@pytest.mark.parametrize("name", [*NAMES, *REPAIRS, *built_in(), *(field for field in RETURN_DTYPE.names or ())])
def test_names_are_documented(name: str) -> None:
    """Every hazard, repair, policy and column of a return is in the documentation's tables."""
    assert f"| `{name}` |" in DOCUMENTATION


def test_the_documented_policy_is_one(tmp_path: Path) -> None:
    """The example of a policy of one's own can be copied."""
    example = DOCUMENTATION.split("--policy ./mine.py:decide`.\n\n```python\n")[1].split("```")[0]
    (tmp_path / "mine.py").write_text(example)
    table = enumerate_policy(find(f"{tmp_path / 'mine.py'}:decide"), frozenset())
    assert table.rules == ("else", "in-nmi")


def test_savings_say_where_they_fall(run_iretrace: RunIretrace) -> None:
    """--savings adds, for each policy, savings by CPU, process and latency; CPUs and processes add up to the total."""
    sample = ROOT / "samples" / "mixed.parquet"
    printed = json.loads(run_iretrace("replay", sample, "--savings", "--json").stdout)
    for policy in printed["policies"]:
        savings = policy["savings"]
        assert savings["total"]["RET"] == policy["ret"]
        assert sum(row["RET"] for row in savings["by_cpu"]) == policy["ret"]
        assert sum(row["RET"] for row in savings["by_pid"]) <= policy["ret"]
        assert savings["total"]["saved_cycles"] == pytest.approx(policy["saved_cycles"], rel=1e-6)
    text = run_iretrace("replay", sample, "--savings", "--policy", "rfc2014").stdout
    assert "savings of rfc2014" in text
    assert "CPU 0" in text
