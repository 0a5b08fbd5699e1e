"""The kernel's verifier takes every program, those too that this kernel has no function for."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from iretrace.collect import bcc as bcc_loader
from iretrace.collect import kernel, syscalls
from iretrace.collect.btf import kernel_prototypes
from iretrace.collect.hooks import HOOKS, Hook, Kind, Unit
from iretrace.collect.probes import ProbeOptions, Probes
from iretrace.collect.typed import typed_tracepoints

if TYPE_CHECKING:
    from iretrace.collect.btf import Prototypes

pytestmark = pytest.mark.kernel

ALL_UNITS = frozenset(Unit) - {Unit.CORE}


def stand_in(hook: Hook, prototypes: Prototypes) -> int | None:
    """A tracepoint whose arguments are typed as the function's are, as far as the program reads them: its BTF id."""
    if hook.arguments[0] == "pt_regs*":
        return prototypes.tracepoint("sys_enter")
    # nmi_handler_t has pt_regs second, as a page fault's tracepoint has; the others' pointers are read with a helper.
    return prototypes.tracepoint("page_fault_user") if len(hook.arguments) <= 3 else None


@pytest.mark.parametrize("aggregate", [False, True], ids=["events", "counts"])
def test_every_program_is_taken(*, aggregate: bool) -> None:
    """Those on functions are loaded for tracepoints, since a kernel may have no fentry; ``__warn``'s read too much.

    Several seconds: all units are compiled, and every program passes the verifier.
    """
    prototypes = kernel_prototypes()
    typed = typed_tracepoints(prototypes)
    options = ProbeOptions(ring_bytes=4096, use_tsc=True, units=ALL_UNITS, aggregate=aggregate, typed=typed)
    refused, n_loaded = {}, 0
    with Probes(options, kernel.cpu_list("online")) as probes:
        module: Any = probes._module
        for hook in HOOKS:
            name = hook.program.encode()
            target = typed.get(hook.target) if hook.kind is Kind.TRACEPOINT else stand_in(hook, prototypes)
            with bcc_loader.captured_stderr() as output:
                try:
                    if hook.kind is Kind.TRACEPOINT and target is None:
                        module.load_func(name, probes._bcc.BPF.RAW_TRACEPOINT)
                    elif target is not None:
                        os.close(syscalls.load_tracing(module.dump_func(name), btf_id=target))
                    else:
                        continue
                    n_loaded += 1
                except Exception as error:  # noqa: BLE001 - BCC raises Exception itself
                    refused[hook.name] = error
            if hook.name in refused:
                refused[hook.name] = Exception(bcc_loader.first_error(output.text or str(refused[hook.name])))
    assert refused == {}
    assert n_loaded >= len(HOOKS) - 2  # __warn, at entry and exit
