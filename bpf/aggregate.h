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

/* How to count; the policy's table is iretrace.replay.tables', enumerated. */
struct agg_settings {
	__u64 kernel_cs;
	__u64 nmi_low;
	__u64 nmi_high;
	__u8 exitless[AGG_SLOTS]; /* bit TARGET: no hook sees such exits, they return at their entry */
	__u8 effects[AGG_SLOTS];
	__u8 choice[AGG_SLOTS * AGG_CONTEXTS];
	__u8 reserved[6];
};

struct agg_open {
	__u64 tsc; /* of the entry; 0: none is open */
	__u32 context;
	__u32 reserved;
};

/* One a CPU. */
struct aggregate {
	__u64 counts[AGG_SLOTS * AGG_CONTEXTS]; /* returns */
	__u64 decided[AGG_SLOTS * AGG_CHOICES];
	__u64 latency[AGG_SLOTS * AGG_BUCKETS];
	__u64 first_tsc;
	__u64 nest;
	__u64 orphans; /* exits whose entries were not seen */
	__u64 overwritten; /* entries whose exits were not seen: the next one of their vector came */
	struct agg_open open[AGG_SLOTS];
};

#endif
