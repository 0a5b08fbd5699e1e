"""The command line: finds the verb, and is the one place that turns errors into exit codes.

Exit status: 0 fine, 1 the check found something, 2 it could not be done; 141 where the reader of the output went away.
"""

from __future__ import annotations

import codecs
import errno
import importlib
import io
import os
import sys
from typing import TYPE_CHECKING, Final

import click

from iretrace import __version__
from iretrace.errors import EXIT_CLOSED, EXIT_FAILED, EXIT_OK, IretraceError
from iretrace.verbs import VERBS

if TYPE_CHECKING:
    from collections.abc import Sequence

_VERBS = {verb.name: verb for verb in VERBS}


class _LazyGroup(click.Group):
    """A group whose sub-commands are imported when they run, and listed without being imported."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _VERBS:
            return None
        command: click.Command = importlib.import_module(_VERBS[cmd_name].module).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Verbs"):
            formatter.write_dl([(verb.name, verb.help) for verb in VERBS])


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Start with: sudo iretrace collect -d 10, then: iretrace replay, iretrace report.",
)
@click.version_option(__version__, prog_name="iretrace", message="%(prog)s %(version)s (trace schema 1)")
def iretrace() -> None:
    """What do returns from traps cost, which of them could be cheaper, and would it be safe?"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    _prepare_streams()
    # Numpy's OpenBLAS starts a thread a CPU, which is half of numpy's start; no verb multiplies matrices.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        status = iretrace.main(arguments, prog_name="iretrace", standalone_mode=False)
        sys.stdout.flush()
    except IretraceError as error:
        _fail(str(error))
    except click.ClickException as error:
        _misused(error)
    except (click.Abort, KeyboardInterrupt):
        _fail("interrupted")
    except (BrokenPipeError, SystemExit):
        # The reader went away (| head). That is no error, but nothing is known of what it did not read: the status is
        # neither 0 nor 1. Nothing here exits by itself; click and rich do so, with 1, at a closed pipe.
        _forget_output()
        sys.exit(EXIT_CLOSED)
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
        _forget_output()
        _fail(f"{error.filename or 'standard output'}: could not be written ({error.strerror}); free space")
    except UnicodeEncodeError as error:
        if not _has_bytes(error.object):
            raise
        _fail(f"{error.object}: the name holds bytes that are not UTF-8, which Arrow cannot open; rename it")
    except MemoryError:
        _fail("out of memory")
    sys.exit(status if isinstance(status, int) else EXIT_OK)


_PLAIN: Final = {"µ": "u", "…": "...", "→": "->", "▸": ">", "▲": "^", "▼": "v"}


def _prepare_streams() -> None:
    """Give each stream a file, also if it was closed, and a spelling of what its encoding has no character for."""
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            _open_null(descriptor, name)
    codecs.register_error("iretrace", _plainly)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="iretrace")


def _open_null(descriptor: int, name: str) -> None:
    """Else the first file to be opened would take the number, and what is meant for the stream."""
    null = os.open(os.devnull, os.O_RDWR)
    if null != descriptor:
        os.dup2(null, descriptor)
        os.close(null)
    setattr(sys, name, os.fdopen(descriptor, "r" if name == "stdin" else "w", encoding="utf-8", closefd=False))


def _has_bytes(text: str) -> bool:
    """Whether a file's name holds bytes that are no text."""
    return any("\udc80" <= character <= "\udcff" for character in text)


def _plainly(error: UnicodeError) -> tuple[bytes, int]:
    """Spell what cannot be encoded; the bytes of a file's name that are no text are written as they are."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    spelled = b"".join(
        character.encode(errors="surrogateescape") if _has_bytes(character) else _PLAIN.get(character, "?").encode()
        for character in error.object[error.start : error.end]
    )
    return spelled, error.end


_UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


def _forget_output() -> None:
    """What is still buffered goes nowhere, so that the interpreter does not try again, and complain, at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _misused(error: click.ClickException) -> None:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):  # the whole help, as it stands
        print(error.format_message(), file=sys.stderr)  # noqa: T201 - the terminal is owned here
        sys.exit(EXIT_FAILED)
    context = getattr(error, "ctx", None)
    hint = f"; see: {context.command_path} --help" if context is not None else ""
    _fail(" ".join(error.format_message().split()).rstrip(".") + hint)


def _fail(message: str) -> None:
    print(f"iretrace: {message}", file=sys.stderr)  # noqa: T201 - the terminal is owned here
    sys.exit(EXIT_FAILED)
