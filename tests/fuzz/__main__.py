"""Feeds mutated files to an importer, or the trace reader, under atheris: ``python -m tests.fuzz FORMAT [SECONDS]``.

FORMAT is a name of ``iretrace import --format``, or ``trace``. It begins with the files in ``tests/fuzz/corpus/FORMAT``
and ends after SECONDS (600), or at the first file that crashes it (any exception but a one-line refusal), takes longer
than 20 seconds, or makes the process grow by more than twice the file and 200 MB.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import atheris

with atheris.instrument_imports(include=["iretrace.importers", "iretrace.collect.partial", "iretrace.trace"]):
    from iretrace.importers import run
    from iretrace.importers.registry import BY_NAME

    for _format in BY_NAME.values():
        _format.loader()
    from iretrace.trace import open_trace

from iretrace.errors import IretraceError
from iretrace.schema import EVENT_SCHEMA

if TYPE_CHECKING:
    from collections.abc import Callable

CORPUS: Final = Path(__file__).resolve().parent / "corpus"
MAX_BYTES: Final = 1 << 16
ALLOWED_GROWTH: Final = 200 << 20
_REPORT_SECONDS: Final = 10
_STATUS: Final = Path("/proc/self/status")
_CLEAR: Final = Path("/proc/self/clear_refs")


def memory(which: str) -> int:
    """Resident bytes of this process: now (``VmRSS``), or at most since :data:`_CLEAR` got a 5 (``VmHWM``)."""
    while True:
        for line in _STATUS.read_text().splitlines():
            if line.startswith(which):
                return int(line.split()[1]) << 10
        # Seldom, but seen: the kernel left the lines of memory out.


class Fuzzer:
    """One target, and what it has seen.

    Args:
        name: the format.
        directory: where files are written: a file system in memory, for speed.
    """

    def __init__(self, name: str, directory: Path) -> None:
        self.runs = 0
        self.read = 0
        self.peak_growth = 0
        self._file = directory / "input"
        self._target = directory / "t.parquet"
        self._one: Callable[[], None] = self._trace if name == "trace" else self._import
        self._format = name
        self._begin = self._told = time.monotonic()

    def report(self) -> None:
        """Say how far it is; libFuzzer ends the process without a chance to do so at the end."""
        self._told = time.monotonic()
        print(  # noqa: T201 - a program of its own
            f"fuzz {self._format}: {self.runs:,} files in {self._told - self._begin:.0f} s, {self.read:,} read, "
            f"one made memory grow by {self.peak_growth >> 20} MiB at most; {memory('VmRSS') >> 20} MiB are resident",
            flush=True,
        )

    def __call__(self, data: bytes) -> None:
        """Feed one file."""
        if time.monotonic() - self._told > _REPORT_SECONDS:
            self.report()
        self._file.write_bytes(data)
        _CLEAR.write_text("5")
        before = memory("VmRSS")
        try:
            self._one()
            self.read += 1
        except IretraceError as error:
            if "\n" in str(error):
                raise AssertionError(f"a message of several lines: {error!r}") from error
        self.runs += 1
        growth = memory("VmHWM") - before
        self.peak_growth = max(self.peak_growth, growth)
        if growth > 2 * len(data) + ALLOWED_GROWTH:
            raise MemoryError(f"grew by {growth} bytes")

    def _import(self) -> None:
        run.import_file(self._file, self._target, force=True)

    def _trace(self) -> None:
        for batch in open_trace(self._file).batches(EVENT_SCHEMA.names):
            batch.validate(full=True)


def main() -> None:
    """Fuzz as the command line says."""
    name = sys.argv[1]
    seconds = int(sys.argv[2]) if len(sys.argv) > 2 else 600
    shared = Path("/dev/shm")  # noqa: S108 - a file system in memory
    directory = Path(tempfile.mkdtemp(prefix="iretrace-fuzz-", dir=shared if shared.is_dir() else None))
    fuzzer = Fuzzer(name, directory)
    found = directory / "found"
    found.mkdir()
    options = [f"-max_total_time={seconds}", f"-max_len={MAX_BYTES}", "-timeout=20", "-rss_limit_mb=0", "-verbosity=0"]
    arguments = [sys.argv[0], *options, f"-artifact_prefix={Path.cwd()}/fuzz-{name}-", str(found), str(CORPUS / name)]
    atheris.Setup(arguments, fuzzer)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
