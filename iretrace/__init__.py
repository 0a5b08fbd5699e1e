"""iretrace: what returns from x86 traps cost, which could be cheaper, and whether it would be safe."""

from __future__ import annotations

from typing import Final

__version__: Final = "0.1.0"
