"""An emulator as an oracle: a stock Debian kernel in QEMU, whose own log tells every trap and every IRETQ.

``docs/emulator.md`` says how it works and what came out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
HERE: Final = Path(__file__).resolve().parent
BUILD: Final = HERE / "build"
"""Kernels and images made from packages; not committed."""

KERNELS: Final = ("linux-image-amd64", "linux-image-6.12-amd64")
"""Packages of the kernels that are tested: the distribution's own, and a newer one it offers beside it."""
