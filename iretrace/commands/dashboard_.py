"""``iretrace dashboard``: a store of runs, or single traces, in the browser."""

from __future__ import annotations

from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from iretrace.errors import EXIT_OK, UsageError

if TYPE_CHECKING:
    from iretrace.dashboards.app.source import Source

PORT: Final = 8050

EPILOG = """\b
Examples:
  iretrace dashboard                              the store of $IRETRACE_STORE, or ./iretrace-runs
  iretrace dashboard runs/ --traces /data/traces  a store, and where the traces of its runs lie
  iretrace dashboard run.parquet other.parquet    traces, without a store
  iretrace dashboard runs/ --port 0 --json        any free port, told as JSON
"""


@click.command(name="dashboard", epilog=EPILOG)
@click.argument("store", nargs=-1, metavar="[STORE | TRACE...]")
@click.option(
    "--traces",
    "directories",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    multiple=True,
    metavar="DIR",
    help="Where traces of the runs lie, for the timeline; may be given several times.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; others can see it then.")
@click.option(
    "--allow-host",
    multiple=True,
    metavar="NAME",
    help="Name under which browsers may ask for it, beside localhost and --host; * for any.",
)
@click.option("--port", type=click.IntRange(0, 65535), default=PORT, show_default=True, help="0: any that is free.")
@click.option("--json", "as_json", is_flag=True, help="Print the address as JSON.")
def command(  # noqa: PLR0913 - one parameter an option
    store: tuple[str, ...],
    directories: tuple[Path, ...],
    host: str,
    allow_host: tuple[str, ...],
    port: int,
    *,
    as_json: bool,
) -> int:
    """Show a store of runs in the browser: what changed, trends, each run, comparisons, the trap timeline, policies.

    Nothing is written and nothing is loaded from elsewhere. It listens on this machine only unless told otherwise;
    there is no password, so who can reach it can read the runs. The address of a page holds its whole state: send it,
    keep it.
    """
    source = _source(store, directories)
    # Dash takes a second to import: what is wrong with the arguments was said before.
    from werkzeug.serving import make_server  # noqa: PLC0415

    from iretrace.dashboards.app.server import LOOPBACK, create  # noqa: PLC0415

    # Listening on all addresses, it is asked under names that only the user knows.
    names = LOOPBACK | {host.strip("[]")} | set(allow_host)
    app = create(source, hosts=frozenset(names))
    try:
        with redirect_stderr(StringIO()):  # it says in three lines what we say in one
            server = make_server(host, port, app.server, threaded=True, request_handler=quiet_handler())
    except (OSError, SystemExit) as error:
        why = getattr(error, "strerror", None) or "is taken or not this machine's"
        raise UsageError(
            f"{host} port {port}", f"cannot be listened on ({why})", remedy="choose another --port, or 0"
        ) from None
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{server.server_port}/"
    if as_json:
        import msgspec  # noqa: PLC0415

        click.echo(msgspec.json.encode({"schema": 1, "url": address, "store": source.name}).decode())
    else:
        click.echo(f"{source.name}: {address} (Ctrl-C ends it)")
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()
    return EXIT_OK


def _source(given: tuple[str, ...], directories: tuple[Path, ...]) -> Source:
    import os  # noqa: PLC0415

    from iretrace.commands.store_option import DEFAULT, VARIABLE  # noqa: PLC0415
    from iretrace.dashboards.app.source import Source  # noqa: PLC0415
    from iretrace.store import open_store  # noqa: PLC0415

    if given and all(_is_trace(name) for name in given):
        return of_traces([Path(name) for name in given])
    if len(given) > 1:
        strange = next(name for name in given if not _is_trace(name))
        raise UsageError(strange, "is no trace", expected="one store, or traces only")
    url = given[0] if given else os.environ.get(VARIABLE, DEFAULT)
    return Source(open_store(url, readonly=True), directories=directories)


def _is_trace(name: str) -> bool:
    """Whether a file is meant: one that is not there is missed as a trace, and not as a store."""
    path = Path(name)
    return path.is_file() or (path.suffix == ".parquet" and not path.exists() and "://" not in name)


def of_traces(paths: list[Path]) -> Source:
    """Traces as a store of their own, in memory."""
    from iretrace.console import progress  # noqa: PLC0415
    from iretrace.dashboards.app.source import Source  # noqa: PLC0415
    from iretrace.store import open_store  # noqa: PLC0415
    from iretrace.store.summarize import summarize  # noqa: PLC0415
    from iretrace.trace import open_trace  # noqa: PLC0415

    opened = [open_trace(path) for path in paths]
    store = open_store(f"memory://iretrace-{id(opened)}", create=True)
    traces = {}
    with progress("reading", sum(trace.n_events for trace in opened)) as advance:
        for trace in opened:
            run = summarize(trace, progress=advance)
            if run.id not in traces:
                traces[store.add(run)] = trace.path
    return Source(store, traces=traces, name=", ".join(path.name for path in paths[:3]))


def quiet_handler() -> type:
    """A request handler that writes no line for every request."""
    from werkzeug.serving import WSGIRequestHandler  # noqa: PLC0415

    class Quiet(WSGIRequestHandler):
        """Says nothing of requests that went well."""

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            pass

    return Quiet
