/* From Arrow columns to events ready for the sequential loop, a block at a time.
 *
 * What a hook could not see is null, and that is as random as the machine's work: these loops have no branch on it.
 */
#include <string.h>

#include "engine.h"

/* Everything here is made for vectors: compiled once for any x86-64 and once for CPUs with AVX2, chosen when loaded. */
#if defined(__GNUC__) && defined(__x86_64__) && defined(__gnu_linux__)
#define FOR_VECTORS __attribute__((target_clones("avx2", "default")))
#define INLINE static inline __attribute__((always_inline))
#else
#define FOR_VECTORS
#define INLINE static inline
#endif

/* One byte (0 or 1) for each of the bits i … i+n-1 of a bitmap; up to 7 bytes past them are written too. */
INLINE void spread_bits(const struct engine *engine, const uint8_t *bitmap, int64_t i, int64_t n, uint8_t *bytes)
{
	int64_t last = (i + n - 1) >> 3;
	unsigned int shift = i & 7;
	int64_t from = i >> 3, k;

	for (k = 0; k < n; k += 8, from++) {
		unsigned int next = from < last ? bitmap[from + 1] : 0;

		memcpy(bytes + k, engine->spread[(bitmap[from] | next << 8) >> shift & 0xff], 8);
	}
}

INLINE void spread_valid(const struct engine *engine, const struct column *column, int64_t i, int64_t n,
			 uint8_t *bytes)
{
	if (column->valid)
		spread_bits(engine, column->valid, column->offset + i, n, bytes);
	else
		memset(bytes, 1, BLOCK);
}

/* Whether two columns hold nulls in the same rows, as the parts of a frame mostly do; false where it is not seen at
 * a glance. */
INLINE bool same_valid(const struct column *a, const struct column *b, int64_t i, int64_t n)
{
	if (!a->valid || !b->valid)
		return a->valid == b->valid;
	return a->offset == b->offset && !memcmp(a->valid + ((a->offset + i) >> 3), b->valid + ((b->offset + i) >> 3),
						 ((a->offset + i + n - 1) >> 3) - ((a->offset + i) >> 3) + 1);
}

static bool in_nmi_text(const struct engine *engine, uint64_t ip)
{
	int64_t low = 0, high = engine->n_ranges;

	while (low < high) {
		int64_t middle = (low + high) / 2;

		if (ip < engine->ranges[2 * middle])
			high = middle;
		else if (ip >= engine->ranges[2 * middle + 1])
			low = middle + 1;
		else
			return true;
	}
	return false;
}

/* Whether an address lies between the first and the last of the ranges: rare, and found without a branch. */
INLINE bool any_near_text(const struct engine *engine, const uint64_t *ip, int64_t n)
{
	unsigned int near_text = 0;
	int64_t k;

	for (k = 0; k < n; k++)
		near_text |= ip[k] - engine->text_low < engine->text_span;
	return near_text;
}

/* Which traps the events are about. */
INLINE void load_keys(const struct engine *engine, const struct column *columns, int64_t i, int64_t n,
		      struct block *block)
{
	const uint8_t *vector = &VALUE(&columns[VECTOR], uint8_t, i);
	const uint16_t *irq = &VALUE(&columns[IRQ], uint16_t, i);
	int64_t k;

	spread_valid(engine, &columns[VECTOR], i, n, block->known);
	spread_valid(engine, &columns[IRQ], i, n, block->irq_known);
	for (k = 0; k < n; k++) {
		uint32_t by_vector = 0u - block->known[k], by_irq = 0u - block->irq_known[k]; /* all ones, or zero */
		uint32_t stand_in = (by_irq & (KEY_IRQ + irq[k])) | (~by_irq & KEY_ANONYMOUS);

		block->irq[k] = (uint16_t)(irq[k] & by_irq);
		block->slot[k] = (uint16_t)((by_vector & vector[k]) | (~by_vector & SLOT_DEVICE));
		block->key[k] = (by_vector & vector[k]) | (~by_vector & stand_in);
	}
}

/* Where they return to: by CS where the kernel's is known, else by to_kernel, else by the CPL in CS. */
INLINE void load_targets(const struct engine *engine, const struct column *columns, int64_t i, int64_t n,
			 struct block *block)
{
	const struct column *to_kernel = &columns[TO_KERNEL];
	const uint16_t *cs = &VALUE(&columns[CS], uint16_t, i);
	bool trusted = engine->kernel_cs >= 0;
	uint16_t mask = trusted ? 0xffff : 3, kernel_cs = trusted ? (uint16_t)engine->kernel_cs : 0;
	int64_t k;

	spread_valid(engine, &columns[CS], i, n, block->known);
	spread_valid(engine, to_kernel, i, n, block->other);
	spread_bits(engine, to_kernel->values, to_kernel->offset + i, n, block->is_kernel);
	for (k = 0; k < n; k++) {
		unsigned int by_cs = (cs[k] & mask) == kernel_cs;
		unsigned int use_cs = block->known[k] & (trusted | (block->other[k] ^ 1));
		unsigned int kernel = (by_cs & use_cs) | (block->is_kernel[k] & (use_cs ^ 1));
		unsigned int seen = block->known[k] | block->other[k];

		block->frame[k] = (uint16_t)(seen * (SAW_TARGET | (kernel ^ 1) << CONTEXT_SHIFT) |
					     (seen ^ 1) * FRAME_UNKNOWN);
	}
}

/* The rest of their frames. */
INLINE void load_frames(const struct engine *engine, const struct column *columns, int64_t i, int64_t n,
			struct block *block)
{
	const uint64_t *ip = &VALUE(&columns[IP], uint64_t, i), *sp = &VALUE(&columns[SP], uint64_t, i);
	const uint32_t *flags = &VALUE(&columns[FLAGS], uint32_t, i);
	int64_t k;

	if (!same_valid(&columns[CS], &columns[FLAGS], i, n)) /* load_targets left those of CS */
		spread_valid(engine, &columns[FLAGS], i, n, block->known);
	for (k = 0; k < n; k++) {
		uint32_t f = (flags[k] >> 9 & 1) * CONTEXT_IF | (flags[k] >> 8 & 1) * CONTEXT_TF |
			     (flags[k] >> 16 & 1) * CONTEXT_RF | SAW_FLAGS;

		block->frame[k] |= (uint16_t)(f & (0u - block->known[k]));
	}
	if (!same_valid(&columns[FLAGS], &columns[SP], i, n))
		spread_valid(engine, &columns[SP], i, n, block->known);
	for (k = 0; k < n; k++) {
		uint32_t f = (uint32_t)(~sp[k] >> 63) * CONTEXT_USER_SP | SAW_SP;

		block->frame[k] |= (uint16_t)(f & (0u - block->known[k]));
	}
	if (!same_valid(&columns[SP], &columns[IP], i, n))
		spread_valid(engine, &columns[IP], i, n, block->known);
	for (k = 0; k < n; k++)
		block->frame[k] |= (uint16_t)(SAW_IP & (0u - block->known[k]));
	if (engine->n_ranges && any_near_text(engine, ip, n)) {
		for (k = 0; k < n; k++) {
			if (block->known[k] && in_nmi_text(engine, ip[k]))
				block->frame[k] |= CONTEXT_NMI_TEXT;
		}
	}
}

/* Which events are exits, by their index into the dictionary of phases. */
INLINE void load_phases(const struct engine *engine, const struct column *phase, int64_t i, int64_t n,
			uint8_t *is_exit)
{
	int64_t k;

	if (engine->phase_width == 1) { /* what a trace's own schema says */
		const uint8_t *index = &VALUE(phase, uint8_t, i);
		uint8_t exit = engine->exit_index;

		if (engine->one_exit_index) {
			for (k = 0; k < n; k++)
				is_exit[k] = index[k] == exit;
			return;
		}
		for (k = 0; k < n; k++)
			is_exit[k] = engine->is_exit_8[index[k]];
		return;
	}
	for (k = 0; k < n; k++) {
		uint32_t index = engine->phase_width == 2 ? VALUE(phase, uint16_t, i + k) : VALUE(phase, uint32_t, i + k);

		is_exit[k] = index < (uint64_t)engine->n_phases && engine->is_exit[index];
	}
}

/* What entries that return at once count in, and which of them do not return at once. */
INLINE void load_contexts(const struct engine *engine, int64_t n, struct run *run)
{
	struct block *block = &run->block;
	uint16_t ends = engine->lossy; /* with losses, an entry from user mode ends what is open */
	int64_t k;

	for (k = 0; k < n; k++) {
		uint16_t frame = block->frame[k], target = frame & FRAME_TARGET;
		uint16_t only = target ? 0 : FRAME_KERNEL_ONLY;

		block->place[k] = (uint16_t)(block->slot[k] << 2 | target >> CONTEXT_SHIFT);
		block->context[k] = frame & (FRAME_FLAGS | only);
		block->needs_stack[k] = run->is_exit[k] | (ends & (target == TARGET_OTHER << CONTEXT_SHIFT));
	}
}

FOR_VECTORS void engine_load(const struct engine *engine, const struct column *columns, int64_t i, int64_t n, struct run *run)
{
	load_phases(engine, &columns[PHASE], i, n, run->is_exit);
	run->tsc = &VALUE(&columns[TSC], uint64_t, i);
	run->number = &VALUE(&columns[CPU], uint16_t, i);
	run->pid = columns[PID].values ? &VALUE(&columns[PID], uint32_t, i) : NULL;
	load_keys(engine, columns, i, n, &run->block);
	load_targets(engine, columns, i, n, &run->block);
	load_frames(engine, columns, i, n, &run->block);
	if (!engine->rows)
		load_contexts(engine, n, run);
}
