"""Perfetto's protobuf: a track a CPU, traps as nested slices, and how each would return as arguments.

The messages are built by Perfetto's own classes, once for all traps of which the same is said; a packet of a trap is
such a message with a time stamp in front, so that numpy can write a batch at once. Names and texts are interned.

Source: protos/perfetto/trace/trace_packet.proto and track_event/ of Perfetto.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as pb

from iretrace.exporters.timeline import MAX_FACTS, POINT, SLICE, Clock, Facts, Nests, Rate, begins, clock_of, kinds
from iretrace.losses import BY_NAME
from iretrace.replay import costs, run
from iretrace.replay.policies import Choice
from iretrace.varint import varint

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import BinaryIO

    from numpy.typing import NDArray

    from iretrace.replay.policies import Policy
    from iretrace.replay.run import Returns
    from iretrace.trace import Trace

SEQUENCE: Final = 1
CATEGORY: Final = "trap"
LOSS_CATEGORY: Final = "loss"
_ROOT, _LOSSES, _FIRST_RATE, _FIRST_CPU = 1, 2, 3, 1 << 16

_STAMP_BYTES: Final = 10
"""Tag of ``timestamp`` (field 8, varint) and nine bytes of seven bits each, padded: the same length for every time."""


def export(
    trace: Trace, policies: Sequence[Policy], file: BinaryIO, *, progress: Callable[[int], None] | None = None
) -> int:
    """Write a trace under policies as Perfetto's protobuf.

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
    writer = _Writer(file, trace, clock_of(trace), policies)
    nests = Nests()
    run.replay(trace, policies, sink=lambda batch: writer.write(nests.feed(batch)), progress=progress)
    rest = nests.rest()
    if rest is not None:
        writer.write(rest)
    writer.finish()
    return writer.n_traps


class _Interned:
    """Texts that packets name by number; what is new must be written before it is used."""

    def __init__(self) -> None:
        self._names: dict[str, int] = {}
        self._keys: dict[str, int] = {}
        self._texts: dict[str, int] = {}
        self._new = pb.InternedData()
        self._new.event_categories.add(iid=1, name=CATEGORY)
        self._new.event_categories.add(iid=2, name=LOSS_CATEGORY)

    def name(self, text: str) -> int:
        if text not in self._names:
            self._names[text] = len(self._names) + 1
            self._new.event_names.add(iid=self._names[text], name=text)
        return self._names[text]

    def key(self, text: str) -> int:
        if text not in self._keys:
            self._keys[text] = len(self._keys) + 1
            self._new.debug_annotation_names.add(iid=self._keys[text], name=text)
        return self._keys[text]

    def text(self, text: str) -> int:
        if text not in self._texts:
            self._texts[text] = len(self._texts) + 1
            self._new.debug_annotation_string_values.add(iid=self._texts[text], str=text.encode())
        return self._texts[text]

    def take_new(self) -> Any:  # noqa: ANN401 - the classes are made at run time
        new, self._new = self._new, pb.InternedData()
        return new


class _Writer:
    def __init__(self, file: BinaryIO, trace: Trace, clock: Clock, policies: Sequence[Policy]) -> None:
        self.n_traps = 0
        self._file = file
        self._trace = trace
        self._clock = clock
        self._facts = Facts(costs.saving_per_return(trace.footer))
        self._interned = _Interned()
        self._messages: dict[int, bytes] = {}  # by facts, kind and CPU
        self._cpus: set[int] = set()
        self._end_ns = 0
        self._policies = tuple(policies)
        first = next(iter(trace.batches(("tsc",)))).column("tsc")[0].as_py()
        self._start_ns = int(clock.ns(np.array([first], np.uint64))[0])
        self._rates = [Rate(self._start_ns) for _ in policies]
        self._head()

    def _head(self) -> None:
        footer, clock = self._trace.footer, self._clock
        packet = _packet(sequence_flags=pb.TracePacket.SEQ_INCREMENTAL_STATE_CLEARED)
        clocks = [(6, clock.base_ns), (3, clock.base_ns)]  # BOOTTIME, which is Perfetto's own, and MONOTONIC
        if clock.realtime_ns is not None:
            clocks.append((1, clock.realtime_ns))
        for number, ns in clocks:
            packet.clock_snapshot.clocks.add(clock_id=number, timestamp=ns)
        self._put(packet)
        packet = _packet()
        packet.system_info.num_cpus = len(footer.cpu.online)
        host = packet.system_info.utsname
        host.sysname, host.release, host.machine = "Linux", footer.host.kernel, footer.host.machine
        self._put(packet)
        what = "traps" if clock.known else "traps (TSC cycles as nanoseconds: its frequency is not known)"
        self._track(_ROOT, what, None)
        for number, policy in enumerate(self._policies):
            track = self._track_packet(_FIRST_RATE + number, f"returns without IRET, {policy.name}", _ROOT)
            track.track_descriptor.counter.unit_name = "per second"
            self._put(track)

    def write(self, batch: Returns) -> None:
        rows = batch.rows
        if not len(rows):
            return
        self.n_traps += len(rows)
        for cpu in np.unique(rows["cpu"]).tolist():
            if cpu not in self._cpus:
                self._cpus.add(cpu)
                self._track(_FIRST_CPU + cpu, f"CPU {cpu}", _ROOT, rank=cpu)
        if len(self._facts.said) > MAX_FACTS:
            self._facts, self._messages = Facts(costs.saving_per_return(self._trace.footer)), {}
        self._write_packets(batch, self._facts.number(batch))
        for rate, decisions in zip(self._rates, batch.decisions, strict=True):
            rate.add(self._clock.ns(batch.tsc[decisions.choice != Choice.IRET]))

    def _write_packets(self, batch: Returns, number: NDArray[np.intp]) -> None:
        """Beginnings, points and ends in the order of their TSC; where that is equal, in the order of the stack."""
        rows, kind = batch.rows, kinds(batch.rows)
        at, closed = begins(rows), np.flatnonzero(kind == SLICE)
        until, since = rows["exit_tsc"][closed], rows["entry_tsc"][closed]
        depth = rows["depth"].astype(np.int16)
        tsc = np.concatenate([at, until])
        # Ends of what began before, the deepest first; beginnings, the outermost first; ends of what began just now.
        turn = np.concatenate([np.ones(len(rows), np.int8), np.where(until > since, 0, 2).astype(np.int8)])
        order = np.lexsort((np.concatenate([depth, -depth[closed]]), turn, tsc))
        cpu = np.concatenate([rows["cpu"], rows["cpu"][closed]])
        # One message a (facts, kind, CPU); an end needs but its CPU.
        key = np.concatenate([number * 3 + kind, np.full(len(closed), -1)]) * (1 << 16) + cpu
        distinct, which = np.unique(key, return_inverse=True)
        messages = [self._message(one) for one in distinct.tolist()]
        self._flush_interned()
        stamps = self._clock.ns(tsc)
        self._end_ns = max(self._end_ns, int(stamps.max()))
        self._file.write(assemble(messages, which[order], stamps[order]))

    def _message(self, key: int) -> bytes:
        """The packet of a key, without its time stamp."""
        if key in self._messages:
            return self._messages[key]
        what, cpu = divmod(key, 1 << 16)
        packet = _packet()
        event = packet.track_event
        event.track_uuid = _FIRST_CPU + cpu
        if what < 0:
            event.type = pb.TrackEvent.TYPE_SLICE_END
        else:
            number, kind = divmod(what, 3)
            said = self._facts.said[number]
            event.type = pb.TrackEvent.TYPE_INSTANT if kind == POINT else pb.TrackEvent.TYPE_SLICE_BEGIN
            event.name_iid = self._interned.name(str(said["name"]))
            event.category_iids.append(1)
            self._annotate(event.debug_annotations, {name: value for name, value in said.items() if name != "name"})
        message = self._messages[key] = bytes(packet.SerializeToString())
        return message

    def _annotate(self, items: Any, said: dict[str, Any]) -> None:  # noqa: ANN401
        for key, value in said.items():
            item = items.add(name_iid=self._interned.key(key))
            if isinstance(value, dict):
                self._annotate(item.dict_entries, value)
            elif isinstance(value, bool):
                item.bool_value = value
            elif isinstance(value, int):
                item.int_value = value
            elif isinstance(value, float):
                item.double_value = value
            else:
                item.string_value_iid = self._interned.text(str(value))

    def finish(self) -> None:
        """Losses, and the rates."""
        footer = self._trace.footer
        if footer.losses:
            self._track(_LOSSES, "losses", _ROOT)
        for loss in footer.losses:
            cause = BY_NAME[loss.cause]
            packet = _packet(timestamp=self._end_ns)
            event = packet.track_event
            event.type, event.track_uuid = pb.TrackEvent.TYPE_INSTANT, _LOSSES
            event.name_iid = self._interned.name(f"LOSS {loss.cause}")
            event.category_iids.append(2)
            count = min(loss.count, 2**63 - 1)
            said = {"count": count, "cpu": loss.cpu, "severity": cause.severity, "doc": cause.doc}
            self._annotate(event.debug_annotations, {key: value for key, value in said.items() if value is not None})
            self._flush_interned()
            self._put(packet)
        for number, rate in enumerate(self._rates):
            for ns, value in zip(*(column.tolist() for column in rate.per_second()), strict=True):
                packet = _packet(timestamp=min(ns, self._end_ns))
                event = packet.track_event
                event.type, event.track_uuid = pb.TrackEvent.TYPE_COUNTER, _FIRST_RATE + number
                event.double_counter_value = value
                self._put(packet)

    def _track(self, uuid: int, name: str, parent: int | None, rank: int | None = None) -> None:
        self._put(self._track_packet(uuid, name, parent, rank))

    @staticmethod
    def _track_packet(uuid: int, name: str, parent: int | None, rank: int | None = None) -> Any:  # noqa: ANN401
        packet = _packet()
        track = packet.track_descriptor
        track.uuid, track.name = uuid, name
        if parent is None:
            track.child_ordering = pb.TrackDescriptor.EXPLICIT
        else:
            track.parent_uuid = parent
            track.sibling_order_rank = -1 if rank is None else rank
        return packet

    def _flush_interned(self) -> None:
        new = self._interned.take_new()
        if new.ByteSize():
            packet = _packet()
            packet.interned_data.CopyFrom(new)
            self._put(packet)

    def _put(self, packet: Any) -> None:  # noqa: ANN401
        message = packet.SerializeToString()
        self._file.write(b"\x0a" + varint(len(message)) + message)


def _packet(**fields: int) -> Any:  # noqa: ANN401 - the classes are made at run time
    packet = pb.TracePacket(trusted_packet_sequence_id=SEQUENCE)
    packet.sequence_flags = pb.TracePacket.SEQ_NEEDS_INCREMENTAL_STATE
    for name, value in fields.items():
        setattr(packet, name, value)
    return packet


def assemble(messages: Sequence[bytes], which: NDArray[np.intp], stamps: NDArray[np.int64]) -> bytes:
    """Packets of the messages, each with its time stamp, one after another as fields of a ``Trace``.

    Args:
        messages: serialized ``TracePacket`` without a time stamp.
        which: index of each packet's message, shape ``(n,)``.
        stamps: its ``timestamp``, below 2^63, shape ``(n,)``.
    """
    heads = [b"\x0a" + varint(len(message) + _STAMP_BYTES) + b"\x40" for message in messages]
    whole = [head + bytes(9) + message for head, message in zip(heads, messages, strict=True)]
    lengths = np.array([len(one) for one in whole])
    ends = np.cumsum(lengths[which])
    starts = ends - lengths[which]
    out = np.empty(int(ends[-1]) if len(ends) else 0, np.uint8)
    order = np.argsort(which, kind="stable")
    bounds = np.searchsorted(which[order], np.arange(len(messages) + 1))
    for index, one in enumerate(whole):
        places = starts[order[bounds[index] : bounds[index + 1]]]
        out[places[:, None] + np.arange(len(one))] = np.frombuffer(one, np.uint8)
    # A varint has seven bits a byte, the lowest first; all but the last byte have the top bit set.
    at = starts + np.array([len(head) for head in heads])[which]
    for place in range(9):
        out[at + place] = ((stamps >> (7 * place)) & 0x7F) | (0x80 if place < 8 else 0)
    return out.tobytes()
