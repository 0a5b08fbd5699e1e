"""How a run lies in a Parquet file of a store, a *member*: written whole, and read as what anybody may have written."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from iretrace import footer as footers
from iretrace.analysis import histogram
from iretrace.errors import Damaged
from iretrace.replay.contexts import N_CONTEXTS, N_SLOTS
from iretrace.replay.policies import Choice
from iretrace.store.rows import metric_rows
from iretrace.store.run import PolicyRun, Run, RunDocument, Times
from iretrace.store.schema import ANY_POLICY, MEMBER_SCHEMA, RUN_KEY, STORE_SCHEMA

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_ROWS: Final = 1 << 16
MAX_BYTES: Final = 1 << 28
"""More than a run can hold: a file that says so is not read."""

MAX_TIME_BINS: Final = 1 << 12

_N_DEPTHS: Final = 129


def to_bytes(run: Run) -> bytes:
    """Encode a run as a member: a Parquet file."""
    index = {int(vector): i for i, vector in enumerate(run.vectors)}
    by_name = {policy.name: policy for policy in run.policies}
    rows = metric_rows(run)
    details = [_details(run, by_name.get(row["policy"]), index.get(row["vector"])) for row in rows]
    table = pa.Table.from_pylist([{**row, **more} for row, more in zip(rows, details, strict=True)], MEMBER_SCHEMA)
    return parquet(table, {RUN_KEY: msgspec.json.encode(run.document)})


def parquet(table: pa.Table, metadata: dict[bytes, bytes]) -> bytes:
    """A table as a Parquet file with key-value metadata."""
    file = io.BytesIO()
    # ARROW:schema would only repeat what the columns say.
    with pq.ParquetWriter(file, table.schema, compression="zstd", store_schema=False) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({key.decode(): value.decode() for key, value in metadata.items()})
    return file.getvalue()


def _details(run: Run, policy: PolicyRun | None, i: int | None) -> dict[str, Any]:
    if i is None:
        if policy is not None or run.times is None:
            return {}
        return {
            "time_latency_below": run.times.all_latency_below.T.ravel(),
            "time_self_below": run.times.all_self_below.T.ravel(),
        }
    if policy is None:
        found: dict[str, Any] = {"depth_returns": np.trim_zeros(run.depths[i], "b")}
        found |= _sparse("latency", run.latency[i]) | _sparse("self", run.self_time[i])
        if run.times is not None:
            times = run.times
            found |= {
                "time_returns": times.returns[:, i],
                "time_known": times.known[:, i],
                "time_to_kernel": times.to_kernel[:, i],
                "time_latency": times.latency[:, i],
                "time_latency_below": times.latency_below[:, i].T.ravel(),
                "time_self": times.self_time[:, i],
                "time_self_below": times.self_below[:, i].T.ravel(),
            }
        return found
    here = policy.slot == run.vectors[i]
    return {
        **_sparse("ret", policy.ret_latency[i]),
        **_sparse("projected", policy.ret_projected[i]),
        "time_ret": None if policy.ret_times is None else policy.ret_times[:, i],
        "context": policy.context[here],
        "context_count": policy.count[here],
        "context_choice": policy.choice[here],
        "context_rule": policy.rule[here],
        "context_hazard": policy.hazard[here],
        "context_tsc": policy.first_tsc[here],
        "context_cpu": policy.first_cpu[here],
    }


def _sparse(name: str, counts: NDArray[np.int64]) -> dict[str, Any]:
    met = np.flatnonzero(counts)
    return {f"{name}_bucket": met.astype(np.uint16), f"{name}_count": counts[met]}


def decode_document(raw: bytes | None, where: str) -> RunDocument:
    """Decode and check the document of a member.

    Raises:
        SchemaTooNew: written by a newer iretrace.
        Damaged: not a run's document.
    """
    if raw is None:
        raise Damaged(where, "Parquet, but no run of a store", expected=f"the key {RUN_KEY.decode()!r}")
    try:
        head: Any = msgspec.json.decode(raw, type=dict[str, Any])
        footers.check_schema(head.get("schema"), STORE_SCHEMA, where, of="the run")
        # Decoded by its own rules too: what the footer's own reader refuses, a store refuses.
        footers.decode(msgspec.json.encode(head.get("footer", {"schema": 1})), where)
        document = msgspec.json.decode(raw, type=RunDocument)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Damaged(where, f"the run's document is off ({error})", expected=f"schema {STORE_SCHEMA}") from None
    if len(document.time_widths) > MAX_TIME_BINS or not all(w > 0 for w in document.time_widths):
        raise Damaged(where, "the run's time bins are off", expected=f"at most {MAX_TIME_BINS}, wider than 0")
    return document


def read_member(data: bytes, where: str, columns: list[str] | None = None) -> tuple[RunDocument, pa.Table]:
    """The document and the rows of a member.

    Args:
        data: the file.
        where: its name, for errors.
        columns: of :data:`iretrace.store.schema.MEMBER_SCHEMA`; ``None``: all.

    Raises:
        SchemaTooNew: written by a newer iretrace.
        Damaged: empty, truncated, not a run, or values out of range.
    """
    if not data:
        raise Damaged(where, "has zero bytes", expected="a run's Parquet file")
    if data[:4] != b"PAR1":
        raise Damaged(where, f"begins with {data[:4]!r}", expected="a Parquet file (PAR1)")
    if data[-4:] != b"PAR1" or len(data) < 12:
        raise Damaged(where, f"truncated after {len(data):,} bytes", expected="PAR1 at the end")
    names = MEMBER_SCHEMA.names if columns is None else columns
    try:
        with pq.ParquetFile(pa.BufferReader(data)) as file:
            metadata = file.metadata
            document = decode_document((metadata.metadata or {}).get(RUN_KEY), where)
            size = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
            if metadata.num_rows > MAX_ROWS or size > MAX_BYTES:
                raise Damaged(where, f"holds {metadata.num_rows} rows of {size} bytes", expected=f"at most {MAX_ROWS}")
            schema = file.schema_arrow
            missing = [name for name in names if name not in schema.names]
            if missing:
                raise Damaged(where, f"column {missing[0]!r} is missing", expected=", ".join(names))
            # Files are small; and Arrow's threads may abort a process that ends while they start (arrow#34314).
            table = file.read(columns=names, use_threads=False).select(names)
            # Parquet calls the elements of a list differently; casting also refuses values of other types.
            return document, table.cast(pa.schema([MEMBER_SCHEMA.field(name) for name in names]))
    except (pa.ArrowException, OSError, UnicodeDecodeError, ValueError) as error:
        raise Damaged(
            where, f"cannot be read ({' '.join(str(error).split())[:160]})", expected="an intact file"
        ) from None


def from_bytes(data: bytes, where: str) -> Run:
    """Decode a member.

    Raises:
        SchemaTooNew: written by a newer iretrace.
        Damaged: empty, truncated, not a run, or values out of range.
    """
    document, table = read_member(data, where)
    try:
        return _decode(document, table, where)
    except (ValueError, IndexError, OverflowError, KeyError, TypeError) as error:
        raise Damaged(where, f"the run's rows are off ({error})", expected="what iretrace writes") from None


def _decode(document: RunDocument, table: pa.Table, where: str) -> Run:
    held = table.to_pylist()
    rows = [row for row in held if row["vector"] >= 0]
    whole = [row for row in held if row["vector"] < 0 and row["policy"] == ANY_POLICY]
    shared = {row["vector"]: row for row in rows if row["policy"] == ANY_POLICY}
    vectors = np.array(sorted(shared), np.int64)
    if vectors.size and vectors[-1] >= N_SLOTS:
        raise Damaged(where, f"vector {vectors[-1]}", expected="at most 256")
    ordered = [shared[int(v)] for v in vectors]
    n = len(document.time_widths)
    run = Run(
        document=document,
        vectors=vectors,
        latency=_dense(ordered, "latency"),
        self_time=_dense(ordered, "self"),
        depths=_padded(ordered),
        times=_times(ordered, whole[0], n) if n and all(row["time_returns"] is not None for row in ordered) else None,
        policies=(),
    )
    by_policy: dict[str, dict[int, dict[str, Any]]] = {policy.name: {} for policy in document.policies}
    for row in rows:
        if row["policy"] != ANY_POLICY:
            by_policy[row["policy"]][row["vector"]] = row
    names = {policy.name: len(policy.rules) for policy in document.policies}
    return replace(
        run,
        policies=tuple(
            _policy(name, [by_policy[name].get(int(v), {}) for v in vectors], n, names[name], where) for name in names
        ),
    )


def _policy(name: str, rows: list[dict[str, Any]], n: int, n_rules: int, where: str) -> PolicyRun:
    def all_of(column: str, dtype: type[np.generic]) -> NDArray[Any]:
        return np.concatenate([np.zeros(0, dtype), *(np.array(row.get(column) or [], dtype) for row in rows)])

    times = [row.get("time_ret") for row in rows]
    found = PolicyRun(
        name=name,
        context=all_of("context", np.uint32),
        count=all_of("context_count", np.int64),
        choice=all_of("context_choice", np.uint8),
        rule=all_of("context_rule", np.uint8),
        hazard=all_of("context_hazard", np.uint16),
        first_tsc=all_of("context_tsc", np.uint64),
        first_cpu=all_of("context_cpu", np.uint16),
        ret_latency=_dense(rows, "ret"),
        ret_projected=_dense(rows, "projected"),
        ret_times=None
        if not n or any(row is None for row in times)
        else np.array(times, np.int64).reshape(len(rows), n).T,
    )
    columns = (found.count, found.choice, found.rule, found.hazard, found.first_tsc, found.first_cpu)
    if any(column.size != found.context.size for column in columns):
        raise Damaged(where, "columns of contexts differ in length", expected="one value a context")
    if found.context.size and (
        found.context.max() >= N_CONTEXTS
        or found.choice.max() >= len(Choice)
        or found.rule.max() >= n_rules
        or found.count.min() < 0
    ):
        raise Damaged(where, "a context, choice, rule or count is out of range", expected="what iretrace writes")
    return found


def _dense(rows: list[dict[str, Any]], name: str) -> NDArray[np.int64]:
    found = np.zeros((len(rows), histogram.N_BUCKETS), np.int64)
    for i, row in enumerate(rows):
        found[i, row.get(f"{name}_bucket") or []] = row.get(f"{name}_count") or []
    return found


def _padded(rows: list[dict[str, Any]]) -> NDArray[np.int64]:
    found = np.zeros((len(rows), _N_DEPTHS), np.int64)
    for i, row in enumerate(rows):
        held = row["depth_returns"] or []
        found[i, : len(held)] = held
    return found


def _times(rows: list[dict[str, Any]], whole: dict[str, Any], n: int) -> Times:
    def plain(column: str) -> NDArray[np.int64]:
        return np.array([row[column] for row in rows], np.int64).reshape(len(rows), n).T

    def below(column: str, of: list[dict[str, Any]]) -> NDArray[np.int64]:
        return np.array([row[column] for row in of], np.int64).reshape(len(of), 4, n).transpose(2, 0, 1)

    return Times(
        returns=plain("time_returns"),
        known=plain("time_known"),
        to_kernel=plain("time_to_kernel"),
        latency=plain("time_latency"),
        latency_below=below("time_latency_below", rows),
        self_time=plain("time_self"),
        self_below=below("time_self_below", rows),
        all_latency_below=below("time_latency_below", [whole])[:, 0],
        all_self_below=below("time_self_below", [whole])[:, 0],
    )
