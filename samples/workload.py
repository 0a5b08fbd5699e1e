"""A mixed workload: file reads, forks, page faults, timers and inter-processor interrupts, for a number of seconds.

Usage: python samples/workload.py SECONDS
"""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import tempfile
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def read_files() -> None:
    """Write a file, drop it from the page cache, read it back: device interrupts and page-cache faults."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(os.urandom(1 << 20))
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as pages:
            sum(pages[offset] for offset in range(0, len(pages), mmap.PAGESIZE))


def fork() -> None:
    """Run a short program: exec, copy-on-write faults, exit."""
    subprocess.run(["/bin/true"], check=True)


def fault() -> None:
    """Touch fresh pages, and give the kernel one to fill (a fault taken in kernel mode)."""
    size = 256 * mmap.PAGESIZE
    with mmap.mmap(-1, size) as pages:
        pages.madvise(mmap.MADV_NOHUGEPAGE)
        for offset in range(0, size // 2, mmap.PAGESIZE):
            pages[offset] = 1
        with open("/dev/zero", "rb", buffering=0) as zero:  # noqa: PTH123 - an unbuffered descriptor
            zero.readinto(memoryview(pages)[size // 2 :])


def sleep_briefly() -> None:
    """Many short sleeps: timer interrupts on an idle CPU."""
    for _ in range(20):
        time.sleep(0.0005)


def wake_each_other() -> None:
    """Two threads pass a byte to and fro: wake-ups across CPUs are reschedule and call-function interrupts."""
    (read_a, write_a), (read_b, write_b) = os.pipe(), os.pipe()

    def answer() -> None:
        while os.read(read_a, 1) == b"x":
            os.write(write_b, b"x")

    other = threading.Thread(target=answer)
    other.start()
    for _ in range(200):
        os.write(write_a, b"x")
        os.read(read_b, 1)
    os.write(write_a, b".")
    other.join()
    for descriptor in (read_a, write_a, read_b, write_b):
        os.close(descriptor)


KINDS: tuple[Callable[[], None], ...] = (read_files, fork, fault, sleep_briefly, wake_each_other)


def main() -> None:
    """Go round until the time is up."""
    until = time.monotonic() + float(sys.argv[1])
    while time.monotonic() < until:
        for kind in KINDS:
            kind()


if __name__ == "__main__":
    main()
