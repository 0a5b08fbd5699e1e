"""Reading binary structures from bytes that nobody vouches for."""

from __future__ import annotations

import struct


class Short(Exception):  # noqa: N818 - reads as the finding it is
    """The bytes end before what they promise."""


class Cursor:
    """Takes little-endian values from bytes, in turn.

    Args:
        data: the bytes.
        at: where to begin.
    """

    def __init__(self, data: bytes | memoryview, at: int = 0) -> None:
        self.data = data
        self.at = at

    @property
    def left(self) -> int:
        """Bytes not yet taken."""
        return len(self.data) - self.at

    def take(self, n: int) -> bytes:
        """The next ``n`` bytes.

        Raises:
            Short: there are not so many.
        """
        if n > self.left:
            raise Short(f"{n} bytes wanted at {self.at}, {max(self.left, 0)} are there")
        self.at += n
        return bytes(self.data[self.at - n : self.at])

    def u16(self) -> int:
        """A number of two bytes."""
        return int(struct.unpack("<H", self.take(2))[0])

    def u32(self) -> int:
        """A number of four bytes."""
        return int(struct.unpack("<I", self.take(4))[0])

    def u64(self) -> int:
        """A number of eight bytes."""
        return int(struct.unpack("<Q", self.take(8))[0])

    def u64s(self, n: int) -> tuple[int, ...]:
        """``n`` numbers of eight bytes."""
        return struct.unpack(f"<{n}Q", self.take(8 * n))

    def text(self) -> str:
        """A text that a zero byte ends.

        Raises:
            Short: no zero byte follows.
        """
        data = bytes(self.data[self.at : self.at + (1 << 16)])
        end = data.find(0)
        if end < 0:
            raise Short(f"a text at {self.at} has no end")
        self.at += end + 1
        return data[:end].decode("utf-8", "replace")
