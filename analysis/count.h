/* What the report and the timeline count of rows of returns. */
#ifndef IRETRACE_COUNT_H
#define IRETRACE_COUNT_H

#include "../replay/engine.h"

enum {
	SUB_BITS = 6, /* analysis/histogram.py */
	N_BUCKETS = (64 - SUB_BITS + 1) << SUB_BITS,
	CHOICE_RET = 0, /* replay/policies.py, Choice */
	N_CHOICES = 4,
};

/* Where one trace's counts go: the arrays of analysis/accumulate.py's Accumulator. */
struct counts {
	int64_t *depths;	/* [MAX_DEPTH + 1][N_SLOTS] */
	int64_t *latency;	/* [N_SLOTS][N_BUCKETS], as the next three */
	int64_t *self_time;
	int64_t *ret_latency;
	int64_t *ret_projected;
	uint8_t *cpus;	/* [N_CPUS] */
	int64_t *bins;	/* [time][N_SLOTS] */
	int64_t *inner; /* [N_CPUS][MAX_DEPTH + 2]: RETs in the traps that returned at a depth under those still open */
	uint64_t origin;
	unsigned int shift;
	bool known; /* whether a saving is */
	double saving;
};

/* Bucket of a log-linear histogram that holds a value. */
static inline int64_t bucket_of(uint64_t value)
{
	int exponent = value ? 63 - __builtin_clzll(value) : 0;
	int shift = exponent > SUB_BITS ? exponent - SUB_BITS : 0;

	return ((int64_t)shift << SUB_BITS) + (int64_t)(value >> shift);
}

/* When a trap returned: its exit, or its entry where no exit was seen. */
static inline uint64_t tsc_of(const struct row *row)
{
	return row->end == END_EXIT || row->end == END_ORPHAN ? row->exit_tsc : row->entry_tsc;
}

#endif
