"""A user's own policy: ``path/file.py:function``, a function from a context to ``(choice, rule)``.

The function takes a :class:`~iretrace.replay.policies.Context`; the choice is a
:class:`~iretrace.replay.policies.Choice` or its name, the rule any name. A module-level ``COUNTER``
(:class:`~iretrace.replay.policies.NestCounter`) says which vectors its nest counter counts.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iretrace.errors import UsageError
from iretrace.replay.policies import NestCounter, Policy, by_name

if TYPE_CHECKING:
    from types import ModuleType


def find(name: str) -> Policy:
    """The policy called ``name``: a built-in one, or ``FILE.py:FUNCTION``.

    Running the file is running the user's code, with the user's rights.

    Raises:
        UsageError: there is no such policy, or the file cannot be run.
    """
    path, colon, function = name.rpartition(":")
    if not colon:
        return by_name(name)
    where = f"--policy {name}"
    module = _run(Path(path), where)
    decide: Any = getattr(module, function, None)
    if not callable(decide):
        raise UsageError(where, f"{path} has no function {function!r}", expected="FILE.py:FUNCTION")
    counter = getattr(module, "COUNTER", NestCounter())
    if not isinstance(counter, NestCounter):
        raise UsageError(where, f"COUNTER is {counter!r}", expected="an iretrace.replay.policies.NestCounter")
    doc = " ".join((decide.__doc__ or f"The function {function} of {path}.").split())
    return Policy(name=name, doc=doc, rules=(), decide=decide, counter=counter)


def _run(path: Path, where: str) -> ModuleType:
    if not path.is_file():
        raise UsageError(where, f"there is no file {path}", expected="FILE.py:FUNCTION")
    spec = importlib.util.spec_from_file_location("iretrace_own_policy", path)
    if spec is None or spec.loader is None:
        raise UsageError(where, f"{path} is not a Python file", expected="FILE.py:FUNCTION")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # noqa: BLE001 - a user's file may raise anything
        raise UsageError(where, f"{path} raised {type(error).__name__}: {error}") from None
    return module
