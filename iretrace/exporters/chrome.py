"""Chrome's JSON trace events: what chrome://tracing, speedscope and Perfetto read too.

Times are microseconds with three digits behind the point. A trap is a complete event (``X``), a beginning (``B``)
where it was still open, or an instant (``i``); CPUs are the threads of one process.

Source: "Trace Event Format", https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from iretrace.exporters.timeline import MAX_FACTS, OPEN, SLICE, Facts, begins, clock_of, kinds
from iretrace.replay import costs, run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import BinaryIO

    from numpy.typing import NDArray

    from iretrace.replay.policies import Policy
    from iretrace.replay.run import Returns
    from iretrace.trace import Trace

_PID: Final = 1
_PHASES: Final = {SLICE: "X", OPEN: "B"}


def export(
    trace: Trace, policies: Sequence[Policy], file: BinaryIO, *, progress: Callable[[int], None] | None = None
) -> int:
    """Write a trace under policies as Chrome's JSON.

    Args:
        trace: an opened trace.
        policies: whose decisions become arguments; at least one.
        file: where to.
        progress: called with the number of events of each batch.

    Returns:
        The number of traps written.

    Raises:
        Damaged: the trace holds what it must not.
    """
    clock, facts = clock_of(trace), Facts(costs.saving_per_return(trace.footer))
    texts: list[tuple[str, ...]] = []
    cpus: set[int] = set()
    n_traps = 0
    file.write(b'{"displayTimeUnit": "ns", "traceEvents": [\n')
    file.write(_name("process_name", 0, "traps" if clock.known else "traps (1 ns is one TSC cycle)"))

    def write(batch: Returns) -> None:
        nonlocal n_traps, facts
        rows = batch.rows
        if not len(rows):
            return
        if len(facts.said) > MAX_FACTS:
            facts = Facts(costs.saving_per_return(trace.footer))
            texts.clear()
        number, kind = facts.number(batch), kinds(rows)
        texts.extend(map(_texts, facts.said[len(texts) :]))
        cpus.update(np.unique(rows["cpu"]).tolist())
        at = clock.ns(begins(rows))
        lasted = np.where(kind == SLICE, clock.ns(rows["exit_tsc"]) - at, 0)
        heads = pa.array([text[k] for text in texts for k in range(3)]).take(pa.array(number * 3 + kind))
        tails = pa.array([text[3] for text in texts]).take(pa.array(number))
        ends = pc.if_else(
            pa.array(kind == SLICE), pc.binary_join_element_wise(', "dur": ', _microseconds(lasted), ""), ""
        )
        tid = pa.array(rows["cpu"].astype(np.int32) + 1).cast(pa.string())  # thread 0 is the idle task to readers
        parts = (heads, _microseconds(at), ends, pa.repeat(', "tid": ', len(rows)), tid, tails)
        file.writelines(
            b",\n" + ",\n".join(line.to_pylist()).encode()
            for line in pa.chunked_array([pc.binary_join_element_wise(*parts, "")]).chunks
        )
        n_traps += len(rows)

    run.replay(trace, policies, sink=write, progress=progress)
    file.writelines(b",\n" + _name("thread_name", cpu + 1, f"CPU {cpu}") for cpu in sorted(cpus))
    said = {
        "host": trace.footer.host.name,
        "kernel": trace.footer.host.kernel,
        "cpu": trace.footer.cpu.name,
        "losses": [{"cause": loss.cause, "cpu": loss.cpu, "count": loss.count} for loss in trace.footer.losses],
    }
    file.write(b'\n], "otherData": ' + json.dumps(said).encode() + b"}\n")
    return n_traps


def _texts(said: dict[str, object]) -> tuple[str, ...]:
    """What comes before the time, for each kind, and what comes last."""
    name = json.dumps(said["name"])
    heads = []
    for kind in range(3):
        scope = "" if kind in _PHASES else '"s": "t", '
        heads.append(f'{{"name": {name}, "cat": "trap", "ph": "{_PHASES.get(kind, "i")}", {scope}"pid": {_PID}, "ts": ')
    arguments = {key: value for key, value in said.items() if key != "name"}
    return (*heads, f', "args": {json.dumps(arguments)}}}')


def _microseconds(ns: NDArray[np.int64]) -> pa.Array:
    whole = pa.array(ns // 1000).cast(pa.string())
    rest = pc.utf8_lpad(pa.array(ns % 1000).cast(pa.string()), 3, padding="0")
    return pc.binary_join_element_wise(whole, rest, ".")


def _name(kind: str, tid: int, name: str) -> bytes:
    event = {"name": kind, "ph": "M", "pid": _PID, "tid": tid, "args": {"name": name}}
    return json.dumps(event).encode()
