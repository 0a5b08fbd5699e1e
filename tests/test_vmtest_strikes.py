"""What strikes where: plugin and host mean the same places, and each strike is raised while its CPU is held."""

from __future__ import annotations

import re
import struct
import subprocess
import threading
from typing import TYPE_CHECKING

import pytest

from tests.conftest import ROOT, needed
from tests.waiting import until
from vmtest import strikes
from vmtest.strikes import STRIKES, Control, Strike, StrikeFailed, strike_all

if TYPE_CHECKING:
    from pathlib import Path

SYMBOLS = {
    name: 0xFFFFFFFF81000000 + 16 * number
    for number, name in enumerate(sorted({name for one in STRIKES for name in (one.first, one.place) if name}))
}
LAYOUT = """
#include "iretlog.c"
#define LIES(member, at) _Static_assert(offsetof(struct control, member) == (at), #member)
LIES(places, 0);
LIES(first, {first});
LIES(place, {place});
LIES(state, {state});
_Static_assert(sizeof(struct control) == {size}, "size");
_Static_assert(IDLE == {states[0]} && ARMED == {states[1]} && HELD == {states[2]} && LET_GO == {states[3]}, "states");
"""


def test_plugin_and_host_have_one_layout(tmp_path: Path) -> None:
    """``struct control`` lies where the host writes it, and its states have the same numbers."""
    source = tmp_path / "layout.c"
    states = (strikes._IDLE, strikes._ARMED, strikes._HELD, strikes._LET_GO)
    source.write_text(
        LAYOUT.format(
            first=strikes._FIRST, place=strikes._PLACE, state=strikes._STATE, size=strikes._LAYOUT.size, states=states
        )
    )
    subprocess.run([needed("gcc", "gcc"), f"-I{ROOT / 'vmtest' / 'plugin'}", "-fsyntax-only", source], check=True)


def test_a_kernel_without_a_function_is_refused(tmp_path: Path) -> None:
    """The error names what is missing."""
    symbols = {name: address for name, address in SYMBOLS.items() if name != "mce_end"}
    with Control(tmp_path / "control") as control, pytest.raises(StrikeFailed, match=r"this kernel has no mce_end"):
        control.know(symbols)


def test_a_place_that_is_not_reached_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no CPU is held there later."""
    monkeypatch.setattr(strikes, "PATIENCE_SECONDS", 0.01)
    with Control(tmp_path / "control") as control:
        control.know(SYMBOLS)
        control.arm(STRIKES[0])
        with pytest.raises(StrikeFailed, match=r"NMI in #MC, before its hook: do_machine_check was not called"):
            control.wait(STRIKES[0])
        assert control._get() == strikes._IDLE


class Emulator:
    """A CPU that comes to whatever place is armed, is held, and goes on when it is let go."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self.said: list[str] = []
        self.held: list[int] = []
        self._done = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._done:
            if self._control._get() == strikes._ARMED:
                place = struct.unpack_from("=Q", self._control._memory, strikes._PLACE)[0]
                self.held.append(place)
                self._control._set(strikes._HELD)
                until(lambda: self._control._get() != strikes._HELD, "it is let go")

    def say(self, command: str) -> str:
        """The monitor: what it is told, and whether the CPU is held then."""
        kind, held = command.split(maxsplit=1)[0], self._control._get() == strikes._HELD
        self.said.append(f"{kind} while held" if held else kind)
        return ""

    def end(self) -> None:
        """It is off."""
        self._done = True
        self._thread.join()


def test_each_strikes_while_its_cpu_is_held(tmp_path: Path) -> None:
    """In turn, each as often as asked, on one CPU and the other; and the guest settles before the next."""
    settled: list[str] = []
    with Control(tmp_path / "control") as control:
        control.know(SYMBOLS)
        emulator = Emulator(control)
        named = list(strike_all(control, emulator.say, lambda: settled.append("settled"), times=2))
        emulator.end()
    assert named == [one.name for one in STRIKES] * 2
    assert emulator.held == [SYMBOLS[one.place] for one in STRIKES] * 2
    assert len(settled) == len(named)
    raised = [(one.trigger, one.action) for one in STRIKES] * 2
    assert [said.split(maxsplit=1)[0] for said in emulator.said] == [
        command.split(maxsplit=1)[0] for pair in raised for command in pair if command
    ]
    nmis = [said for said in emulator.said if said.startswith("nmi")]
    inner = [one.action == strikes.NMI for one in STRIKES for command in (one.trigger, one.action) if command == "nmi"]
    assert all(said == "nmi while held" for said, strikes_inside in zip(nmis, inner * 2, strict=True) if strikes_inside)


@pytest.mark.parametrize("strike", STRIKES, ids=[one.name for one in STRIKES])
def test_a_strikes_name_says_what_it_does(strike: Strike) -> None:
    """The inner trap is what the action raises, the outer one what the trigger makes come."""
    found = re.match(r"(NMI|#MC) in (NMI|#MC|#DB), (before|behind) its (hook|handlers)$", strike.name)
    assert found is not None
    assert strike.action.startswith({"NMI": "nmi", "#MC": "mce"}[found[1]])
    assert strike.trigger.startswith({"NMI": "nmi", "#MC": "mce", "#DB": ""}[found[2]])
    assert bool(strike.trigger) == (found[2] != "#DB")
