"""Inside the guest: record a trace of a window in which traps are provoked, while the emulator logs.

``record.py PROGRAMS SECONDS OUT [inside]``: directory of the compiled C programs, length of the window, and the
directory for what comes out; ``inside``: have #BPs and #PFs inside machine checks too. It runs in the checkout, with
its Python, and talks to the host over the second serial port: each request is a line, each answer a line
(``vmtest/recording.py``).
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
import tty
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TRACING: Final = Path("/sys/kernel/tracing")
PERF_EVENT_OPEN: Final = 298
PERF_TYPE_BREAKPOINT: Final = 5
HW_BREAKPOINT_X: Final = 4
ENOUGH_TRAPS: Final = 9500
"""The window stays open until the kernel has counted so many, however slow the host is."""

FAULTING: Final = "nothing=@0xffffc8ffffffe000:u64"
"""Fetched by a probe: nothing is mapped right below the area of vmalloc(), so that the probe takes a #PF of its own
(Documentation/arch/x86/x86_64/mm.rst)."""


class Host:
    """The host, at the other end of the serial port."""

    def __init__(self, path: str = "/dev/ttyS1") -> None:
        self._port = os.open(path, os.O_RDWR | os.O_NOCTTY)
        tty.setraw(self._port, termios.TCSANOW)
        self._pending = b""

    def ask(self, request: str) -> str:
        """Send a line, wait for the answer."""
        self.send(request)
        return self.answer()

    def send(self, request: str) -> None:
        """Send a line; the answer comes later."""
        os.write(self._port, request.encode() + b"\n")

    def answer(self) -> str:
        """The next line."""
        while b"\n" not in self._pending:
            self._pending += os.read(self._port, 4096)
        line, _, self._pending = self._pending.partition(b"\n")
        return line.decode()


def kernel_symbol(name: str) -> int | None:
    """Address of a symbol."""
    with Path("/proc/kallsyms").open() as lines:
        for line in lines:
            address, _, symbol = line.split()[:3]
            if symbol == name:
                return int(address, 16)
    return None


def hardware_breakpoints(address: int) -> list[int]:
    """An execution breakpoint in the debug registers of every CPU: #DB in the kernel."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptors = []
    for cpu in range(os.cpu_count() or 1):
        # struct perf_event_attr: type, size, config, sample_period, sample_type, read_format, flags, wakeup, bp_type,
        # bp_addr, bp_len
        attributes = struct.pack(
            "=IIQQQQQIIQQ", PERF_TYPE_BREAKPOINT, 112, 0, 1 << 62, 0, 0, 0, 0, HW_BREAKPOINT_X, address, 8
        ).ljust(112, b"\0")
        descriptor: int = libc.syscall(PERF_EVENT_OPEN, attributes, -1, cpu, -1, 8)
        if descriptor < 0:
            raise OSError(ctypes.get_errno(), "no hardware breakpoint")
        descriptors.append(descriptor)
    return descriptors


def change_probes(line: str) -> None:
    """Add or remove a probe of tracefs; not with open(), which would seek, or remove the others."""
    descriptor = os.open(TRACING / "kprobe_events", os.O_WRONLY | os.O_APPEND)
    try:
        os.write(descriptor, line.encode() + b"\n")
    finally:
        os.close(descriptor)


def kprobe(name: str, symbol: str, fetch: str = "") -> int:
    """A probe by int3: #BP in the kernel, which fetches something. Gives the offset at which the kernel took it.

    Behind the first instruction where that is ftrace's, which the kernel would take instead of int3; and not optimized,
    which would make a jump of it.
    """
    Path("/proc/sys/debug/kprobes-optimization").write_text("0")
    for offset in (0, 5, 9, 4):
        try:
            change_probes(f"p:vmtest/{name} {symbol}+{offset} {fetch}")
        except OSError:
            continue
        (TRACING / f"events/vmtest/{name}/enable").write_text("1")
        listed = Path("/sys/kernel/debug/kprobes/list").read_text().splitlines()
        if not any("[FTRACE]" in line for line in listed if symbol in line):
            return offset
        (TRACING / f"events/vmtest/{name}/enable").write_text("0")
        change_probes(f"-:vmtest/{name}")
    raise OSError(f"no kprobe by int3 in {symbol}")


def probes(*, inside: bool) -> Iterator[str]:
    """Place the kernel's #BPs; tells where.

    What the kernel says of an NMI that nobody claims comes behind its last handler (``unknown_nmi_error()``,
    arch/x86/kernel/nmi.c): #BP inside the NMI, where the last hook of it has run already. The CPU that logs a machine
    check does so by ``mce_gen_pool_add()``: #BP inside it, behind its hook. Not more, where traps strike inside each
    other: the kernel survives a kprobe within another, and none within that (``reenter_kprobe()``,
    arch/x86/kernel/kprobes/core.c).
    """
    if inside:
        yield f"kprobe for the NMIs at +{kprobe('nmi', 'vprintk', FAULTING)}"
        yield f"kprobe for the machine checks at +{kprobe('mc', 'mce_gen_pool_add', FAULTING)}"
    else:
        yield f"kprobe at +{kprobe('call', '__x64_sys_getpgid')}"
        yield f"kprobe for the NMIs at +{kprobe('nmi', 'vprintk')}"


def traps_counted() -> int:
    """Interrupts and page faults, as the kernel counts them."""
    interrupts = Path("/proc/stat").read_text().partition("\nintr ")[2].split()[0]
    faults = Path("/proc/vmstat").read_text().partition("pgfault ")[2].split()[0]
    return int(interrupts) + int(faults)


def provoke(program: Path, rounds: int, host: Host, say: Callable[[str], None]) -> dict[str, int] | None:
    """Run the program with its traps, over again until the host is done; gives how often each was provoked.

    ``None``: the host could not do its part.
    """
    counts: dict[str, int] = {}
    done = threading.Event()

    def run() -> None:
        while not counts or not done.is_set():
            output = subprocess.run([program, str(rounds)], check=True, stdout=subprocess.PIPE, text=True).stdout
            for name, count in (line.split() for line in output.splitlines()):
                counts[name] = counts.get(name, 0) + int(count)

    thread = threading.Thread(target=run)
    thread.start()
    while (answer := host.answer()) == "settle":
        visit_every_cpu()
        host.send("settled")
    done.set()
    say(answer)
    thread.join()
    return None if answer.startswith("failed") else counts


def visit_every_cpu() -> None:
    """Run in user mode on each, which none does that is in an NMI or machine check."""
    everywhere = os.sched_getaffinity(0)
    for cpu in everywhere:
        os.sched_setaffinity(0, {cpu})
    os.sched_setaffinity(0, everywhere)


def main() -> int:
    """Record."""
    programs, seconds, out = Path(sys.argv[1]), float(sys.argv[2]), Path(sys.argv[3])
    host = Host()
    began = time.monotonic()

    def say(text: str) -> None:
        sys.stdout.write(f"[{time.monotonic() - began:6.1f}] {text}\n")
        sys.stdout.flush()

    (out / "kallsyms").write_text(Path("/proc/kallsyms").read_text())
    host.ask("symbols")
    # Before the recording: a new perf event stops a CPU's others for a moment, the TSC counters of BPF among them.
    breakpoint_at = kernel_symbol("__x64_sys_getppid")
    if breakpoint_at is None:
        say("no symbol __x64_sys_getppid")
        return 4
    breakpoints = hardware_breakpoints(breakpoint_at)
    say(f"hardware breakpoint at {breakpoint_at:#x}")
    for line in probes(inside="inside" in sys.argv[4:]):
        say(line)
    trace = Path("/run/trace.parquet")
    collector = subprocess.Popen(
        [sys.executable, "-m", "iretrace", "collect", "--raw-addresses", "--no-calibrate", "--force", "-o", trace]
    )
    partial = Path(f"{trace}.partial")
    while not (partial.exists() and partial.stat().st_size):
        if collector.poll() is not None:
            say(f"collect ended with {collector.returncode}")
            return 3
        time.sleep(0.2)
    say("attached")
    load = subprocess.Popen([programs / "load"])
    host.ask("log on")
    time.sleep(0.2)
    subprocess.run([programs / "window", "begin"], check=True)
    opened, before = time.monotonic(), traps_counted()
    host.send("provoke")  # NMIs and machine checks, through the monitor, spread over the window
    rounds = max(int(seconds * 6), 10)
    provoked = provoke(programs / "traps", rounds, host, say)
    if provoked is None:
        return 5
    (out / "provoked.txt").write_text("".join(f"{name} {count}\n" for name, count in provoked.items()))
    while time.monotonic() - opened < seconds or traps_counted() - before < ENOUGH_TRAPS:
        time.sleep(0.1)
    subprocess.run([programs / "window", "end"], check=True)
    say(f"window of {time.monotonic() - opened:.2f} s")
    time.sleep(0.1)
    host.ask("log off")
    load.kill()
    load.wait()
    for descriptor in breakpoints:
        os.close(descriptor)
    collector.send_signal(signal.SIGINT)
    status = collector.wait()
    say(f"collect ended with {status}")
    for name in ("interrupts", "cmdline"):
        (out / name).write_text(Path("/proc", name).read_text())
    shutil.copy(trace, out / "trace.parquet")
    return status


if __name__ == "__main__":
    sys.exit(main())
