/* The sequential loop of the replay: pairing, nest counting, and a histogram of contexts, in one pass. */
#include <stdlib.h>
#include <string.h>

#include "engine.h"

#if defined(__GNUC__)
#define ALWAYS_INLINE inline __attribute__((always_inline))
#define NOINLINE __attribute__((noinline))
#else
#define ALWAYS_INLINE inline
#define NOINLINE
#endif

static const uint16_t answered_for[16] = {ANSWERED_FOR};

static NOINLINE void add_row(struct engine *engine, uint16_t cpu_number, const struct trap *trap, uint32_t context,
			     unsigned int depth, uint64_t exit_tsc, enum end end)
{
	bool self_known = end == END_EXIT && !trap->nested_unknown;

	engine->rows[engine->n_rows++] = (struct row){
		.entry_tsc = end == END_ORPHAN ? 0 : trap->tsc,
		.exit_tsc = end == END_EXIT || end == END_ORPHAN ? exit_tsc : 0,
		.self_cycles = self_known ? exit_tsc - trap->tsc - trap->nested_cycles : 0,
		.context = context,
		.pid = trap->pid,
		.cpu = cpu_number,
		.slot = trap->slot,
		.irq = trap->irq,
		.depth = (uint8_t)depth,
		.end = (uint8_t)end,
		.self_known = self_known,
		.irq_known = trap->irq_known,
	};
}

/* A trap returns: judge it by every configuration, then let its exit change the counters.
 *
 * `trap` holds the frame judged; `exit_tsc` counts only where `end` says that the exit was seen. Inlined with `end`
 * and `rows` constants where the time goes. */
static ALWAYS_INLINE void give_back(struct engine *engine, struct cpu *cpu, uint16_t cpu_number,
				    const struct trap *trap, unsigned int depth, bool nmi_below, uint64_t exit_tsc,
				    enum end end, bool rows)
{
	uint32_t context = context_of(trap->slot, trap->frame, nmi_below);
	uint64_t tsc = end == END_EXIT || end == END_ORPHAN ? exit_tsc : trap->tsc;
	const uint8_t *effects = engine->effects + trap->slot;
	int64_t k;

	for (k = 0; k < engine->n_configs; k++, effects += N_SLOTS) {
		uint16_t judged = cpu->nest[k];
		struct cell *cell;

		if ((*effects & EFFECT_NOT_SELF) && end != END_ORPHAN && judged)
			judged--;
		cell = engine->cells + k * N_CONTEXTS + (context | !!judged * CONTEXT_NESTED);
		if (!cell->count++) {
			const struct calm *calm = engine->calm + (context | !!judged * CONTEXT_NESTED);
			bool before = calm->first_left > engine->left_now;

			cell->first_tsc = before ? calm->first_tsc : tsc;
			cell->first_cpu = before ? calm->first_cpu : cpu_number;
		}
		if (rows)
			engine->nest_rows[engine->n_rows * engine->n_configs + k] = judged;
		if (*effects & (EFFECT_CLEAR | EFFECT_DOWN))
			cpu->nest[k] = *effects & EFFECT_CLEAR || !cpu->nest[k] ? 0 : cpu->nest[k] - 1;
	}
	engine->ends[end]++;
	engine->unknown_target += (trap->frame & FRAME_TARGET) == FRAME_UNKNOWN;
	if (rows)
		add_row(engine, cpu_number, trap, context, depth, exit_tsc, end);
	if (depth) {
		struct trap *parent = trap_at(cpu, depth - 1);

		if (end == END_EXIT)
			parent->nested_cycles += exit_tsc - trap->tsc;
		else
			parent->nested_unknown = true;
	}
}

static ALWAYS_INLINE struct trap *take_top(struct engine *engine, struct cpu *cpu)
{
	struct trap *trap = trap_at(cpu, --cpu->depth);

	engine->open--;
	cpu->nmi_open -= trap->slot == SLOT_NMI;
	return trap;
}

/* The top of the stack returns, its exit not seen. */
static NOINLINE void end_top(struct engine *engine, struct cpu *cpu, uint16_t cpu_number, enum end end)
{
	const struct trap *trap = take_top(engine, cpu);

	give_back(engine, cpu, cpu_number, trap, cpu->depth, cpu->nmi_open, 0, end, engine->rows);
}

static NOINLINE void drop_oldest(struct engine *engine, struct cpu *cpu, uint16_t cpu_number)
{
	const struct trap *trap = trap_at(cpu, 0);

	cpu->base = (cpu->base + 1) & (MAX_DEPTH - 1);
	cpu->depth--;
	engine->open--;
	cpu->nmi_open -= trap->slot == SLOT_NMI;
	give_back(engine, cpu, cpu_number, trap, 0, false, 0, END_OVERFLOW, engine->rows);
}

static NOINLINE void orphan(struct engine *engine, struct cpu *cpu, uint16_t cpu_number, const struct trap *exit)
{
	give_back(engine, cpu, cpu_number, exit, cpu->depth, cpu->nmi_open, exit->tsc, END_ORPHAN, engine->rows);
}

static bool grow(struct cpu *cpu)
{
	unsigned int room = cpu->room ? cpu->room * 2 : FIRST_DEPTH;
	struct trap *stack = realloc(cpu->stack, room * sizeof(*stack)); /* base is 0 until the room is MAX_DEPTH */

	if (!stack)
		return false;
	memset(stack + cpu->room, 0, (room - cpu->room) * sizeof(*stack));
	cpu->stack = stack;
	cpu->room = room;
	return true;
}

/* An entry counts, before its trap is pushed or returns. */
static NOINLINE void count_entry(const struct engine *engine, struct cpu *cpu, uint16_t slot)
{
	int64_t k;

	for (k = 0; k < engine->n_configs; k++) {
		if ((engine->effects[k * N_SLOTS + slot] & EFFECT_UP) && cpu->nest[k] != UINT16_MAX)
			cpu->nest[k]++;
	}
}

static NOINLINE struct cpu *add_cpu(struct engine *engine, uint16_t number)
{
	struct cpu *cpu = calloc(1, sizeof(*cpu) + (size_t)engine->n_configs * sizeof(cpu->nest[0]));

	engine->cpus[number] = cpu;
	return cpu && grow(cpu) ? cpu : NULL;
}

/* Field by field into its place: a copy of a trap built elsewhere would wait for its stores. */
static ALWAYS_INLINE void load_trap(const struct run *run, int64_t k, struct trap *trap)
{
	trap->tsc = run->tsc[k];
	trap->nested_cycles = 0;
	trap->key = run->block.key[k];
	trap->pid = run->pid ? run->pid[k] : 0;
	trap->slot = run->block.slot[k];
	trap->frame = run->block.frame[k];
	trap->irq = run->block.irq[k];
	trap->irq_known = run->block.irq_known[k];
	trap->nested_unknown = false;
}

static ALWAYS_INLINE bool enter(struct engine *engine, struct cpu *cpu, const struct run *run, int64_t k, bool rows)
{
	uint16_t number = run->number[k], slot = run->block.slot[k];

	if (engine->lossy && (run->block.frame[k] & FRAME_TARGET) == TARGET_OTHER << CONTEXT_SHIFT) {
		/* From user mode: whatever was open here has ended, and the losses took its exit. */
		while (cpu->depth)
			end_top(engine, cpu, number, END_IMPLIED);
	}
	if (engine->exitless[slot] >> ((run->block.frame[k] & FRAME_TARGET) >> CONTEXT_SHIFT) & 1) {
		struct trap point;

		load_trap(run, k, &point);
		if (engine->counted[slot])
			count_entry(engine, cpu, slot);
		give_back(engine, cpu, number, &point, cpu->depth, cpu->nmi_open, 0, END_NO_HOOK, rows);
		return true;
	}
	if (cpu->depth == MAX_DEPTH)
		drop_oldest(engine, cpu, number);
	if (cpu->depth == cpu->room && !grow(cpu))
		return false;
	if (engine->counted[slot])
		count_entry(engine, cpu, slot);
	load_trap(run, k, trap_at(cpu, cpu->depth++));
	engine->open++;
	cpu->nmi_open += slot == SLOT_NMI;
	return true;
}

static NOINLINE void leave_deep(struct engine *engine, struct cpu *cpu, const struct run *run, int64_t k);

/* The exit `k` of the trap on top. The frame saved at exit is the one returned to; the entry's stands in for what
 * the exit's hook did not see. */
static ALWAYS_INLINE void leave_top(struct engine *engine, struct cpu *cpu, const struct run *run, int64_t k,
				    bool rows)
{
	struct trap *trap = take_top(engine, cpu);
	uint16_t frame = run->block.frame[k], answered = answered_for[frame >> SAW_SHIFT];

	trap->frame = (trap->frame & ~answered) | (frame & answered);
	give_back(engine, cpu, run->number[k], trap, cpu->depth, cpu->nmi_open, run->tsc[k], END_EXIT, rows);
}

static ALWAYS_INLINE void leave(struct engine *engine, struct cpu *cpu, const struct run *run, int64_t k, bool rows)
{
	if (cpu->depth && trap_at(cpu, cpu->depth - 1)->key == run->block.key[k])
		leave_top(engine, cpu, run, k, rows);
	else
		leave_deep(engine, cpu, run, k);
}

/* An exit that is not the top's: the nearest match ends, and what lies above it; without one it is an orphan. */
static NOINLINE void leave_deep(struct engine *engine, struct cpu *cpu, const struct run *run, int64_t k)
{
	unsigned int depth = cpu->depth;

	while (depth && trap_at(cpu, depth - 1)->key != run->block.key[k])
		depth--;
	if (!depth) {
		struct trap exit;

		load_trap(run, k, &exit);
		orphan(engine, cpu, run->number[k], &exit);
		return;
	}
	while (cpu->depth > depth)
		end_top(engine, cpu, run->number[k], END_IMPLIED);
	leave_top(engine, cpu, run, k, engine->rows);
}

static bool is_calm(const struct engine *engine, const struct cpu *cpu)
{
	unsigned int counted = cpu->nmi_open;
	int64_t k;

	for (k = 0; k < engine->n_configs; k++)
		counted |= cpu->nest[k];
	return !counted;
}

/* One event; false: out of memory. */
static ALWAYS_INLINE bool step(struct engine *engine, const struct run *run, int64_t k, bool rows)
{
	struct cpu *cpu = engine->cpus[run->number[k]];

	if (!cpu)
		cpu = add_cpu(engine, run->number[k]);
	if (!cpu)
		return false;
	if (run->is_exit[k])
		leave(engine, cpu, run, k, rows);
	else if (!enter(engine, cpu, run, k, rows))
		return false;
	return true;
}

/* The same the long way round a plan, which must know whether the CPU is calm after it. */
static NOINLINE bool step_aside(struct engine *engine, const struct run *run, int64_t k)
{
	const struct cpu *before = engine->cpus[run->number[k]];
	bool was_calm = !before || is_calm(engine, before);

	engine->left_now = engine->left - (uint64_t)k;
	if (!step(engine, run, k, false))
		return false;
	engine->n_disturbed += was_calm - is_calm(engine, engine->cpus[run->number[k]]);
	return true;
}

/* All that waits for the stack is taken in order, before what may disturb a CPU. */
static bool run_stacked(struct engine *engine, const struct run *run, const struct stacked *stacked)
{
	int64_t i;

	for (i = engine_run_stacked(engine, run, stacked, 0); i < stacked->n;
	     i = engine_run_stacked(engine, run, stacked, i + 1)) {
		if (!step_aside(engine, run, stacked->event[i]))
			return false;
	}
	return true;
}

static bool run_counting(struct engine *engine, const struct run *run, int64_t n)
{
	struct stacked stacked;
	int64_t k = 0;

	while (k < n) {
		if (!engine->n_disturbed) {
			k = engine_count_points(engine, run, k, n, &stacked);
			if (!run_stacked(engine, run, &stacked))
				return false;
		}
		if (k < n && !step_aside(engine, run, k++))
			return false;
	}
	return true;
}

static bool run_with_rows(struct engine *engine, const struct run *run, int64_t n)
{
	int64_t k;

	for (k = 0; k < n; k++) {
		if (!step(engine, run, k, true))
			return false;
	}
	return true;
}

bool engine_run(struct engine *engine, const struct column *columns, int64_t length)
{
	struct run run;
	int64_t i;

	for (i = 0; i < length; i += BLOCK) {
		int64_t n = length - i < BLOCK ? length - i : BLOCK;

		engine_load(engine, columns, i, n, &run);
		if (!(engine->rows ? run_with_rows(engine, &run, n) : run_counting(engine, &run, n)))
			return false;
		engine->left -= (uint64_t)n;
	}
	engine_settle(engine);
	return true;
}

void engine_end(struct engine *engine)
{
	int number;

	for (number = 0; number < N_CPUS; number++) {
		struct cpu *cpu = engine->cpus[number];

		while (cpu && cpu->depth)
			end_top(engine, cpu, (uint16_t)number, END_OPEN);
	}
}
