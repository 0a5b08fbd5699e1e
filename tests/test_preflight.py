"""What is missing is said in a clear line with its remedy; nothing else happens, whatever the machine."""

from __future__ import annotations

import errno
import itertools
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from iretrace import _native
from iretrace.collect import bcc, btf, clock, facts, kernel, preflight, syscalls
from iretrace.commands.collect_ import command as collect
from iretrace.commands.doctor_ import command as doctor
from iretrace.commands.top_ import command as top
from iretrace.errors import MachineError
from iretrace.footer import Gate

if TYPE_CHECKING:
    from collections.abc import Callable

    import click

RICH = 1 << preflight.CAP_SYS_ADMIN


@pytest.fixture
def able(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine on which every requirement is met, as far as can be told without touching it."""
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(preflight, "effective_capabilities", lambda: RICH)
    monkeypatch.setattr(bcc, "load", lambda: type("bcc", (), {"__version__": "0.26"}))
    monkeypatch.setattr(kernel, "lockdown", lambda: "integrity")
    monkeypatch.setattr(btf, "KERNEL_BTF", Path("/proc/self/status"))
    return monkeypatch


def no_bcc() -> None:
    """BCC as it is where it is not."""
    raise MachineError("BCC", "not installed", remedy=bcc.INSTALL)


LACKS: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], str, str]] = {
    "no root": (
        lambda m: m.setattr(preflight, "effective_capabilities", lambda: 0),
        "without CAP_BPF, CAP_PERFMON, CAP_SYSLOG",
        "run it with sudo: sudo iretrace",
    ),
    "no BCC": (lambda m: m.setattr(bcc, "load", no_bcc), "not installed", "apt-get install python3-bpfcc"),
    "no BTF": (lambda m: m.setattr(btf, "KERNEL_BTF", Path("/no/btf")), "no /no/btf", "CONFIG_DEBUG_INFO_BTF=y"),
    "lockdown": (
        lambda m: m.setattr(kernel, "lockdown", lambda: "confidentiality"),
        "confidentiality: BPF may not read kernel memory",
        "lockdown=integrity",
    ),
    "not x86": (lambda m: m.setattr("platform.machine", lambda: "aarch64"), "aarch64, not x86_64", "replay and report"),
    "not Linux": (lambda m: m.setattr("sys.platform", "darwin"), "Linux", "replay and report work here"),
}


@pytest.mark.parametrize("lack", LACKS)
def test_every_lack_is_told_with_its_remedy(able: pytest.MonkeyPatch, lack: str) -> None:
    """Doctor prints one clear line for it and ends with 2; collect stops at it."""
    spoil, finding, remedy = LACKS[lack]
    spoil(able)
    result = CliRunner().invoke(doctor, [], standalone_mode=False)
    assert result.exception is None
    assert result.return_value == 2
    (line,) = [line for line in result.output.splitlines() if line.startswith("LACK")]
    assert finding in line
    assert remedy in line
    with pytest.raises(MachineError) as caught:
        preflight.require()
    assert remedy in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("verb", [collect, top, doctor], ids=["collect", "top", "doctor"])
def test_sudo_is_advised_for_the_verb_that_was_typed(
    able: pytest.MonkeyPatch, verb: click.Command, request: pytest.FixtureRequest
) -> None:
    """Who typed ``iretrace top`` without root reads ``sudo iretrace top``."""
    able.setattr(preflight, "effective_capabilities", lambda: 0)
    result = CliRunner().invoke(verb, [], standalone_mode=False)
    said = f"{result.exception or ''}{result.output}"
    assert re.findall(r"sudo iretrace (\w+)", said) == [request.node.callspec.id]


def test_capabilities_are_enough_without_root(able: pytest.MonkeyPatch) -> None:
    """CAP_BPF, CAP_PERFMON and CAP_SYSLOG do what root does."""
    three = 1 << preflight.CAP_BPF | 1 << preflight.CAP_PERFMON | 1 << preflight.CAP_SYSLOG
    able.setattr(preflight, "effective_capabilities", lambda: three)
    preflight.require()


def test_capabilities_are_read_from_the_kernel(tmp_path: Path) -> None:
    """CapEff of /proc/self/status, as a bit mask."""
    status = tmp_path / "status"
    status.write_text("Name:\tx\nCapPrm:\tffffffffffffffff\nCapEff:\t000000c000000000\n")
    assert preflight.effective_capabilities(status) == 0xC000000000


def test_bcc_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without BCC anywhere the error names the package."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    monkeypatch.setattr(bcc, "_SYSTEM_DIRS", ("/no/such/directory",))
    with pytest.raises(MachineError, match=r"not installed.*apt-get install python3-bpfcc"):
        bcc.load()


SYMBOLS = """\
ffffffff81000000 T _text
ffffffff81000a10 T asm_exc_divide_error
ffffffff81000df0 T asm_sysvec_apic_timer_interrupt
ffffffff81000e10 T asm_sysvec_x86_platform_ipi
ffffffff810015b0 T asm_exc_nmi
ffffffff810016b1 t nested_nmi
ffffffff81001769 t nmi_restore
ffffffff81001790 T entry_SYSCALL32_ignore
ffffffffc0000000 t module_function\t[module]
ffffffff82000000 D some_data
"""


def test_kallsyms_and_idt() -> None:
    """Symbols, the NMI's text, gates, the kernel's CS and the entry stubs are read from their formats."""
    symbols = kernel.parse_kallsyms(SYMBOLS.splitlines())
    assert "module_function" not in symbols.names
    assert symbols.address("_text") == 0xFFFFFFFF81000000
    assert symbols.address("nothing") is None
    assert kernel.nmi_text(symbols) == [(0xFFFFFFFF810015B0, 0xFFFFFFFF81001790)]

    def gate(address: int, ist: int, dpl: int) -> bytes:
        low, middle, high = address & 0xFFFF, address >> 16 & 0xFFFF, address >> 32
        bits = 0x8E00 | ist | dpl << 13
        return b"".join(
            v.to_bytes(n, "little") for v, n in ((low, 2), (0x10, 2), (bits, 2), (middle, 2), (high, 4), (0, 4))
        )

    table = bytearray(4096)
    table[0:16] = gate(0xFFFFFFFF81000A10, 0, 0)
    table[32:48] = gate(0xFFFFFFFF810015B0, 2, 3)
    table[0xEC0:0xED0] = gate(0xFFFFFFFF81000DF0, 0, 0)
    gates = kernel.parse_idt(bytes(table), symbols)
    assert gates == [
        Gate(vector=0, handler="asm_exc_divide_error", address=0xFFFFFFFF81000A10),
        Gate(vector=2, handler="asm_exc_nmi", address=0xFFFFFFFF810015B0, ist=2, dpl=3),
        Gate(vector=0xEC, handler="asm_sysvec_apic_timer_interrupt", address=0xFFFFFFFF81000DF0),
    ]
    assert kernel.idt_code_segment(bytes(table)) == 0x10
    assert kernel.entry_stubs(gates, symbols) == {0xEC: (0xFFFFFFFF81000DF0, 0xFFFFFFFF81000E10)}
    assert set(kernel.exception_stubs(gates, symbols)) == {0, 2}
    assert kernel.exception_stubs(gates, symbols)[0][0] == 0xFFFFFFFF81000A10


def test_entry_code_is_what_the_kernel_has_of_it() -> None:
    """All of it is first, then what runs on the way in alone; what a kernel has not is left out."""
    lines = [
        "ffffffff81000000 T __entry_text_start",
        "ffffffff81000100 T irq_entries_start",
        "ffffffff81000200 T asm_exc_page_fault",
        "ffffffff81000300 T error_entry",
        "ffffffff81000400 T error_return",
        "ffffffff81000500 T __entry_text_end",
    ]
    assert kernel.entry_code(kernel.parse_kallsyms(lines)) == {
        0: (0xFFFFFFFF81000000, 0xFFFFFFFF81000500),
        1: (0xFFFFFFFF81000300, 0xFFFFFFFF81000400),
        3: (0xFFFFFFFF81000100, 0xFFFFFFFF81000200),
    }
    assert kernel.entry_code(kernel.parse_kallsyms(["ffffffff81000000 T _text"])) == {}


def test_hidden_symbols_are_not_passed_off_as_relative_addresses() -> None:
    """Without _text nothing can be stored relative to it: refused, unless addresses as they are were asked for."""
    hidden = kernel.Symbols([], [])
    with pytest.raises(MachineError, match="--raw-addresses"):
        facts.text_base_of(hidden, raw_addresses=False)
    assert facts.text_base_of(hidden, raw_addresses=True) == 0
    assert facts.text_base_of(kernel.parse_kallsyms(SYMBOLS.splitlines()), raw_addresses=False) == 0xFFFFFFFF81000000


@pytest.mark.parametrize("data", [b"", b"\x9f\xeb", b"ELF!" * 20, b"\x9f\xeb\x01\x00" + b"\x00" * 10])
def test_btf_that_is_not_btf(data: bytes) -> None:
    """Whatever lies there, it is refused in one line."""
    with pytest.raises(MachineError):
        btf.Prototypes(data)


def test_no_msr_pmu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without the PMU the error names the way out."""
    monkeypatch.setattr(clock, "_PMU", tmp_path)
    assert not clock.has_msr_pmu()
    with pytest.raises(MachineError, match="--clock ktime"):
        clock.TscCounters([0])


def test_an_event_that_cannot_be_opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """perf_event_open refused: the error says so and nothing stays open."""
    (tmp_path / "events").mkdir()
    (tmp_path / "type").write_text("9\n")
    (tmp_path / "events" / "tsc").write_text("event=0x00\n")

    def refuse(**_: int) -> int:
        raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(clock, "_PMU", tmp_path)
    monkeypatch.setattr(syscalls, "perf_event_open", refuse)
    with pytest.raises(MachineError, match="Permission denied"):
        clock.TscCounters([0])


def test_a_counter_that_disagrees_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A counter that stands to the TSC in no fixed way is refused, and those opened so far are closed."""
    (tmp_path / "events").mkdir()
    (tmp_path / "type").write_text("9\n")
    (tmp_path / "events" / "tsc").write_text("event=0x00\n")
    opened = [os.open("/dev/null", os.O_RDONLY) for _ in range(2)]
    left = iter(opened)
    cpu = min(os.sched_getaffinity(0))
    jumping = itertools.cycle([(1000, 5, 1001, cpu), (1000, 90, 1001, cpu)])
    monkeypatch.setattr(clock, "_PMU", tmp_path)
    monkeypatch.setattr(syscalls, "perf_event_open", lambda **_: next(left))
    monkeypatch.setattr(_native, "bracket_read", lambda _: next(jumping))
    with pytest.raises(MachineError, match="disagree"):
        clock.TscCounters([cpu, cpu + 1])
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(opened[0])
    os.close(opened[1])


@pytest.mark.kernel
def test_a_counter_that_moved_is_noticed() -> None:
    """The counters stand where they stood, within their errors; one that did not would be told, with by how much."""
    with clock.TscCounters(kernel.cpu_list("online")) as counters:
        assert counters.moved() == {}
        cpu = next(iter(counters.offsets))
        offset = counters.offsets[cpu]
        counters.offsets[cpu] = clock.Offset(cycles=offset.cycles - 1_000_000, error_cycles=offset.error_cycles)
        assert list(counters.moved()) == [cpu]
        assert 900_000 < counters.moved()[cpu] < 1_000_000


@pytest.mark.kernel
def test_doctor_on_this_machine() -> None:
    """Here everything required is there, and doctor says what each class shows."""
    result = CliRunner().invoke(doctor, [], standalone_mode=False)
    assert result.exception is None
    assert result.return_value == 0
    assert "LACK" not in result.output
    for name in ("#PF", "timer", "reschedule", "call-function", "device", "NMI"):
        assert name in result.output
