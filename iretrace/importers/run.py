"""One import: from a file of any known format to a trace."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from iretrace import __version__, output
from iretrace.errors import InputError
from iretrace.importers import mapping
from iretrace.importers.job import ImportOptions, Job
from iretrace.importers.registry import BY_NAME, recognise
from iretrace.importers.sorting import Sorter, TooLate
from iretrace.importers.source import opened
from iretrace.trace_writer import writing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from iretrace.footer import Footer
    from iretrace.importers.registry import SourceFormat
    from iretrace.importers.source import Source


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
    sources: Path | Sequence[Path],
    target: Path,
    *,
    source_format: str = "auto",
    options: ImportOptions | None = None,
    force: bool = False,
    progress: Callable[[int, int | None], None] = lambda _done, _total: None,
) -> Imported:
    """Make a trace of a file.

    Args:
        sources: the file, ``-`` for standard input; or the logs of an emulator's virtual CPUs, in their order.
        target: the trace.
        source_format: a name of :data:`iretrace.importers.registry.FORMATS`, or ``auto``.
        options: what the file cannot say of itself.
        force: replace an existing target.
        progress: called with bytes read and bytes in all (``None``: not known).

    Raises:
        InputError: the file cannot be imported.
        OutputError: the trace cannot be written.
    """
    paths = [sources] if isinstance(sources, Path) else list(sources)
    with ExitStack() as stack:
        inputs = [stack.enter_context(opened(path)) for path in paths]
        chosen = _chosen(inputs, source_format)
        load = chosen.loader()
        temporary = stack.enter_context(output.replacing(target, force=force))
        again = len(inputs) == 1 and inputs[0].size is not None and str(paths[0]) != "-"

        def attempt(*, nearly_sorted: bool) -> Imported:
            with writing(temporary) as writer:
                with Sorter(writer, target.parent, nearly_sorted=nearly_sorted) as sorter:
                    job = Job(path=paths[0], options=options or ImportOptions(), sorter=sorter, progress=progress)
                    for cpu, source in enumerate(inputs):
                        job.path, job.cpu = source.path, cpu
                        footer = load(source.file, source.size, job)
                    sorter.finish()
                tool = f"iretrace {__version__} import --format {chosen.name}"
                footer = msgspec.structs.replace(footer, tool=tool)
                writer.finish(footer)
            return Imported(format=chosen.name, footer=footer, job=job)

        try:
            return attempt(nearly_sorted=again and chosen.ordered)
        except TooLate:
            inputs[0].file.seek(0)
            return attempt(nearly_sorted=False)


def _chosen(inputs: list[Source], asked: str) -> SourceFormat:
    """The format of the inputs.

    Raises:
        InputError: it is not what was asked for, or cannot be read in this way.
    """
    for source in inputs:
        found = recognise(source.head, source.path)
        if asked not in ("auto", found):
            raise InputError(source.path, f"does not look like {asked}", remedy=f"try --format {found}")
        if source.size is None and not BY_NAME[found].streams:
            raise InputError(source.path, f"is a pipe, and {found} cannot be read from one", expected="a file")
        if len(inputs) > 1 and not BY_NAME[found].several:
            raise InputError(source.path, f"is one of several files, and {found}", expected="one file, or logs of QEMU")
    return BY_NAME[found]
