"""Emulated machines: a kernel package becomes something that boots, and a guest does what it is told."""

from __future__ import annotations

import gzip
import lzma
import struct
from typing import TYPE_CHECKING, Final

import pytest

from iretrace.store import aggregated
from iretrace.vectors import PF
from vmtest import KERNELS
from vmtest.kernels import KernelError, ready, vmlinux_of
from vmtest.machine import Machine, MachineFailed, MachineOptions
from vmtest.recording import STALE_CODE
from vmtest.shell import preamble

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TIMER: Final = 0xEC


def bzimage(payload: bytes) -> bytes:
    """As much of a bzImage as the boot protocol says of its payload: a setup sector, then the kernel."""
    head = bytearray(1024 + 64)
    head[0x1F1] = 1
    head[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", head, 0x248, 64, len(payload))
    return bytes(head) + payload + b"behind"


@pytest.mark.parametrize("pack", [lzma.compress, gzip.compress])
def test_the_kernel_in_a_bzimage_is_found(pack: Callable[[bytes], bytes]) -> None:
    """It is unpacked by what its payload begins with, and nothing behind the payload is taken."""
    kernel = b"\x7fELF" + bytes(range(256)) * 20
    assert vmlinux_of(bzimage(pack(kernel))) == kernel


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (b"MZ" + bytes(2000), "not a bzImage"),
        (bzimage(b"\x02\x21\x4c\x18 and so on"), "neither xz"),
        (bzimage(gzip.compress(b"not a kernel")), "no ELF file"),
    ],
)
def test_what_is_no_bzimage_is_refused(image: bytes, expected: str) -> None:
    """The error says what was found."""
    with pytest.raises(KernelError, match=expected):
        vmlinux_of(image)


@pytest.mark.vm
@pytest.mark.parametrize("package", KERNELS)
def test_a_guest_has_the_hosts_files_and_gives_back_what_it_wrote(package: str, tmp_path: Path) -> None:
    """Two CPUs, the host's root read-only with writes kept from it, and an exit status."""
    kernel = ready(package)
    secret = tmp_path / "secret"
    secret.write_text("of the host")
    with Machine(MachineOptions(kernel=kernel), tmp_path / "share") as machine:
        machine.start(
            f"uname -r >/vmtest/release; nproc >/vmtest/cpus; cp {secret} /vmtest/; echo x >{secret}; exit 7\n"
        )
        assert machine.wait(120) == 7, machine.failed("ended otherwise")
    share = tmp_path / "share"
    assert (share / "release").read_text().strip() == kernel.release
    assert (share / "cpus").read_text().strip() == "2"
    assert (share / "secret").read_text() == "of the host"
    assert secret.read_text() == "of the host"


@pytest.mark.vm
@pytest.mark.parametrize("package", KERNELS)
def test_counters_load_where_functions_can_be_hooked(package: str, tmp_path: Path) -> None:
    """The verifier takes the counting programs of every class, and they count; the live kernel may have no fentry."""
    share = tmp_path / "share"
    with Machine(MachineOptions(kernel=ready(package)), share) as machine:
        machine.start(
            preamble() + "iretrace collect --aggregate --no-calibrate -o /vmtest/counted.parquet -- "
            "sh -c 'for i in 1 2 3 4 5 6 7 8; do /bin/true; done'\n"
        )
        assert machine.wait(400) == 0, machine.failed("ended otherwise")
    run = aggregated.read(share / "counted.parquet")
    hooks = {hook for item in run.footer.classes for hook in (item.entry, item.exit) if hook is not None}
    assert any(hook.startswith("fentry:") for hook in hooks), hooks
    policy = run.policy("rfc2014")
    assert int(policy.count[policy.slot == PF].sum()) > 200  # nine programs begin
    assert int(policy.count[policy.slot == TIMER].sum()) > 0


@pytest.mark.vm
def test_a_guest_that_hangs_or_dies_is_told_with_its_console(tmp_path: Path) -> None:
    """A time limit and a panic both end as one error, which shows the last lines of the console."""
    options = MachineOptions(kernel=ready(KERNELS[0]), cpus=1, memory="512M")
    with Machine(options, tmp_path / "a") as machine:
        machine.start("echo about to hang; sleep 1000\n")
        with pytest.raises(MachineFailed, match=r"(?s)still running after 15 s.*about to hang"):
            machine.wait(15)
    with Machine(options, tmp_path / "b") as machine:
        machine.start("echo about to die; echo c >/proc/sysrq-trigger\n")
        with pytest.raises(MachineFailed, match=r"(?s)without an exit status.*about to die"):
            machine.wait(60)


@pytest.mark.parametrize(("before", "stale"), [("eb", True), ("cc", False)])
def test_a_panic_by_stale_code_is_told_from_others(before: str, *, stale: bool) -> None:
    """By an INT3 that is not in the code that the kernel prints."""
    panic = (
        "[    5.4] Oops: int3: 0000 [#1] PREEMPT SMP PTI\n[    5.4] RIP: 0010:ttwu_do_activate+0x8d/0x220\n"
        f"[    5.4] Code: 89 e2 c7 43 18 00 cc 00 00 00 {before} <5a> 48 8b cc\n[    5.4] RSP: 0018:ffffc90000003f48\n"
    )
    assert bool(STALE_CODE.search(panic)) == stale
    assert not STALE_CODE.search(panic.replace("int3: 0000", "general protection fault: 0000"))
