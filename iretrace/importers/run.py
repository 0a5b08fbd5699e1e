"""One import: from a file of any known format to a trace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from iretrace import __version__, output
from iretrace.errors import InputError
from iretrace.importers import mapping
from iretrace.importers.job import ImportOptions, Job
from iretrace.importers.registry import BY_NAME, recognise
from iretrace.importers.sorting import Sorter
from iretrace.importers.source import opened
from iretrace.trace import writing

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any

    from iretrace.footer import Footer


@dataclass(frozen=True, kw_only=True)
class Imported:
    """A finished import.

    Attributes:
        format: what the file was.
        footer: the trace's.
        job: the account of what was read.
    """

    format: str
    footer: Footer
    job: Job

    def mapping(self) -> list[dict[str, Any]]:
        """What each event of the file was taken for; the most frequent first."""
        tally = self.job.tally
        return [
            {
                "event": name,
                "records": count,
                "meaning": tally.meaning(name),
                "as": mapping.describe(name, tally.rules[name]),
            }
            for name, count in sorted(tally.events.items(), key=lambda item: (-item[1], item[0]))
        ]

    def json(self, target: Path) -> dict[str, Any]:
        """The result, for ``--json``."""
        job = self.job
        return {
            "schema": 1,
            "trace": str(target),
            "format": self.format,
            "events": self.footer.events,
            "clock": {"tsc_khz": self.footer.clock.tsc_khz, "note": self.footer.clock.note},
            "mapping": self.mapping(),
            "malformed": {"count": job.malformed, "first": job.told},
            "losses": msgspec.to_builtins(self.footer.losses),
        }


def import_file(  # noqa: PLR0913 - keyword-only
    path: Path,
    target: Path,
    *,
    source_format: str = "auto",
    options: ImportOptions | None = None,
    force: bool = False,
    progress: Callable[[int, int | None], None] = lambda _done, _total: None,
) -> Imported:
    """Make a trace of a file.

    Args:
        path: the file; ``-`` for standard input.
        target: the trace.
        source_format: a name of :data:`iretrace.importers.registry.FORMATS`, or ``auto``.
        options: what the file cannot say of itself.
        force: replace an existing target.
        progress: called with bytes read and bytes in all (``None``: not known).

    Raises:
        InputError: the file cannot be imported.
        OutputError: the trace cannot be written.
    """
    with opened(path) as source:
        found = recognise(source.head, path)
        if source_format not in ("auto", found):
            raise InputError(path, f"does not look like {source_format}", remedy=f"try --format {found}")
        chosen = BY_NAME[found]
        if source.size is None and not chosen.streams:
            raise InputError(path, f"is a pipe, and {found} cannot be read from one", expected="a file")
        with output.replacing(target, force=force) as temporary, writing(temporary) as writer:
            with Sorter(writer, target.parent) as sorter:
                job = Job(path=path, options=options or ImportOptions(), sorter=sorter, progress=progress)
                footer = chosen.loader()(source.file, source.size, job)
                sorter.finish()
            footer = msgspec.structs.replace(footer, tool=f"iretrace {__version__} import --format {found}")
            writer.finish(footer)
    return Imported(format=found, footer=footer, job=job)
