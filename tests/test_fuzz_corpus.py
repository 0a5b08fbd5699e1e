"""The files that fuzzing begins with, among them what it found: each is read, or refused in one line."""

from __future__ import annotations

import gc
from contextlib import suppress
from pathlib import Path

import pytest

from iretrace.errors import IretraceError
from iretrace.importers.run import import_file
from iretrace.schema import EVENT_SCHEMA
from iretrace.trace import open_trace

CORPUS = Path(__file__).resolve().parent / "fuzz" / "corpus"
FILES = sorted(path for path in CORPUS.rglob("*") if path.is_file())
REFUSED = {
    "perf/offset": "was cut after",  # records at an offset that no file can have
    "trace/hook": "column 'hook' holds a text that is not there",
    "trace-dat/pages": "does not say how its pages are laid out",  # of 4 GiB, for which room was made
}


def read(path: Path, target: Path) -> int:
    """Number of events of a file."""
    if path.parent.name == "trace":
        return sum(batch.num_rows for batch in open_trace(path).batches(EVENT_SCHEMA.names))
    return import_file(path, target).footer.events


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CORPUS)))
def test_the_corpus_is_read_or_refused(path: Path, tmp_path: Path) -> None:
    """No file of it crashes its reader; those that are refused are refused for what is wrong with them."""
    refusal = REFUSED.get(str(path.relative_to(CORPUS)))
    if refusal is None:
        assert read(path, tmp_path / "t.parquet")
        return
    with pytest.raises(IretraceError, match=refusal) as caught:
        read(path, tmp_path / "t.parquet")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CORPUS)))
@pytest.mark.slow
def test_memory_is_given_back_at_once(path: Path, tmp_path: Path) -> None:
    """Nothing lies in circles, which wait for the collector: it counts objects, and these are of megabytes each."""

    def once(number: int) -> None:
        with suppress(IretraceError):
            read(path, tmp_path / f"{number}.parquet")

    once(0)  # modules are loaded
    gc.collect()
    gc.disable()
    try:
        # A circle of ours comes each time; what another test's thread or a module leaves behind, once.
        left: list[int] = []
        while len(left) < 3 and (not left or left[-1]):
            once(1 + len(left))
            left.append(gc.collect())
        assert left[-1] == 0, left
    finally:
        gc.enable()
