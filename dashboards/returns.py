"""The report's sections on the rules and on which returns they change: by vector, by rule, by target, over time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from iretrace.analysis import frames
from iretrace.dashboards import figures, numbers, tables, words
from iretrace.dashboards.html import Safe, clip, join, tag
from iretrace.dashboards.page import Figures, Section
from iretrace.dashboards.tables import Column

if TYPE_CHECKING:
    import pandas as pd

    from iretrace.analysis.study import Study

_RULES_SHOWN: Final = 40


def rules(study: Study, page: Figures) -> Section:
    """What the rules say, with what each decided here."""
    frame = frames.by_rule(study.result.policies[0]).head(_RULES_SHOWN)
    plot = page.add(
        "by-rule",
        "Returns by the rule that decided them",
        join(
            "The rules are asked from top to bottom; the first that applies decides. ",
            "The same numbers by trap: ",
            tag("a", "which returns could use RET", href="#could"),
            ".",
        ),
        plot=figures.rules(frame),
        data=tables.of_frame(frame, [Column("rule", "Rule"), *_counts(frame, frames.CHOICES)], "Returns by rule"),
        summary="Bars: returns by rule and decision. " + _spoken(frame, "rule"),
    )
    return Section(
        id="rules",
        title="What the rules say",
        body=join(
            tag(
                "p",
                "When a trap (a page fault, a timer, an interrupt) has been handled, the kernel goes back to what was "
                "interrupted with the instruction IRET. In May 2014 Andy Lutomirski proposed to use the ordinary RET "
                "where the kernel itself was interrupted:",
            ),
            _quote(words.QUOTE_SLOW),
            tag(
                "p",
                "RET does less: it cannot change the privilege level, and it cannot let NMIs in again. While a "
                "non-maskable interrupt (NMI) is handled, the CPU holds back the next one until an IRET:",
            ),
            _quote(words.QUOTE_UNMASK),
            _quote(words.QUOTE_MUST),
            tag(
                "p",
                "Some traps run on a stack of their own, named in the Interrupt Stack Table (IST). Going back from "
                "such a stack with RET needs a valid stack on the other side, and that is what most of the rules are "
                "about. ",
                f"This report applies the policy {clip(study.policy.name)}: {clip(study.policy.doc)}",
            ),
            _rule_table(frame),
            plot,
        ),
    )


def _quote(text: str) -> Safe:
    return tag("blockquote", tag("p", f"“{text}”"))


def _rule_table(frame: pd.DataFrame) -> Safe:
    rows = []
    for name, n in zip(frame["rule"], frame["returns"], strict=True):
        rule = words.RULES.get(name)
        said = join(tag("q", rule.quote), tag("br")) if rule and rule.quote else None
        rows.append(
            tag(
                "tr",
                tag("td", tag("a", tag("code", clip(name)), href="#by-rule")),
                tag("td", rule.number if rule else ""),
                tag("td", said, rule.meaning if rule else "A rule of this policy.", class_="words"),
                tag("td", numbers.count(n), class_="n"),
                id=f"rule-{name}" if rule else None,
            )
        )
    head = [tag("th", name, scope="col") for name in ("Rule", "In the mail", "What it says")]
    head.append(tag("th", "Returns here", scope="col", class_="n"))
    caption = "The rules, in the order in which they are asked"
    table = tag("table", tag("caption", caption, class_="unseen"), tag("thead", tag("tr", *head)), tag("tbody", *rows))
    return tables.scrolling(table, caption)


def could_use_ret(study: Study, page: Figures) -> Section:
    """Decisions by vector."""
    frame = study.by_vector
    rules = frames.by_rule(study.result.policies[0]).sort_values("returns", ascending=False)
    deciding = [name for name in rules["rule"][rules["returns"] > 0][:3] if name in words.RULES]
    items = [
        tag("li", tag("a", tag("code", name), href=f"#rule-{name}"), f": {words.RULES[name].meaning}")
        for name in deciding
    ]
    made = "; ".join(f"{name}: {meaning}" for name, meaning in words.DECISIONS.items() if frame[name].any())
    plot = page.add(
        "decisions",
        "How each trap would return",
        f"Each bar is all returns of one trap. {made}.",
        plot=figures.decisions(frame),
        data=tables.of_frame(frame, [*_NAMED, *_counts(frame, frames.CHOICES)], "Decisions by vector"),
        summary="Stacked bars: share of returns by decision and vector. " + _spoken(frame, "name"),
    )
    intro = join(tag("p", "The rules that decide most returns here:"), tag("ul", *items)) if items else None
    fred = frame["ERETS"].any() and not frame["RET"].any()
    title = "Which returns would use ERETS" if fred else "Which returns could use RET"
    return Section(id="could", title=title, body=join(intro, plot))


def targets(study: Study, page: Figures) -> Section:
    """Where returns go by vector."""
    frame = study.by_vector
    rule = None
    if "target-cs" in study.result.policies[0].table.rules:
        rule = join(" (rule ", tag("a", tag("code", "target-cs"), href="#rule-target-cs"), ")")
    return Section(
        id="targets",
        title="Where the returns go",
        body=page.add(
            "targets-by-vector",
            "To the kernel or to user mode",
            join(
                "Only a trap that interrupted the kernel goes back to it, and only such a return can be changed",
                rule,
                ". “Unknown” means that no frame and no stack told; it is judged as not to the kernel.",
            ),
            plot=figures.targets(frame),
            data=tables.of_frame(frame, [*_NAMED, *_counts(frame, frames.TARGETS)], "Targets by vector"),
            summary="Stacked bars: share of returns to kernel and user by vector.",
        ),
    )


def over_time(study: Study, page: Figures) -> Section:
    """Rates by vector."""
    frame = frames.rates(study.counts, study.tsc_khz)
    if frame.empty:
        if study.only_counted:
            why = "Counted without events: when they came was not kept, so there is no time axis."
        elif study.tsc_khz is None:
            why = "The TSC's frequency is not known, so there is no time axis."
        else:
            why = "There is no return to show."
        return Section(id="rates", title="Rates over time", body=tag("p", why))
    width = numbers.duration_ns(float(frame["width_s"].iloc[0]) * 1e9)
    wide = frame.pivot_table(index="start_s", columns="name", values="per_s", sort=False).reset_index()
    shown = [Column("start_s", "From (s)", lambda s: f"{s:.6g}")]
    shown += [Column(name, f"{name} (/s)", numbers.short) for name in wide.columns[1 : _TABLE_VECTORS + 1]]
    return Section(
        id="rates",
        title="Rates over time",
        body=page.add(
            "rates-by-vector",
            "Traps per second",
            f"Stacked: the upper edge is all traps together. Each point stands for {width}. The most frequent vectors "
            "have an area of their own.",
            plot=figures.rates(frame),
            data=tables.of_frame(wide, shown, "Traps per second by time and vector"),
            summary=f"Stacked areas: traps per second over time, in steps of {width}, by vector.",
        ),
    )


_TABLE_VECTORS: Final = 12

_NAMED: Final = (Column("name", "Vector"),)


def _counts(frame: pd.DataFrame, names: tuple[str, ...]) -> list[Column]:
    """Columns of counts, without those that are zero everywhere."""
    used = [name for name in names if frame[name].any()]
    return [Column("returns", "Returns", numbers.count), *(Column(name, name, numbers.count) for name in used)]


def _spoken(frame: pd.DataFrame, key: str) -> str:
    """The first rows in words."""
    first = frame[frame["returns"] > 0].head(4)
    parts = [
        f"{clip(name)}: {numbers.share(ret, n)} RET of {numbers.count(n)}"
        for name, ret, n in zip(first[key], first["RET"], first["returns"], strict=True)
    ]
    return "; ".join(parts) + "."
