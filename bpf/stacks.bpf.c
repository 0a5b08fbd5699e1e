/*
 * Which traps lie below another, by the stacks on which they run: certain, whatever hooks have shown of them.
 *
 * An NMI, a #DB or a machine check that interrupts the kernel runs on a stack that its CPU has for it alone (IST; under
 * FRED by stack level). The frame that the CPU pushed lies at the top of that stack, and says on which stack the CPU was
 * before. All are in the CPU's entry area (struct cpu_entry_area, struct cea_exception_stacks,
 * arch/x86/include/asm/cpu_entry_area.h); the areas of all CPUs lie one behind the other, in random order since Linux kernel
 * commit 97e3d26b5e5f ("x86/mm: Randomize per-cpu entry area") (in v6.2). So a stack pointer alone tells the stack, and
 * the kernel's BTF the layout (collect/stacks.py). The search ends where a stack is none of these.
 */

BPF_ARRAY(settings, struct settings, 1);

/* How many stacks can lie on each other: #DB, #MC and NMI once each, and one more for what is not as expected. */
#define MOST_STACKS 4

/*
 * The first event on a CPU that came inside a trap with a stack of its own, before that trap was shown: its entry gets a
 * time stamp before it. What the trap interrupted tells it from the next of its kind, should nothing be seen in between.
 */
struct inner_event {
	u64 tsc; /* 0: none; SHOWN: the trap was shown before */
	u64 ip;  /* where the trap will return to */
	u64 sp;
};
#define SHOWN (~0ull)

/* What stacks_below() found. */
struct below {
	u64 sp;     /* the stack pointer on the first stack that is none of these */
	u32 stacks; /* bits 1 << enum own_stack: which of these stacks lie below */
};

static __always_inline u32 stack_at(const struct settings *set, u64 offset)
{
	u32 i;

#pragma clang loop unroll(full)
	for (i = 0; i < N_STACKS; i++)
		if (offset >= set->stacks[i].low && offset < set->stacks[i].high)
			return i;
	return N_STACKS;
}

/*
 * Follow the stacks from what a trap interrupted, and keep `inner` up to date: for each of these stacks the first event on
 * it, forgotten with the first event that is not.
 */
static __always_inline void stacks_below(struct inner_event *inner, const struct trap *trap, u64 tsc, struct below *below)
{
	struct iret_frame frame;
	u32 zero = 0, i, stack;
	struct settings *set = settings.lookup((int *)&zero);
	u64 offset, sp = trap->frame.sp;

	below->sp = sp;
	below->stacks = 0;
	if (!set || !(trap->seen & TRAP_SEEN_FRAME))
		return; /* nothing is known, and what is open stays open */
	if (!is_from_user(trap)) {
#pragma clang loop unroll(disable)
		for (i = 0; i < MOST_STACKS; i++) {
			if (sp < set->areas_low || sp >= set->areas_high)
				break;
			offset = (sp - set->areas_low) % set->area_bytes;
			stack = stack_at(set, offset);
			if (stack >= N_STACKS)
				break;
			/* The five words at the top: RIP, CS, RFLAGS, RSP, SS. */
			if (bpf_probe_read_kernel(&frame, sizeof(frame), (void *)(sp - offset + set->stacks[stack].high - 40)))
				break;
			below->stacks |= 1 << stack;
			if (!inner[stack].tsc || inner[stack].tsc == SHOWN) {
				inner[stack].ip = frame.ip;
				inner[stack].sp = frame.sp;
			}
			if (!inner[stack].tsc)
				inner[stack].tsc = tsc;
			below->sp = sp = frame.sp;
			if (frame.cs & 3)
				break;
		}
	}
#pragma clang loop unroll(full)
	for (i = 0; i < N_STACKS; i++)
		if (!(below->stacks & 1 << i))
			inner[i].tsc = 0;
}

/* The time stamp of the entry of a trap with a stack of its own: before the first event that came inside it. */
static __always_inline u64 before_inner(const struct inner_event *inner, const struct trap *trap, u64 tsc)
{
	u64 first = inner->tsc;

	if (!first || first == SHOWN || first >= tsc || inner->ip != trap->frame.ip || inner->sp != trap->frame.sp ||
	    is_from_user(trap))
		return tsc;
	lose(LOSS_ORDER_MENDED);
	return first - 1;
}
