/* Values to the indices of a dictionary. */
#include "encodings.h"

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

	if (value != known->last || !known->n) {
		slot = slot_of(known, value);
		if (known->slots[slot]) {
			known->last_index = (uint16_t)(known->slots[slot] - 1);
		} else {
			if (known->n == MAX_DICTIONARY)
				return false;
			known->last_index = (uint16_t)known->n;
			known->values[known->n] = value;
			known->slots[slot] = ++known->n;
			if (known->n * 2 > known->n_slots)
				grow(known);
		}
		known->last = value;
	}
	*index = known->last_index;
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

bool parquet_indices(const struct column *column, struct dictionary *known, uint16_t *indices, size_t *n)
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
