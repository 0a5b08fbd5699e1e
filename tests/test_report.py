"""The HTML report: complete, well formed, self-contained, and safe from what a trace says."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from iretrace.analysis.study import study
from iretrace.commands.report_ import command, default_output
from iretrace.dashboards.report import report
from iretrace.errors import InputError, OutputError, UsageError
from iretrace.footer import Anchor, Clock, Cpu, Footer, Hook, Host, Loss, TrapClass, Window
from iretrace.replay.policies import BUILT_IN, by_name
from iretrace.trace import open_trace
from tests.sample_trace import footer, write_sample
from tests.traces import event, write_trace

if TYPE_CHECKING:
    from pathlib import Path

HOSTILE = '</script><script>alert("x")</script><img src=x onerror=alert(1)>\u2028'
MAX_BYTES = 6_000_000
VOID = {"meta", "br", "hr", "input", "col", "img", "link"}


class Page(HTMLParser):
    """What a test asks of the page; raises where a tag does not close what is open."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.scripts: dict[str, str] = {}
        self._script = ""
        self.feed(document)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep the element."""
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "script":
            self._script = dict(attrs).get("id") or f"script-{len(self.scripts)}"

    def handle_endtag(self, tag: str) -> None:
        """Check that it closes what is open."""
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Keep scripts by their id, and what is read."""
        if self.open and self.open[-1] == "script":
            self.scripts[self._script] = self.scripts.get(self._script, "") + data
        elif "style" not in self.open:
            self.texts.append(data)

    @property
    def text(self) -> str:
        """All that is read, with plain spaces."""
        return " ".join(" ".join(self.texts).replace("\u202f", " ").split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """Attributes of each element of a name."""
        return [attributes for name, attributes in self.tags if name == tag]


def make(path: Path, policy: str = "rfc2014") -> str:
    """The report of a trace."""
    return report(study(open_trace(path), by_name(policy)))


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The sample's report."""
    return make(write_sample(tmp_path_factory.mktemp("sample") / "sample.parquet"))


@pytest.fixture(scope="module")
def page(document: str) -> Page:
    """The sample's report, parsed."""
    return Page(document)


@pytest.mark.slow
def test_well_formed(page: Page) -> None:
    """Every tag is closed in its turn, ids are unique, links inside the page lead somewhere."""
    assert page.open == []
    ids = [attributes["id"] for _, attributes in page.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))
    targets = [href[1:] for a in page.all("a") if (href := a.get("href") or "").startswith("#")]
    assert len(targets) > 10
    assert set(targets) <= set(ids)


def test_loads_nothing(document: str, page: Page) -> None:
    """No element names another file, and the policy in the page forbids the rest."""
    for name, attributes in page.tags:
        assert "src" not in attributes, name
        assert name not in {"link", "iframe", "object", "embed", "base", "img"}
        assert (attributes.get("href") or "#").startswith("#")
    style = document[document.index("<style>") : document.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    (policy,) = (m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "http" not in policy
    assert "unsafe" not in policy.split("style-src", maxsplit=1)[0]


def test_size(document: str) -> None:
    """Small enough to mail."""
    assert len(document.encode()) < MAX_BYTES


def test_figures_have_captions_tables_labels(page: Page) -> None:
    """Each has a caption, a drawing with a label, and its data as a table that a keyboard can reach."""
    plots = [d for d in page.all("div") if d.get("class") == "plot"]
    figures = json.loads(page.scripts["figures"])
    assert len(plots) == len(page.all("figure")) == len(page.all("figcaption")) == len(figures) >= 8
    assert {plot["id"] for plot in plots} == set(figures)
    assert all(plot.get("aria-label") for plot in plots)
    regions = [d for d in page.all("div") if d.get("class") == "scroll"]
    assert len(regions) >= len(figures)
    assert all(region.get("tabindex") == "0" and region.get("aria-label") for region in regions)
    assert len(page.all("caption")) == len(page.all("table"))


def test_sections_in_their_order(page: Page) -> None:
    """The contents list what there is."""
    expected = ["answer", "recorded", "rules", "could", "targets", "rates", "latency", "nesting", "savings"]
    expected += ["hazards", "repairs", "method"]
    assert [section["id"] for section in page.all("section")] == expected
    listed = [a["href"] for a in page.all("a") if a.get("class") is None][: len(expected)]
    assert listed == [f"#{name}" for name in expected]


def test_the_answer_in_numbers(page: Page) -> None:
    """Returns, time, machine, shares, saving with its interval, hazards and losses."""
    answer = page.text[page.text.index("Of 1 930 returns") :][:480]
    assert "recorded in 20 ms on testbox (Intel Xeon, 2 CPUs), 44.2 % go back to the kernel" in answer
    assert "42.5 % could use RET by the policy rfc2014" in answer
    assert "save 10.3 M cycles a second, which is 5.13 ms of CPU time in every second or 0.257 %" in answer
    assert "(between 0.248 % and 0.267 %)" in answer
    assert "12 hazards found (if-in-nmi); 17 events lost." in answer


def test_what_was_recorded(page: Page) -> None:
    """Machine, clock, overhead, losses with their remedy, and what classes lack."""
    for expected in (
        "GenuineIntel, family 6, model 207, stepping 2",
        "2026-09-21 14:13:20 UTC",
        "at most 230 cycles (115 ns)",
        "128 ns an event, 0.4 % of all CPU time, 3 % of one CPU",
        "ring-full 17 0: 12, 1: 5",
        "collect with a larger --buffer",
        "page-fault #PF page_fault_user nothing",
        "2 of 3 hooks attached",
        "no: no such tracepoint",
        "page-fault (#PF) : no exit hook",
        "RET saves 250.0 [242.0, 260.0] TSC cycles",
        "iretrace replay sample.parquet --policy rfc2014 --json",
    ):
        assert expected in page.text, expected


def test_classes_that_are_seen_come_first(tmp_path: Path) -> None:
    """The table scrolls: what no hook sees is below."""
    classes = [
        TrapClass(name="#DE", vectors=[0], lacks="no hook"),
        TrapClass(name="timer", vectors=[0xEC], entry="local_timer_entry", exit="local_timer_exit"),
    ]
    document = make(write_trace(tmp_path / "s.parquet", [event(1, "entry", 14)], Footer(classes=classes)))
    assert document.index("<strong>timer</strong>") < document.index("<strong>#DE</strong>")


def test_a_trace_without_losses_says_so(tmp_path: Path) -> None:
    """And warns of nothing."""
    document = make(write_sample(tmp_path / "s.parquet", losses=[]))
    assert "no events were lost" in Page(document).text
    assert 'class="notice warn"' not in document


def test_unknown_stays_unknown(tmp_path: Path) -> None:
    """An imported trace without clock, cost and classes: no time, no saving, and the reasons."""
    events = [event(100, "entry", 0xEC, to_kernel=True), event(300, "exit", 0xEC, to_kernel=True)]
    page = Page(make(write_trace(tmp_path / "bare.parquet", [*events, event(400, "entry", 14)], Footer())))
    assert page.open == []
    assert "What that would save is not known: saving by RET unknown" in page.text
    assert "TSC's frequency is not known, so there is no time axis" in page.text
    assert "time from entry to exit (TSC cycles, logarithmic)" in page.scripts["figures"]
    assert "The trace does not name the kernel's CS" in page.text


@pytest.mark.parametrize("policy", sorted(BUILT_IN))
@pytest.mark.slow
def test_every_policy_has_a_report(tmp_path: Path, policy: str) -> None:
    """Links lead somewhere whatever the policy's rules are."""
    page = Page(make(write_sample(tmp_path / "s.parquet"), policy))
    ids = {attributes.get("id") for _, attributes in page.tags}
    assert {(a.get("href") or "#answer")[1:] for a in page.all("a")} <= ids
    if policy == "iret":
        assert "No return would use RET" in page.text
        assert "nothing returns by RET, so there is nothing to save" in page.text
    if policy == "fred":
        assert "Which returns would use ERETS" in page.text
        assert "What that would save is not known: there is no cost of ERETS." in page.text


def test_hostile_strings_stay_text(tmp_path: Path) -> None:
    """Whatever the footer says: no element, no script, no attribute comes of it."""
    hostile = Footer(
        tool=HOSTILE,
        host=Host(name=HOSTILE, kernel=HOSTILE, machine=HOSTILE, hypervisor=HOSTILE),
        cpu=Cpu(vendor=HOSTILE, name=HOSTILE, microcode=HOSTILE, family=6, model=1),
        clock=Clock(source=HOSTILE, tsc_khz=1e6),
        mitigations={HOSTILE: HOSTILE},
        hooks=[Hook(name=HOSTILE, attached=False, reason=HOSTILE)],
        classes=[TrapClass(name=HOSTILE, vectors=[14], entry=HOSTILE, frame=HOSTILE, lacks=HOSTILE)],
        window=Window(ended_by=HOSTILE),
        command=[HOSTILE],
        tags={HOSTILE: HOSTILE},
    )
    path = write_trace(tmp_path / "<b>&.parquet", [event(1, "entry", 14), event(2, "entry", 0xEC)], hostile)
    document = make(path)
    page = Page(document)
    assert page.open == []
    assert not page.all("img")
    assert not page.all("b")
    assert len(page.all("script")) == 4
    assert not any(key.startswith("on") for _, attributes in page.tags for key in attributes)
    assert "<img src=x onerror=alert(1)>" in page.text
    assert "<img src=x" not in document.replace(page.scripts["script-2"], "")


@pytest.mark.slow
def test_absurd_footers_do_not_stop_it(tmp_path: Path) -> None:
    """Numbers at the edge of what a footer may hold, and long lists; the size stays bounded."""
    absurd = footer(
        clock=Clock(
            source="ktime",
            tsc_khz=1e-300,  # taken for unknown
            error_cycles=1e300,
            anchors=[Anchor(tsc=0, realtime_ns=2**62, monotonic_ns=0)],
        ),
        window=Window(start_tsc=0, stop_tsc=2**64 - 1),
        losses=[Loss(cause="ring-full", count=2**62, cpu=cpu) for cpu in range(300)],
        hooks=[Hook(name="&" * 5000, attached=True, runs=1, run_ns=2**62)] * 2000,
        classes=[TrapClass(name="<" * 5000, vectors=list(range(256)), lacks="&" * 5000)] * 2000,
        tags={f"{i:0500}": "<" * 5000 for i in range(500)},
        command=["<" * 5000] * 1000,
        mitigations={f"{i}{'&' * 5000}": "&" * 5000 for i in range(500)},
    )
    document = make(write_trace(tmp_path / "absurd.parquet", [event(5, "entry", 14)], absurd))
    assert Page(document).open == []
    assert len(document.encode()) < MAX_BYTES


@pytest.mark.slow
def test_names_of_files_and_what_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default is in the current directory; it is not overwritten without leave."""
    trace = write_sample(tmp_path / "run.parquet")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    first = CliRunner().invoke(command, [str(trace)], catch_exceptions=False)
    assert first.exit_code == 0
    assert re.fullmatch(r"run\.report\.html written \(\d\.\d MB\): open it in a browser\n", first.output)
    written = (tmp_path / "here" / "run.report.html").read_bytes()
    assert written.startswith(b"<!DOCTYPE html>")
    assert b"\r\n" not in written.split(b"<script>", maxsplit=1)[0]
    with pytest.raises(OutputError, match="exists already; add --force"):
        CliRunner().invoke(command, [str(trace)], catch_exceptions=False)
    assert CliRunner().invoke(command, [str(trace), "--force"], catch_exceptions=False).exit_code == 0
    assert default_output(trace).name == "run.report.html"
    assert default_output(tmp_path / "odd.name").name == "odd.name.report.html"


def test_json(tmp_path: Path) -> None:
    """The totals of the headline for machines."""
    trace, out = write_sample(tmp_path / "run.parquet"), tmp_path / "r.html"
    result = CliRunner().invoke(command, [str(trace), "-o", str(out), "--json"], catch_exceptions=False)
    document: dict[str, Any] = json.loads(result.output)
    assert document["schema"] == 1
    assert document["report"] == str(out)
    assert (document["returns"], document["ret"], document["to_kernel"]) == (1930, 821, 854)
    assert (document["hazards"], document["lost_events"], document["duration_s"]) == (12, 17, 0.02)
    assert document["saved_cycles"] == {"value": 250.0 * 821, "low": 242.0 * 821, "high": 260.0 * 821}


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (["nowhere.parquet"], InputError, "no such file"),
        (["{trace}", "--policy", "nonsense"], UsageError, "no such policy"),
        (["{trace}", "-o", "missing/report.html"], OutputError, "mkdir -p missing"),
        (["{trace}", "-o", "."], OutputError, "is a directory"),
    ],
)
def test_errors_say_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], error: type[Exception], says: str
) -> None:
    """One line each, before anything is computed, and nothing is left behind."""
    trace = write_sample(tmp_path / "run.parquet")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=says):
        CliRunner().invoke(command, [a.format(trace=trace) for a in arguments], catch_exceptions=False)
    assert [path.name for path in tmp_path.iterdir()] == ["run.parquet"]


def test_a_policy_of_ones_own(tmp_path: Path) -> None:
    """A function in a file decides; its rules are named as it names them, as text."""
    (tmp_path / "mine.py").write_text("def decide(context):\n    return 'IRET', '<i>mine</i>'\n")
    trace, out = write_sample(tmp_path / "run.parquet"), tmp_path / "r.html"
    arguments = [str(trace), "-o", str(out), "--policy", f"{tmp_path / 'mine.py'}:decide"]
    assert CliRunner().invoke(command, arguments, catch_exceptions=False).exit_code == 0
    page = Page(out.read_text(encoding="utf-8"))
    assert page.open == []
    assert "<i>mine</i>" in page.text
    assert not page.all("i")
