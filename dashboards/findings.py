"""The report's last sections: hazards, repairs, and how it was computed."""

from __future__ import annotations

import shlex
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

from iretrace import __version__
from iretrace.dashboards import numbers, tables, words
from iretrace.dashboards.html import Safe, clip, join, tag
from iretrace.dashboards.page import Section

if TYPE_CHECKING:
    import pandas as pd

    from iretrace.analysis.study import Study

_LIBRARIES: Final = ("numpy", "pandas", "plotly", "pyarrow")


def hazards(study: Study) -> Section:
    """What stands against the policy on this trace."""
    frame = study.hazards
    found = frame[frame["returns"] > 0]
    absent = frame[frame["returns"] == 0]
    intro = (
        f"{numbers.plural(len(found), 'kind')} of hazard found. A return can have more than one."
        if len(found)
        else "No hazard was found in this trace. That is no proof: a trace holds only what happened while it was taken."
    )
    return Section(
        id="hazards",
        title="Hazards",
        body=join(
            tag("p", intro),
            _hazard_table(found, "Hazards found") if len(found) else None,
            tag(
                "details",
                tag("summary", f"{numbers.plural(len(absent), 'kind')} looked for and not found"),
                _hazard_table(absent, "Hazards not found"),
            )
            if len(absent)
            else None,
        ),
    )


def _hazard_table(frame: pd.DataFrame, caption: str) -> Safe:
    columns = (frame[name].tolist() for name in ("name", "severity", "meaning", "returns", "examples"))
    body = (
        (
            join(tag("code", name), tag("br"), severity, ": ", words.SEVERITIES[severity]),
            meaning,
            numbers.count(n),
            examples or "none",
        )
        for name, severity, meaning, n, examples in zip(*columns, strict=True)
    )
    return tables.rows(("Hazard", "Meaning", "Returns", "First of each kind"), body, caption)


def repairs(study: Study) -> Section:
    """What pairing entries with exits had to make up for."""
    rows = [
        (tag("code", name), words.REPAIRS.get(name, ""), numbers.count(n), numbers.share(n, _returns(study)))
        for name, n in study.result.repairs.items()
    ]
    return Section(
        id="repairs",
        title="Traps that are not whole",
        body=join(
            tag(
                "p",
                "Entries and exits are paired by CPU, as brackets are. A trace begins and ends somewhere, some hooks "
                "see only one side, and events may be lost; what was made up for is counted here.",
            ),
            tables.rows(("What", "Meaning", "Traps", "Share"), rows, "Repairs made in pairing"),
        ),
    )


def method(study: Study) -> Section:
    """How it was computed and how to do it again."""
    trace, policy = study.result.trace.path.name, study.policy.name
    verbs = [("report", [])] if study.only_counted else [("replay", ["--json"]), ("report", [])]
    commands = "\n".join(
        shlex.join(["iretrace", verb, clip(trace), "--policy", clip(policy), *more]) for verb, more in verbs
    )
    return Section(
        id="method",
        title="How this was computed",
        body=join(
            tables.facts(
                [
                    ("iretrace", f"{__version__} (recorded by {study.footer.tool or 'an unknown version'})"),
                    ("Trace schema", str(study.footer.schema)),
                    (
                        "Libraries",
                        ", ".join(f"{name} {version(name)}" for name in _LIBRARIES),
                    ),
                    ("Policy", f"{clip(policy)}: {clip(study.policy.doc)}"),
                    ("Cost of a return", study.cost_source),
                ]
            ),
            tag("p", "To do it again:"),
            tag("pre", tag("code", commands), tabindex="0"),
            tag(
                "p",
                "The saving is the number of returns by RET times what one RET saves over one IRET on this CPU. Its "
                "interval is that of the cost alone. It leaves out what RET could cost elsewhere: the return stack "
                "buffer out of step, a supervisor shadow stack to mend.",
            ),
            tag(
                "p",
                "Source of the rules: Andy Lutomirski, “[RFC] x86_64: A real proposal for iret-less return to kernel”, "
                "Linux kernel mailing list, 20 May 2014, and its review by Steven Rostedt of the same day.",
            ),
        ),
    )


def _returns(study: Study) -> int:
    return int(study.by_vector["returns"].sum())
