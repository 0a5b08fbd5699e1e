"""BCC, found and quieted.

BCC is a system package (Debian's python3-bpfcc: pure Python over libbcc) that PyPI does not have. From a virtual
environment it is loaded from the system's dist-packages, that one package and nothing else of it.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from iretrace.errors import MachineError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import ModuleType

INSTALL: Final = "install it with: sudo apt-get install python3-bpfcc (Fedora, Arch: python3-bcc, python-bcc)"

_OWN_HEADER: Final = re.compile(r'#include "([a-z_]+\.h)"')

BPF_DIR: Final = Path(__file__).resolve().parent.parent / "bpf"

_SYSTEM_DIRS: Final = ("/usr/lib/python3/dist-packages", "/usr/lib64/python3/site-packages")


def load() -> ModuleType:
    """Import BCC.

    Raises:
        MachineError: it is not installed, or its libbcc cannot be loaded.
    """
    try:
        if importlib.util.find_spec("bcc") is not None:
            return importlib.import_module("bcc")
        for directory in (*_SYSTEM_DIRS, f"/usr/lib/python3.{sys.version_info.minor}/site-packages"):
            origin = Path(directory, "bcc", "__init__.py")
            spec = importlib.util.spec_from_file_location(
                "bcc", origin, submodule_search_locations=[str(origin.parent)]
            )
            if origin.exists() and spec is not None and spec.loader is not None:
                module = importlib.util.module_from_spec(spec)
                sys.modules["bcc"] = module
                spec.loader.exec_module(module)
                return module
    except (ImportError, OSError) as error:
        sys.modules.pop("bcc", None)
        raise MachineError("BCC", f"cannot be loaded ({error})", remedy=INSTALL) from None
    raise MachineError("BCC", "not installed", remedy=INSTALL)


_FROM_THE_CALLER: Final = (
    "BCC_",
    "CPATH",
    "C_INCLUDE_PATH",
    "CPLUS_INCLUDE_PATH",
    "OBJC",
    "CCC_",
    "LIBCLANG_",
    "TMP",
    "TEMP",
)
"""Beginnings of the names of variables by which clang and BCC are told of more directories or options."""


@contextmanager
def sheltered(stub: Path) -> Iterator[None]:
    """Let BCC compile against the stub headers, with nothing of the caller's.

    BCC gives clang the working directory to look for headers in, before the directories that it is told. The
    compiler's output runs in the kernel, so meanwhile that directory is ``/``, and no variable names another.
    """
    before = {name: value for name, value in os.environ.items() if name.startswith(_FROM_THE_CALLER)}
    directory = os.open(".", getattr(os, "O_PATH", os.O_RDONLY) | os.O_CLOEXEC)
    for name in before:
        del os.environ[name]
    os.environ["BCC_KERNEL_SOURCE"] = str(stub)
    try:
        os.chdir("/")
        yield
    finally:
        os.fchdir(directory)
        os.close(directory)
        del os.environ["BCC_KERNEL_SOURCE"]
        os.environ.update(before)


class _Captured:
    """What was written to standard error, as text."""

    text = ""


@contextmanager
def captured_stderr() -> Iterator[_Captured]:
    """Catch what clang and libbpf write to file descriptor 2, so that an error can be one line."""
    captured = _Captured()
    sys.stderr.flush()
    saved = os.dup(2)
    with os.fdopen(os.memfd_create("stderr"), "w+b") as sink:  # no directory of anybody's
        os.dup2(sink.fileno(), 2)
        try:
            yield captured
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            sink.seek(0)
            captured.text = sink.read().decode(errors="replace")


def first_error(text: str) -> str:
    """The line of a compiler's or verifier's output that says most."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if "error" in line.lower() or "denied" in line.lower() or "not permitted" in line]
    return (telling or lines or ["no reason given"])[0][:200]


def new_module(bcc: ModuleType, sources: Sequence[Path], flags: list[str]) -> Any:  # noqa: ANN401 - BCC has no types
    """Compile BPF source files with BCC; programs are loaded by hand, none by their names.

    Args:
        bcc: the module of :func:`load`.
        sources: files of one directory, compiled as one: BCC rewrites the use of maps in its main file alone.
        flags: for clang.

    Raises:
        MachineError: it does not compile.
    """
    text = "".join(map(joined, sources))

    class Module(bcc.BPF):  # type: ignore[misc, name-defined]
        """BCC's module without its automatic attaching."""

        def _trace_autoload(self) -> None:
            """Attach nothing: collect/probes.py decides."""

    with sheltered(sources[0].parent / "stub"), captured_stderr() as output:
        try:
            return Module(text=text.encode(), cflags=flags)
        except Exception as error:  # noqa: BLE001 - BCC raises Exception itself
            problem = error
    raise MachineError(
        "BPF", f"the probes do not compile ({problem}: {first_error(output.text)})", remedy="iretrace doctor"
    )


def joined(source: Path) -> str:
    """A source file with the headers beside it in place of their ``#include``: the compiler looks for none by name."""
    parts = [f'#line 1 "{source}"\n']
    for number, line in enumerate(source.read_text(encoding="ascii").splitlines(keepends=True), 1):
        header = _OWN_HEADER.fullmatch(line.rstrip())
        parts.append(f'{joined(source.parent / header[1])}#line {number + 1} "{source}"\n' if header else line)
    return "".join(parts)
