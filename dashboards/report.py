"""The offline HTML report: one trace under one policy, for someone who has never read the mail."""

from __future__ import annotations

from typing import TYPE_CHECKING

from iretrace.analysis.totals import totals as add_up
from iretrace.dashboards import findings, headline, recording, returns, times
from iretrace.dashboards.html import clip, join, tag
from iretrace.dashboards.page import Figures, Section, render

if TYPE_CHECKING:
    from iretrace.analysis.study import Study
    from iretrace.dashboards.comparison import Comparison


def report(study: Study, compared: Comparison | None = None) -> str:
    """The report as one HTML document that loads nothing; at most 6 MB whatever the trace's length.

    Args:
        study: :func:`iretrace.analysis.study.study`.
        compared: the trace beside another, where that is wanted.
    """
    page = Figures()
    made = sections(study, page)
    if compared is not None:
        from iretrace.dashboards import comparison  # noqa: PLC0415 - what it needs is not needed without

        made.insert(1, comparison.section(compared, page))
    file = study.result.trace.path.name
    host = study.footer.host.name
    return render(
        title=f"{clip(file)}: iretrace",
        heading=f"Returns from traps on {clip(host)}" if host else "Returns from traps",
        subtitle=join(tag("code", clip(file)), f" · policy {clip(study.policy.name)}"),
        sections=made,
        figures=page,
    )


def sections(study: Study, page: Figures) -> list[Section]:
    """All that is said of one run under one policy, the answer first.

    Args:
        study: :func:`iretrace.analysis.study.study`, or a stored run's.
        page: where its figures go.
    """
    totals = add_up(study)
    return [
        headline.section(study, totals),
        recording.section(study),
        returns.rules(study, page),
        returns.could_use_ret(study, page),
        returns.targets(study, page),
        returns.over_time(study, page),
        times.latency(study, page),
        times.nesting(study, page),
        times.saved(study, totals, page),
        findings.hazards(study),
        findings.repairs(study),
        findings.method(study),
    ]
