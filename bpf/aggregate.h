/*
 * What `collect --aggregate` counts in BPF, and how it is told to: structs and constants shared with user space, no code.
 * Mirrored by collect/counters.py; tests/test_aggregate.py compiles this file and compares the two.
 */
#ifndef IRETRACE_AGGREGATE_H
#define IRETRACE_AGGREGATE_H

/* Exceptions, then the system vectors from 0xec up (asm/irq_vectors.h), then all device interrupts together. */
#define AGG_FIRST_SYSTEM 0xec
#define AGG_DEVICE       52
#define AGG_SLOTS        53

/* A context of iretrace.replay.contexts within its slot: target << 7 | bits. */
#define AGG_CONTEXTS     (3 << 7)
#define AGG_NESTED       (1 << 0)
#define AGG_NMI_TEXT     (1 << 1)
#define AGG_IF           (1 << 2)
#define AGG_TF           (1 << 3)
#define AGG_RF           (1 << 4)
#define AGG_NMI_ON_STACK (1 << 5)
#define AGG_USER_SP      (1 << 6)
enum agg_target { AGG_KERNEL = 0, AGG_OTHER = 1, AGG_UNKNOWN = 2 };

/* The log-linear histogram of analysis/histogram.py, up to 2^32 cycles: 64 buckets a power of two. */
#define AGG_SUB_BITS 6
#define AGG_BUCKETS  ((32 - AGG_SUB_BITS + 1) << AGG_SUB_BITS)

/* What a vector does to the policy's nest counter (replay/engine.h). */
#define AGG_UP       1
#define AGG_DOWN     2
#define AGG_CLEAR    4
#define AGG_NOT_SELF 8

#define AGG_CHOICES 4

/* Returns in one context, beside what the policy decides of them: counting both touches one cache line. */
struct agg_cell {
	__u64 count;
	__u32 choice; /* told: iretrace.replay.tables', enumerated */
	__u32 reserved;
};

/* All else that a trap of one vector needs, in a cache line of its own. */
struct agg_slot {
	__u64 open_tsc; /* of the entry; 0: none is open */
	__u32 open_context;
	__u8 effects; /* told */
	__u8 exitless; /* told; bit TARGET: no hook sees such exits, they return at their entry */
	__u8 reserved[2];
	__u64 decided[AGG_CHOICES];
	__u64 unused[2];
};

/* One a CPU, with its own copy of what all are told: a single lookup finds everything. */
struct aggregate {
	__u64 latency[AGG_SLOTS * AGG_BUCKETS];
	struct agg_cell cells[AGG_SLOTS * AGG_CONTEXTS];
	struct agg_slot slots[AGG_SLOTS];
	__u64 kernel_cs; /* told, as are the next two */
	__u64 nmi_low;
	__u64 nmi_high;
	__u64 nest;
	__u64 orphans; /* exits whose entries were not seen */
	__u64 overwritten; /* entries whose exits were not seen: the next one of their vector came */
	__u64 unused;
	__u64 counting; /* told, and last: what is told is copied from front to back, and nothing is counted before */
};

#endif
