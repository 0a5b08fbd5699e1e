"""Pairing, policies, decisions, hazards and costs: pure, without root, BCC or a kernel.

The package can be called: ``iretrace.replay(trace, policies=[...])`` is :func:`iretrace.api.replay`. Python binds a
package to its name in the parent as soon as any module of it is imported, so a function of the same name there would be
replaced by the package or hide it, depending on who imported what first. A module of a class of its own, which the
language reference provides for ("Customizing module attribute access"), is both at any time.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from iretrace.api import Replay
    from iretrace.replay.policies import Policy
    from iretrace.trace import Trace


class _Replay(ModuleType):
    def __call__(self, trace: Trace, policies: str | Policy | Sequence[str | Policy] | None = None) -> Replay:
        """Put a trace through policies: :func:`iretrace.api.replay`, which says what they may be."""
        from iretrace import api  # noqa: PLC0415 - what imports a module of this package need not import pandas

        return api.replay(trace, api.DEFAULT_POLICIES if policies is None else policies)


sys.modules[__name__].__class__ = _Replay
