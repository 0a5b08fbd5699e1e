"""Reading ahead: an iterator that runs in a thread of its own, a few items before its reader."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

T = TypeVar("T")


def read_ahead(items: Iterable[T], *, depth: int = 1) -> Generator[T]:
    """Yield ``items`` while a thread makes the next ones; what it raises is raised here, in its turn.

    At most ``depth`` finished items wait, beside the one in the making and the one in the reader's hands. The
    thread ends when the reader is done or closes the iterator early.
    """
    waiting: queue.Queue[tuple[T] | BaseException | None] = queue.Queue(depth)
    stop = threading.Event()

    def offer(item: tuple[T] | BaseException | None) -> None:
        while not stop.is_set():
            try:
                waiting.put(item, timeout=0.1)
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
        while (item := waiting.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item[0]
    finally:
        stop.set()
        thread.join()
