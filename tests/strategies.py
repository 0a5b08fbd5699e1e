"""Hypothesis strategies: events of traps on several CPUs, whole, truncated and with losses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from iretrace.replay.engine import Pairing
from iretrace.replay.policies import DEVICE, NestCounter
from tests.traces import KERNEL_CS, USER_CS, event

if TYPE_CHECKING:
    from collections.abc import Callable

DB, NMI, BP, NM, DF, SS, PF, MC, TIMER, IPI = 1, 2, 3, 7, 8, 12, 14, 18, 0xEC, 0xFD
VECTORS = (DB, NMI, BP, NM, DF, SS, PF, MC, TIMER, IPI)

KERNEL_SP, USER_SP = 0xFFFF_C900_0000_3F58, 0x7FFE_0000_1000
NMI_TEXT = ((0x1000, 0x1400), (0x9000, 0x9100))
ADDRESSES = (0xFFF, 0x1000, 0x13FF, 0x1400, 0x9050, 0xFFFF_FFFF_8100_0000)

keys = st.one_of(
    st.sampled_from(VECTORS).map(lambda vector: {"vector": vector, "irq": None}),
    st.sampled_from((None, 0, 16, 0xFFFF)).map(lambda irq: {"vector": None, "irq": irq}),
)
"""What a trap is paired by: a vector, or the IRQ number (which may be unknown) of a device interrupt."""

flags = st.sampled_from((0x2, 0x246, 0x346, 0x10246, 0x10046, 0x102))

frames = st.fixed_dictionaries(
    {
        "cs": st.sampled_from((None, KERNEL_CS, USER_CS, 0x18)),
        "ip": st.one_of(st.none(), st.sampled_from(ADDRESSES)),
        "flags": st.one_of(st.none(), flags),
        "sp": st.sampled_from((None, KERNEL_SP, USER_SP)),
        "to_kernel": st.sampled_from((None, True, False)),
    }
)
"""A saved frame, any part of which the hook may not have seen."""

full_frames = st.fixed_dictionaries(
    {
        "cs": st.sampled_from((KERNEL_CS, KERNEL_CS, USER_CS, 0x18)),
        "ip": st.sampled_from(ADDRESSES),
        "flags": flags,
        "sp": st.sampled_from((KERNEL_SP, USER_SP)),
    }
)

nothing_seen: dict[str, Any] = dict.fromkeys(("cs", "ip", "flags", "sp", "to_kernel"))


@st.composite
def loose_events(draw: Callable[..., Any], max_size: int = 60) -> list[dict[str, Any]]:
    """Entries and exits in any order on a few CPUs: what is left where events were lost."""
    steps = draw(
        st.lists(
            st.tuples(
                st.sampled_from(("entry", "exit")),
                keys,
                st.one_of(st.just(nothing_seen), frames),
                st.integers(0, 2),
                st.integers(0, 5),
            ),
            max_size=max_size,
        )
    )
    events, tsc = [], 1000
    for phase, key, frame, cpu, wait in steps:
        tsc += wait
        events.append(event(tsc, phase, **key, **frame, cpu=cpu, pid=tsc % 7))
    return events


@st.composite
def nested_events(draw: Callable[..., Any], keys: st.SearchStrategy[dict[str, Any]] = keys) -> list[dict[str, Any]]:
    """Well-formed nests: every trap has its entry and its exit, on every CPU; frames are whole at both."""
    trees = st.recursive(
        st.tuples(keys, full_frames, full_frames, st.just(())),
        lambda inner: st.tuples(keys, full_frames, full_frames, st.lists(inner, max_size=3)),
        max_leaves=12,
    )
    per_cpu: list[list[dict[str, Any]]] = []
    for cpu in range(draw(st.integers(1, 3))):
        events: list[dict[str, Any]] = []

        def lay_out(tree: Any, events: list[dict[str, Any]] = events, cpu: int = cpu) -> None:
            key, at_entry, at_exit, inner = tree
            events.append(event(0, "entry", **key, **at_entry, cpu=cpu))
            for child in inner:
                lay_out(child)
            events.append(event(0, "exit", **key, **at_exit, cpu=cpu))

        for tree in draw(st.lists(trees, max_size=3)):
            lay_out(tree)
        per_cpu.append(events)
    order = draw(st.permutations([cpu for cpu, events in enumerate(per_cpu) for _ in events]))
    left = [iter(events) for events in per_cpu]
    merged = [next(left[cpu]) for cpu in order]
    for i, row in enumerate(merged):
        row["tsc"] = 1000 + 10 * i
    return merged


@st.composite
def truncated_events(draw: Callable[..., Any]) -> list[dict[str, Any]]:
    """Nests that begin before the trace and end after it, some events of which were lost."""
    events = draw(nested_events())
    begin = draw(st.integers(0, len(events)))
    end = draw(st.integers(begin, len(events)))
    lost = draw(st.sets(st.integers(0, 40), max_size=4))
    return [row for i, row in enumerate(events[begin:end]) if i not in lost]


slots = st.frozensets(st.sampled_from((*VECTORS, DEVICE)), max_size=6)

counters = st.builds(NestCounter, up=slots, down=slots, clear=slots, count_self=st.booleans())

pairings = st.builds(
    Pairing,
    kernel_cs=st.sampled_from((None, KERNEL_CS)),
    nmi_text=st.sampled_from(((), NMI_TEXT, ((0x1000, 0x1200), (0x1100, 0x1400)), ((0, 2**64 - 1),))),
    exitless=st.frozensets(st.sampled_from((PF, NMI, MC, DEVICE)), max_size=2),
    kernel_exitless=st.frozensets(st.sampled_from((PF, DB, MC, DEVICE)), max_size=2),
    lossy=st.booleans(),
)
