"""A guest: QEMU in software emulation, with the host's files as root, driven through its monitor.

Nothing here depends on KVM: a guest is slow, boots in a few seconds all the same, and hides nothing
(``docs/emulator.md``).
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmtest.kernels import Kernel

QEMU: Final = "qemu-system-x86_64"
CPU: Final = "max,vendor=GenuineIntel,family=6,model=85,stepping=4"
"""Of Intel, since machine checks of AMD's kind are not broadcast; everything that TCG can emulate."""

APPEND: Final = "console=ttyS0 nokaslr tsc=reliable quiet loglevel=1 panic=-1 oops=panic random.trust_cpu=on"
"""Kernel addresses as in the symbol table, so that emulator and trace speak of the same ones."""

_TAIL_LINES: Final = 60


class MachineFailed(Exception):  # noqa: N818 - what happened, not a kind of error
    """The guest did not do what it should; the message ends with the last lines of its console."""


@dataclass(frozen=True, kw_only=True)
class MachineOptions:
    """How to run a guest.

    Attributes:
        kernel: what to boot.
        cpus: number of virtual CPUs.
        memory: size of its memory, as QEMU takes it.
        plugin: a TCG plugin to load, with its arguments as QEMU takes them; empty: none.
        arguments: more arguments for QEMU.
        append: more words for the kernel's command line.
        echo: where each line of the console goes besides the log.
    """

    kernel: Kernel
    cpus: int = 2
    memory: str = "2G"
    plugin: str = ""
    arguments: tuple[str, ...] = ()
    append: str = ""
    echo: Callable[[str], None] | None = field(default=None)


class Machine:
    """A running guest. Use as a context manager: on exit QEMU is gone, and so are its sockets.

    Attributes:
        share: the directory that the guest sees as ``/vmtest``.
        console: the file with what the guest printed.
    """

    def __init__(self, options: MachineOptions, share: Path) -> None:
        self.share = share
        self.console = share / "console.log"
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self._monitor: _Monitor | None = None
        self._reader: threading.Thread | None = None
        self.channel: Channel | None = None

    def start(self, script: str) -> None:
        """Boot, and run a shell script as the first thing."""
        self.share.mkdir(parents=True, exist_ok=True)
        for name in ("status", "run", "console.log"):
            (self.share / name).unlink(missing_ok=True)
        (self.share / "run").write_text(script)
        # A socket's path may not be longer than 107 bytes, whatever the share's is.
        self._sockets = Path(tempfile.mkdtemp(prefix="vmtest-"))
        # Whatever becomes of this process, the guest ends with it.
        command = ["setpriv", "--pdeathsig", "KILL", *self.command(self._sockets)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )
        self._reader = threading.Thread(target=self._read_console, daemon=True)
        self._reader.start()
        self._monitor = _Monitor(self._connect("qmp"))
        self.channel = Channel(self._connect("channel"))

    def command(self, sockets: Path | None) -> list[str]:
        """QEMU's command line; without sockets the console is the terminal's, with the monitor at Ctrl-A C."""
        options = self._options
        share9p = "security_model=none,multidevs=remap"
        if sockets is None:
            ports = ["-serial", "mon:stdio"]
        else:
            ports = [
                *("-serial", "stdio"),
                *("-chardev", f"socket,id=channel,path={sockets}/channel,server=on,wait=off"),
                *("-serial", "chardev:channel"),
                *("-qmp", f"unix:{sockets}/qmp,server=on,wait=off"),
            ]
        plugin = ["-plugin", options.plugin] if options.plugin else []
        return [
            *(QEMU, "-accel", "tcg,thread=multi", "-M", "pc", "-cpu", CPU),
            *("-smp", str(options.cpus), "-m", options.memory),
            *("-nodefaults", "-no-user-config", "-display", "none", "-vga", "none", "-net", "none", "-no-reboot"),
            *ports,
            *("-kernel", str(options.kernel.vmlinux), "-initrd", str(options.kernel.initramfs)),
            *("-append", f"{APPEND} {options.append}".strip()),
            *("-fsdev", f"local,id=host,path=/,readonly=on,{share9p}"),
            *("-device", "virtio-9p-pci,fsdev=host,mount_tag=host"),
            *("-fsdev", f"local,id=share,path={self.share},{share9p}"),
            *("-device", "virtio-9p-pci,fsdev=share,mount_tag=share"),
            *plugin,
            *options.arguments,
        ]

    def monitor(self, command: str) -> str:
        """Say something to QEMU's monitor, as a person would; gives its answer."""
        if self._monitor is None:
            raise MachineFailed("the guest was not started")
        return self._monitor.say(command)

    def wait(self, seconds: float) -> int:
        """Wait until the script ended and the guest is off; gives the script's exit status.

        Raises:
            MachineFailed: not within the time, or the guest died.
        """
        process = self._running()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise self.failed(f"still running after {seconds:.0f} s") from None
        if self._reader is not None:
            self._reader.join(5)
        try:
            return int((self.share / "status").read_text())
        except (OSError, ValueError):
            raise self.failed("went off without an exit status") from None

    def failed(self, what: str) -> MachineFailed:
        """An error that shows the end of the console."""
        lines = self.console.read_text(errors="replace").splitlines()[-_TAIL_LINES:]
        return MachineFailed(
            f"{self._options.kernel.release}: {what}; its console ({self.console}):\n" + "\n".join(lines)
        )

    def alive(self) -> bool:
        """Whether QEMU still runs."""
        return self._process is not None and self._process.poll() is None

    def close(self) -> None:
        """End QEMU, whatever the guest does."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if self._reader is not None:
            self._reader.join(5)
        for one in (self._monitor, self.channel):
            if one is not None:
                one.close()
        shutil.rmtree(self._sockets, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise MachineFailed("the guest was not started")
        return self._process

    def _connect(self, name: str) -> socket.socket:
        deadline = time.monotonic() + 10
        while True:
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.connect(str(self._sockets / name))
            except OSError:
                connection.close()
                if not self.alive() or time.monotonic() > deadline:
                    time.sleep(0.2)  # let the last words come through
                    raise self.failed("QEMU did not start") from None
                time.sleep(0.02)
            else:
                return connection

    def _read_console(self) -> None:
        process = self._running()
        if process.stdout is None:
            return
        with process.stdout as console, self.console.open("w") as log:
            for raw in console:
                line = raw.decode(errors="replace").rstrip("\r\n")
                log.write(line + "\n")
                log.flush()
                if self._options.echo is not None:
                    self._options.echo(line)


class _Monitor:
    """QEMU's machine protocol (docs/interop/qmp-spec.txt), used for its human monitor."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._file = connection.makefile("rw")
        self._lock = threading.Lock()
        self._answer()
        self._execute("qmp_capabilities")

    def say(self, command: str) -> str:
        with self._lock:
            return str(self._execute("human-monitor-command", {"command-line": command})).replace("\r\n", "\n")

    def close(self) -> None:
        with suppress(BrokenPipeError):  # QEMU may be gone, and a command unsent
            self._file.close()
        self._connection.close()

    def _execute(self, name: str, arguments: dict[str, str] | None = None) -> object:
        self._file.write(json.dumps({"execute": name, "arguments": arguments or {}}) + "\n")
        self._file.flush()
        while True:
            answer = self._answer()
            if "error" in answer:
                raise MachineFailed(f"QEMU's monitor, {name}: {answer['error']}")
            if "return" in answer:
                return answer["return"]

    def _answer(self) -> dict[str, Any]:
        line = self._file.readline()
        if not line:
            raise MachineFailed("QEMU's monitor went away")
        answer: dict[str, Any] = json.loads(line)
        return answer


class Channel:
    """Lines between host and guest, over the guest's second serial port."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._pending = b""

    def send(self, line: str) -> None:
        """A line to the guest."""
        self._connection.sendall(line.encode() + b"\n")

    def receive(self, seconds: float) -> str:
        """The guest's next line.

        Raises:
            TimeoutError: none came.
            ConnectionError: the guest is off.
        """
        deadline = time.monotonic() + seconds
        while b"\n" not in self._pending:
            self._connection.settimeout(max(deadline - time.monotonic(), 0.01))
            data = self._connection.recv(4096)
            if not data:
                raise ConnectionError("the guest is off")
            self._pending += data
        line, _, self._pending = self._pending.partition(b"\n")
        return line.decode(errors="replace").strip("\r")

    def close(self) -> None:
        """Let go of the socket."""
        self._connection.close()


def run(options: MachineOptions, share: Path, command: list[str], *, seconds: float) -> int:
    """Boot, run a command in the guest, and give its exit status.

    Raises:
        MachineFailed: not within the time, or the guest died.
    """
    with Machine(options, share) as machine:
        machine.start(f"exec {shlex.join(command)}\n")
        return machine.wait(seconds)


def print_line(line: str) -> None:
    """A line of the console to standard output."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
