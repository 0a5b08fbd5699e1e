/* Runs and packed values, plain values, and differences: every function asks for the room of a block before it writes it. */
#include "encodings.h"

#define DELTA_BLOCK 128u
#define MINIBLOCK 32u
#define MINIBLOCKS (DELTA_BLOCK / MINIBLOCK)

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

/* Values of up to 16 bits, `width` bits each, the lowest first; groups of eight are filled up with zeros. */
static void pack(struct sink *sink, const uint16_t *values, size_t n, unsigned width)
{
	uint8_t *end = sink->at + (n + 7) / 8 * width;
	uint64_t word = 0;
	unsigned filled = 0;
	size_t i;

	for (i = 0; i < n; i++) {
		word |= (uint64_t)values[i] << filled;
		filled += width;
		if (filled >= 32) {
			memcpy(sink->at, &word, 4);
			sink->at += 4;
			word >>= 32;
			filled -= 32;
		}
	}
	while (sink->at < end) {
		*sink->at++ = (uint8_t)word;
		word >>= 8;
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

/* Indices as the hybrid encoding: blocks of one value become runs, what lies between them is packed. */
void parquet_hybrid(struct sink *sink, const uint16_t *values, size_t n, unsigned width)
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

static uint64_t value_at(const struct column *column, size_t row)
{
	return load_word(column->values + row * column->width, column->width);
}

void parquet_plain(struct sink *sink, const struct column *column)
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
void parquet_levels(struct sink *sink, const struct column *column)
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
void parquet_plain_bits(struct sink *sink, const struct column *column, const uint8_t *values, size_t size, size_t from)
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

void parquet_deltas(struct sink *sink, const uint64_t *values, size_t n)
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
