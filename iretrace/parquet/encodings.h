/*
 * Parquet's encodings of a column of a row group. Source:
 * https://github.com/apache/parquet-format/blob/master/Encodings.md.
 *
 * Events of traps repeat: most columns are the same over thousands of rows. So all loops go by blocks of 64 rows, and ask
 * first whether a block holds one value only.
 */
#ifndef IRETRACE_ENCODINGS_H
#define IRETRACE_ENCODINGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define BLOCK 64u
#define MAX_ROWS (1u << 24)
#define MAX_VARINT 10
#define MAX_DICTIONARY 65536u /* indices are 16 bits while a column is encoded */
enum { FIRST_SLOTS = 256, MOST_SLOTS = 4 * MAX_DICTIONARY };

/* Where encoded bytes go. Every function checks the room for the block it is about to write, once. */
struct sink {
	uint8_t *at, *end;
	bool full;
};

/* A column as the caller has it: Arrow's buffers. */
struct column {
	const uint8_t *values; /* at its first row */
	const uint8_t *valid;  /* the whole bitmap; NULL: no row is null */
	size_t valid_size, valid_from, n;
	unsigned width; /* bytes a value */
};

/* The values of a column met so far, by a hash table with open addressing, which grows with them. */
struct dictionary {
	uint64_t *values; /* room for MAX_DICTIONARY */
	uint32_t *slots;  /* room for MOST_SLOTS; 0: free, else an index and one */
	uint32_t n, n_slots;
	uint64_t last;
	uint16_t last_index;
};

/* Indices of all values that are not null; false: there are too many different ones. */
bool parquet_indices(const struct column *column, struct dictionary *known, uint16_t *indices, size_t *n);

/* Indices, `width` bits each, as the hybrid of runs and packed values (RLE_DICTIONARY = 8). */
void parquet_hybrid(struct sink *sink, const uint16_t *values, size_t n, unsigned width);

/* Definition levels of a nullable column: their length in four bytes, then the hybrid of width 1 (RLE = 3). */
void parquet_levels(struct sink *sink, const struct column *column);

/* Values, or bits, that are not null (PLAIN = 0). */
void parquet_plain(struct sink *sink, const struct column *column);
void parquet_plain_bits(struct sink *sink, const struct column *column, const uint8_t *values, size_t size, size_t from);

/* Differences (DELTA_BINARY_PACKED = 5). */
void parquet_deltas(struct sink *sink, const uint64_t *values, size_t n);

static inline bool room(struct sink *sink, size_t bytes)
{
	if ((size_t)(sink->end - sink->at) >= bytes)
		return true;
	sink->full = true;
	return false;
}

static inline void bytes_le(struct sink *sink, uint64_t value, unsigned n)
{
	for (; n; n--, value >>= 8)
		*sink->at++ = (uint8_t)value;
}

static inline unsigned bits_for(uint64_t value)
{
	return value ? 64 - (unsigned)__builtin_clzll(value) : 0;
}

static inline size_t block_of(size_t left)
{
	return left < BLOCK ? left : BLOCK;
}

static inline uint64_t lowest(size_t n)
{
	return n < BLOCK ? (1ull << n) - 1 : UINT64_MAX;
}

static inline uint64_t load_word(const uint8_t *at, size_t bytes)
{
	uint64_t word = 0;

	memcpy(&word, at, bytes < 8 ? bytes : 8); /* little-endian, as Arrow's buffers are */
	return word;
}

/* The next up to 64 bits of a bitmap, beginning at bit `from` of `size` bytes. */
static inline uint64_t bits_at(const uint8_t *bitmap, size_t size, size_t from)
{
	size_t byte = from / 8;
	unsigned shift = from % 8;
	uint64_t word = load_word(bitmap + byte, size - byte);

	if (!shift)
		return word;
	return word >> shift | (size - byte > 8 ? (uint64_t)bitmap[byte + 8] << (64 - shift) : 0);
}

/* Which rows of a block are not null. */
static inline uint64_t valid_at(const struct column *column, size_t row)
{
	size_t n = block_of(column->n - row);

	if (!column->valid)
		return lowest(n);
	return bits_at(column->valid, column->valid_size, column->valid_from + row) & lowest(n);
}

/* Parquet has no integers of less than four bytes. */
static inline unsigned plain_width(unsigned width)
{
	return width < 4 ? 4 : width;
}

#endif
