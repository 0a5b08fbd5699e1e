/*
 * Counting in place of events: every return by its context, the policy's decision, and how long the trap took.
 *
 * Joined behind trap.bpf.c, whose emit() hands each trap over. A CPU writes to its own counters alone; additions are
 * locked all the same, since an NMI may come between, and another task's fault where a fault is preempted.
 */
#include "aggregate.h"

BPF_ARRAY(aggregates, struct aggregate, IRETRACE_CPUS);
BPF_ARRAY(agg_settings, struct agg_settings, 1);

static __always_inline void add(u64 *cell)
{
	__sync_fetch_and_add(cell, 1);
}

static __always_inline u32 agg_slot(const struct trap *trap)
{
	if (!(trap->seen & TRAP_SEEN_VECTOR))
		return AGG_DEVICE;
	if (trap->vector < 32)
		return trap->vector;
	return trap->vector < AGG_FIRST_SYSTEM ? AGG_DEVICE : 32 + trap->vector - AGG_FIRST_SYSTEM;
}

/* The context of a return but for the nest counter (replay/engine.c, replay/engine_columns.c). */
static __always_inline u32 agg_context(const struct agg_settings *set, const struct trap *trap, u32 nmi_below)
{
	u32 target = AGG_UNKNOWN, bits = nmi_below ? AGG_NMI_ON_STACK : 0;

	if (trap->seen & TRAP_SEEN_FRAME) {
		target = trap->frame.cs == set->kernel_cs ? AGG_KERNEL : AGG_OTHER;
		bits |= trap->frame.flags & (1 << 9) ? AGG_IF : 0;
		bits |= trap->frame.flags & (1 << 8) ? AGG_TF : 0;
		bits |= trap->frame.flags & (1 << 16) ? AGG_RF : 0;
		if (target == AGG_KERNEL) {
			bits |= (s64)trap->frame.sp >= 0 ? AGG_USER_SP : 0;
			bits |= trap->frame.ip >= set->nmi_low && trap->frame.ip < set->nmi_high ? AGG_NMI_TEXT : 0;
		}
	} else if (trap->seen & TRAP_SEEN_TARGET) {
		target = trap->seen & TRAP_TO_KERNEL ? AGG_KERNEL : AGG_OTHER;
	}
	return target << 7 | bits;
}

static __always_inline u32 agg_bucket(u64 cycles)
{
	u32 value = cycles > 0xffffffff ? 0xffffffff : cycles;
	u32 shift = 0, rest = value >> AGG_SUB_BITS;

	/* The power of two above the first 64 values, by halving. */
	if (rest >> 16) {
		shift += 16;
		rest >>= 16;
	}
	if (rest >> 8) {
		shift += 8;
		rest >>= 8;
	}
	if (rest >> 4) {
		shift += 4;
		rest >>= 4;
	}
	if (rest >> 2) {
		shift += 2;
		rest >>= 2;
	}
	shift += rest >> 1;
	/* shift is now floor(log2(value)) - 6, or 0 */
	return (shift << AGG_SUB_BITS) + (value >> shift);
}

static __always_inline void agg_return(struct aggregate *agg, const struct agg_settings *set, u32 slot, u32 context,
				       u32 orphan)
{
	u32 effects = set->effects[slot], nest = agg->nest, index;

	if ((effects & AGG_NOT_SELF) && !orphan && nest)
		nest--;
	index = slot * AGG_CONTEXTS + (context & ~AGG_NESTED) + (nest ? AGG_NESTED : 0);
	if (index >= AGG_SLOTS * AGG_CONTEXTS)
		return;
	add(&agg->counts[index]);
	add(&agg->decided[slot * AGG_CHOICES + (set->choice[index] & (AGG_CHOICES - 1))]);
	if (effects & AGG_CLEAR)
		agg->nest = 0;
	else if ((effects & AGG_DOWN) && agg->nest)
		agg->nest--;
}

static __always_inline int aggregate(const struct cpu_state *state, const struct trap *trap)
{
	u32 cpu = bpf_get_smp_processor_id(), zero = 0, slot = agg_slot(trap), context, bucket;
	struct aggregate *agg = aggregates.lookup((int *)&cpu);
	struct agg_settings *set = agg_settings.lookup((int *)&zero);
	struct agg_open *open;
	u64 tsc;

	if (!agg || !set || slot >= AGG_SLOTS)
		return 0;
	context = agg_context(set, trap, slot != 2 && state && state->nmi_open);
	if (trap->phase == TRAP_ENTRY) {
		if (set->effects[slot] & AGG_UP)
			agg->nest++;
		if (set->exitless[slot] >> (context >> 7) & 1) {
			agg_return(agg, set, slot, context, 0);
			return 0;
		}
		tsc = read_counter();
		open = &agg->open[slot];
		if (open->tsc)
			add(&agg->overwritten);
		open->tsc = tsc;
		open->context = context;
		return 0;
	}
	tsc = read_counter();
	open = &agg->open[slot];
	if (!open->tsc) {
		add(&agg->orphans);
		agg_return(agg, set, slot, context, 1);
		return 0;
	}
	if ((s64)tsc < 0 || (s64)open->tsc < 0 || tsc < open->tsc) {
		lose(LOSS_TSC_UNREADABLE);
	} else {
		bucket = slot * AGG_BUCKETS + agg_bucket(tsc - open->tsc);
		if (bucket < AGG_SLOTS * AGG_BUCKETS)
			add(&agg->latency[bucket]);
	}
	if ((trap->seen & (TRAP_SEEN_FRAME | TRAP_SEEN_TARGET)) == 0)
		context = open->context;
	open->tsc = 0;
	agg_return(agg, set, slot, context, 0);
	return 0;
}
