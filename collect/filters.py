"""Filters on CPU, process, name and cgroup, applied in BPF (``bpf/filter.bpf.c``)."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from iretrace import footer as footers
from iretrace.collect import syscalls
from iretrace.errors import MachineError, UsageError

if TYPE_CHECKING:
    from collections.abc import Collection

MAX_CGROUPS: Final = 8
"""MAX_WANTED_CGROUPS of ``bpf/filter.bpf.c``."""
MAX_VALUES: Final = 1024
"""What its hash maps hold."""
_COMM_BYTES: Final = 15
"""TASK_COMM_LEN less the final zero: the kernel cuts names there."""


@dataclass(frozen=True, kw_only=True)
class Filters:
    """Values of one kind are alternatives; of several kinds all must hold; an empty kind asks nothing.

    Attributes:
        cpus: logical CPUs.
        pids: processes (thread groups).
        comms: names of tasks as in /proc/PID/comm, cut to 15 bytes as the kernel does.
        cgroups: directories of the cgroup2 hierarchy, with all below them; a path from the hierarchy's root will do.
    """

    cpus: tuple[int, ...] = ()
    pids: tuple[int, ...] = ()
    comms: tuple[str, ...] = ()
    cgroups: tuple[str, ...] = ()

    @property
    def by_task(self) -> bool:
        """Whether it depends on the task, so that the kernel's counts of interrupts say nothing about the trace."""
        return bool(self.pids or self.comms or self.cgroups)

    def flags(self) -> list[str]:
        """Macros for the compiler."""
        kinds = {"CPU": self.cpus, "PID": self.pids, "COMM": self.comms, "CGROUP": self.cgroups}
        return [f"-DIRETRACE_FILTER_{kind}" for kind, values in kinds.items() if values]

    def described(self) -> footers.Filters:
        """For the footer, without what ``--only`` adds."""
        return footers.Filters(
            cpus=list(self.cpus), pids=list(self.pids), comms=list(self.comms), cgroups=list(self.cgroups)
        )

    def check(self, online: Collection[int]) -> None:
        """Refuse values that nothing can match.

        Raises:
            UsageError: a CPU that is not online, a process or cgroup that does not exist, too many values.
            MachineError: there is no cgroup2 hierarchy.
        """
        for cpu in self.cpus:
            if cpu not in online:
                raise UsageError(f"--cpu {cpu}", "is not online", expected="of " + ", ".join(map(str, sorted(online))))
        for pid in self.pids:
            if not Path(f"/proc/{pid}").exists():
                raise UsageError(f"--pid {pid}", "there is no such process", expected="a process that runs")
        if max(len(self.pids), len(self.comms)) > MAX_VALUES:
            raise UsageError("--pid, --comm", "too many", expected=f"at most {MAX_VALUES} each")
        if len(self.cgroups) > MAX_CGROUPS:
            raise UsageError("--cgroup", f"given {len(self.cgroups)} times", expected=f"at most {MAX_CGROUPS}")
        for cgroup in self.cgroups:
            cgroup_key(cgroup)

    def install(self, module: Any) -> None:  # noqa: ANN401 - BCC has no types
        """Fill the maps of a module that was compiled with :meth:`flags`."""
        one = struct.pack("=I", 1)
        for cpu in self.cpus:
            syscalls.update_element(module[b"wanted_cpus"].map_fd, struct.pack("=I", cpu), one)
        for pid in self.pids:
            syscalls.update_element(module[b"wanted_pids"].map_fd, struct.pack("=I", pid), one)
        for comm in self.comms:
            key = comm.encode()[:_COMM_BYTES].ljust(_COMM_BYTES + 1, b"\0")
            syscalls.update_element(module[b"wanted_comms"].map_fd, key, one)
        for index, cgroup in enumerate(self.cgroups):
            identity, level = cgroup_key(cgroup)
            value = struct.pack("=QII", identity, level, 1)
            syscalls.update_element(module[b"wanted_cgroups"].map_fd, struct.pack("=I", index), value)


def cgroup2_root(mounts: Path = Path("/proc/self/mounts")) -> Path | None:
    """Where the cgroup2 hierarchy is mounted; ``None``: nowhere."""
    for line in mounts.read_text(encoding="utf-8", errors="replace").splitlines():
        parts = line.split()
        if len(parts) > 2 and parts[2] == "cgroup2":
            return Path(parts[1].replace("\\040", " "))
    return None


def cgroup_key(cgroup: str) -> tuple[int, int]:
    """The id of a cgroup, which is the inode of its directory, and how deep below the root it lies.

    Raises:
        UsageError: there is no such cgroup.
        MachineError: there is no cgroup2 hierarchy.
    """
    root = cgroup2_root()
    if root is None:
        raise MachineError("--cgroup", "no cgroup2 hierarchy is mounted", remedy="mount -t cgroup2 none /sys/fs/cgroup")
    path = Path(os.path.normpath(cgroup))
    if not path.is_relative_to(root):
        path = root / str(path).lstrip("/")
    if not (path / "cgroup.procs").is_file():
        raise UsageError(f"--cgroup {cgroup}", "there is no such cgroup", expected=f"a directory below {root}")
    return path.stat().st_ino, len(path.relative_to(root).parts)
