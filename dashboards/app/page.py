"""What a page is made of, and the parts that several pages share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from iretrace.dashboards import numbers
from iretrace.dashboards.app.state import address
from iretrace.dashboards.html import Child, Safe, clip, tag
from iretrace.dashboards.page import Figures
from iretrace.store import records

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import pandas as pd

    from iretrace.dashboards.app.source import Snapshot
    from iretrace.dashboards.app.state import State

DEFAULT_POLICY = "rfc2014"


@dataclass(frozen=True, kw_only=True)
class Page:
    """A page.

    Attributes:
        title: its heading.
        subtitle: a line under it; ``None``: what the dashboard shows.
        body: its HTML.
        figures: figures of the places in the HTML that name them.
        again: something on it is not finished: ask again soon.
    """

    title: str
    subtitle: Child = None
    body: Safe
    figures: Figures = field(default_factory=Figures)
    again: bool = False


def choice(label: str, name: str, options: Iterable[tuple[str, str]], chosen: str, *, drops: str = "") -> Safe:
    """A list to choose a parameter of the address from.

    Args:
        label: its label.
        name: the parameter.
        options: value and text of each.
        chosen: the value that is chosen.
        drops: parameters, space-separated, that another choice makes meaningless.
    """
    made = [tag("option", clip(text), value=value, selected=value == chosen) for value, text in options]
    return tag("label", label, tag("select", *made, name_=name, data_drops=drops))


def run_label(row: Mapping[str, Any] | pd.Series) -> str:
    """A run for people: when, where, what."""
    parts = [when(row["time"]), str(row["host"]), str(row["workload"])]
    return " · ".join(clip(part)[:60] for part in parts if part) or str(row["run"])


def when(time: pd.Timestamp) -> str:
    """A point in time, in UTC, to the second."""
    return f"{time:%Y-%m-%d %H:%M:%S}"


def run_link(run: str, text: str | None = None, **more: str | int | None) -> Safe:
    """A link to a run."""
    return tag("a", clip(text or run), href=address("/run", id=run, **more))


MAX_OPTIONS = 400
"""Runs that a list offers: the newest."""


def run_choice(snapshot: Snapshot, chosen: str, *, label: str = "Run", name: str = "id", drops: str = "") -> Safe:
    """A list of runs, the newest first; the chosen one is there whatever its age."""
    runs = snapshot.runs.iloc[::-1]
    shown = runs.head(MAX_OPTIONS)
    if chosen not in set(shown["run"]):
        import pandas as pd  # noqa: PLC0415 - heavy, and here already

        shown = pd.concat([shown, runs[runs["run"] == chosen]])
    options = [(str(row["run"]), run_label(row)) for row in records(shown)]
    return choice(label, name, options, chosen, drops=drops)


def chosen_run(snapshot: Snapshot, state: State) -> str:
    """The run that an address names; where it names none, the newest."""
    asked = state.text("id")
    if asked:
        return asked
    return str(snapshot.runs["run"].iloc[-1]) if len(snapshot.runs) else ""


def chosen_policy(policies: list[str], state: State) -> str:
    """The policy that an address names; where it names none, the mail's."""
    asked = state.text("policy")
    if asked:
        return asked
    return DEFAULT_POLICY if DEFAULT_POLICY in policies or not policies else policies[0]


def empty_store() -> Page:
    """What is shown of a store without runs."""
    text = tag(
        "p",
        "The store holds no run that can be read. Add one with ",
        tag("code", "iretrace runs add TRACE --store STORE"),
        ".",
    )
    return Page(title="No runs yet", body=text)


def unreadable_notice(snapshot: Snapshot) -> Safe | None:
    """Names the members that could not be read."""
    bad = snapshot.unreadable
    if not bad:
        return None
    items = [tag("li", tag("code", clip(member.name)), f": {clip(member.reason)}") for member in bad[:50]]
    more = tag("li", f"… and {len(bad) - 50} more") if len(bad) > 50 else None
    head = f"{numbers.plural(len(bad), 'run')} cannot be read and {'is' if len(bad) == 1 else 'are'} left out:"
    return tag("div", tag("p", tag("strong", head)), tag("ul", *items, more), class_="notice warn", role="alert")
