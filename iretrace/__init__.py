"""iretrace: what returns from x86 traps cost, which could be cheaper, and whether it would be safe.

From Python::

    import iretrace

    trace = iretrace.open("run.parquet")
    trace.traps()  # a pandas frame, one row a trap
    iretrace.replay(trace, policies=["iret", "rfc2014"]).summary

``import iretrace`` imports nothing else: the names of :data:`__all__` come from :mod:`iretrace.api` when they are
first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from iretrace.api import Replay, Trace, replay
    from iretrace.api import open_trace as open  # noqa: A004 - read as iretrace.open

__all__ = ["Replay", "Trace", "__version__", "open", "replay"]

__version__: Final = "0.1.0"

_FROM_API: Final = {"Replay": "Replay", "Trace": "Trace", "open": "open_trace"}


def __getattr__(name: str) -> object:
    if name == "replay":
        # The package of that name, which can be called (see there): importing it sets the attribute, and whichever
        # module of it is imported first, the name means the same.
        return importlib.import_module("iretrace.replay")
    if name not in _FROM_API:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module("iretrace.api"), _FROM_API[name])
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
