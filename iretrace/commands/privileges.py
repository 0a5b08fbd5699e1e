"""What the verbs that give up their privileges must do before they import anything heavy."""

from __future__ import annotations

import os


def import_arrow() -> None:
    """Import Arrow without its allocator's thread: it takes no signals, so it could not give up its privileges."""
    os.environ["JE_ARROW_MALLOC_CONF"] = "background_thread:false"
    import pyarrow  # noqa: F401, ICN001, PLC0415

    del os.environ["JE_ARROW_MALLOC_CONF"]
