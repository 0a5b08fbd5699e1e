/* The short way for counting alone, on CPUs without an NMI and with their counters at 0, which is nearly always.
 *
 * A return then counts the same for every configuration. An entry whose exit no hook sees returns at once and knows
 * nothing of the stack: such entries are counted column by column. The others are taken one by one, but which of them
 * comes next is as random as the machine's work, so there is one branch only, on whether an event is what it should be.
 * What it should not be, and whatever may disturb a CPU, goes the long way (replay/engine.c), in its turn.
 */
#include "engine.h"

/* By whether the event is an exit, then by its SAW_ bits: an entry answers for all of its own frame. */
static const uint16_t answers[32] = {
	0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff,
	0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff,
	ANSWERED_FOR,
};

static void touch(struct engine *engine, const struct run *run, int64_t k, uint32_t context)
{
	struct calm *calm = engine->calm + context;

	if (!calm->first_left)
		engine->touched[engine->n_touched++] = context;
	calm->first_left = engine->left - (uint64_t)k;
	calm->first_tsc = run->tsc[k];
	calm->first_cpu = run->number[k];
}

/* Count the entries that return at once, from event k on, up to the first event that may disturb a CPU; gives that one, or
 * n. */
int64_t engine_count_points(struct engine *engine, const struct run *run, int64_t k, int64_t n,
			    struct stacked *stacked)
{
	const struct block *block = &run->block;
	int64_t begin = k, m = 0;

	engine->calm[N_CONTEXTS].first_left = UINT64_MAX; /* what is no return is never the first of its kind */
	for (; k < n; k++) {
		uint32_t base = engine->base[block->place[k]], kind = base >> KIND_SHIFT, point, context;

		if (kind & KIND_SPECIAL)
			break;
		point = 0u - (kind & ~block->needs_stack[k]); /* all ones, or zero */
		context = (point & ((base & ((1u << KIND_SHIFT) - 1)) + block->context[k])) | (~point & N_CONTEXTS);
		if (!engine->calm[context].first_left)
			touch(engine, run, k, context);
		engine->tally[k % TALLIES][context]++;
		stacked->event[m] = (uint16_t)k;
		m += (uint32_t)(point + 1);
	}
	stacked->n = m;
	engine->ends[END_NO_HOOK] += k - begin - m;
	return k;
}

/* Take the i-th event that needs the stack and those after it; gives the first that goes the long way, if any. */
int64_t engine_run_stacked(struct engine *engine, const struct run *run, const struct stacked *stacked, int64_t i)
{
	uint32_t lossy = engine->lossy;
	uint64_t exits = 0, points = 0, pushes = 0;

	for (; i < stacked->n; i++) {
		int64_t k = stacked->event[i];
		struct cpu *cpu = engine->cpus[run->number[k]];
		uint32_t exit = run->is_exit[k], slot = run->block.slot[k], frame = run->block.frame[k];
		uint32_t key = run->block.key[k], depth, point, push, keep, context;
		struct trap *trap;
		struct calm *calm;

		if (!cpu)
			break;
		depth = cpu->depth;
		trap = trap_at(cpu, depth - exit); /* the one on top, or where the next goes */
		if ((exit & ((depth == 0) | (trap->key != key))) | (~exit & (depth == cpu->room)) |
		    (lossy & ~exit & (depth != 0) & ((frame & FRAME_TARGET) == TARGET_OTHER << CONTEXT_SHIFT)))
			break;
		point = engine->base[run->block.place[k]] >> KIND_SHIFT & ~exit;
		push = (exit | point) ^ 1;
		keep = answers[exit << 4 | frame >> SAW_SHIFT];
		frame = (trap->frame & ~keep) | (frame & keep);
		trap->tsc = run->tsc[k]; /* an exit spoils what it has popped */
		trap->key = key;
		trap->slot = (uint16_t)slot;
		trap->frame = (uint16_t)frame;
		cpu->depth = depth + push - exit;
		context = push ? N_CONTEXTS : context_of((uint16_t)slot, (uint16_t)frame, false);
		calm = engine->calm + context;
		calm->count++;
		if (calm->first_left < engine->left - (uint64_t)k) /* entries counted above may have come later */
			touch(engine, run, k, context);
		exits += exit;
		points += point;
		pushes += push;
	}
	engine->open += pushes - exits;
	engine->ends[END_EXIT] += exits;
	engine->ends[END_NO_HOOK] += points;
	return i;
}

/* What was counted here goes to the cells of every configuration. */
void engine_settle(struct engine *engine)
{
	int64_t i, k;

	for (i = 0; i < engine->n_touched; i++) {
		uint32_t context = engine->touched[i];
		struct calm *calm = engine->calm + context;

		for (k = 0; k < TALLIES; k++) {
			calm->count += engine->tally[k][context];
			engine->tally[k][context] = 0;
		}
		if ((context >> CONTEXT_SHIFT) % 3 == TARGET_UNKNOWN)
			engine->unknown_target += calm->count;
		for (k = 0; k < engine->n_configs; k++) {
			struct cell *cell = engine->cells + k * N_CONTEXTS + context;

			if (!cell->count) {
				cell->first_tsc = calm->first_tsc;
				cell->first_cpu = calm->first_cpu;
			}
			cell->count += calm->count;
		}
		calm->count = calm->first_left = 0;
	}
	engine->n_touched = 0;
}
