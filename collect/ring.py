"""The user-space side of a BPF ring buffer whose records are all of one size.

Layout (Linux ``kernel/bpf/ringbuf.c``): one writable page with the consumer's position, one read-only page with
the producer's, then the data, mapped twice in a row so that no record is cut. Records here take one slot of 64
bytes, so the data is an array and a batch is one copy.

Ordering: x86 keeps loads in order (Intel SDM vol. 3A, 8.2.2), so slots read after the producer's position are at
least as new; a slot that is still being written has the busy bit in its header, and reading stops there.
"""

from __future__ import annotations

import mmap
import os
from typing import TYPE_CHECKING, Final

import numpy as np

from iretrace.collect import syscalls
from iretrace.collect.wire import RING_BUSY, RING_DISCARD, SLOT, TRAP_EVENT, WORDS

if TYPE_CHECKING:
    from numpy.typing import NDArray

PAGE_BYTES: Final = mmap.PAGESIZE


class Ring:
    """A ring buffer of :data:`~iretrace.collect.wire.SLOT`.

    Args:
        size_bytes: a power of two, at least a page.
        name: for ``bpftool map``.

    Raises:
        OSError: the kernel has no room for it.
    """

    def __init__(self, size_bytes: int, name: str) -> None:
        self.n_slots = size_bytes // SLOT.itemsize
        self.fd = syscalls.create_ring(size_bytes, name)
        try:
            self._consumer_map = mmap.mmap(self.fd, PAGE_BYTES)
            self._producer_map = mmap.mmap(self.fd, PAGE_BYTES + 2 * size_bytes, prot=mmap.PROT_READ, offset=PAGE_BYTES)
        except OSError:
            os.close(self.fd)
            raise
        self._consumer = np.frombuffer(self._consumer_map, dtype="<u8", count=1)
        self._producer = np.frombuffer(self._producer_map, dtype="<u8", count=1)
        slots = np.frombuffer(self._producer_map, dtype=SLOT, offset=PAGE_BYTES, count=2 * self.n_slots)
        self._lengths = slots["length"]
        self._words = slots.view("<u8").reshape(2 * self.n_slots, WORDS + 1)

    def fill_pct(self) -> float:
        """How full the ring is, in percent."""
        used = int(self._producer[0]) - int(self._consumer[0])
        return 100.0 * used / (self.n_slots * SLOT.itemsize)

    def drain_into(self, out: NDArray[np.uint64]) -> int:
        """Take out what was submitted, as far as there is room.

        Args:
            out: shape ``(k, WORDS)``; its first rows become the events.

        Returns:
            How many events.
        """
        begin = int(self._consumer[0])
        n = min((int(self._producer[0]) - begin) // SLOT.itemsize, len(out))
        if n <= 0:
            return 0
        first = begin // SLOT.itemsize % self.n_slots
        lengths = self._lengths[first : first + n]
        busy = np.flatnonzero(lengths & RING_BUSY)
        if busy.size:
            n = int(busy[0])
            lengths = lengths[:n]
        words = self._words[first : first + n, 1:]
        kept = n
        if (lengths & RING_DISCARD).any():
            words = words[(lengths & RING_DISCARD) == 0]
            kept = len(words)
        out[:kept] = words
        self._consumer[0] = begin + n * SLOT.itemsize
        return kept

    def drain(self) -> NDArray[np.void]:
        """Take out all that was submitted: a copy, array of TRAP_EVENT of shape (n,)."""
        out = np.empty((self.n_slots, WORDS), np.uint64)
        return as_events(out[: self.drain_into(out)])

    def close(self) -> None:
        """Unmap and close."""
        del self._consumer, self._producer, self._words, self._lengths
        self._consumer_map.close()
        self._producer_map.close()
        os.close(self.fd)


def as_events(words: NDArray[np.uint64]) -> NDArray[np.void]:
    """Rows of words, contiguous, as events: the same memory."""
    return words.view(TRAP_EVENT)[:, 0]
