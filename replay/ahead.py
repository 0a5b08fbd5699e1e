"""Reading ahead: iterables that run in threads of their own, a few items before their reader."""

from __future__ import annotations

import queue
import threading
from contextlib import ExitStack, contextmanager
from itertools import count
from typing import TYPE_CHECKING, TypeVar

import pyarrow as pa

from iretrace.trace import rising

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from iretrace.trace import Trace

T = TypeVar("T")

_POLL_SECONDS = 0.1

_READERS = 2
"""Row groups read at once: while one of them waits for its last column, the other one's keep the CPUs busy."""


@contextmanager
def reading(trace: Trace, columns: Sequence[str]) -> Iterator[Iterator[pa.RecordBatch]]:
    """Give an iterator over a trace's batches, as :meth:`~iretrace.trace.Trace.batches`, read ahead by several threads.

    Args:
        trace: an opened trace.
        columns: names of columns, ``tsc`` first.

    Where Arrow may use but one CPU (:func:`pyarrow.set_cpu_count`) it is read without threads.

    What a reader raises is raised by the iterator, in its turn. All threads have ended when the block is left.
    """
    if pa.cpu_count() == 1:  # such as a worker's among several: threads would only take turns
        yield trace.batches(columns)
        return
    with ExitStack() as stack:
        readers = [stack.enter_context(reading_ahead(batches)) for batches in trace.dealt(columns, _READERS)]
        yield rising(_in_turn(readers), str(trace.path))


def _in_turn(readers: Sequence[Iterator[T | None]]) -> Iterator[T]:
    """Items of the readers, one reader after the other; ``None`` ends a turn."""
    for turn in count():
        ended = True
        for item in readers[turn % len(readers)]:
            if item is None:
                ended = False
                break
            yield item
        if ended:
            return


@contextmanager
def reading_ahead(items: Iterable[T], *, depth: int = 2) -> Iterator[Iterator[T]]:
    """Give an iterator over ``items``, which a thread begins to make at once.

    At most ``depth`` finished items wait, beside the one in the making and the one in the reader's hands. What the
    thread raises is raised by the iterator, in its turn. The thread has ended when the block is left.
    """
    waiting: queue.Queue[tuple[T] | BaseException | None] = queue.Queue(depth)
    stop = threading.Event()

    def offer(item: tuple[T] | BaseException | None) -> None:
        while not stop.is_set():
            try:
                waiting.put(item, timeout=_POLL_SECONDS)
            except queue.Full:
                continue
            return

    def work() -> None:
        try:
            for item in items:
                offer((item,))
                if stop.is_set():
                    return
            offer(None)
        except BaseException as error:  # noqa: BLE001 - handed to the reader
            offer(error)

    thread = threading.Thread(target=work, name="read-ahead", daemon=True)
    thread.start()
    try:
        yield _taken(waiting)
    finally:
        stop.set()
        thread.join()


def _taken(waiting: queue.Queue[tuple[T] | BaseException | None]) -> Iterator[T]:
    while (item := waiting.get()) is not None:
        if isinstance(item, BaseException):
            raise item
        yield item[0]
