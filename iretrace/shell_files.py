"""Man pages, and completion for bash, zsh and fish, from the command definitions.

The wheel carries them as data files, so that pip puts them below ``share`` of the environment, and pipx and
``make install`` where shells and ``man`` look. Usage: python -m iretrace.shell_files DIRECTORY (a ``share``).
"""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from click.shell_completion import get_completion_class

from iretrace import __version__
from iretrace.cli import iretrace
from iretrace.verbs import VERBS

if TYPE_CHECKING:
    from collections.abc import Iterator

COMPLETIONS: Final = {
    "bash": "bash-completion/completions/iretrace",
    "zsh": "zsh/site-functions/_iretrace",
    "fish": "fish/vendor_completions.d/iretrace.fish",
}
EXIT_STATUS: Final = (
    ("0", "fine"),
    ("1", "the check found something"),
    ("2", "it could not be done"),
    ("141", "the reader of the output went away"),
)


def completion(shell: str) -> str:
    """The script that teaches a shell iretrace's verbs and options (it asks iretrace itself)."""
    kind = get_completion_class(shell)
    if kind is None:
        raise ValueError(shell)
    maker = kind(iretrace, {}, "iretrace", "_IRETRACE_COMPLETE")
    # Not source(): for bash it looks at the version of the bash that is here, and the script is for anywhere.
    return kind.source_template % maker.source_vars()


def man_pages() -> dict[str, str]:
    """File name → page (man(7)): one for iretrace, one for each verb."""
    with click.Context(iretrace, info_name="iretrace", **iretrace.context_settings) as parent:
        pages = {"iretrace.1": "\n".join(_main_page(parent)) + "\n"}
        for verb in VERBS:
            command: click.Command = importlib.import_module(verb.module).command
            with click.Context(command, parent=parent, info_name=verb.name) as context:
                pages[f"iretrace-{verb.name}.1"] = "\n".join(_page(command, context, verb.name, verb.help)) + "\n"
    return pages


def _main_page(context: click.Context) -> Iterator[str]:
    yield from _head("iretrace", "what returns from x86 traps cost, and whether they could be cheaper")
    yield from [r".B iretrace", ".I VERB", "[options]", ".SH DESCRIPTION", *_text(iretrace.help or "")]
    yield ".SH VERBS"
    for verb in VERBS:
        yield from [".TP", rf".BR iretrace\-{_escape(verb.name)} (1)", _escape(verb.help)]
    yield from _options(iretrace, context)
    yield from _tail([f"iretrace-{verb.name}" for verb in VERBS])


def _page(command: click.Command, context: click.Context, name: str, summary: str) -> Iterator[str]:
    yield from _head(f"iretrace-{name}", summary.rstrip("."))
    yield from [rf".B iretrace {_escape(name)}", _escape(" ".join(command.collect_usage_pieces(context)))]
    yield from [".SH DESCRIPTION", *_text(command.help or "")]
    if isinstance(command, click.Group):
        yield ".SH COMMANDS"
        for sub in command.list_commands(context):
            found = command.get_command(context, sub)
            if found is not None:
                yield from [".TP", rf".B {_escape(sub)}", _escape(found.get_short_help_str(200))]
    yield from _options(command, context)
    if command.epilog:
        yield from [".SH NOTES", *_text(command.epilog)]
    yield from _tail(["iretrace"])


def _head(name: str, summary: str) -> list[str]:
    title = f'.TH "{name.upper()}" "1" "" "iretrace {__version__}" "iretrace"'
    return [title, ".SH NAME", rf"{_escape(name)} \- {_escape(summary)}", ".SH SYNOPSIS"]


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    options = [p for p in command.get_params(context) if isinstance(p, click.Option)]
    records = [record for p in options if (record := p.get_help_record(context)) is not None]
    if records:
        yield ".SH OPTIONS"
    for names, text in records:
        yield from [".TP", rf"\fB{_escape(names)}\fR", _escape(" ".join(text.split()))]


def _tail(others: list[str]) -> Iterator[str]:
    yield ".SH EXIT STATUS"
    for code, meaning in EXIT_STATUS:
        yield from [".TP", rf".B {code}", meaning]
    yield ".SH SEE ALSO"
    yield ",\n".join(rf".BR {_escape(name)} (1)" for name in others)


def _text(text: str) -> Iterator[str]:
    """Paragraphs; those that click must not wrap (they begin with a backspace) as they stand."""
    for number, paragraph in enumerate(re.split(r"\n\s*\n", text.strip("\n"))):
        if number:
            yield ".PP"
        if paragraph.lstrip(" \n").startswith("\b"):
            body = paragraph.lstrip(" \n").removeprefix("\b").strip("\n")
            yield from [".nf", *map(_escape, body.split("\n")), ".fi"]
        else:
            yield _escape(" ".join(paragraph.split()))


def _escape(text: str) -> str:
    """For man(7): no escapes, no requests, hyphens that can be searched for and pasted."""
    text = text.replace("\\", r"\e").replace("-", r"\-")
    return rf"\&{text}" if text.startswith((".", "'")) else text


def write(share: Path) -> list[Path]:
    """Write everything under a directory; gives the files."""
    files = {share / path: completion(shell) for shell, path in COMPLETIONS.items()}
    files |= {share / "man/man1" / name: page for name, page in man_pages().items()}
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return list(files)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
