"""Reading ahead: an iterable that runs in a thread of its own, a few items before its reader."""

from __future__ import annotations

import queue
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

T = TypeVar("T")

_POLL_SECONDS = 0.1


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
