"""The one list of verbs: name, module under :mod:`iretrace.commands`, one line of help.

The module is imported only when its verb runs, so that ``iretrace --help`` stays quick.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Verb(NamedTuple):
    """A sub-command of ``iretrace``; its module defines a click command called ``command``."""

    name: str
    help: str

    @property
    def module(self) -> str:
        """Module that implements the verb (``import`` is a keyword, hence the prefix)."""
        return f"iretrace.commands.{self.name}_"


VERBS: Final = (
    Verb("doctor", "What this machine can and cannot record, and what would mend it."),
    Verb("collect", "Record trap entries and exits of this machine into a trace (root)."),
    Verb("top", "Watch traps as they come: rates, where they return to, what RET would save (root)."),
    Verb("calibrate", "Time IRET against the RET paths on this CPU."),
    Verb("import", "Make a trace of what another tool recorded, or of what a killed run left."),
    Verb("replay", "Put a trace through the algorithm: RET or IRET for every return."),
    Verb("policy", "The policies, and each of them as a table with the sentences it rests on."),
    Verb("verify", "Explore nested traps against a policy: the shortest way to each hazard."),
    Verb("check", "What is wrong with a trace, and with a policy on it: losses, hazards, assumptions."),
    Verb("export", "Give a trace to other tools: Perfetto, Chrome, CSV, pyperf, Parquet."),
    Verb("query", "Ask traces a question in SQL: events, traps, decisions, losses, meta."),
    Verb("report", "Show a trace's predictions as one offline HTML file."),
    Verb("compare", "What differs between two recordings, or sets of them, and what cannot be told."),
    Verb("dashboard", "Show a store of runs, or traces, in the browser: trends, runs, the trap timeline."),
    Verb("regress", "Where a series of runs changed its level: which run, how much, and whether it counts."),
    Verb("runs", "Keep what a fleet's runs say in a store: add, list, show and remove runs."),
)
