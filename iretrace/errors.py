"""The one tree of errors.

::

    IretraceError            exit status 2: it could not be done
    ├── UsageError           the command line or an option is off
    ├── InputError           a file that was read is not what it should be
    │   ├── NotATrace        not Parquet, or Parquet without iretrace's footer
    │   ├── SchemaTooNew     written by a newer iretrace
    │   ├── Missing          there is no such file, object or bucket, or no longer
    │   ├── Unreachable      an object store did not give it; trying again may help
    │   └── Damaged          truncated, out of range, a missing column
    ├── OutputError          a file could not be written, or exists already
    └── MachineError         this machine, kernel or privilege does not allow it

Every error says where, what was found, what was expected and what to do next, in one line, without secrets
(:mod:`iretrace.redaction`). Library code raises; only :mod:`iretrace.cli` turns an error into an exit status.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from iretrace.redaction import redacted

if TYPE_CHECKING:
    from pathlib import Path

EXIT_OK = 0
EXIT_FOUND = 1
EXIT_FAILED = 2
EXIT_CLOSED = 141
"""As of a program that SIGPIPE ended."""


class IretraceError(Exception):
    """Something could not be done; the message is one line for the user.

    Args:
        where: the file, option or resource concerned.
        found: what was found there.
        expected: what would have been right (may be empty).
        remedy: the next command or step (may be empty).
    """

    def __init__(self, where: str | Path, found: str, *, expected: str = "", remedy: str = "") -> None:
        self.where = redacted(str(where))
        self.found = redacted(found)
        self.expected = expected
        self.remedy = remedy
        parts = [f"{self.where}: {self.found}"]
        if expected:
            parts.append(f"expected {expected}")
        if remedy:
            parts.append(redacted(remedy))
        super().__init__(" ".join("; ".join(parts).split()))


class UsageError(IretraceError):
    """An option or argument cannot be used as given."""


class InputError(IretraceError):
    """A file that was read is not what it should be."""


class NotATrace(InputError):  # noqa: N818 - reads as the finding it is
    """The file is not Parquet, or carries no iretrace footer."""


class SchemaTooNew(InputError):  # noqa: N818
    """The file was written by a newer iretrace."""


class Damaged(InputError):  # noqa: N818
    """The file is truncated or holds values out of range."""


class Missing(InputError):  # noqa: N818
    """There is no such file, object or bucket, or no longer."""


class Unreachable(InputError):  # noqa: N818
    """An object store did not give the file; trying again may help."""


class OutputError(IretraceError):
    """A file could not be written, or exists already."""


class MachineError(IretraceError):
    """This machine, kernel or privilege does not allow what was asked."""
