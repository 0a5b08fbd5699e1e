"""What to load on this machine: the classes that are asked for, the hooks not to try, and what to compile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from iretrace.collect import selection
from iretrace.collect.choice import handled, units_for, unusable
from iretrace.collect.filters import Filters
from iretrace.collect.hooks import CLASSES, PROCESS_HOOKS
from iretrace.collect.probes import ProbeOptions, lack_of_fentry
from iretrace.collect.stacks import entry_areas
from iretrace.collect.typed import typed_tracepoints

if TYPE_CHECKING:
    from collections.abc import Sequence

    from iretrace.collect.btf import Prototypes
    from iretrace.collect.hooks import HookClass
    from iretrace.footer import Gate


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to load; what :meth:`iretrace.collect.probes.Probes.choose` is to choose from.

    Attributes:
        classes: the classes of trap that are asked for and that this kernel handles.
        refused: hooks not to try, with the reason.
        options: how to build the probes.
    """

    classes: list[HookClass]
    refused: dict[str, str]
    options: ProbeOptions


def plan(  # noqa: PLR0913 - what is known of the machine, and what is asked for
    *,
    prototypes: Prototypes,
    gates: Sequence[Gate] | None,
    last_nmi_handler: int | None,
    ring_bytes: int,
    use_tsc: bool,
    wanted: frozenset[str] | None = None,
    filters: Filters | None = None,
    aggregate: bool = False,
) -> Plan:
    """Plan for this machine; whether the kernel has fentry and typed arguments is found by trying.

    Args:
        prototypes: the kernel's BTF.
        gates: the live IDT; ``None`` where it could not be read.
        last_nmi_handler: the function at the end of the list of NMI handlers, where it is known.
        ring_bytes: size of each CPU's ring buffer, a power of two.
        use_tsc: read the TSC in BPF.
        wanted: names of classes (:func:`iretrace.collect.selection.select`); ``None``: all.
        filters: what to leave out.
        aggregate: count in BPF, write no events.
    """
    refused = unusable(prototypes, no_fentry=lack_of_fentry(prototypes), last_nmi_handler=last_nmi_handler)
    classes = handled(CLASSES, gates)
    if wanted is not None:
        classes = [item for item in classes if item.name in wanted]
        refused |= selection.not_asked(CLASSES, wanted)
    if aggregate:
        refused |= {hook.name: "no names are kept without events" for hook in PROCESS_HOOKS}
    options = ProbeOptions(
        ring_bytes=ring_bytes,
        use_tsc=use_tsc,
        units=units_for(classes, refused),
        last_nmi_handler=last_nmi_handler,
        filters=filters or Filters(),
        aggregate=aggregate,
        typed=typed_tracepoints(prototypes),
        entry_areas=entry_areas(prototypes),
    )
    return Plan(classes=classes, refused=refused, options=options)
