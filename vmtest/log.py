"""The emulator's story: every trap a CPU took and every IRETQ it executed, in order, from QEMU's logs.

``-d int`` writes a line a trap when it is delivered, with the state of the CPU behind it (target/i386/tcg/seg_helper.c,
``do_interrupt_all``); ``plugin/iretlog.c`` a line an IRETQ, when it is about to pop its frame. With ``-d tid`` each
thread has a file of its own, so that the lines of a CPU are in order.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_TRAP: Final = re.compile(
    r"^ *\d+: v=([0-9a-f]{2}) e=([0-9a-f]{4}) i=(\d) cpl=(\d) IP=([0-9a-f]{4}):([0-9a-f]{16}) "
    r"pc=[0-9a-f]{16} SP=[0-9a-f]{4}:([0-9a-f]{16})"
)
_FLAGS: Final = re.compile(r"^RIP=[0-9a-f]{16} RFL=([0-9a-f]{8})")
_IRET: Final = re.compile(
    r"^IRET cpu=(\d+) site=([0-9a-f]{16}) at=([0-9a-f]{16}) ip=([0-9a-f]{16}) cs=([0-9a-f]{4}) flags=([0-9a-f]{8}) "
    r"sp=([0-9a-f]{16}) ss=([0-9a-f]{4}) before=([0-9a-f]*)$"
)
_INT3_BYTES: Final = 1
_INT_N_BYTES: Final = 2


class LogError(Exception):
    """The logs are not as expected."""


@dataclass(slots=True)
class Taken:
    """A trap that the CPU took, with the frame it saved.

    Attributes:
        at: its place in the CPU's story.
        vector: x86 vector.
        error_code: what the CPU pushed; 0 for vectors that have none.
        cpl: privilege level it interrupted.
        cs, ip, sp, flags: the saved frame.
        software: raised by an ``int`` instruction.
    """

    at: int
    vector: int
    error_code: int
    cpl: int
    cs: int
    ip: int
    sp: int
    flags: int
    software: bool


@dataclass(slots=True)
class Executed:
    """An IRETQ, with the frame it popped.

    Attributes:
        at: its place in the CPU's story.
        site: address of the instruction.
        frame: address of the frame.
        cs, ip, sp, flags: the frame, the target of the return.
        before: the two bytes below the target, as hexadecimal digits; empty for a kernel target.
    """

    at: int
    site: int
    frame: int
    cs: int
    ip: int
    sp: int
    flags: int
    before: str

    @property
    def to_kernel(self) -> bool:
        """Whether it goes to code of privilege level 0."""
        return self.cs & 3 == 0


@dataclass
class CpuStory:
    """What one CPU did while the log was on, in order."""

    cpu: int
    events: list[Taken | Executed] = field(default_factory=list)

    def taken(self) -> list[Taken]:
        """The traps."""
        return [event for event in self.events if isinstance(event, Taken)]

    def executed(self) -> list[Executed]:
        """The IRETQs."""
        return [event for event in self.events if isinstance(event, Executed)]


def parse(lines: Iterable[str]) -> CpuStory | None:
    """The story of the CPU whose thread wrote these lines; ``None`` where no CPU did.

    Raises:
        LogError: the lines of two CPUs in one file, or a trap without the CPU's state.
    """
    events: list[Taken | Executed] = []
    cpus: set[int] = set()
    open_trap: Taken | None = None
    for line in lines:
        if line.startswith("RIP="):
            found = _FLAGS.match(line)
            if found and open_trap is not None:
                open_trap.flags = int(found[1], 16)
                open_trap = None
        elif line.startswith("IRET "):
            cpu, executed = _executed(line, len(events))
            cpus.add(cpu)
            events.append(executed)
        elif found := _TRAP.match(line):
            if open_trap is not None:
                raise LogError(f"a trap without the state of its CPU, before: {line.strip()}")
            open_trap = _taken(found, len(events))
            events.append(open_trap)
    if open_trap is not None:
        events.remove(open_trap)  # cut in the middle of its state, where the log was switched off
    return _story(events, cpus)


def _story(events: list[Taken | Executed], cpus: set[int]) -> CpuStory | None:
    if len(cpus) > 1:
        raise LogError(f"CPUs {sorted(cpus)} in one file: QEMU was run without -d tid")
    if not cpus:
        if events:
            raise LogError(f"{len(events)} traps and no IRETQ: the plugin was not loaded")
        return None
    return CpuStory(cpu=min(cpus), events=events)


def _executed(line: str, at: int) -> tuple[int, Executed]:
    found = _IRET.match(line)
    if found is None:
        raise LogError(f"not understood: {line.strip()}")
    site, frame, ip, cs, flags, sp = (int(found[index], 16) for index in range(2, 8))
    return int(found[1]), Executed(at=at, site=site, frame=frame, cs=cs, ip=ip, sp=sp, flags=flags, before=found[9])


def _taken(found: re.Match[str], at: int) -> Taken:
    vector, ip = int(found[1], 16), int(found[6], 16)
    software = found[3] == "1"
    if software:
        # The line has the address of the instruction; what is saved is the next one's.
        ip += _INT3_BYTES if vector == 3 else _INT_N_BYTES
    return Taken(
        at=at,
        vector=vector,
        error_code=int(found[2], 16),
        cpl=int(found[4]),
        cs=int(found[5], 16),
        ip=ip,
        sp=int(found[7], 16),
        flags=0,
        software=software,
    )


def read(directory: Path) -> dict[int, CpuStory]:
    """Every CPU's story, from ``log.*`` in a directory.

    Raises:
        LogError: there is none, or two files tell of one CPU.
    """
    stories: dict[int, CpuStory] = {}
    for path in sorted(directory.glob("log.*")):
        with path.open(errors="replace") as lines:
            try:
                story = parse(lines)
            except LogError as error:
                raise LogError(f"{path}: {error}") from None
        if story is None:
            continue
        if story.cpu in stories:
            raise LogError(f"{path}: a second story of CPU {story.cpu}")
        stories[story.cpu] = story
    if not stories:
        raise LogError(f"{directory}: no log of any CPU")
    return stories
