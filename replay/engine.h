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
	TALLIES = 4, /* adding one to a number takes longer than counting, so the next is added elsewhere */
	FIRST_DEPTH = 8, /* stacks grow: a file may name 65536 CPUs */
	N_CONTEXTS = N_SLOTS * 3 * 128,
	N_PLACES = N_SLOTS * 4, /* slot and target */
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

/* What is to be known of a slot before an event of it. */
enum { KIND_EXITLESS = 1 /* for this target */, KIND_SPECIAL = 2 /* NMIs, and what a counter counts */, KIND_SHIFT = 30 };

/* What is known of one context: numpy's CELL_DTYPE in replay/engine.py. */
struct cell {
	uint64_t count, first_tsc;
	uint16_t first_cpu;
};

/* The same while it is the same for every configuration. */
struct calm {
	uint64_t first_left; /* events left at the first of its kind (see struct engine); 0: there was none yet */
	uint64_t count, first_tsc;
	uint16_t first_cpu;
};

struct engine {
	/* Of the batch at hand. */
	int phase_width;      /* bytes of an index of its dictionary */
	const char *is_exit;  /* by index */
	int64_t n_phases;
	uint8_t is_exit_8[256]; /* the same for indices of one byte, which need no check then */
	bool one_exit_index;	/* of these */
	uint8_t exit_index;
	/* Of the trace. */
	struct cpu **cpus;
	uint8_t exitless[N_SLOTS]; /* bit TARGET_*: no hook sees returns to there */
	uint32_t base[N_PLACES]; /* [slot and target]: the slot's first context, and its kind from KIND_SHIFT on */
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
	/* Returns of calm CPUs, the same for every configuration, until they go to `cells`. */
	struct calm *calm;	/* [context], and one more for what is none */
	uint32_t *tally[TALLIES]; /* [context], and one more: counts on top of those */
	uint32_t *touched;	/* contexts of `calm` */
	int64_t n_touched;
	uint64_t left; /* counts down, event by event, from as many as there cannot be, at the block's first */
	uint64_t left_now; /* at the event on the long way */
	int64_t n_disturbed; /* CPUs with an NMI or a counter that is not 0 */
	struct row *rows;    /* NULL: not asked for */
	uint16_t *nest_rows; /* [row][configuration] */
	int64_t n_rows;
};

/* Events made ready for the sequential loop. */
struct block {
	uint32_t key[BLOCK];
	uint16_t slot[BLOCK], frame[BLOCK], irq[BLOCK];
	uint16_t place[BLOCK];	 /* slot and target */
	uint16_t context[BLOCK]; /* from the slot's first on, if the CPU is calm and nothing else tells of the frame */
	uint8_t needs_stack[BLOCK]; /* whatever the slot */
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

/* The parts of a frame that a combination of SAW_ bits answers for. */
#define ANSWERS(ip, flags, sp, target) \
	((ip) * CONTEXT_NMI_TEXT | (flags) * FRAME_FLAGS | (sp) * CONTEXT_USER_SP | (target) * FRAME_TARGET)
#define ANSWERS_OF_IP_AND_FLAGS(sp, target) \
	ANSWERS(0, 0, sp, target), ANSWERS(1, 0, sp, target), ANSWERS(0, 1, sp, target), ANSWERS(1, 1, sp, target)
#define ANSWERED_FOR \
	ANSWERS_OF_IP_AND_FLAGS(0, 0), ANSWERS_OF_IP_AND_FLAGS(1, 0), ANSWERS_OF_IP_AND_FLAGS(0, 1), \
		ANSWERS_OF_IP_AND_FLAGS(1, 1)

static inline struct trap *trap_at(const struct cpu *cpu, unsigned int depth)
{
	return &cpu->stack[(cpu->base + depth) & (cpu->room - 1)]; /* the room is a power of two, and more than 0 */
}

/* The context of a return but for the nest counter, which each configuration has of its own. */
static inline uint32_t context_of(uint16_t slot, uint16_t frame, bool nmi_below)
{
	uint32_t seen = frame & (FRAME_TARGET | FRAME_FLAGS | FRAME_KERNEL_ONLY);
	uint32_t kept = frame & FRAME_TARGET ? ~(uint32_t)FRAME_KERNEL_ONLY : ~UINT32_C(0);

	return ((uint32_t)slot * 3 << CONTEXT_SHIFT) + (seen & kept) + nmi_below * CONTEXT_NMI_ON_STACK;
}

/* Events of a block that need the stack. */
struct stacked {
	uint16_t event[BLOCK];
	int64_t n;
};

/* engine_calm.c: for CPUs without an NMI and with their counters at 0. */
int64_t engine_count_points(struct engine *engine, const struct run *run, int64_t k, int64_t n,
			    struct stacked *stacked);
int64_t engine_run_stacked(struct engine *engine, const struct run *run, const struct stacked *stacked, int64_t i);
void engine_settle(struct engine *engine);

/* engine.c: all of these run without Python. */
bool engine_run(struct engine *engine, const struct column *columns, int64_t length); /* false: out of memory */
void engine_end(struct engine *engine);						      /* what is open returns */

#endif
