"""Big traces for benchmarks: what a busy machine of eight CPUs would record, by a fixed recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np
import pyarrow as pa

from benchmarks.common import ROOT
from iretrace.footer import Calibration, Clock, Cost, Cpu, Footer, Host, TrapClass, Window
from iretrace.schema import EVENT_SCHEMA, PHASES
from iretrace.trace import open_trace
from iretrace.trace_writer import writing

if TYPE_CHECKING:
    from pathlib import Path

SAMPLE: Final = ROOT / "samples" / "mixed.parquet"
N_CPUS: Final = 8
CHUNK: Final = 1 << 18
KERNEL_CS: Final = 0x10
USER_CS: Final = 0x33
TEXT: Final = 0xFFFFFFFF81000000

# What happens between two quiet moments of a CPU: (weight, ((vector or irq, phase), …)); exits carry no frame.
_EPISODES: Final = (
    (0.62, ((14, 0),)),  # page faults, whose exits no hook sees
    (0.16, ((0xEC, 0), (0xEC, 1))),
    (0.08, ((0xFB, 0), (0xFB, 1))),
    (0.05, ((0xFD, 0), (0xFD, 1))),
    (0.05, ((300, 0), (300, 1))),  # a device interrupt by its IRQ number, less 256
    (0.02, ((300, 0), (0xEC, 0), (0xEC, 1), (300, 1))),
    (0.01, ((0xEC, 0), (2, 0), (2, 1), (0xEC, 1))),
    (0.005, ((2, 0), (14, 0), (2, 1))),
    (0.005, ((1, 0), (1, 1))),
)


def footer(n_events: int, stop_tsc: int) -> Footer:
    """The footer of such a trace."""
    return Footer(
        tool="benchmark",
        events=n_events,
        host=Host(name="bench", kernel="6.12.0"),
        cpu=Cpu(vendor="GenuineIntel", family=6, model=143, name="benchmark", online=list(range(N_CPUS))),
        clock=Clock(source="msr-tsc", tsc_khz=2_000_000.0),
        kernel_cs=KERNEL_CS,
        nmi_text=[(TEXT + 0x1000, TEXT + 0x1400)],
        classes=[
            TrapClass(name="#PF", vectors=[14], entry="page_fault", frame="tracepoint", lacks="the exit"),
            TrapClass(name="timer", vectors=[0xEC], entry="local_timer_entry", exit="local_timer_exit"),
        ],
        calibration=Calibration(
            costs=[
                Cost(path="iretq", median_cycles=300, low_cycles=295, high_cycles=310),
                Cost(path="popfq-ret", median_cycles=50, low_cycles=45, high_cycles=60),
            ]
        ),
        window=Window(start_tsc=1, stop_tsc=stop_tsc, ended_by="duration"),
    )


def write(path: Path, n_events: int, seed: int = 1) -> None:
    """Write a trace of ``n_events`` events or a few more."""
    random = np.random.default_rng(seed)
    written, start = 0, 1_000_000
    with writing(path) as writer:
        while written < n_events:
            batch = _chunk(random, start, min(CHUNK, n_events - written))
            start = batch.column("tsc")[batch.num_rows - 1].as_py() + 1
            writer.write(batch)
            written += batch.num_rows
        writer.finish(footer(written, start))


def _chunk(random: np.random.Generator, start: int, n_events: int) -> pa.RecordBatch:
    weights, episodes = zip(*_EPISODES, strict=True)
    lengths = np.array([len(steps) for steps in episodes])
    flat = np.array([step for steps in episodes for step in steps])
    heads = np.concatenate(([0], np.cumsum(lengths)[:-1]))

    n_episodes = int(n_events / np.dot(weights, lengths)) + 1
    kind = random.choice(len(episodes), n_episodes, p=np.array(weights) / sum(weights))
    reps = lengths[kind]
    episode = np.repeat(np.arange(n_episodes), reps)
    step = np.arange(reps.sum()) - np.repeat(np.cumsum(reps) - reps, reps)
    what, phase = flat[np.repeat(heads[kind], reps) + step].T

    cpu = (random.integers(0, N_CPUS, n_episodes))[episode]
    order = np.argsort(cpu, kind="stable")  # each CPU's episodes one after another
    episode, step, what, phase, cpu = (column[order] for column in (episode, step, what, phase, cpu))
    tsc = np.cumsum(np.where(step == 0, random.exponential(9000, len(cpu)), random.exponential(900, len(cpu))) + 40)
    tsc = tsc.astype(np.uint64)
    first = np.searchsorted(cpu, np.arange(N_CPUS))
    tsc = tsc - tsc[first[cpu]] + np.uint64(start)
    order = np.argsort(tsc, kind="stable")
    step, what, phase, cpu, tsc = (column[order] for column in (step, what, phase, cpu, tsc))
    return _batch(random, tsc, cpu, phase, what, kernel=(random.random(len(cpu)) < 0.4) | (step > 0))


def _batch(  # noqa: PLR0913 - one argument a column
    random: np.random.Generator,
    tsc: np.ndarray,
    cpu: np.ndarray,
    phase: np.ndarray,
    what: np.ndarray,
    *,
    kernel: np.ndarray,
) -> pa.RecordBatch:
    n = len(tsc)
    no_frame = phase == 1
    device = what >= 256
    places = random.integers(0, 1 << 22, 3000)
    ip = random.choice(places, n).astype(np.uint64) + np.where(kernel, np.uint64(TEXT), np.uint64(0x5500_0000_0000))
    sp = np.where(kernel, np.uint64(0xFFFFC900_0000_0000), np.uint64(0x7FFE_0000_0000))
    sp = sp + (random.integers(0, 2048, n) * 8).astype(np.uint64)
    flags = np.where(kernel & (random.random(n) < 0.3), 0x46, 0x246)
    columns = {
        "tsc": pa.array(tsc, pa.uint64()),
        "cpu": pa.array(cpu, pa.uint16()),
        "phase": _category(phase, PHASES),
        "vector": pa.array(np.where(device, 0, what), pa.uint8(), mask=device),
        "irq": pa.array(np.where(device, what - 256, 0), pa.uint16(), mask=~device),
        "hook": _category(phase, ("entry hook", "exit hook")),
        "cs": pa.array(np.where(kernel, KERNEL_CS, USER_CS), pa.uint16(), mask=no_frame),
        "ip": pa.array(ip, pa.uint64(), mask=no_frame),
        "flags": pa.array(flags, pa.uint32(), mask=no_frame),
        "sp": pa.array(sp, pa.uint64(), mask=no_frame),
        "error_code": pa.array(np.where(kernel, 2, 6), pa.uint32(), mask=(what != 14)),
        "to_kernel": pa.array(kernel, pa.bool_(), mask=no_frame),
        "pid": pa.array(random.integers(0, 200, n), pa.uint32()),
    }
    return pa.RecordBatch.from_pydict(columns, schema=EVENT_SCHEMA)


def _category(index: np.ndarray, names: tuple[str, ...]) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(index, pa.int8()), list(names))


def repeat(path: Path, n_events: int, seed: int = 1) -> None:
    """Write the recorded sample over and over, each gap of its TSC stretched at random, until ``n_events`` are there.

    Memory holds one copy of the sample.
    """
    random = np.random.default_rng(seed)
    sample = next(open_trace(SAMPLE).batches(EVENT_SCHEMA.names))
    gaps = np.diff(sample.column("tsc").to_numpy(), prepend=sample.column("tsc")[0].as_py() - 1)
    written, last = 0, 1_000_000
    with writing(path) as writer:
        while written < n_events:
            tsc = last + np.cumsum(gaps * random.uniform(0.5, 1.5, len(gaps))).astype(np.uint64)
            last = int(tsc[-1]) + 1
            copy = sample.set_column(0, EVENT_SCHEMA.field("tsc"), pa.array(tsc)).slice(0, n_events - written)
            writer.write(copy)
            written += copy.num_rows
        recorded = open_trace(SAMPLE).footer
        window = Window(start_tsc=1, stop_tsc=last, ended_by="duration")
        writer.finish(msgspec.structs.replace(recorded, events=written, window=window))
