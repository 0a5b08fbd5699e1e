/*
 * Counting in place of events: every return by its context, the policy's decision, and how long the trap took.
 *
 * Joined in front of nmi.bpf.c, whose emit() hands each trap over. A CPU writes to its own counters alone; additions are
 * locked all the same, since an NMI may come between, and another task's fault where a fault is preempted.
 */
#include "aggregate.h"

/* Bytes in place of the struct: clang writes out a map's value element by element, and takes seconds for it. A number in
 * place of sizeof, whose argument BCC would describe as one more member. */
#define AGG_BYTES (AGG_SLOTS * (8 * AGG_BUCKETS + 16 * AGG_CONTEXTS + 64) + 64)
_Static_assert(AGG_BYTES == sizeof(struct aggregate), "aggregate.h has another layout");
struct agg_bytes {
	u8 bytes[AGG_BYTES];
};
BPF_ARRAY(aggregates, struct agg_bytes, IRETRACE_CPUS);

static __always_inline void add(u64 *cell)
{
	__sync_fetch_and_add(cell, 1);
}

/* Keep clang from comparing another form of a number than the one that is used: the verifier would not see the bound. 64
 * bits, or what is compared and what is used would be two extensions of it, which verifiers like Linux 6.1's do not link. */
#define AS_IT_IS(number) asm volatile("" : "+r"(number))

static __always_inline u32 agg_slot(const struct trap *trap)
{
	if (!(trap->seen & TRAP_SEEN_VECTOR))
		return AGG_DEVICE;
	if (trap->vector < 32)
		return trap->vector;
	return trap->vector < AGG_FIRST_SYSTEM ? AGG_DEVICE : 32 + trap->vector - AGG_FIRST_SYSTEM;
}

/* The context of a return but for the nest counter (replay/engine.c, replay/engine_columns.c). */
static __always_inline u32 agg_context(const struct aggregate *agg, const struct trap *trap, u32 nmi_below)
{
	u32 target = AGG_UNKNOWN, bits = nmi_below ? AGG_NMI_ON_STACK : 0;

	if (trap->seen & TRAP_SEEN_FRAME) {
		target = trap->frame.cs == agg->kernel_cs ? AGG_KERNEL : AGG_OTHER;
		bits |= trap->frame.flags & (1 << 9) ? AGG_IF : 0;
		bits |= trap->frame.flags & (1 << 8) ? AGG_TF : 0;
		bits |= trap->frame.flags & (1 << 16) ? AGG_RF : 0;
		if (target == AGG_KERNEL) {
			bits |= (s64)trap->frame.sp >= 0 ? AGG_USER_SP : 0;
			bits |= trap->frame.ip >= agg->nmi_low && trap->frame.ip < agg->nmi_high ? AGG_NMI_TEXT : 0;
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

static __always_inline void agg_return(struct aggregate *agg, struct agg_slot *slot, u64 index, u32 context, u32 orphan)
{
	u32 effects = slot->effects, nest = agg->nest;
	struct agg_cell *cell;

	if ((effects & AGG_NOT_SELF) && !orphan && nest)
		nest--;
	index = index * AGG_CONTEXTS + (context & ~AGG_NESTED) + (nest ? AGG_NESTED : 0);
	AS_IT_IS(index);
	if (index >= AGG_SLOTS * AGG_CONTEXTS)
		return;
	cell = &agg->cells[index];
	add(&cell->count);
	add(&slot->decided[cell->choice & (AGG_CHOICES - 1)]);
	if (effects & AGG_CLEAR)
		agg->nest = 0;
	else if ((effects & AGG_DOWN) && agg->nest)
		agg->nest--;
}

static __always_inline int aggregate(const struct cpu_state *state, const struct trap *trap)
{
	u32 cpu = bpf_get_smp_processor_id(), context;
	u64 index = agg_slot(trap), bucket;
	struct aggregate *agg = (struct aggregate *)aggregates.lookup((int *)&cpu);
	struct agg_slot *slot;
	u64 tsc;

	AS_IT_IS(index);
	if (!agg || !agg->counting || index >= AGG_SLOTS)
		return 0;
	slot = &agg->slots[index];
	context = agg_context(agg, trap, index != 2 && state && state->nmi.open);
	if (trap->phase == TRAP_ENTRY) {
		if (slot->effects & AGG_UP)
			agg->nest++;
		if (slot->exitless >> (context >> 7) & 1) {
			agg_return(agg, slot, index, context, 0);
			return 0;
		}
		tsc = read_counter();
		if (slot->open_tsc)
			add(&agg->overwritten);
		slot->open_tsc = tsc;
		slot->open_context = context;
		return 0;
	}
	tsc = read_counter();
	if (!slot->open_tsc) {
		add(&agg->orphans);
		agg_return(agg, slot, index, context, 1);
		return 0;
	}
	if ((s64)tsc < 0 || (s64)slot->open_tsc < 0 || tsc < slot->open_tsc) {
		lose(LOSS_TSC_UNREADABLE);
	} else {
		bucket = index * AGG_BUCKETS + agg_bucket(tsc - slot->open_tsc);
		AS_IT_IS(bucket);
		if (bucket < AGG_SLOTS * AGG_BUCKETS)
			add(&agg->latency[bucket]);
	}
	if ((trap->seen & (TRAP_SEEN_FRAME | TRAP_SEEN_TARGET)) == 0)
		context = slot->open_context;
	slot->open_tsc = 0;
	agg_return(agg, slot, index, context, 0);
	return 0;
}
