/*
 * Columns of a row group to the bodies of a Parquet file's pages: definition levels, dictionary indices, deltas and plain
 * values. What surrounds them (headers, compression, the file's metadata) is writer.py.
 *
 * Encodings: https://github.com/apache/parquet-format/blob/master/Encodings.md: "Run Length Encoding / Bit-Packing
 * Hybrid (RLE = 3)", "Dictionary Encoding (RLE_DICTIONARY = 8)", "Delta Encoding (DELTA_BINARY_PACKED = 5)", "Plain
 * (PLAIN = 0)". Events of traps repeat: most columns are the same over thousands of rows, so that all loops here go by
 * blocks of 64 rows, and ask first whether a block holds one value only.
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "native.h"

#define BLOCK 64u
#define DELTA_BLOCK 128u
#define MINIBLOCK 32u
#define MINIBLOCKS (DELTA_BLOCK / MINIBLOCK)
#define MAX_DICTIONARY 65536u /* indices are 16 bits while a column is encoded */
#define MAX_VARINT 10
#define MAX_ROWS (1u << 24)

/* Where encoded bytes go. Every function checks the room for the block it is about to write, once. */
struct sink {
	uint8_t *at, *end;
	bool full;
};

static bool room(struct sink *sink, size_t bytes)
{
	if ((size_t)(sink->end - sink->at) >= bytes)
		return true;
	sink->full = true;
	return false;
}

/* ULEB128, as Parquet and Thrift write integers; room for MAX_VARINT was asked for. */
static void varint(struct sink *sink, uint64_t value)
{
	for (; value >= 0x80; value >>= 7)
		*sink->at++ = (uint8_t)(value | 0x80);
	*sink->at++ = (uint8_t)value;
}

static void zigzag(struct sink *sink, int64_t value)
{
	varint(sink, (uint64_t)value << 1 ^ (uint64_t)(value >> 63));
}

static void bytes_le(struct sink *sink, uint64_t value, unsigned n)
{
	for (; n; n--, value >>= 8)
		*sink->at++ = (uint8_t)value;
}

static unsigned bits_for(uint64_t value)
{
	return value ? 64 - (unsigned)__builtin_clzll(value) : 0;
}

static uint64_t load_word(const uint8_t *at, size_t bytes)
{
	uint64_t word = 0;

	memcpy(&word, at, bytes < 8 ? bytes : 8); /* little-endian, as Arrow's buffers are */
	return word;
}

/* The next up to 64 bits of a bitmap, beginning at bit `from` of `size` bytes. */
static uint64_t bits_at(const uint8_t *bitmap, size_t size, size_t from)
{
	size_t byte = from / 8;
	unsigned shift = from % 8;
	uint64_t word = load_word(bitmap + byte, size - byte);

	if (!shift)
		return word;
	return word >> shift | (size - byte > 8 ? (uint64_t)bitmap[byte + 8] << (64 - shift) : 0);
}

static uint64_t lowest(size_t n)
{
	return n < BLOCK ? (1ull << n) - 1 : UINT64_MAX;
}

/*
 * Bits as the hybrid encoding of width 1: the definition levels of a nullable column. Whole words of one value become
 * runs, the others are copied: the packing of Parquet is the one of Arrow's bitmaps.
 */
static void hybrid_bits(struct sink *sink, const uint8_t *bitmap, size_t size, size_t from, size_t n)
{
	size_t i = 0, k;

	while (i < n) {
		uint64_t word = bits_at(bitmap, size, from + i) & lowest(n - i), full = lowest(n - i);
		size_t end = i;

		if (!word || word == full) {
			bool set = word;

			while (end < n && (bits_at(bitmap, size, from + end) & lowest(n - end)) == (set ? lowest(n - end) : 0))
				end += n - end < BLOCK ? n - end : BLOCK;
			if (!room(sink, MAX_VARINT + 1))
				return;
			varint(sink, (end - i) << 1);
			*sink->at++ = set;
		} else {
			do {
				end += n - end < BLOCK ? n - end : BLOCK;
				word = bits_at(bitmap, size, from + end) & lowest(n - end);
			} while (end < n && word && word != lowest(n - end));
			if (!room(sink, MAX_VARINT + (end - i + 7) / 8))
				return;
			varint(sink, (end - i + 7) / 8 << 1 | 1);
			for (k = i; k < end; k += BLOCK)
				bytes_le(sink, bits_at(bitmap, size, from + k) & lowest(end - k),
					 end - k < BLOCK ? (unsigned)(end - k + 7) / 8 : 8);
		}
		i = end;
	}
}

/* Eight values a group, `width` bits each, the lowest first. */
static void pack(struct sink *sink, const uint16_t *values, size_t n, unsigned width)
{
	uint64_t word = 0;
	unsigned filled = 0;
	size_t i;

	for (i = 0; i < n; i++) {
		word |= (uint64_t)values[i] << filled;
		filled += width;
		while (filled >= 8) {
			*sink->at++ = (uint8_t)word;
			word >>= 8;
			filled -= 8;
		}
	}
	for (i = n; i % 8; i++) {
		filled += width;
		while (filled >= 8) {
			*sink->at++ = (uint8_t)word;
			word >>= 8;
			filled -= 8;
		}
	}
}

static bool one_value(const uint16_t *values, size_t n)
{
	uint16_t differs = 0;
	size_t i;

	if (n == BLOCK) {
		for (i = 0; i < BLOCK; i++)
			differs |= values[i] ^ values[0];
	} else {
		for (i = 0; i < n; i++)
			differs |= values[i] ^ values[0];
	}
	return !differs;
}

static size_t block_of(size_t left)
{
	return left < BLOCK ? left : BLOCK;
}

/* Indices as the hybrid encoding: blocks of one value become runs, what lies between them is packed. */
static void hybrid(struct sink *sink, const uint16_t *values, size_t n, unsigned width)
{
	size_t i = 0;

	while (i < n) {
		size_t end = i + block_of(n - i);

		if (one_value(values + i, end - i)) {
			while (end < n && values[end] == values[i] && one_value(values + end, block_of(n - end)))
				end += block_of(n - end);
			if (!room(sink, MAX_VARINT + 2))
				return;
			varint(sink, (end - i) << 1);
			bytes_le(sink, values[i], (width + 7) / 8);
		} else {
			while (end < n && !one_value(values + end, block_of(n - end)))
				end += block_of(n - end);
			if (!room(sink, MAX_VARINT + (end - i + 7) / 8 * width))
				return;
			varint(sink, (end - i + 7) / 8 << 1 | 1);
			pack(sink, values + i, end - i, width);
		}
		i = end;
	}
}

/* The values of a column met so far, by a hash table with open addressing, which grows with them. */
struct dictionary {
	uint64_t *values;
	uint32_t *slots; /* 0: free, else an index and one */
	uint32_t n, n_slots;
	uint64_t last;
	uint16_t last_index;
};

enum { FIRST_SLOTS = 256, MOST_SLOTS = 4 * MAX_DICTIONARY };

static uint32_t slot_of(const struct dictionary *known, uint64_t value)
{
	uint32_t slot = (uint32_t)(value * 0x9e3779b97f4a7c15ull >> 32) & (known->n_slots - 1);

	while (known->slots[slot] && known->values[known->slots[slot] - 1] != value)
		slot = (slot + 1) & (known->n_slots - 1);
	return slot;
}

static void grow(struct dictionary *known)
{
	uint32_t i;

	known->n_slots *= 4;
	memset(known->slots, 0, known->n_slots * sizeof *known->slots);
	for (i = 0; i < known->n; i++)
		known->slots[slot_of(known, known->values[i])] = i + 1;
}

/* The index of a value, which is added where it is new; false: there are too many. */
static inline bool index_of(struct dictionary *known, uint64_t value, uint16_t *index)
{
	uint32_t slot;

	if (value == known->last && known->n) {
		*index = known->last_index;
		return true;
	}
	slot = slot_of(known, value);
	if (!known->slots[slot]) {
		if (known->n == MAX_DICTIONARY)
			return false;
		known->values[known->n] = value;
		known->slots[slot] = ++known->n;
		if (known->n * 2 > known->n_slots) {
			*index = known->last_index = (uint16_t)(known->n - 1);
			known->last = value;
			grow(known);
			return true;
		}
	}
	*index = known->last_index = (uint16_t)(known->slots[slot] - 1);
	known->last = value;
	return true;
}

/* One loop a width, so that the compiler knows it. */
#define INDICES(NAME, TYPE)                                                                                            \
	static bool NAME(struct dictionary *known, const uint8_t *data, uint64_t valid, size_t n, uint16_t **out)      \
	{                                                                                                              \
		const TYPE *values = (const TYPE *)data;                                                               \
		size_t i;                                                                                              \
                                                                                                                       \
		if (n == BLOCK && valid == UINT64_MAX) {                                                               \
			TYPE differs = 0;                                                                              \
			uint16_t index;                                                                                \
                                                                                                                       \
			for (i = 0; i < BLOCK; i++)                                                                    \
				differs |= values[i] ^ values[0];                                                      \
			if (!differs) {                                                                                \
				if (!index_of(known, values[0], &index))                                               \
					return false;                                                                  \
				for (i = 0; i < BLOCK; i++)                                                            \
					(*out)[i] = index;                                                             \
				*out += BLOCK;                                                                         \
				return true;                                                                           \
			}                                                                                              \
		}                                                                                                      \
		for (i = 0; i < n; i++) {                                                                              \
			if (valid >> i & 1 && !index_of(known, values[i], (*out)++))                                   \
				return false;                                                                          \
		}                                                                                                      \
		return true;                                                                                           \
	}
INDICES(indices_8, uint8_t)
INDICES(indices_16, uint16_t)
INDICES(indices_32, uint32_t)
INDICES(indices_64, uint64_t)

/* A column as the caller has it: Arrow's buffers. */
struct column {
	const uint8_t *values; /* at its first row */
	const uint8_t *valid;  /* the whole bitmap; NULL: no row is null */
	size_t valid_size, valid_from, n;
	unsigned width; /* bytes a value */
};

static uint64_t valid_at(const struct column *column, size_t row)
{
	size_t n = block_of(column->n - row);

	if (!column->valid)
		return lowest(n);
	return bits_at(column->valid, column->valid_size, column->valid_from + row) & lowest(n);
}

/* Indices of all values that are not null; false: there are too many different ones. */
static bool all_indices(const struct column *column, struct dictionary *known, uint16_t *indices, size_t *n)
{
	uint16_t *out = indices;
	size_t row;

	for (row = 0; row < column->n; row += BLOCK) {
		const uint8_t *data = column->values + row * column->width;
		uint64_t valid = valid_at(column, row);
		size_t block = block_of(column->n - row);
		bool fits = true;

		if (!valid)
			continue;
		switch (column->width) {
		case 1:
			fits = indices_8(known, data, valid, block, &out);
			break;
		case 2:
			fits = indices_16(known, data, valid, block, &out);
			break;
		case 4:
			fits = indices_32(known, data, valid, block, &out);
			break;
		case 8:
			fits = indices_64(known, data, valid, block, &out);
			break;
		}
		if (!fits)
			return false;
	}
	*n = (size_t)(out - indices);
	return true;
}

/* Parquet has no integers of less than four bytes. */
static unsigned plain_width(unsigned width)
{
	return width < 4 ? 4 : width;
}

static uint64_t value_at(const struct column *column, size_t row)
{
	return load_word(column->values + row * column->width, column->width);
}

static void plain(struct sink *sink, const struct column *column)
{
	size_t row, i;

	for (row = 0; row < column->n; row += BLOCK) {
		uint64_t valid = valid_at(column, row);

		if (!room(sink, BLOCK * 8))
			return;
		for (i = 0; i < block_of(column->n - row); i++) {
			if (valid >> i & 1)
				bytes_le(sink, value_at(column, row + i), plain_width(column->width));
		}
	}
}

/* Length and content of the definition levels: four bytes, then the hybrid encoding. */
static void levels(struct sink *sink, const struct column *column)
{
	uint8_t *length = sink->at;
	uint32_t bytes;

	if (!room(sink, 4 + MAX_VARINT + 1))
		return;
	sink->at += 4;
	if (column->valid) {
		hybrid_bits(sink, column->valid, column->valid_size, column->valid_from, column->n);
	} else {
		varint(sink, (uint64_t)column->n << 1);
		*sink->at++ = 1;
	}
	bytes = (uint32_t)(sink->at - length - 4);
	memcpy(length, &bytes, 4);
}

/* Bits that are not null, packed: 64 at a time where none of them is null. */
static void plain_bits(struct sink *sink, const struct column *column, const uint8_t *values, size_t size, size_t from)
{
	uint64_t word = 0;
	unsigned filled = 0;
	size_t row, i;

	for (row = 0; row < column->n; row += BLOCK) {
		uint64_t valid = valid_at(column, row), bits = bits_at(values, size, from + row);

		if (!room(sink, 16))
			return;
		if (valid == UINT64_MAX) {
			bytes_le(sink, word | bits << filled, 8);
			word = filled ? bits >> (64 - filled) : 0;
			continue;
		}
		for (i = 0; valid >> i; i++) {
			if (!(valid >> i & 1))
				continue;
			word |= (bits >> i & 1) << filled;
			if (++filled == 64) {
				bytes_le(sink, word, 8);
				word = filled = 0;
			}
			if (i == 63)
				break;
		}
	}
	if (room(sink, 8))
		bytes_le(sink, word, (filled + 7) / 8);
}

static void deltas(struct sink *sink, const uint64_t *values, size_t n)
{
	size_t start;
	unsigned m, i;

	if (!room(sink, 4 * MAX_VARINT))
		return;
	varint(sink, DELTA_BLOCK);
	varint(sink, MINIBLOCKS);
	varint(sink, n);
	zigzag(sink, n ? (int64_t)values[0] : 0);
	for (start = 1; start < n; start += DELTA_BLOCK) {
		unsigned count = n - start < DELTA_BLOCK ? (unsigned)(n - start) : DELTA_BLOCK;
		uint64_t delta[DELTA_BLOCK] = {0};
		int64_t least = INT64_MAX;
		uint8_t *widths;

		for (i = 0; i < count; i++) {
			delta[i] = values[start + i] - values[start + i - 1];
			least = (int64_t)delta[i] < least ? (int64_t)delta[i] : least;
		}
		if (!room(sink, MAX_VARINT + MINIBLOCKS + DELTA_BLOCK * 8))
			return;
		zigzag(sink, least);
		widths = sink->at;
		sink->at += MINIBLOCKS;
		for (m = 0; m < MINIBLOCKS; m++) {
			const uint64_t *part = delta + m * MINIBLOCK;
			unsigned there = count > m * MINIBLOCK ? count - m * MINIBLOCK : 0, width, filled = 0;
			uint64_t any = 0, word = 0;

			for (i = 0; i < MINIBLOCK && i < there; i++)
				any |= part[i] - (uint64_t)least;
			width = bits_for(any);
			widths[m] = (uint8_t)width;
			for (i = 0; width && i < MINIBLOCK; i++) {
				uint64_t value = i < there ? part[i] - (uint64_t)least : 0;

				word |= value << filled;
				filled += width;
				if (filled >= 64) {
					memcpy(sink->at, &word, 8);
					sink->at += 8;
					filled -= 64;
					word = filled ? value >> (width - filled) : 0;
				}
			}
			bytes_le(sink, word, filled / 8); /* 32 values fill whole words but for odd widths, whole bytes always */
		}
	}
}

#define SCRATCH_BYTES(n) (MAX_DICTIONARY * sizeof(uint64_t) + MOST_SLOTS * sizeof(uint32_t) + (n) * sizeof(uint16_t))

static bool column_from(struct column *column, const Py_buffer *values, const Py_buffer *valid, Py_ssize_t valid_from,
			int width)
{
	if ((width != 1 && width != 2 && width != 4 && width != 8) || values->len % width) {
		PyErr_SetString(PyExc_ValueError, "values of 1, 2, 4 or 8 bytes are wanted");
		return false;
	}
	*column = (struct column){
		.values = values->buf,
		.valid = valid->buf,
		.valid_size = (size_t)valid->len,
		.valid_from = (size_t)valid_from,
		.n = (size_t)(values->len / width),
		.width = (unsigned)width,
	};
	if (column->n > MAX_ROWS || valid_from < 0 || (valid->buf && (size_t)valid->len * 8 < column->valid_from + column->n)) {
		PyErr_SetString(PyExc_ValueError, "a validity bitmap of another length, or too many rows");
		return false;
	}
	return true;
}

static PyObject *length_or_error(const struct sink *page, const uint8_t *begin)
{
	if (page->full) {
		PyErr_SetString(PyExc_ValueError, "too little room for the page");
		return NULL;
	}
	return PyLong_FromSsize_t((Py_ssize_t)(page->at - begin));
}

static PyObject *page_integers(PyObject *module, PyObject *args)
{
	Py_buffer values = {0}, valid = {0}, scratch = {0}, dictionary = {0}, page = {0};
	struct dictionary known = {.n_slots = FIRST_SLOTS};
	PyObject *result = NULL;
	struct column column;
	Py_ssize_t from;
	size_t n = 0, i;
	struct sink sink;
	int width, nullable;
	bool few = false;

	(void)module;
	if (!PyArg_ParseTuple(args, "y*iz*npw*w*w*", &values, &width, &valid, &from, &nullable, &scratch, &dictionary,
			      &page))
		return NULL;
	if (!column_from(&column, &values, &valid, from, width))
		goto done;
	if ((size_t)scratch.len < SCRATCH_BYTES(column.n) || (size_t)dictionary.len < MAX_DICTIONARY * 8) {
		PyErr_SetString(PyExc_ValueError, "too little scratch memory");
		goto done;
	}
	sink = (struct sink){.at = page.buf, .end = (uint8_t *)page.buf + page.len};
	Py_BEGIN_ALLOW_THREADS
	known.values = scratch.buf;
	known.slots = (uint32_t *)(known.values + MAX_DICTIONARY);
	memset(known.slots, 0, FIRST_SLOTS * sizeof *known.slots);
	if (nullable)
		levels(&sink, &column);
	few = all_indices(&column, &known, (uint16_t *)(known.slots + MOST_SLOTS), &n) && known.n;
	if (few && room(&sink, 1)) {
		struct sink texts = {.at = dictionary.buf, .end = (uint8_t *)dictionary.buf + dictionary.len};
		unsigned bits = known.n > 1 ? bits_for(known.n - 1) : 1;

		for (i = 0; i < known.n; i++)
			bytes_le(&texts, known.values[i], plain_width(column.width));
		*sink.at++ = (uint8_t)bits;
		hybrid(&sink, (uint16_t *)(known.slots + MOST_SLOTS), n, bits);
	} else if (!few) {
		plain(&sink, &column);
	}
	Py_END_ALLOW_THREADS
	result = length_or_error(&sink, page.buf);
	if (result)
		result = Py_BuildValue("(nN)", (Py_ssize_t)(few ? known.n : 0), result);
done:
	PyBuffer_Release(&values);
	PyBuffer_Release(&valid);
	PyBuffer_Release(&scratch);
	PyBuffer_Release(&dictionary);
	PyBuffer_Release(&page);
	return result;
}

static PyObject *page_bits(PyObject *module, PyObject *args)
{
	Py_buffer values = {0}, valid = {0}, page = {0};
	Py_ssize_t from, valid_from, n;
	PyObject *result = NULL;
	struct column column;
	struct sink sink;
	int nullable;

	(void)module;
	if (!PyArg_ParseTuple(args, "y*nz*nnpw*", &values, &from, &valid, &valid_from, &n, &nullable, &page))
		return NULL;
	column = (struct column){
		.valid = valid.buf, .valid_size = (size_t)valid.len, .valid_from = (size_t)valid_from, .n = (size_t)n};
	if (n < 0 || n > MAX_ROWS || from < 0 || valid_from < 0 || values.len * 8 < from + n ||
	    (valid.buf && valid.len * 8 < valid_from + n)) {
		PyErr_SetString(PyExc_ValueError, "bitmaps of another length, or too many rows");
		goto done;
	}
	sink = (struct sink){.at = page.buf, .end = (uint8_t *)page.buf + page.len};
	Py_BEGIN_ALLOW_THREADS
	if (nullable)
		levels(&sink, &column);
	plain_bits(&sink, &column, values.buf, (size_t)values.len, (size_t)from);
	Py_END_ALLOW_THREADS
	result = length_or_error(&sink, page.buf);
done:
	PyBuffer_Release(&values);
	PyBuffer_Release(&valid);
	PyBuffer_Release(&page);
	return result;
}

static PyObject *page_deltas(PyObject *module, PyObject *args)
{
	Py_buffer values = {0}, page = {0};
	PyObject *result = NULL;
	struct sink sink;

	(void)module;
	if (!PyArg_ParseTuple(args, "y*w*", &values, &page))
		return NULL;
	if (values.len % 8 || values.len / 8 > MAX_ROWS) {
		PyErr_SetString(PyExc_ValueError, "values of 8 bytes are wanted");
		goto done;
	}
	sink = (struct sink){.at = page.buf, .end = (uint8_t *)page.buf + page.len};
	Py_BEGIN_ALLOW_THREADS
	deltas(&sink, values.buf, (size_t)values.len / 8);
	Py_END_ALLOW_THREADS
	result = length_or_error(&sink, page.buf);
done:
	PyBuffer_Release(&values);
	PyBuffer_Release(&page);
	return result;
}

PyMethodDef iretrace_pages_methods[] = {
	{"page_integers", page_integers, METH_VARARGS, "Integers to a dictionary and its indices, or plain; their sizes."},
	{"page_bits", page_bits, METH_VARARGS, "Booleans to a plain page; its size."},
	{"page_deltas", page_deltas, METH_VARARGS, "64-bit integers to a page of binary packed deltas; its size."},
	{NULL, NULL, 0, NULL},
};
