"""A Parquet file of events: one page a column and row group, written faster than by a library for tables of any kind.

Events of traps repeat, so that nearly every column of a row group is a dictionary of a few values and a few runs. The
encodings are in C (``pages.c``); here is what lies around them: pages, their compression, and the file's metadata.
Any Parquet reader reads the result.

Source: https://github.com/apache/parquet-format, ``README.md`` and ``src/main/thrift/parquet.thrift``, whose names of
structures and numbers of fields are used here.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa
import zstandard

from iretrace import __version__, _native
from iretrace.parquet.thrift import Fields

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

MAGIC: Final = b"PAR1"
FORMAT_VERSION: Final = 2
"""Of the format: 1 knows neither unsigned integers nor DELTA_BINARY_PACKED."""
CREATED_BY: Final = f"iretrace version {__version__}"

# parquet.thrift: Type, FieldRepetitionType, ConvertedType, Encoding, CompressionCodec, PageType.
BOOLEAN, INT32, INT64, BYTE_ARRAY = 0, 1, 2, 6
REQUIRED, OPTIONAL = 0, 1
UTF8 = 0
UINT = {8: 11, 16: 12, 32: 13, 64: 14}
PLAIN, RLE, DELTA_BINARY_PACKED, RLE_DICTIONARY = 0, 3, 5, 8
ZSTD = 6
DATA_PAGE, DICTIONARY_PAGE = 0, 2

_MAX_DICTIONARY_BYTES: Final = 65_536 * 8
_SCRATCH_BYTES: Final = _MAX_DICTIONARY_BYTES + 4 * 65_536 * 4
_ROOM_BYTES: Final = 1 << 16


@dataclass(frozen=True, kw_only=True)
class _Page:
    """A column of a row group before it is compressed.

    Attributes:
        body: the data page's.
        encoding: of the values in it.
        dictionary: the dictionary page's body; ``None``: there is none.
        n_dictionary: values in it.
        statistics: the column's; ``None``: none.
    """

    body: memoryview
    encoding: int
    dictionary: bytes | memoryview | None = None
    n_dictionary: int = 0
    statistics: Fields | None = None


class ParquetWriter:
    """Writes record batches of integers, booleans and texts of a small dictionary as Parquet, one row group each.

    Args:
        file: where to; it is written from its beginning to its end.
        schema: of the batches: unsigned integers, booleans, dictionaries of texts; no other types.
        deltas: columns of rising 64-bit integers without nulls; only their smallest and largest values are noted.
        level: of the compression.

    Raises:
        TypeError: a column of another type.
    """

    def __init__(self, file: IO[bytes], schema: pa.Schema, *, deltas: Sequence[str] = (), level: int = 1) -> None:
        self._file = file
        self._schema = schema
        self._deltas = frozenset(deltas)
        self._kinds = [_physical(field.type) for field in schema]
        self._compressor = zstandard.ZstdCompressor(level=level)
        # Memory that is used again costs less than fresh memory: a page fault takes longer than to fill a page.
        self._scratch = np.empty(_SCRATCH_BYTES, np.uint8)
        self._page = np.empty(_ROOM_BYTES, np.uint8)
        self._dictionary = np.empty(_MAX_DICTIONARY_BYTES, np.uint8)
        self._groups: list[bytes] = []
        self._position = 0
        self._n_rows = 0
        self._put([MAGIC])

    def write(self, batch: pa.RecordBatch) -> None:
        """Write a batch as a row group.

        Raises:
            OSError: it cannot be written.
        """
        n = batch.num_rows
        self._make_room(n)
        begin, chunks, plain_size = self._position, [], 0
        out: list[bytes] = []
        for index, field in enumerate(self._schema):
            page = self._encode(field, batch.column(index))
            chunk, size = self._chunk(field, page, n, out)
            chunks.append(chunk)
            plain_size += size
        self._put(out)
        group = Fields().structs(1, chunks).long(2, plain_size).long(3, n).long(5, begin)
        self._groups.append(group.long(6, self._position - begin).done())
        self._n_rows += n

    def close(self, metadata: Mapping[bytes, bytes]) -> None:
        """Write the file's metadata, without which nobody can read it.

        Args:
            metadata: keys and values beside the schema's own.
        """
        columns = [_element(field, kind).done() for field, kind in zip(self._schema, self._kinds, strict=True)]
        root = Fields().binary(4, b"schema").integer(5, len(columns)).done()
        # How Arrow's types come back: that a text was a dictionary Parquet does not say.
        pairs = {**metadata, b"ARROW:schema": base64.b64encode(self._schema.serialize())}
        typed = Fields().struct(1, Fields()).done()  # ColumnOrder: TYPE_ORDER, by which the statistics are valid
        footer = Fields().integer(1, FORMAT_VERSION).structs(2, [root, *columns]).long(3, self._n_rows)
        footer.structs(4, self._groups)
        footer.structs(5, [Fields().binary(1, key).binary(2, value).done() for key, value in pairs.items()])
        footer.binary(6, CREATED_BY.encode()).structs(7, [typed] * len(columns))
        raw = footer.done()
        self._put([raw, len(raw).to_bytes(4, "little"), MAGIC])

    def _put(self, parts: Sequence[bytes]) -> None:
        whole = b"".join(parts)
        self._file.write(whole)
        self._position += len(whole)

    def _make_room(self, n: int) -> None:
        widest = _ROOM_BYTES + 10 * n
        if len(self._page) < widest:
            self._page = np.empty(widest, np.uint8)
            self._scratch = np.empty(_SCRATCH_BYTES + 2 * n, np.uint8)

    def _encode(self, field: pa.Field, array: pa.Array) -> _Page:
        """A column's pages, whose memory is used again for the next one's."""
        n, offset, kind = len(array), array.offset, array.type
        dictionary = None
        if pa.types.is_dictionary(kind):
            dictionary, array = array.dictionary, array.indices
            kind = array.type
        valid = array.buffers()[0] if array.null_count else None
        values = array.buffers()[1]
        if pa.types.is_boolean(kind):
            size = _native.page_bits(values, offset, valid, offset, n, field.nullable, self._page)
            return _Page(body=self._page[:size].data, encoding=PLAIN)
        width = kind.bit_width // 8
        data = memoryview(values)[offset * width : (offset + n) * width]
        if field.name in self._deltas:
            size = _native.page_deltas(data, self._page)
            return _Page(body=self._page[:size].data, encoding=DELTA_BINARY_PACKED, statistics=_rising(data))
        n_known, size = _native.page_integers(
            *(data, width, valid, offset, field.nullable),
            *(self._scratch, self._dictionary, self._page),
        )
        if not n_known:  # all null, or too many different values
            return _Page(body=self._page[:size].data, encoding=PLAIN)
        known: Any = self._dictionary[: n_known * max(width, 4)]
        if dictionary is not None:
            known = _texts(dictionary, known.view(np.uint32).tolist())
        return _Page(
            body=self._page[:size].data, encoding=RLE_DICTIONARY, dictionary=bytes(known), n_dictionary=n_known
        )

    def _chunk(self, field: pa.Field, page: _Page, n: int, out: list[bytes]) -> tuple[bytes, int]:
        """Compress a column's pages and append them to ``out``; its ColumnChunk, and its size before."""
        begin = self._position + sum(map(len, out))
        size, first = 0, len(out)
        if page.dictionary is not None:
            about = Fields().integer(1, page.n_dictionary).integer(2, PLAIN)
            size += self._add(DICTIONARY_PAGE, 7, about, page.dictionary, out)
        data_begin = self._position + sum(map(len, out))
        about = Fields().integer(1, n).integer(2, page.encoding).integer(3, RLE).integer(4, RLE)
        size += self._add(DATA_PAGE, 5, about, page.body, out)
        compressed = sum(map(len, out[first:]))
        encodings = sorted({RLE, page.encoding} | ({PLAIN} if page.dictionary is not None else set()))
        meta = Fields().integer(1, _physical(field.type)).integers(2, encodings).texts(3, [field.name.encode()])
        meta.integer(4, ZSTD).long(5, n).long(6, size).long(7, compressed).long(9, data_begin)
        if page.dictionary is not None:
            meta.long(11, begin)
        if page.statistics is not None:
            meta.struct(12, page.statistics)
        return Fields().long(2, 0).struct(3, meta).done(), size

    def _add(self, kind: int, number: int, about: Fields, body: bytes | memoryview, out: list[bytes]) -> int:
        """Append a page; its size before compression, with the header's."""
        packed = self._compressor.compress(body)
        header = Fields().integer(1, kind).integer(2, len(body)).integer(3, len(packed)).struct(number, about).done()
        out += [header, packed]
        return len(header) + len(body)


def _physical(kind: pa.DataType) -> int:
    """The type by which Parquet stores one of Arrow's.

    Raises:
        TypeError: this writer does not know it.
    """
    if pa.types.is_boolean(kind):
        return BOOLEAN
    if pa.types.is_unsigned_integer(kind):
        return INT64 if kind.bit_width == max(UINT) else INT32
    if pa.types.is_dictionary(kind) and pa.types.is_string(kind.value_type):
        return BYTE_ARRAY
    raise TypeError(f"a column of type {kind}")


def _element(field: pa.Field, physical: int) -> Fields:
    """A column's SchemaElement."""
    element = Fields().integer(1, physical).integer(3, OPTIONAL if field.nullable else REQUIRED)
    element.binary(4, field.name.encode())
    if physical == BYTE_ARRAY:
        return element.integer(6, UTF8).struct(10, Fields().struct(1, Fields()))
    if physical == BOOLEAN:
        return element
    bits = field.type.bit_width
    return element.integer(6, UINT[bits]).struct(
        10, Fields().struct(10, Fields().byte(1, bits).boolean(2, value=False))
    )


def _rising(data: memoryview) -> Fields:
    """Statistics of a column of rising 64-bit integers without nulls."""
    return (
        Fields()
        .long(3, 0)
        .binary(5, bytes(data[-8:]))
        .binary(6, bytes(data[:8]))
        .boolean(7, value=True)
        .boolean(8, value=True)
    )


def _texts(dictionary: pa.StringArray, indices: Sequence[int]) -> bytes:
    """Texts of a dictionary as a dictionary page's values."""
    texts = [dictionary[index].as_py().encode() for index in indices]
    return b"".join(len(text).to_bytes(4, "little") + text for text in texts)
