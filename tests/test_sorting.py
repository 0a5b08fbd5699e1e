"""Rows in any order to a sorted trace: in blocks, behind a thread, with what can go wrong there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iretrace.footer import Footer
from iretrace.importers import sorting
from iretrace.importers.rows import KNOWN, ROW
from iretrace.importers.sorting import Sorter, TooLate
from iretrace.trace import open_trace
from iretrace.trace_writer import TraceWriter, writing

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pyarrow as pa
    from numpy.typing import NDArray


def rows_at(tsc: Sequence[int], *, hook: int = 0) -> NDArray[np.void]:
    """Rows whose process tells in which order they came."""
    rows = np.zeros(len(tsc), ROW)
    rows["tsc"], rows["pid"], rows["hook"] = tsc, np.arange(len(tsc)), hook
    rows["vector"], rows["known"] = 0xEC, KNOWN["vector"]
    return rows


def sort(path: Path, rows: NDArray[np.void], *, nearly_sorted: bool, step: int = 3) -> list[tuple[int, int]]:
    """(tsc, number of its coming) of each row of the trace."""
    with writing(path) as writer:
        with Sorter(writer, path.parent, nearly_sorted=nearly_sorted) as sorter:
            for start in range(0, len(rows), step):
                sorter.add(rows[start : start + step])
            sorter.finish()
        writer.finish(Footer())
    (batch,) = open_trace(path).batches(["tsc", "pid"])
    return list(zip(batch.column(0).to_pylist(), batch.column(1).to_pylist(), strict=True))


@settings(max_examples=80, deadline=None)
@given(
    shifts=st.lists(st.integers(0, 9), min_size=1, max_size=120),
    held=st.sampled_from([20, 21, 40, 1000]),
    step=st.sampled_from([1, 3, 64]),
)
def test_nearly_sorted_rows_need_no_second_reading(
    tmp_path_factory: pytest.TempPathFactory, shifts: list[int], held: int, step: int
) -> None:
    """Rows that come up to nine places late are put right by blocks of twenty, equals in the order of their coming."""
    tsc = [i - shift if i > shift else i for i, shift in enumerate(shifts)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sorting, "HELD_ROWS", held)
        found = sort(tmp_path_factory.mktemp("s") / "t", rows_at(tsc), nearly_sorted=True, step=step)
    assert found == sorted((value, i) for i, value in enumerate(tsc))


@pytest.mark.parametrize("late", [60, 99])
def test_a_row_that_comes_too_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: int) -> None:
    """It is told, wherever in the file it is; a merge sort has no such limit."""
    monkeypatch.setattr(sorting, "HELD_ROWS", 20)
    tsc = [*range(1, 101)]
    tsc[late] = 0
    with pytest.raises(TooLate):
        sort(tmp_path / "t", rows_at(tsc), nearly_sorted=True)
    assert sort(tmp_path / "t", rows_at(tsc), nearly_sorted=False) == sorted((value, i) for i, value in enumerate(tsc))


@pytest.mark.parametrize("nearly_sorted", [True, False])
def test_an_importers_own_hooks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, nearly_sorted: bool) -> None:
    """Names that come while blocks are written already are those of the rows that follow."""
    monkeypatch.setattr(sorting, "HELD_ROWS", 20)
    with writing(tmp_path / "t") as writer:
        with Sorter(writer, tmp_path, nearly_sorted=nearly_sorted) as sorter:
            sorter.hooks = ["first"]
            sorter.add(rows_at(range(100)))
            sorter.hooks.append("second")
            sorter.add(rows_at(range(100, 150), hook=1))
            sorter.finish()
        writer.finish(Footer())
    (batch,) = open_trace(tmp_path / "t").batches(["hook"])
    assert batch.column(0).to_pylist() == ["first"] * 100 + ["second"] * 50


@pytest.mark.parametrize("nearly_sorted", [True, False])
@pytest.mark.parametrize("n_rows", [5, 25, 500])
def test_a_full_disk_ends_the_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_rows: int, *, nearly_sorted: bool
) -> None:
    """What fails in the thread is raised where the importer is, which does not wait for ever."""

    def fail(_self: TraceWriter, _batch: pa.RecordBatch) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sorting, "HELD_ROWS", 20)
    monkeypatch.setattr(TraceWriter, "write", fail)
    with pytest.raises(OSError, match="No space"):
        sort(tmp_path / "t", rows_at(range(n_rows)), nearly_sorted=nearly_sorted)
