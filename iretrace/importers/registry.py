"""The formats that ``import`` reads: how each is recognised by its content, and who reads it.

A format's module is imported only when a file of it comes.
"""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from iretrace.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

    from iretrace.footer import Footer
    from iretrace.importers.job import Job

HEAD_BYTES: Final = 1 << 16
"""So much of a file tells what it is."""


class Loader(Protocol):
    """A format's ``load``."""

    def __call__(self, file: BinaryIO, size: int | None, job: Job) -> Footer:
        """Read a file from its beginning and fill the job; the footer of the trace."""


@dataclass(frozen=True, kw_only=True)
class SourceFormat:
    """A format.

    Attributes:
        name: as in ``--format``.
        module: under :mod:`iretrace.importers`.
        doc: what writes such files, one line.
        streams: a pipe will do (``-`` as the file).
        several: several files make one trace.
        ordered: events come nearly in the order of time.
    """

    name: str
    module: str
    doc: str
    streams: bool = False
    several: bool = False
    ordered: bool = False

    def loader(self) -> Loader:
        """Its ``load``."""
        load: Loader = importlib.import_module(f"iretrace.importers.{self.module}").load
        return load


FORMATS: Final = (
    SourceFormat(
        name="perf",
        module="perf_data",
        doc="perf.data of perf record, written to a file or a pipe",
        streams=True,
        ordered=True,
    ),
    SourceFormat(name="trace-dat", module="trace_dat", doc="trace.dat of trace-cmd, versions 6 and 7"),
    SourceFormat(
        name="ftrace",
        module="ftrace_text",
        doc="text of trace, trace_pipe, trace-cmd report or perf script",
        streams=True,
        ordered=True,
    ),
    SourceFormat(name="qemu", module="qemu_log", doc="logs of qemu-system-x86_64 -d int", streams=True, several=True),
    SourceFormat(name="csv", module="csv_table", doc="a table with the trace's columns by name", streams=True),
    SourceFormat(name="partial", module="partial", doc="what a killed iretrace collect left: FILE.partial"),
)
BY_NAME: Final = {item.name: item for item in FORMATS}

_MAGICS: Final = (
    (b"PERFILE2", "perf"),
    (b"2ELIFREP", "perf"),
    (b"\x17\x08\x44tracing", "trace-dat"),
    (b"\xff\xff\xff\xff", "partial"),
)
_TEXTS: Final = (
    (re.compile(rb"^\s*\d+: v=[0-9a-f]{2} e=[0-9a-f]+ i=[01] cpl=[0-3] IP=", re.MULTILINE), "qemu"),
    (
        re.compile(
            rb"^# tracer: |^.{0,80}[- ]\d{1,10}(?:/\d+)?\s{1,80}(?:\([\d\- ]+\)\s+)?\[\d{3,5}\]"
            rb"(?:\s+\S+\s+|\s*)\d+(?:\.\d+)?:\s+\w",
            re.MULTILINE,
        ),
        "ftrace",
    ),
)


def recognise(head: bytes, path: Path) -> str:
    """The name of a file's format, by its first :data:`HEAD_BYTES`.

    Raises:
        InputError: it is empty, or Parquet.
    """
    if not head:
        raise InputError(path, "is empty", expected="one of: " + ", ".join(item.name for item in FORMATS))
    if head.startswith(b"PAR1"):
        raise InputError(
            path,
            "is Parquet, which is not imported",
            expected="another tool's recording, or a table as CSV",
            remedy=f"if it is a trace: iretrace replay {path}",
        )
    for magic, name in _MAGICS:
        if head.startswith(magic):
            return name
    for pattern, name in _TEXTS:
        if pattern.search(head):
            return name
    return "csv"
