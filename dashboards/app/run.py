"""The page of one run: everything that its report says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from iretrace.dashboards.app.page import Page, choice, chosen_policy, chosen_run, empty_store, run_choice, run_label
from iretrace.dashboards.app.state import address
from iretrace.dashboards.html import join, tag
from iretrace.dashboards.page import Figures
from iretrace.dashboards.report import sections

if TYPE_CHECKING:
    from iretrace.dashboards.app.source import Source
    from iretrace.dashboards.app.state import State


def page(source: Source, state: State) -> Page:
    """A run under a policy."""
    snapshot = source.snapshot(state.text("id"))
    run = chosen_run(snapshot, state)
    if not run:
        return empty_store()
    row = snapshot.row(run)
    policies = list(row["policies"])
    policy = chosen_policy(policies, state)
    study = source.study(run, policy)
    figures = Figures()
    made = sections(study, figures)
    choices = tag(
        "div",
        run_choice(snapshot, run),
        choice("Policy", "policy", [(name, name) for name in policies], policy),
        class_="choices",
    )
    links = tag(
        "div",
        tag("a", "Its timeline", href=address("/timeline", id=run, policy=policy)),
        tag("a", "Every policy on it", href=address("/policy", id=run)),
        tag("a", "Compare it", href=address("/compare", id=run)),
        class_="buttons",
    )
    contents = tag(
        "details",
        tag("summary", "Contents"),
        tag("ol", *(tag("li", tag("a", section.title, href=f"#{section.id}")) for section in made)),
    )
    body = join(choices, links, contents, *(tag("section", tag("h2", s.title), s.body, id=s.id) for s in made))
    return Page(title="Run", subtitle=run_label(row), body=body, figures=figures)
