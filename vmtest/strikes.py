"""NMIs and machine checks that strike inside each other, and inside #DB: at an exact place, as often as asked.

By chance an NMI meets a machine check once in many recordings. Here the plugin holds a CPU where a handler runs
(``plugin/iretlog.c``), and what shall strike it is raised meanwhile: the CPU takes it within a few instructions. The
kernel's kprobes (``guest/record.py``) make #BPs and #PFs inside.
"""

from __future__ import annotations

import mmap
import struct
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from vmtest.machine import MachineFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

NMI: Final = "nmi"
"""To every CPU (``apic_extnmi=all``)."""
MACHINE_CHECK: Final = "mce -b {cpu} 9 0xbd000000000000c0 0x5 0x{page}00000000 0x8c"
"""As in ``recording.MACHINE_CHECKS``: an error that software may leave alone, told to every CPU."""
PATIENCE_SECONDS: Final = 60.0
"""For what takes milliseconds on an idle host."""
RAISED_SECONDS: Final = 0.01
"""A machine check is queued by its CPU itself, so that the monitor answers only when that CPU goes on: it is let go
when the monitor has had so long to ask. On a busy host the strike may come a little later."""

_PLACES: Final = 16
_LAYOUT: Final = struct.Struct(f"={_PLACES}QQQII")
"""``struct control`` of the plugin: places, first, place, state, CPU."""
_FIRST: Final = 8 * _PLACES
_PLACE: Final = _FIRST + 8
_STATE: Final = _PLACE + 8
_IDLE, _ARMED, _HELD, _LET_GO = range(4)


class StrikeFailed(MachineFailed):
    """What was to be struck did not come."""


@dataclass(frozen=True, kw_only=True)
class Strike:
    """One way in which traps meet.

    Attributes:
        name: what strikes where.
        trigger: what makes the outer trap come, for the monitor; empty: the load does.
        first: a function that the CPU must have called before; empty: any may be held.
        place: the function at whose first instruction the CPU is held.
        action: what raises the inner trap.
    """

    name: str
    trigger: str
    first: str = ""
    place: str
    action: str


# exc_debug() is the kernel's #DB alone (DEFINE_IDTENTRY_DEBUG, arch/x86/kernel/traps.c), and all of these end by
# irqentry_nmi_exit(); mce_end() lies behind mce_gen_pool_add() on every CPU (arch/x86/kernel/cpu/mce/core.c).
STRIKES: Final = (
    Strike(name="NMI in #MC, before its hook", trigger=MACHINE_CHECK, place="do_machine_check", action=NMI),
    Strike(name="NMI in #MC, behind its hook", trigger=MACHINE_CHECK, place="mce_end", action=NMI),
    Strike(name="#MC in NMI, before its handlers", trigger=NMI, place="default_do_nmi", action=MACHINE_CHECK),
    Strike(name="#MC in NMI, behind its handlers", trigger=NMI, place="unknown_nmi_error", action=MACHINE_CHECK),
    Strike(name="NMI in #DB, before its hook", trigger="", place="exc_debug", action=NMI),
    Strike(name="NMI in #DB, behind its hook", trigger="", first="exc_debug", place="irqentry_nmi_exit", action=NMI),
    Strike(name="#MC in #DB, before its hook", trigger="", place="exc_debug", action=MACHINE_CHECK),
)


class Control:
    """The file by which plugin and host speak of where to hold a CPU."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(_LAYOUT.size))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), _LAYOUT.size)
        self._symbols: Mapping[str, int] = {}

    def know(self, symbols: Mapping[str, int]) -> None:
        """Where the functions lie. None of them may have run before.

        Raises:
            StrikeFailed: this kernel lacks one.
        """
        names = {name for strike in STRIKES for name in (strike.first, strike.place) if name}
        if lacking := sorted(names - set(symbols)):
            raise StrikeFailed(f"this kernel has no {', '.join(lacking)}")
        self._symbols = symbols
        struct.pack_into(f"={len(names)}Q", self._memory, 0, *(symbols[name] for name in sorted(names)))

    def arm(self, strike: Strike) -> None:
        """Hold the next CPU that comes there."""
        first = self._symbols[strike.first] if strike.first else 0
        struct.pack_into("=QQ", self._memory, _FIRST, first, self._symbols[strike.place])
        self._set(_ARMED)

    def wait(self, strike: Strike) -> None:
        """Wait until one is held.

        Raises:
            StrikeFailed: none came.
        """
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self._get() != _HELD:
            if time.monotonic() > deadline:
                self._set(_IDLE)
                raise StrikeFailed(f"{strike.name}: {strike.place} was not called within {PATIENCE_SECONDS:.0f} s")
            time.sleep(0.001)

    def let_go(self) -> None:
        """It goes on."""
        self._set(_LET_GO)

    def close(self) -> None:
        """Nobody is held any more."""
        self._set(_IDLE)
        self._memory.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _get(self) -> int:
        return int.from_bytes(self._memory[_STATE : _STATE + 4], "little")

    def _set(self, state: int) -> None:
        struct.pack_into("=I", self._memory, _STATE, state)


def strike_all(control: Control, say: Callable[[str], str], settle: Callable[[], None], times: int) -> Iterator[str]:
    """Each of :data:`STRIKES` so many times, in turn; gives a line for each that was struck.

    Args:
        control: the plugin's, which knows the kernel's functions.
        say: what speaks to QEMU's monitor.
        settle: waits until every CPU has run a task: a second machine check inside one would reset the guest (SDM
            vol. 3B, 16.3.1.2, MCIP).
        times: how often each.

    Raises:
        StrikeFailed: one did not come about.
    """
    for number in range(times * len(STRIKES)):
        strike = STRIKES[number % len(STRIKES)]
        cpu = number // len(STRIKES) % 2

        def raised(command: str, cpu: int = cpu) -> None:
            say(command.format(cpu=cpu, page=2 + cpu))

        control.arm(strike)
        if strike.trigger:
            raised(strike.trigger)
        control.wait(strike)
        if strike.action == NMI:
            raised(strike.action)
            control.let_go()
        else:
            raising = threading.Thread(target=raised, args=(strike.action,))
            raising.start()
            raising.join(RAISED_SECONDS)
            control.let_go()
            raising.join()
        yield strike.name
        settle()
