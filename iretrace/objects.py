"""Object stores by fsspec: opening one, and whatever its driver raises as one of iretrace's errors, in one line.

Nothing is kept of what a store listed: others write to it, and a listing that is old is wrong. How often and how long
a driver tries is bounded, so that a store that is not there is told within seconds; :mod:`iretrace.fleet` tries again.
"""

from __future__ import annotations

import logging
import os
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from iretrace.errors import InputError, IretraceError, Missing, OutputError, Unreachable, UsageError
from iretrace.redaction import redacted

if TYPE_CHECKING:
    from collections.abc import Iterator

S3: Final = ("s3", "s3a")

_S3_OPTIONS: Final[dict[str, Any]] = {
    # A large object is fetched in parts: what is under way at a time is in memory.
    "default_block_size": 8 << 20,
    "max_concurrency": 4,
}
_S3_CONNECTION: Final[dict[str, Any]] = {"connect_timeout": 5, "read_timeout": 15}
_S3_ATTEMPTS: Final = 2
"""Of botocore, for each of s3fs's, unless the environment says otherwise."""

_S3_TRIES: Final = 3
"""Of s3fs, of which a server that accepts and is silent may use up all, 15 s each."""

_S3_REFUSED: Final = "look at AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_PROFILE"
_S3_AWAY: Final = "look at AWS_ENDPOINT_URL and the network"
_SILENT: Final = logging.NullHandler()
_CHAINED: Final = re.compile(r"^[^/]*::|::.*://")


def reach(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it. The store is not asked anything yet.

    Raises:
        UsageError: no such protocol, its driver is not installed or not set up, or no bucket is named.
    """
    import fsspec  # noqa: PLC0415 - most traces and stores are local

    protocol = url.partition("://")[0]
    try:
        if _CHAINED.search(url):
            system, path = fsspec.url_to_fs(url)
        else:  # fsspec would take a name with :: for a chain
            kind = fsspec.get_filesystem_class(protocol)
            options = {**kind._get_kwargs_from_urls(url), **_options(protocol)}  # noqa: SLF001 - as fsspec.open does
            system, path = fsspec.filesystem(protocol, **options), kind._strip_protocol(url)  # noqa: SLF001
    except ImportError as error:
        raise UsageError(url, f"needs a driver ({_short(error)})", remedy=f"pip install {_driver(protocol)}") from None
    except ValueError as error:
        raise UsageError(
            url, f"protocol {protocol!r} cannot be used ({_short(error)})", expected="one that fsspec knows"
        ) from None
    except Exception as error:  # noqa: BLE001 - each driver has exceptions of its own
        raise _translated(url, error) from None
    if protocol in S3:
        if not path.strip("/"):
            raise UsageError(url, "names no bucket", expected=f"{protocol}://BUCKET/PREFIX")
        system.retries = _S3_TRIES
        # What breaks off is told by iretrace; Python would add each connection that was left open.
        logging.getLogger("asyncio").addHandler(_SILENT)
    return system, str(path)


@contextmanager
def errors(where: str) -> Iterator[None]:
    """Whatever a driver raises while something is read, as an error of iretrace about ``where``.

    Raises:
        Missing: there is no such object or bucket.
        InputError: access was refused.
        Unreachable: anything else: the store does not answer, or breaks off.
    """
    try:
        yield
    except IretraceError:
        raise
    except Exception as error:  # noqa: BLE001 - each driver has exceptions of its own
        raise _translated(where, error) from None


@contextmanager
def errors_of_writing(where: str, done: str) -> Iterator[None]:
    """The same while something is written or removed (``done``).

    Raises:
        OutputError: it could not be.
    """
    try:
        with errors(where):
            yield
    except InputError as error:
        remedy = error.remedy or "choose another store"
        raise OutputError(where, f"could not be {done}: {error.found}", remedy=remedy) from None


def is_no_bucket(error: BaseException, path: str) -> bool:
    """Whether it is the whole bucket that a driver did not find, rather than an object of it."""
    code = _code(error)
    return code == "NoSuchBucket" or (code == "404" and "/" not in path.strip("/"))


def name_of(url: str) -> str:
    """The last part of a URL's path, as a file's name on this machine."""
    protocol, _, path = url.partition("://")
    if protocol in ("http", "https"):
        path = re.split("[?#]", path, maxsplit=1)[0]
    name = path.rstrip("/").rpartition("/")[2]
    return name if name not in ("", ".", "..") and "\0" not in name and len(os.fsencode(name)) <= 255 else "object"


def _options(protocol: str) -> dict[str, Any]:
    """What a driver is told, but for what the user's own configuration of fsspec says."""
    import fsspec.config  # noqa: PLC0415

    options: dict[str, Any] = {} if protocol == "file" else {"use_listings_cache": False}
    if protocol in S3:
        connection = dict(_S3_CONNECTION)
        if "AWS_MAX_ATTEMPTS" not in os.environ:
            connection["retries"] = {"mode": "standard", "total_max_attempts": _S3_ATTEMPTS}
        options |= {**_S3_OPTIONS, "config_kwargs": connection}
    configured = fsspec.config.conf.get(protocol, {})
    return {key: value for key, value in options.items() if key not in configured}


def _translated(where: str, error: Exception) -> IretraceError:
    protocol, _, path = where.partition("://")
    refused, away = (_S3_REFUSED, _S3_AWAY) if protocol in S3 else ("", "")
    if isinstance(error, FileNotFoundError):
        return Missing(where, f"there is no such {'bucket' if is_no_bucket(error, path) else 'object'}")
    if isinstance(error, PermissionError):
        return InputError(where, f"access was refused ({_short(error)})", remedy=refused)
    if "Credential" in type(error).__name__ or "Profile" in type(error).__name__:
        return InputError(where, f"there are no credentials for it ({_short(error)})", remedy=refused)
    return Unreachable(where, f"the store does not answer as it should ({_short(error)})", remedy=away)


def _code(error: BaseException) -> str:
    """The code of an S3 error that s3fs made another of; empty where there is none."""
    response = getattr(error.__cause__, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def _driver(protocol: str) -> str:
    from fsspec.registry import known_implementations  # noqa: PLC0415

    module = str(known_implementations.get(protocol, {}).get("class", "")).partition(".")[0]
    return "what it names" if module in ("", "fsspec") else module


def _short(error: BaseException) -> str:
    return redacted(" ".join(str(error).split()))[:200] or type(error).__name__
