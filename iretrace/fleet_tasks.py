"""What is done to each file of a fleet (:mod:`iretrace.fleet`): functions of a name, which workers can import.

Policies go by name: ``FILE.py:FUNCTION`` is read where the task runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from iretrace import sources
from iretrace.trace import open_trace

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from iretrace.store.run import Run


def replay_document(policies: Sequence[str], name: str) -> dict[str, Any]:
    """The JSON document of ``iretrace replay NAME --json``.

    Args:
        policies: names of policies.
        name: a path or an object store's URL.

    Raises:
        InputError: the trace is not what it should be.
        UsageError: there is no such policy.
    """
    from iretrace.replay.own import find  # noqa: PLC0415 - a worker imports what its task needs
    from iretrace.replay.run import replay  # noqa: PLC0415
    from iretrace.replay.summary import document  # noqa: PLC0415

    chosen = [find(policy) for policy in policies]
    with sources.local(name) as path:
        made = document(replay(open_trace(path), chosen))
    made["trace"]["path"] = name
    return made


def run_of_trace(policies: Sequence[str] | None, tags: Mapping[str, str], name: str) -> Run:
    """What a store of runs keeps of a trace.

    Args:
        policies: names of policies; ``None``: all that come with iretrace.
        tags: added to the trace's own.
        name: a path or an object store's URL.

    Raises:
        InputError: the trace is not what it should be.
        UsageError: there is no such policy.
    """
    from iretrace.replay.own import find  # noqa: PLC0415
    from iretrace.store import aggregated  # noqa: PLC0415
    from iretrace.store.summarize import summarize  # noqa: PLC0415

    chosen = None if policies is None else [find(policy) for policy in policies]
    with sources.local(name) as path:
        if aggregated.is_run(path):
            return aggregated.tagged(aggregated.read(path), tags)
        return summarize(open_trace(path), chosen, tags=tags)
