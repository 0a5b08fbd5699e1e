"""All is attached and the command is started: what is no longer needed is given up."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from iretrace import footer as footers
from iretrace.collect.privileges import give_up

if TYPE_CHECKING:
    from iretrace.collect.options import CollectOptions
    from iretrace.collect.probes import Probes


def settle(probes: Probes, options: CollectOptions, *, has_command: bool, memory_locked: bool) -> footers.Collector:
    """Give up privileges, unless that is not wanted; what the footer says of the collector.

    Raises:
        MachineError: the kernel refused to take a right away.
    """

    def can_read_counts() -> bool:
        try:
            probes.losses()
            probes.program_runs()
        except (OSError, KeyError):
            return False
        return True

    left = None
    if not options.keep_privileges:
        left = give_up(target=options.target, has_command=has_command, can_read_counts=can_read_counts)
    return footers.Collector(
        pid=os.getpid(),
        uid=os.geteuid(),
        capabilities=list(left.capabilities) if left else ["all"],
        privileged_threads=left.privileged_threads if left else 0,
        memory_locked=memory_locked,
    )
