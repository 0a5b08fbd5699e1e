"""Memory of a process of its own."""

from __future__ import annotations

import re
from pathlib import Path


def own_mib(pid: int) -> float:
    """Memory of a process without the pages of the mapped trace, which the kernel can take back at any time."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:  # it ended meanwhile
        return 0.0
    found = re.search(r"RssAnon:\s+(\d+)", status)
    return int(found[1]) / 1024 if found else 0.0
