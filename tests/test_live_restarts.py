"""Two hundred starts and stops in a row leave nothing: no program, map, counter or open file.

The probes are compiled once, which takes the most time of a start and leaves nothing in the kernel by itself; all else,
counters, rings, loading, attaching, counting, detaching, is done anew each time.
"""

from __future__ import annotations

import ctypes
import os
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from iretrace.collect import bcc as bcc_loader
from iretrace.collect import kernel, syscalls
from iretrace.collect.btf import kernel_prototypes
from iretrace.collect.choice import unusable
from iretrace.collect.clock import TscCounters
from iretrace.collect.hooks import CLASSES, PROCESS_HOOKS
from iretrace.collect.overhead import Overhead
from iretrace.collect.probes import ProbeOptions, Probes
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = pytest.mark.kernel

STARTS = 200
_BPF_PROG_GET_NEXT_ID, _BPF_MAP_GET_NEXT_ID = 11, 12


def in_the_kernel() -> tuple[int, int, int]:
    """How many BPF programs and maps there are, and open files of this process."""

    def count(command: int) -> int:
        n = last = 0
        while True:
            buffer = ctypes.create_string_buffer(struct.pack("=III", last, 0, 0), 128)
            if syscalls._libc.syscall(321, ctypes.c_long(command), buffer, ctypes.c_long(128)) < 0:
                return n
            last, n = struct.unpack_from("=II", buffer)[1], n + 1

    return count(_BPF_PROG_GET_NEXT_ID), count(_BPF_MAP_GET_NEXT_ID), len(list(Path("/proc/self/fd").iterdir()))


class CompiledOnce:
    """A compiled module that is used again: what is loaded is unloaded, what was compiled stays."""

    def __init__(self) -> None:
        self.module: Any = None
        self._compile = bcc_loader.new_module
        self._cleanup: Any = None

    def __call__(self, bcc: Any, sources: Sequence[Path], flags: list[str]) -> Any:
        """As :func:`iretrace.collect.bcc.new_module`."""
        if self.module is None:
            self.module = self._compile(bcc, sources, flags)
            self._cleanup, self.module.cleanup = self.module.cleanup, self._unload
        return self.module

    def _unload(self) -> None:
        for function in self.module.funcs.values():
            os.close(function.fd)
        self.module.funcs.clear()

    def end(self) -> None:
        """Let go of the maps as well."""
        self._cleanup()


def written_off(probes: Probes) -> int:
    """Runs that became no event, and are known not to."""
    lost = sum(loss.count for loss in probes.losses() if loss.cause in {"ring-full", "nmi-ring-busy", "tsc-unreadable"})
    return lost + probes.passed()


def start_and_stop(refused: dict[str, str], cpus: list[int]) -> int:
    """One run without a trace; how often the timer's probe ran."""
    asked = [item for item in CLASSES if item.name in {"timer", "NMI"}]
    with (
        TscCounters(cpus) as clock,
        Probes(ProbeOptions(ring_bytes=4096, use_tsc=True), cpus) as probes,
    ):
        before = written_off(probes)  # the compiled module's maps live on
        overhead = Overhead(probes)
        overhead.start()
        try:
            probes.set_tsc_counters(clock.fds)
            probes.choose(classes=asked, refused=refused, provoke=frozenset)
            time.sleep(0.01)  # no wait: how long a run lasts
            probes.detach_all()
        finally:
            overhead.stop()
        counted = int(sum(info.run_cnt for info in probes.program_runs().values()))
        drained = sum(len(ring.drain()) for ring in (*probes.rings.values(), *probes.nmi_rings.values()))
        assert counted == drained + written_off(probes) - before  # no lost accounting
        return counted


def test_two_hundred_starts_and_stops_leave_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs, maps and open files after 200 runs are those after the first; a run takes an eighth of a second."""
    compiled = CompiledOnce()
    monkeypatch.setattr(bcc_loader, "new_module", compiled)
    monkeypatch.setattr("iretrace.collect.clock._BRACKETS", 20)
    refused = unusable(kernel_prototypes(), no_fentry="not asked for here")
    refused |= {hook.name: "not asked for here" for hook in PROCESS_HOOKS}
    cpus = kernel.cpu_list("online")
    programs, _maps, _files = in_the_kernel()
    ran = start_and_stop(refused, cpus)
    try:
        _programs, maps, files = in_the_kernel()
        for _ in range(STARTS - 1):
            ran += start_and_stop(refused, cpus)
        assert ran > 0

        def nothing_is_left() -> bool:
            found = in_the_kernel()
            return (found[0], found[2]) == (programs, files) and found[1] <= maps

        until(nothing_is_left, "as before")  # the kernel frees programs and maps after a grace period
    finally:
        compiled.end()
