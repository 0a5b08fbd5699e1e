"""What is done to each file of a fleet (:mod:`iretrace.fleet`): functions of a name, which workers can import.

Policies go by name: ``FILE.py:FUNCTION`` is read where the task runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from iretrace import sources
from iretrace.output import replacing
from iretrace.redaction import redacted
from iretrace.trace import open_trace

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from iretrace.outputs import Outputs
    from iretrace.replay.policies import Policy
    from iretrace.replay.run import Result
    from iretrace.store.run import Run
    from iretrace.trace import Trace


def replay_document(
    policies: Sequence[str], name: str, *, savings: bool = False, outputs: Outputs | None = None
) -> dict[str, Any]:
    """The JSON document of ``iretrace replay NAME --json``.

    Args:
        policies: names of policies; one, where there are outputs.
        name: a path or an object store's URL.
        savings: each policy's savings too, with all of its commands.
        outputs: where predictions go, checked already: what is there is replaced, since it may be that of this very
            task, whose worker died before it could say so.

    Raises:
        InputError: the trace is not what it should be.
        OutputError: the predictions cannot be written.
        UsageError: there is no such policy.
    """
    from iretrace.replay.own import find  # noqa: PLC0415 - a worker imports what its task needs
    from iretrace.replay.summary import document  # noqa: PLC0415

    chosen = [find(policy) for policy in policies]
    with sources.local(name) as path:
        trace = open_trace(path)
        made = document(_replay(trace, chosen, name, outputs))
        if savings:
            from iretrace.analysis import saved  # noqa: PLC0415 - pandas is for those who ask

            found = saved.saved(trace, chosen)
            for policy in made["policies"]:
                policy["savings"] = saved.document(found, policy["policy"], max_comms=None)
    made["trace"]["path"] = redacted(name)
    if outputs is not None:
        made["predictions"] = str(outputs.of(name))
    return made


def _replay(trace: Trace, policies: list[Policy], name: str, outputs: Outputs | None) -> Result:
    if outputs is None:
        from iretrace.replay.run import replay  # noqa: PLC0415

        return replay(trace, policies)
    from iretrace.replay.predictions import predict  # noqa: PLC0415

    with replacing(outputs.prepare(name), force=True) as temporary:
        return predict(trace, policies[0], temporary)


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
