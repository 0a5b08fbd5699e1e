"""Which cost a saving is made of, and when none is."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iretrace.collect.calibrate import PATHS
from iretrace.footer import Calibration, Cost, Cpu, Footer
from iretrace.replay import costs

NOT_AFFECTED = {"retbleed": "Not affected", "spec_rstack_overflow": "Not affected"}
EPYC = Cpu(vendor="AuthenticAMD", family=25, model=1)
HASWELL = Cpu(vendor="GenuineIntel", family=6, model=60)
XEON = Cpu(vendor="GenuineIntel", family=6, model=207)


def cost(path: str, median: float, spread: float = 1.0) -> Cost:
    """A cost whose interval is its median give or take ``spread``."""
    return Cost(path=path, median_cycles=median, low_cycles=median - spread, high_cycles=median + spread)


CALIBRATION = Calibration(
    costs=[cost("iretq", 300), cost(costs.PLAIN, 50), cost(costs.THUNK, 60), cost(costs.SAFE, 70, spread=2)]
)


def footer(**fields: Any) -> Footer:
    """A calibrated footer of an unaffected CPU, less what is given."""
    return Footer(**{"mitigations": NOT_AFFECTED, "calibration": CALIBRATION, **fields})


def saving(of: Footer) -> costs.Saving:
    """The saving, which must be known."""
    found = costs.saving_per_return(of)
    assert found is not None, costs.describe(of)
    return found


@pytest.mark.parametrize(
    ("file", "text", "path"),
    [
        ("spec_rstack_overflow", "Mitigation: Safe RET", costs.SAFE),
        ("spec_rstack_overflow", "Vulnerable: Safe RET, no microcode", costs.SAFE),
        ("spec_rstack_overflow", "Vulnerable: Microcode, no safe RET", costs.PLAIN),
        ("spec_rstack_overflow", "Mitigation: IBPB", costs.PLAIN),
        ("spec_rstack_overflow", "Mitigation: SMT disabled", costs.PLAIN),
        ("retbleed", "Mitigation: untrained return thunk; SMT disabled", costs.THUNK),
        ("retbleed", "Mitigation: Enhanced IBRS", costs.PLAIN),
        ("retbleed", "Vulnerable", costs.PLAIN),
        ("indirect_target_selection", "Mitigation: Aligned branch/return thunks", costs.THUNK),
        ("indirect_target_selection", "Mitigation: Vulnerable, KVM: Not affected", costs.PLAIN),
        ("spectre_v2", "Mitigation: Retpolines; IBPB: conditional", costs.PLAIN),
    ],
)
def test_the_mitigation_in_force_picks_the_ret_path(file: str, text: str, path: str) -> None:
    """The texts are those of arch/x86/kernel/cpu/bugs.c."""
    timed = {item.path: item.median_cycles for item in CALIBRATION.costs}
    assert saving(footer(mitigations={**NOT_AFFECTED, file: text})).cycles == 300 - timed[path]


def test_safe_ret_wins_over_the_untrained_thunk() -> None:
    """Zen 1 and 2 report both; Linux sets the thunk of SRSO last."""
    both = {"retbleed": "Mitigation: untrained return thunk", "spec_rstack_overflow": "Mitigation: Safe RET"}
    assert saving(footer(mitigations=both)).cycles == 230


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("retbleed", "Mitigation: Stuffing"),
        ("indirect_target_selection", "Mitigation: Retpolines, Stuffing RSB"),
        ("retbleed", "Vulnerable: untrained return thunk / IBPB on non-AMD based uarch"),
    ],
)
def test_a_thunk_that_is_not_timed_has_no_saving(file: str, text: str) -> None:
    """Call depth tracking is in no calibration, so its cost is unknown."""
    odd = footer(mitigations={**NOT_AFFECTED, file: text})
    assert costs.saving_per_return(odd) is None
    assert text in costs.describe(odd)


def test_the_interval_is_that_of_the_difference() -> None:
    """Lowest IRETQ less dearest RET, and the other way round."""
    found = saving(footer(mitigations={"spec_rstack_overflow": "Mitigation: Safe RET"}))
    assert (found.low, found.cycles, found.high) == (299 - 72, 230, 301 - 68)
    assert "Safe RET" in found.source


def test_unrecorded_mitigations_span_every_ret_path_timed() -> None:
    """The estimate is the least saving; the interval holds what each path would give."""
    found = saving(footer(mitigations={}))
    assert (found.low, found.cycles, found.high) == (299 - 72, 230, 301 - 49)
    assert "not recorded" in found.source


@pytest.mark.parametrize("missing", ["iretq", costs.PLAIN])
def test_half_a_calibration_is_no_saving(missing: str) -> None:
    """Both costs are needed; what is missing is named."""
    half = Calibration(costs=[item for item in CALIBRATION.costs if item.path != missing])
    lacking = footer(calibration=half)
    assert costs.saving_per_return(lacking) is None
    assert "lacks" in costs.describe(lacking)


def test_a_negative_saving_is_reported_as_it_is() -> None:
    """A CPU where IRETQ is the cheaper has a negative saving, not none and not zero."""
    cheap = Calibration(costs=[cost("iretq", 20), cost(costs.PLAIN, 50)])
    found = saving(footer(calibration=cheap))
    assert found.cycles == -30
    assert found.high < 0


def test_an_unstable_calibration_says_so() -> None:
    """It is still the best there is."""
    shaky = Calibration(costs=CALIBRATION.costs, stable=False)
    assert "disagreed" in saving(footer(calibration=shaky)).source


def test_a_cost_outside_its_own_interval_is_no_measurement() -> None:
    """Footers are untrusted."""
    off = Cost(path="iretq", median_cycles=300, low_cycles=400, high_cycles=500)
    assert costs.saving_per_return(footer(calibration=Calibration(costs=[off, cost(costs.PLAIN, 50)]))) is None


def test_the_reference_table_serves_where_there_is_no_calibration() -> None:
    """By CPU and by mitigation; the row's source is told."""
    plain = saving(footer(calibration=None, cpu=EPYC))
    safe = saving(footer(calibration=None, cpu=EPYC, mitigations={"spec_rstack_overflow": "Mitigation: Safe RET"}))
    assert plain.cycles > safe.cycles > 0
    assert plain.low < plain.cycles < plain.high
    assert "family 25 model 1" in plain.source
    assert saving(footer(calibration=None, cpu=XEON)).cycles == 305 - 53
    assert "no spread recorded" in costs.describe(footer(calibration=None, cpu=XEON))


@pytest.mark.parametrize(
    "cpu",
    [
        Cpu(),
        Cpu(vendor="GenuineIntel"),
        Cpu(vendor="GenuineIntel", family=6, model=1),
        Cpu(vendor="AuthenticAMD", family=6, model=207),
        HASWELL,
    ],
)
def test_a_cpu_without_both_figures_is_unknown(cpu: Cpu) -> None:
    """Haswell has an IRET and a POPFQ, in core cycles, and no RET path: nothing is made up."""
    unknown = footer(calibration=None, cpu=cpu)
    assert costs.saving_per_return(unknown) is None
    assert "unknown" in costs.describe(unknown)


def test_the_description_of_an_unknown_cost_tells_what_is_known() -> None:
    """So that a reader can judge for himself."""
    text = costs.describe(footer(calibration=None, cpu=HASWELL))
    assert "Haswell" in text
    assert "iretq 330 core cycles" in text
    assert "popfq 26 core cycles" in text


def test_every_reference_is_well_formed_and_sourced() -> None:
    """A figure without a source does not belong in the table."""
    rows = costs.references()
    assert {"iretq", "popfq", *costs.RET_PATHS} == {row.path for row in rows}
    for row in rows:
        assert row.vendor in {"GenuineIntel", "AuthenticAMD"}
        assert row.models
        assert all(0 <= model <= 255 for model in row.models)
        assert 0 < row.cycles < 1000
        assert (row.low is None) == (row.high is None)
        if row.low is not None and row.high is not None:
            assert 0 < row.low <= row.cycles <= row.high
        assert len(row.source) > 20
        # A POPFQ pair is not a way to return: it must never be taken for one.
        assert row.path != "popfq" or row.clock == "core"
    usable = [(row.vendor, row.family, model, row.path) for row in rows if row.clock == "tsc" for model in row.models]
    assert len(usable) == len(set(usable))


def test_every_mitigation_names_its_linux_source() -> None:
    """Version-dependent facts cite the kernel."""
    assert all("Linux" in mitigation.source for mitigation in costs.MITIGATIONS)
    assert {mitigation.path for mitigation in costs.MITIGATIONS} == {costs.SAFE, costs.THUNK, None}


floats = st.floats(allow_nan=True, allow_infinity=True)
any_cost = st.builds(
    Cost,
    path=st.sampled_from(["iretq", *costs.RET_PATHS, "frame", "?"]),
    median_cycles=floats,
    low_cycles=floats,
    high_cycles=floats,
)
any_text = st.one_of(
    st.sampled_from(["Mitigation: Safe RET", "untrained return thunk", "return thunks", "Stuffing", "Not affected"]),
    st.text(max_size=30),
)
any_footer = st.builds(
    Footer,
    mitigations=st.dictionaries(
        st.sampled_from(["retbleed", "spec_rstack_overflow", "indirect_target_selection", "spectre_v2"]), any_text
    ),
    calibration=st.none() | st.builds(Calibration, costs=st.lists(any_cost, max_size=6), stable=st.booleans()),
    cpu=st.sampled_from([EPYC, HASWELL, XEON, Cpu()]) | st.builds(Cpu, vendor=st.text(max_size=40), family=st.just(6)),
)


@given(any_footer)
def test_any_footer_gives_an_ordered_finite_saving_or_a_reason(of: Footer) -> None:
    """No footer crashes it; the description is one printable line either way."""
    found = costs.saving_per_return(of)
    text = costs.describe(of)
    assert text.isprintable()
    assert len(text) < 800
    if found is None:
        assert "unknown" in text
    else:
        assert found.low <= found.cycles <= found.high
        assert math.isfinite(found.low)
        assert math.isfinite(found.high)
        assert found.source in text


def test_importing_costs_is_light() -> None:
    """replay/ imports without the collector or the compiled part; the table is parsed only when asked for."""
    code = (
        "import sys, iretrace.replay.costs as c; "
        "assert not [m for m in sys.modules if m.startswith('iretrace.collect')]; "
        "assert 'iretrace._native' not in sys.modules; assert 'tomllib' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_documentation_holds_every_path_mitigation_and_reference() -> None:
    """docs/costs.md is where people look them up; a row added to the table is to be added there."""
    text = (Path(__file__).parent.parent / "docs" / "costs.md").read_text(encoding="utf-8")
    for path in PATHS:
        assert f"`{path.name}`" in text
    for mitigation in costs.MITIGATIONS:
        assert f"`{mitigation.file}`" in text
        assert f"`{mitigation.marker}`" in text
    for row in costs.references():
        models = " ".join(map(str, row.models))
        assert f"| {row.cpu} | {row.family}, {models} | `{row.path}` | {row.cycles:g} |" in text
