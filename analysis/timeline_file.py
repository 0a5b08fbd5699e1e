"""A timeline's index on disk: found by what the trace is, checked before it is believed, made anew otherwise."""

from __future__ import annotations

import hashlib
import os
import tempfile
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from iretrace.analysis import timeline_index
from iretrace.analysis.timeline_index import MAX_BLOCKS, MAX_COUNTS, MAX_SPANNING, N_CHOICES, TRAP_DTYPE, Index
from iretrace.replay.engine import MAX_DEPTH
from iretrace.replay.tables import enumerate_policy, ist_vectors

if TYPE_CHECKING:
    from collections.abc import Callable

    from iretrace.replay.policies import Policy
    from iretrace.replay.tables import Table
    from iretrace.trace import Trace

_VERSION: Final = 1
MAX_FILES: Final = 64
"""Indices kept in the cache; the oldest go first."""

_ARRAYS: Final[dict[str, tuple[np.dtype[Any], int]]] = {
    "first": (np.dtype(np.uint64), MAX_BLOCKS + 1),
    "groups": (np.dtype(np.int64), MAX_BLOCKS + 1),
    "events": (np.dtype(np.int64), MAX_BLOCKS),
    "key": (np.dtype(np.int64), MAX_COUNTS),
    "counts": (np.dtype(np.uint32), MAX_COUNTS),
    "spanning": (TRAP_DTYPE, MAX_SPANNING),
}


class _Meta(msgspec.Struct, forbid_unknown_fields=True):
    of: str
    cells: int


def cache_directory() -> Path:
    """``$XDG_CACHE_HOME/iretrace``, or ``~/.cache/iretrace`` (XDG Base Directory Specification 0.8)."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "iretrace"


def load_or_build(
    trace: Trace, policy: Policy, *, directory: Path | None = None, progress: Callable[[int], None] | None = None
) -> tuple[Index, bool]:
    """A trace's index, from the cache where it is there and of this very trace, policy and version.

    Args:
        trace: an opened trace.
        policy: how to choose the return instruction.
        directory: the cache; ``None``: :func:`cache_directory`.
        progress: called while building.

    Returns:
        The index, and whether it had to be built. A cache that cannot be written is done without.

    Raises:
        Damaged: the trace holds what it must not.
    """
    table = enumerate_policy(policy, ist_vectors(trace.footer))
    identity = identify(trace, table)
    path = (cache_directory() if directory is None else directory) / f"timeline-{identity[:32]}.npz"
    found = read(path, identity, trace, table)
    if found is not None:
        with suppress(OSError):
            os.utime(path)
        return found, False
    built = timeline_index.build(trace, policy, progress=progress)
    with suppress(OSError):
        write(path, identity, built)
        _prune(path.parent)
    return built, True


def identify(trace: Trace, table: Table) -> str:
    """Digest of what an index depends on: the file (size, time, last bytes), the policy's answers, the version."""
    status = trace.path.stat()
    digest = hashlib.sha256()
    with trace.path.open("rb") as file:
        file.seek(max(0, status.st_size - (1 << 16)))
        digest.update(file.read())
    for array in (table.choice, table.rule, table.hazard):
        digest.update(np.ascontiguousarray(array).tobytes())
    counter = table.policy.counter
    said = (_VERSION, status.st_size, status.st_mtime_ns, trace.n_events, table.policy.name, table.rules)
    for slots in (counter.up, counter.down, counter.clear):
        digest.update(repr((sorted(slots), counter.count_self)).encode())
    digest.update(repr(said).encode())
    return digest.hexdigest()


def write(path: Path, identity: str, index: Index) -> None:
    """Write an index, whole or not at all.

    Raises:
        OSError: the directory cannot be made or written.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    meta = msgspec.json.encode(_Meta(of=identity, cells=index.cells))
    arrays: dict[str, Any] = {name: getattr(index, name) for name in _ARRAYS}
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".timeline-", delete=False) as file:
        temporary = Path(file.name)
        try:
            np.savez(file, meta=np.frombuffer(meta, np.uint8), **arrays)
            file.close()
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def read(path: Path, identity: str, trace: Trace, table: Table) -> Index | None:
    """An index, or ``None`` where there is none, or it is of something else, or it is not what it should be."""
    try:
        with zipfile.ZipFile(path) as archive:  # checks the CRC of what it reads
            sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
        limits = {f"{name}.npy": dtype.itemsize * most * N_CHOICES + 4096 for name, (dtype, most) in _ARRAYS.items()}
        limits["meta.npy"] = 1 << 20
        if any(size > limits.get(name, -1) for name, size in sizes.items()):
            return None
        with np.load(path, allow_pickle=False) as stored:
            meta = msgspec.json.decode(stored["meta"].tobytes(), type=_Meta)
            arrays = {name: stored[name] for name in _ARRAYS}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, msgspec.MsgspecError):
        return None
    if meta.of != identity or not _sound(meta, arrays, trace, table):
        return None
    return Index(cells=meta.cells, rules=table.rules, **arrays)


def _sound(meta: _Meta, arrays: dict[str, Any], trace: Trace, table: Table) -> bool:
    """Whether every value is one that :func:`~iretrace.analysis.timeline_index.build` could have written."""
    if any(arrays[name].dtype != dtype or len(arrays[name]) > most for name, (dtype, most) in _ARRAYS.items()):
        return False
    first, groups, events, key, counts, spanning = (arrays[name] for name in _ARRAYS)
    n = len(events)
    shapes = [a.shape for a in (first, groups, events, key, counts, spanning)]
    if n < 1 or shapes != [(n + 1,), (n + 1,), (n,), (len(key),), (len(key), N_CHOICES), (len(spanning),)]:
        return False
    return bool(
        1 <= meta.cells <= timeline_index.CELLS
        and (first[1:] > first[:-1]).all()
        and (groups[1:] > groups[:-1]).all()
        and groups[0] == 0
        and groups[-1] == len(trace.row_groups()[0])
        and events.sum() == trace.n_events
        and (key[1:] > key[:-1]).all()
        and (not len(key) or (key[0] >= 0 and key[-1] >> 16 < n * meta.cells))
        and (spanning["depth"] <= MAX_DEPTH).all()
        and (spanning["slot"] <= 256).all()
        and (spanning["choice"] < N_CHOICES).all()
        and (spanning["rule"] < len(table.rules)).all()
    )


def _prune(directory: Path) -> None:
    held = sorted(directory.glob("timeline-*.npz"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in held[MAX_FILES:]:
        path.unlink(missing_ok=True)
