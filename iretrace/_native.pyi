# From collect/tsc.c, on x86_64 only.
def rdtsc() -> int: ...
def bracket_read(fd: int, /) -> tuple[int, int, int, int]: ...
def bracket_clocks() -> tuple[int, int, int, int]: ...

# From collect/capabilities.c, on Linux only.
def keep_capabilities(mask: int, thread_ids: list[int], /) -> int: ...

# From collect/returns.c, on x86_64 Linux only.
def time_return(path: str, iterations: int, repeats: int, /) -> list[float]: ...
def return_paths() -> dict[str, bool]: ...
def shadow_stack() -> bool: ...

# From collect/traps.c, on x86_64 Linux only.
def raise_trap(vector: int, /) -> bool: ...

# From replay/engine_module.c. An engine is a capsule.
def engine_new(
    kernel_cs: int,
    lossy: bool,
    exitless: bytes,
    nmi_text: bytes,
    effects: bytes,
    cells: object,
    /,
) -> object: ...
def engine_feed(
    engine: object, array: object, width: int, is_exit: bytes, rows: object | None, nest: object | None, /
) -> int: ...
def engine_finish(engine: object, rows: object | None, nest: object | None, /) -> int: ...
def engine_open(engine: object, /) -> int: ...
def engine_repairs(engine: object, /) -> tuple[int, int, int, int, int, int]: ...

# From analysis/count.c. Arrays are those of analysis/accumulate.py.
def count_returns(
    rows: object,
    contexts: object,
    choices: object,
    depths: object,
    latency: object,
    self_time: object,
    ret_latency: object,
    ret_projected: object,
    cpus: object,
    bins: object,
    inner: object,
    origin: int,
    shift: int,
    known: int,
    saving: float,
    /,
) -> None: ...
def returns_span(rows: object, /) -> tuple[int, int]: ...

# From iretrace/parquet/pages.c. Sizes of pages are in bytes.
def page_integers(
    values: object,
    width: int,
    valid: object | None,
    valid_from: int,
    nullable: bool,
    scratch: object,
    dictionary: object,
    page: object,
    /,
) -> tuple[int, int]: ...
def page_bits(
    values: object, first: int, valid: object | None, valid_from: int, n: int, nullable: bool, page: object, /
) -> int: ...
def page_deltas(values: object, page: object, /) -> int: ...

# From iretrace/importers. Rows, actions and events are laid out as in iretrace/importers/rows.py.
def rows_to_columns(
    rows: object, order: object, out: object, before: object, before_order: object, first: int, /
) -> tuple[int, int, int, int, int, int, int, int]: ...
def rows_gather(rows: object, order: object, out: object, /) -> None: ...
def rows_account(rows: object, seen: object, met: object, /) -> tuple[int, int]: ...
def perf_scan(
    data: object,
    start: int,
    events: object,
    ids: object,
    id_position: int,
    special: bytes,
    counts: object,
    first_on_cpu: object,
    rows: object,
    /,
) -> tuple[int, int, int]: ...
def ring_scan(
    pages: object,
    first_page: int,
    page_bytes: int,
    data_offset: int,
    cpu: int,
    fields: object,
    actions: object,
    by_type: object,
    counts: object,
    first_on_cpu: object,
    rows: object,
    /,
) -> tuple[int, int, int, int, int, int]: ...
