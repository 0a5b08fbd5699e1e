"""What verbs over many files share: where the work is done, and files that could not be done."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import click

from iretrace.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from iretrace.fleet import FleetOptions, Outcome

_F = TypeVar("_F", bound="Callable[..., Any]")
T = TypeVar("T")


def fleet_options(function: _F) -> _F:
    """``--jobs``, ``--scheduler`` and ``--retries``."""
    for option in (
        click.option(
            "--retries",
            type=click.IntRange(min=0),
            default=2,
            show_default=True,
            help="Try a file again after an error that may pass.",
        ),
        click.option(
            "--scheduler",
            metavar="ADDRESS",
            help="Use the Dask cluster there, tcp://HOST:8786 (needs iretrace[fleet]).",
        ),
        click.option(
            "-j",
            "--jobs",
            type=click.IntRange(min=0),
            default=1,
            show_default=True,
            help="Processes on this machine; 0: one a CPU.",
        ),
    ):
        function = option(function)
    return function


def chosen(jobs: int, scheduler: str | None, retries: int) -> FleetOptions:
    """The options as :mod:`iretrace.fleet` has them."""
    from iretrace.fleet import FleetOptions, default_jobs  # noqa: PLC0415 - heavy imports wait for the verb

    return FleetOptions(jobs=jobs or default_jobs(), scheduler=scheduler, retries=retries)


def run(label: str, task: Callable[[str], T], names: Sequence[str], options: FleetOptions) -> Iterator[Outcome[T]]:
    """Outcomes with a progress bar over the files; what could not be done is told on stderr as it is found."""
    from iretrace.console import progress  # noqa: PLC0415
    from iretrace.fleet import run_all  # noqa: PLC0415

    outcomes = run_all(task, names, options)
    with progress(label, len(names)) as advance:
        for outcome in outcomes:
            advance(1)
            if outcome.error:
                click.echo(f"iretrace: {outcome.error}", err=True)
            yield outcome


def all_of(label: str, task: Callable[[str], T], names: Sequence[str], options: FleetOptions) -> list[T]:
    """The values of all, for what makes no sense with some of them missing.

    Raises:
        InputError: one could not be done; the others were, and theirs are told too.
    """
    from iretrace.console import progress  # noqa: PLC0415
    from iretrace.fleet import run_all  # noqa: PLC0415

    found, errors = [], []
    with progress(label, len(names)) as advance:
        for outcome in run_all(task, names, options):
            advance(1)
            if outcome.value is None:
                errors.append(outcome.error)
            else:
                found.append(outcome.value)
    for error in errors[1:]:
        click.echo(f"iretrace: {error}", err=True)
    if errors:
        where, _, what = errors[0].partition(": ")
        raise InputError(where, what)
    return found
