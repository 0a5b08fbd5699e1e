/* What the parts of the replay's engine share: the layout of events, traps, contexts and results.
 *
 * replay/twin.py says the same in plain Python and is the oracle of the property tests; replay/contexts.py owns the
 * layout of the context index and replay/engine.py the arrays. Events are untrusted: any value of any column is
 * allowed.
 */
#ifndef IRETRACE_ENGINE_H
#define IRETRACE_ENGINE_H

#include <stdbool.h>
#include <stdint.h>

enum {
	N_CPUS = 1 << 16,
	N_SLOTS = 257, /* vectors, and one for device interrupts without one */
	SLOT_DEVICE = 256,
	SLOT_NMI = 2,
	BLOCK = 1024, /* events prepared at a time, column by column */
	MAX_DEPTH = 128, /* a power of two: a full stack is a ring, so that dropping the oldest is cheap */
	FIRST_DEPTH = 8, /* stacks grow: a file may name 65536 CPUs */
	N_CONTEXTS = N_SLOTS * 3 * 128,
};

/* Keys of pairing: the vector, or what stands for one. */
enum { KEY_IRQ = 1 << 16, KEY_ANONYMOUS = 1 << 17 };

enum { TARGET_KERNEL, TARGET_OTHER, TARGET_UNKNOWN };

/* Bits of a context index, as in replay/contexts.py. */
enum {
	CONTEXT_NESTED = 1,
	CONTEXT_NMI_TEXT = 2,
	CONTEXT_IF = 4,
	CONTEXT_TF = 8,
	CONTEXT_RF = 16,
	CONTEXT_NMI_ON_STACK = 32,
	CONTEXT_USER_SP = 64,
	CONTEXT_SHIFT = 7,
};

/* All that is kept of a saved frame: the context bits it gives, the target, and which parts were seen. */
enum {
	FRAME_TARGET = 3 << CONTEXT_SHIFT,
	FRAME_FLAGS = CONTEXT_IF | CONTEXT_TF | CONTEXT_RF,
	FRAME_KERNEL_ONLY = CONTEXT_NMI_TEXT | CONTEXT_USER_SP, /* mean something where the target is the kernel */
	SAW_IP = 1 << 12,
	SAW_FLAGS = 1 << 13,
	SAW_SP = 1 << 14,
	SAW_TARGET = 1 << 15,
	SAW_SHIFT = 12,
	FRAME_UNKNOWN = TARGET_UNKNOWN << CONTEXT_SHIFT,
};

enum { EFFECT_UP = 1, EFFECT_DOWN = 2, EFFECT_CLEAR = 4, EFFECT_NOT_SELF = 8 };

/* How a trap ended; the same order as End in replay/engine.py. */
enum end { END_EXIT, END_NO_HOOK, END_IMPLIED, END_ORPHAN, END_OPEN, END_OVERFLOW, N_ENDS };

enum column_index { TSC, CPU, PHASE, VECTOR, IRQ, CS, IP, FLAGS, SP, TO_KERNEL, PID, N_COLUMNS };

struct column {
	const uint8_t *valid; /* NULL: no nulls */
	const void *values;
	int64_t offset;
};

/* What one event says, or what an open trap keeps of its entry. */
struct trap {
	uint64_t tsc;
	uint64_t nested_cycles; /* of the traps directly inside that have ended */
	uint32_t key, pid;
	uint16_t slot, frame, irq;
	bool irq_known;
	bool nested_unknown; /* a trap directly inside had no known duration */
};

struct cpu {
	unsigned int depth, base, room;
	unsigned int nmi_open;
	struct trap *stack;
	uint16_t nest[]; /* one counter a configuration */
};

/* One return; numpy's RETURN_DTYPE in replay/engine.py. */
struct row {
	uint64_t entry_tsc, exit_tsc, self_cycles;
	uint32_t context, pid;
	uint16_t cpu, slot, irq;
	uint8_t depth, end, self_known, irq_known;
};

/* What is known of one context: numpy's CELL_DTYPE in replay/engine.py. */
struct cell {
	uint64_t count, first_tsc;
	uint16_t first_cpu;
};

struct engine {
	/* Of the batch at hand. */
	int phase_width;      /* bytes of an index of its dictionary */
	const char *is_exit;  /* by index */
	int64_t n_phases;
	uint8_t is_exit_8[256]; /* the same for indices of one byte, which need no check then */
	/* Of the trace. */
	struct cpu **cpus;
	uint8_t exitless[N_SLOTS]; /* bit TARGET_*: no hook sees returns to there */
	uint8_t counted[N_SLOTS]; /* some configuration goes up here */
	uint8_t spread[256][8];	  /* the bits of a byte, one a byte */
	uint8_t *effects;	  /* EFFECT_ bits [configuration][slot] */
	int64_t n_configs;
	uint64_t *ranges; /* NMI text: low, high, low, high, …; sorted and disjoint */
	int64_t n_ranges;
	uint64_t text_low, text_span; /* all of them lie in here */
	int32_t kernel_cs;	      /* -1: not known */
	bool lossy;
	uint64_t open;
	uint64_t ends[N_ENDS];
	uint64_t unknown_target;
	struct cell *cells;  /* [configuration][context], numpy's */
	struct row *rows;    /* NULL: not asked for */
	uint16_t *nest_rows; /* [row][configuration] */
	int64_t n_rows;
};

/* Events made ready for the sequential loop. */
struct block {
	uint32_t key[BLOCK];
	uint16_t slot[BLOCK], frame[BLOCK], irq[BLOCK];
	uint8_t irq_known[BLOCK + 8], known[BLOCK + 8], other[BLOCK + 8], is_kernel[BLOCK + 8];
};

struct run {
	const uint64_t *tsc;
	const uint16_t *number; /* of the CPU */
	const uint32_t *pid;	/* NULL: not asked for */
	uint8_t is_exit[BLOCK];
	struct block block;
};

#define VALUE(column, type, i) (((const type *)(column)->values)[(column)->offset + (i)])

/* engine_columns.c: make ready the events i … i+n-1 of a batch; n is at most BLOCK. */
void engine_load(const struct engine *engine, const struct column *columns, int64_t i, int64_t n, struct run *run);

/* engine.c: all of these run without Python. */
bool engine_run(struct engine *engine, const struct column *columns, int64_t length); /* false: out of memory */
void engine_end(struct engine *engine);						      /* what is open returns */

#endif
