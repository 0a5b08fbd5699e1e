"""Two stories of one window: the emulator's log and iretrace's trace, recorded at once.

``python -m vmtest.recording DIR`` boots a guest, records there under load with traps provoked, and leaves in DIR:

    trace.parquet    what iretrace saw, with raw addresses
    log.*            what the emulator logged, a file a thread: traps taken, IRETQs executed
    kallsyms         the guest's symbols
    provoked.txt     which traps were provoked from user mode, and how often
    monitor.txt      what was provoked through the monitor
    console.log      what the guest printed
"""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vmtest import BUILD, HERE, KERNELS, ROOT
from vmtest.kernels import Kernel, KernelError, ready
from vmtest.machine import Channel, Machine, MachineFailed, MachineOptions, print_line
from vmtest.shell import preamble

PROGRAMS: Final = ("window", "traps", "load")

MACHINE_CHECKS: Final = (
    # bank 9, VAL|UC|EN|MISCV|ADDRV|S: an uncorrected error that software may leave alone (SDM vol. 3B, 16.6), in
    # MCG_STATUS RIPV|MCIP; broadcast, as Intel's CPUs of this model do.
    "mce -b 0 9 0xbd000000000000c0 0x5 0x200000000 0x8c",
    # A corrected error raises no #MC; the kernel finds it when it polls.
    "mce 0 9 0x9c000000000000c0 0x0 0x200000000 0x8c",
    "mce -b 1 9 0xbd000000000000c0 0x5 0x300000000 0x8c",
)
LOG: Final = "int,plugin"

STALE_CODE: Final = re.compile(r"int3: 0000 \[#1\](?:(?!Code:).)*Code:[^<\n]* (?!cc)[0-9a-f]{2} <", re.DOTALL)
"""A panic of the guest's kernel by an INT3 (0xCC) that is not there any more. Code is patched by way of INT3
(``text_poke_bp``, arch/x86/kernel/alternative.c), and an emulator with a thread a CPU may have translated the INT3 just
when another CPU took it away."""


@dataclass(frozen=True, kw_only=True)
class RecordingOptions:
    """What to record.

    Attributes:
        kernel: what to boot.
        seconds: length of the window, at least.
        nmis: how many NMIs to inject.
        limit_seconds: time limit of the whole guest.
        echo: show the guest's console.
        checkout: whose iretrace records.
    """

    kernel: Kernel
    seconds: float = 6.0
    nmis: int = 60
    limit_seconds: float = 900.0
    echo: bool = False
    checkout: Path = ROOT


def record(options: RecordingOptions, out: Path) -> None:
    """Boot, record, leave everything in ``out``; once more where the emulator executed stale code (seen once in 30).

    Raises:
        MachineFailed: the guest did not do it within the time.
    """
    try:
        _record(options, out)
    except MachineFailed as error:
        console = out / "console.log"
        if not console.exists() or not STALE_CODE.search(console.read_text(errors="replace")):
            raise
        print(f"recorded once more: the guest's kernel met an INT3 that had been patched away: {error}")  # noqa: T201
        _record(options, out)


def _record(options: RecordingOptions, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for stale in out.glob("log.*"):
        stale.unlink()
    programs = out / "programs"
    programs.mkdir(exist_ok=True)
    for name in PROGRAMS:
        _compile(HERE / "guest" / f"{name}.c", programs / name, ["-pthread"])
    machine_options = MachineOptions(
        kernel=options.kernel,
        plugin=_plugin(),
        # NMIs from outside reach every CPU, not the first alone.
        append="apic_extnmi=all",
        arguments=("-d", "tid", "-D", str(out / "log.%d")),
        echo=print_line if options.echo else None,
    )
    recorder = ["python", str(HERE / "guest" / "record.py"), "/vmtest/programs", str(options.seconds), "/vmtest"]
    script = f"{preamble(options.checkout)}exec {shlex.join(recorder)}\n"
    with Machine(machine_options, out) as machine:
        machine.start(script)
        if machine.channel is None:
            raise MachineFailed("no channel")
        _serve(machine, machine.channel, options)
        status = machine.wait(options.limit_seconds)
        if status != 0:
            raise machine.failed(f"recording ended with status {status}")


def _serve(machine: Machine, channel: Channel, options: RecordingOptions) -> None:
    """Do what the guest asks for until it is off."""
    deadline = time.monotonic() + options.limit_seconds
    provoker: threading.Thread | None = None
    while True:
        try:
            request = channel.receive(1.0)
        except TimeoutError:
            if time.monotonic() > deadline:
                raise machine.failed(f"not done within {options.limit_seconds:.0f} s") from None
            continue
        except ConnectionError:
            break
        if request == "log on":
            machine.monitor(f"log {LOG}")
            channel.send("ok")
        elif request == "log off":
            machine.monitor("log none")
            channel.send("ok")
        elif request == "provoke":
            provoker = threading.Thread(target=_provoke, args=(machine, channel, options))
            provoker.start()
    if provoker is not None:
        provoker.join()


def _provoke(machine: Machine, channel: Channel, options: RecordingOptions) -> None:
    """NMIs spread over four fifths of the window, machine checks among them."""
    pause = 0.8 * options.seconds / options.nmis
    after = {(number + 1) * options.nmis // (len(MACHINE_CHECKS) + 1): mce for number, mce in enumerate(MACHINE_CHECKS)}
    said = []
    for number in range(options.nmis):
        for command in filter(None, (after.get(number), "nmi")):
            answer = machine.monitor(command).strip()
            said.append(f"{command}{': ' + answer if answer else ''}")
        time.sleep(pause)
    (machine.share / "monitor.txt").write_text("\n".join(said) + "\n")
    channel.send(f"{options.nmis} NMIs and {len(MACHINE_CHECKS)} machine checks were provoked")


def _plugin() -> Path:
    BUILD.mkdir(exist_ok=True)
    return _compile(HERE / "plugin" / "iretlog.c", BUILD / "iretlog.so", ["-shared", "-fPIC"])


def _compile(source: Path, target: Path, flags: list[str]) -> Path:
    done = subprocess.run(
        ["gcc", "-O2", "-Wall", "-Wextra", "-Werror", *flags, "-o", target, source],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise MachineFailed(f"{source} does not compile:\n{done.stderr}")
    return target


def main(arguments: list[str]) -> int:
    """Record."""
    parser = argparse.ArgumentParser(prog="python -m vmtest.recording", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", type=Path, metavar="DIR", help="where the recording goes; what is there is replaced")
    parser.add_argument("--kernel", default=KERNELS[0], metavar="PACKAGE", help=f"what to boot ({KERNELS[0]})")
    parser.add_argument("--seconds", type=float, default=6.0, help="length of the window (6)")
    parser.add_argument(
        "--checkout", type=Path, default=ROOT, metavar="DIR", help="whose iretrace records (this one's)"
    )
    chosen = parser.parse_args(arguments)
    out = chosen.out.resolve()
    if out.exists() and not (out / "console.log").exists() and any(out.iterdir()):
        sys.stderr.write(f"vmtest: {out}: not empty, and not a recording\n")
        return 2
    shutil.rmtree(out, ignore_errors=True)
    try:
        options = RecordingOptions(
            kernel=ready(chosen.kernel),
            seconds=chosen.seconds,
            echo=True,
            checkout=chosen.checkout.resolve(),
        )
        record(options, out)
    except (KernelError, MachineFailed) as error:
        sys.stderr.write(f"vmtest: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
