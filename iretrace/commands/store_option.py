"""What verbs that use a store of runs share: its option, and adding a trace that was just recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DEFAULT: Final = "iretrace-runs"
VARIABLE: Final = "IRETRACE_STORE"

_F = TypeVar("_F", bound="Callable[..., Any]")


def parse_tags(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """``KEY=VALUE`` …, as a dict."""
    tags = {}
    for value in values:
        key, equals, text = value.partition("=")
        if not key or not equals:
            raise click.BadParameter(f"{value!r}; expected KEY=VALUE")
        tags[key] = text
    return tags


def store_option(function: _F) -> _F:
    """``--store``, with the environment's and the usual place as defaults."""
    return click.option(
        "-s",
        "--store",
        "url",
        default=DEFAULT,
        envvar=VARIABLE,
        show_default=f"${VARIABLE}, else ./{DEFAULT}",
        metavar="STORE",
        help="Directory of the store, or an fsspec URL.",
    )(function)


def add_trace(url: str, trace: Path) -> str:
    """Add a trace to a store, which is made if it is not there; gives the run's name.

    Raises:
        OutputError: the store cannot be written; the trace is as it was, and the message says how to add it later.
    """
    from iretrace.errors import IretraceError, OutputError  # noqa: PLC0415 - heavy imports wait for the verb
    from iretrace.store import open_store  # noqa: PLC0415
    from iretrace.store.summarize import summarize  # noqa: PLC0415
    from iretrace.trace import open_trace  # noqa: PLC0415

    run = summarize(open_trace(trace))
    try:
        store = open_store(url, create=True)
        name = store.add(run)
    except IretraceError as error:
        raise OutputError(
            error.where, error.found, remedy=f"the trace is safe: iretrace runs add {trace} --store {url}"
        ) from None
    store.index()
    return name
