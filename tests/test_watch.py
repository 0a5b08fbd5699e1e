"""What happens to the machine during a run is noticed: sleep, an unsteady TSC, CPUs that come and go."""

from __future__ import annotations

from iretrace.collect.watch import Watch, asleep_ns, clocksource
from iretrace.footer import Anchor
from iretrace.losses import BY_NAME

KHZ = 2_000_000


class Machine:
    """A machine of our own: a TSC of 2 GHz, clocks, CPUs."""

    def __init__(self) -> None:
        self.ns = 1_000_000_000
        self.jump = 0
        self.slept = 5_000_000_000
        self.source = "tsc"
        self.online = [0, 1]
        self.watch = Watch(
            self.anchor(), asleep=lambda: self.slept, source=lambda: self.source, online=lambda: self.online
        )

    def anchor(self) -> Anchor:
        """The clocks now."""
        tsc = self.ns * KHZ // 1_000_000 + self.jump
        return Anchor(tsc=tsc, realtime_ns=self.ns, monotonic_ns=self.ns, error_cycles=100)

    def look(self, seconds: float = 1.0) -> list[tuple[str, int, int | None]]:
        """Let time pass, look, and say what has been found so far."""
        self.ns += round(seconds * 1e9)
        self.watch.look(self.anchor())
        return [(loss.cause, loss.count, loss.cpu) for loss in self.watch.losses()]


def test_a_quiet_machine_has_no_incident() -> None:
    """Nor do clocks that NTP slews by 500 ppm."""
    machine = Machine()
    for _ in range(50):
        machine.jump += KHZ // 2
        assert machine.look() == []
    assert machine.watch.incidents == []


def test_sleep_shows_in_the_boot_clock() -> None:
    """CLOCK_BOOTTIME runs on while CLOCK_MONOTONIC stands; the TSC may do what it likes meanwhile."""
    machine = Machine()
    machine.look()
    machine.slept += 90_000_000_000
    machine.jump -= 7 * KHZ * 1000
    assert machine.look() == [("suspended", 90_000, None)]
    assert "90.0 s" in machine.watch.incidents[0].detail
    assert machine.look() == [("suspended", 90_000, None)]


def test_a_tsc_that_jumps_is_told_by_how_much() -> None:
    """As after the migration of a virtual machine."""
    machine = Machine()
    for _ in range(3):
        machine.look()
    machine.jump += 10 * KHZ * 1000
    ((cause, count, cpu),) = machine.look()
    assert (cause, cpu) == ("tsc-unsteady", None)
    assert abs(count - 10 * KHZ * 1000) < 0.01 * KHZ * 1000
    assert len(machine.watch.incidents) == 1
    machine.look()
    assert len(machine.watch.incidents) == 1


def test_looks_in_quick_succession_do_not_set_the_rate() -> None:
    """The rate is taken from an interval that is long enough to tell it."""
    machine = Machine()
    for _ in range(20):
        machine.look(0.05)
    assert machine.look() == []


def test_cpus_and_the_clocksource() -> None:
    """Each change is an incident of its own, with its CPU."""
    machine = Machine()
    machine.look()
    machine.online = [0]
    machine.look()
    machine.online = [0, 1, 2]
    machine.source = "hpet"
    assert machine.look() == [
        ("cpu-offline", 1, 1),
        ("clocksource-changed", 1, None),
        ("cpu-online", 1, 1),
        ("cpu-online", 1, 2),
    ]
    assert all(incident.what in BY_NAME for incident in machine.watch.incidents)


def test_this_machine_answers() -> None:
    """The real clocks and the real clocksource."""
    first, second = asleep_ns(), asleep_ns()
    assert abs(second - first) < 1_000_000
    assert clocksource()
