"""A guest to look around in: ``python -m vmtest.shell`` opens a shell, ``-c COMMAND`` runs one and ends.

Examples:
  python -m vmtest.shell                                  (end it with: exit, or Ctrl-A X)
  python -m vmtest.shell --kernel linux-image-cloud-amd64
  python -m vmtest.shell -c 'iretrace doctor'
  python -m vmtest.shell --share /tmp/x -c 'iretrace collect -d 5 -o /vmtest/trace.parquet'

The guest sees the host's files read-only (what it writes is kept in memory), and the directory --share as /vmtest,
where it can write. It starts in this checkout, whose .venv is on its PATH.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from vmtest import KERNELS, ROOT
from vmtest.kernels import KernelError, ready
from vmtest.machine import Machine, MachineFailed, MachineOptions, print_line


def preamble(checkout: Path = ROOT) -> str:
    """Shell lines by which a guest's script finds a checkout, this one by default."""
    return f"cd {shlex.quote(str(checkout))}\nexport PATH={shlex.quote(str(checkout / '.venv' / 'bin'))}:$PATH\n"


def main(arguments: list[str]) -> int:
    """Open a guest."""
    parser = argparse.ArgumentParser(
        prog="python -m vmtest.shell", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kernel", default=KERNELS[0], metavar="PACKAGE", help=f"what to boot ({KERNELS[0]})")
    parser.add_argument("--share", type=Path, metavar="DIR", help="host directory that the guest sees as /vmtest")
    parser.add_argument("--append", default="", metavar="WORDS", help="more words for the kernel's command line")
    parser.add_argument("--seconds", type=float, default=600, metavar="S", help="time limit of -c (600)")
    parser.add_argument("-c", dest="command", metavar="COMMAND", help="run this, print what it says, and end")
    chosen = parser.parse_args(arguments)
    try:
        kernel = ready(chosen.kernel)
        with tempfile.TemporaryDirectory(prefix="vmtest-share-") as scratch:
            share = (chosen.share or Path(scratch)).resolve()
            options = MachineOptions(kernel=kernel, append=chosen.append, echo=print_line)
            with Machine(options, share) as machine:
                if chosen.command is None:
                    return _interactive(machine)
                machine.start(preamble() + chosen.command + "\n")
                return machine.wait(chosen.seconds)
    except (KernelError, MachineFailed) as error:
        sys.stderr.write(f"vmtest: {error}\n")
        return 2


def _interactive(machine: Machine) -> int:
    """The console on this terminal."""
    machine.share.mkdir(parents=True, exist_ok=True)
    size = os.get_terminal_size() if sys.stdin.isatty() else os.terminal_size((120, 40))
    (machine.share / "run").write_text(
        preamble() + f"stty rows {size.lines} cols {size.columns}\nexport TERM={os.environ.get('TERM', 'dumb')}\n"
        "exec bash -i\n"
    )
    return subprocess.run(machine.command(None), check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
