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
import queue
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from vmtest import HERE, KERNELS, ROOT
from vmtest.kernels import Kernel, KernelError, ready
from vmtest.machine import Channel, Machine, MachineFailed, MachineOptions, print_line
from vmtest.shell import preamble
from vmtest.strikes import Control, strike_all

if TYPE_CHECKING:
    from collections.abc import Iterator

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
        strikes: how often each of :data:`vmtest.strikes.STRIKES`, before those.
        limit_seconds: time limit of the whole guest.
        echo: show the guest's console.
        checkout: whose iretrace records.
    """

    kernel: Kernel
    seconds: float = 6.0
    nmis: int = 60
    strikes: int = 0
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
    control_path = out / "control"
    machine_options = MachineOptions(
        kernel=options.kernel,
        plugin=f"{_plugin(programs)},control={control_path}",
        # NMIs from outside reach every CPU, not the first alone.
        append="apic_extnmi=all",
        arguments=("-d", "tid", "-D", str(out / "log.%d")),
        echo=print_line if options.echo else None,
    )
    recorder = ["python", str(HERE / "guest" / "record.py"), "/vmtest/programs", str(options.seconds), "/vmtest"]
    recorder += ["inside"] if options.strikes else []
    script = f"{preamble(options.checkout)}exec {shlex.join(recorder)}\n"
    with Control(control_path) as control, Machine(machine_options, out) as machine:
        machine.start(script)
        if machine.channel is None:
            raise MachineFailed("no channel")
        _Provoker(machine, machine.channel, control, options).serve()
        status = machine.wait(options.limit_seconds)
        if status != 0:
            raise machine.failed(f"recording ended with status {status}")


class _Provoker:
    """Does what the guest asks for, and provokes what it cannot provoke itself, until it is off."""

    def __init__(self, machine: Machine, channel: Channel, control: Control, options: RecordingOptions) -> None:
        self._machine = machine
        self._channel = channel
        self._control = control
        self._options = options
        self._thread: threading.Thread | None = None
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()

    def serve(self) -> None:
        """Answer the guest's requests.

        Raises:
            MachineFailed: not within the time.
        """
        deadline = time.monotonic() + self._options.limit_seconds
        while True:
            try:
                request = self._channel.receive(1.0)
            except TimeoutError:
                if time.monotonic() > deadline:
                    raise self._machine.failed(f"not done within {self._options.limit_seconds:.0f} s") from None
                continue
            except ConnectionError:
                break
            self._answer(request)
        if self._thread is not None:
            self._answers.put("")  # should it wait for the guest
            self._thread.join()

    def _answer(self, request: str) -> None:
        if request == "log on":
            self._machine.monitor(f"log {LOG}")
            self._channel.send("ok")
        elif request == "log off":
            self._machine.monitor("log none")
            self._channel.send("ok")
        elif request == "symbols":
            if self._options.strikes:
                self._control.know(_functions(self._machine.share / "kallsyms"))
            self._channel.send("ok")
        elif request == "provoke":
            self._thread = threading.Thread(target=self._provoke)
            self._thread.start()
        else:
            self._answers.put(request)

    def _provoke(self) -> None:
        try:
            said = [*self._strikes(), *self._spread()]
        except (MachineFailed, OSError) as error:
            with suppress(OSError):
                self._channel.send(f"failed: {error}")
            return
        (self._machine.share / "monitor.txt").write_text("\n".join(said) + "\n")
        self._channel.send(f"{len(said)} NMIs and machine checks were provoked")

    def _strikes(self) -> Iterator[str]:
        def settle() -> None:
            self._channel.send("settle")
            if self._answers.get() != "settled":
                raise MachineFailed("the guest went off while it was struck")

        yield from strike_all(self._control, self._machine.monitor, settle, self._options.strikes)

    def _spread(self) -> Iterator[str]:
        """NMIs spread over four fifths of the window, machine checks among them."""
        nmis, n_checks = self._options.nmis, len(MACHINE_CHECKS)
        after = {(number + 1) * nmis // (n_checks + 1): check for number, check in enumerate(MACHINE_CHECKS)}
        for number in range(nmis):
            for command in filter(None, (after.get(number), "nmi")):
                answer = self._machine.monitor(command).strip()
                yield f"{command}{': ' + answer if answer else ''}"
            time.sleep(0.8 * self._options.seconds / nmis)


def _functions(path: Path) -> dict[str, int]:
    """Addresses of a kernel's functions, from its /proc/kallsyms."""
    with path.open() as lines:
        parts = [line.split() for line in lines]
    return {name: int(address, 16) for address, kind, name, *_ in parts if kind in "tT"}


def _plugin(directory: Path) -> str:
    return str(_compile(HERE / "plugin" / "iretlog.c", directory / "iretlog.so", ["-shared", "-fPIC"]))


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
        "--strikes", type=int, default=0, metavar="N", help="NMIs and #MCs inside each other, each so often"
    )
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
            strikes=chosen.strikes,
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
