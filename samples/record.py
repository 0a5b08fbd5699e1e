"""Record the sample trace anew: four seconds of the mixed workload, on the machine at hand (root).

Usage: make sample
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Record ``samples/mixed.parquet``."""
    # The trace keeps the command as given, so it names no directory of this machine.
    collect = [sys.executable, "-m", "iretrace", "collect", "--force", "-o", "samples/mixed.parquet", "-d", "4"]
    collect += ["--tag", "workload=samples/workload.py", "--", "python3", "samples/workload.py", "60"]
    subprocess.run(collect, check=True, cwd=HERE.parent)


if __name__ == "__main__":
    main()
