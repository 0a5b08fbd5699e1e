"""Outputs of many inputs: one file each in a directory, laid out as the inputs are, and all checked before any work.

What the inputs' directories have in common is left away: ``a/x.parquet`` and ``b/x.parquet`` become ``DIR/a/…`` and
``DIR/b/…``, files of one directory lie in DIR itself. An object store's URL counts as the path behind ``://``.
"""

from __future__ import annotations

import glob
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from iretrace.errors import OutputError, UsageError
from iretrace.output import check_target, give_to_invoking_user

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """Where the output of each input goes; small, so that every task can carry it.

    Attributes:
        target: the directory, absolute; or the file itself where there is but one input.
        base: what the inputs' paths have in common; ``None``: ``target`` is the file.
        suffix: of the outputs, in place of the inputs' ``.parquet``.
    """

    target: Path
    base: str | None
    suffix: str

    def of(self, name: str) -> Path:
        """The output of an input."""
        if self.base is None:
            return self.target
        inside = os.path.relpath(_plain(name), self.base)
        return self.target / (inside.removesuffix(".parquet") + self.suffix)

    def prepare(self, name: str) -> Path:
        """The output of an input, whose directory is there from now on."""
        target = self.of(name)
        missing = [path for path in (target.parent, *target.parent.parents) if not path.exists()]
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(target.parent, f"cannot be made ({error.strerror})", remedy="choose another -o") from None
        for path in missing:
            give_to_invoking_user(path)
        return target

    def sweep(self, name: str) -> None:
        """Delete what a worker that was killed has left half-written."""
        target = self.of(name)
        for left in target.parent.glob(f".{glob.escape(target.name)}.*.tmp"):
            left.unlink(missing_ok=True)


def plan(target: Path, names: Sequence[str], *, many: bool, suffix: str, force: bool) -> Outputs:
    """Decide where outputs go, before any work.

    Args:
        target: a directory, which need not exist; without ``many`` a file.
        names: of the inputs.
        many: several inputs were asked for, even if but one was found.
        suffix: of the outputs, such as ``.predictions.parquet``.
        force: outputs may exist.

    Raises:
        OutputError: an output exists, or the directory cannot be written.
        UsageError: two inputs would have the same output.
    """
    target = Path(os.path.abspath(target))  # noqa: PTH100 - a worker's directory is another; links stay as they are
    if not many:
        check_target(target, force=force)
        return Outputs(target=target, base=None, suffix=suffix)
    if target.exists() and not target.is_dir():
        raise OutputError(target, "is a file", expected="a directory, for one file a trace")
    if not target.exists() and not target.parent.is_dir():
        raise OutputError(target, f"there is no directory {target.parent}", remedy=f"mkdir -p {target.parent}")
    if not os.access(target if target.exists() else target.parent, os.W_OK | os.X_OK):
        raise OutputError(target, "is not writable by you", remedy="choose another -o")
    base = os.path.commonpath([os.path.dirname(_plain(name)) for name in names])  # noqa: PTH120 - as _plain
    outputs = Outputs(target=target, base=base, suffix=suffix)
    owners: dict[Path, str] = {}
    inputs = {_plain(name) for name in names}
    for name in names:
        output = outputs.of(name)
        if str(output) in inputs:
            raise OutputError(output, "is one of the traces", remedy="choose another -o")
        if output in owners:
            raise UsageError(
                "--output", f"{owners[output]} and {name} would both become {output}", remedy="replay them one by one"
            )
        owners[output] = name
    there = [output for output in owners if output.is_dir() or (output.exists() and not force)]
    if there:
        others = f" (and {len(there) - 1} more)" if len(there) > 1 else ""
        raise OutputError(
            there[0], f"exists already{others}", remedy="add --force to replace what is there, or choose another -o"
        )
    return outputs


def _plain(name: str) -> str:
    """A normal, absolute path; of a URL, what follows the protocol."""
    if "://" in name:
        return os.path.normpath("/" + name.partition("://")[2].lstrip("/"))
    return os.path.abspath(name)  # noqa: PTH100 - links stay as they are
