/*
 * The frame that the CPU pushed: where the trap interrupted, and where its return goes.
 *
 * A hook's argument gives the pt_regs (read_frame(), read_argument_frame()), or they are looked for on the kernel stack
 * (find_frame()). Macro that the loader gives:
 *   IRETRACE_TYPED  page faults' programs get arguments with types (collect/typed.py) and may follow the pointers
 */

/* Where the entry stubs lie, told by the loader: by vector, and TEXT_* of trap.h. */
BPF_ARRAY(entry_text, struct text_range, N_TEXT);

#define STACK_WORDS 96 /* how far above the probe the entry stub's frame is looked for, a stack */
struct scratch {
	u64 address;
	u64 words[STACK_WORDS];
};
/* An NMI may interrupt a search of its CPU, and a machine check an NMI's, so each has a scratch of its own. */
enum { SCRATCH_IRQ, SCRATCH_NMI, SCRATCH_MC, N_SCRATCH };
BPF_PERCPU_ARRAY(scratch, struct scratch, N_SCRATCH);

/* Whether a place in the kernel is in the code of index `index` in entry_text. */
static __always_inline u32 is_in_text(u64 ip, u32 index)
{
	struct text_range *text = entry_text.lookup(&index);

	return text && ip >= text->low && ip < text->high;
}

static __always_inline void saw_frame(struct trap *trap)
{
	trap->seen |= TRAP_SEEN_FRAME | TRAP_SEEN_TARGET;
	if ((trap->frame.cs & 3) == 0)
		trap->seen |= TRAP_TO_KERNEL;
}

/* Read the frame that the CPU pushed out of a pt_regs. */
static __always_inline int read_frame(struct trap *trap, const struct pt_regs *regs)
{
	if (bpf_probe_read_kernel(&trap->frame, sizeof(trap->frame), &regs->ip))
		return -1;
	saw_frame(trap);
	return 0;
}

/* The same at an address; that it cannot be read is counted. */
static __always_inline void read_frame_at(struct trap *trap, u64 regs)
{
	if (read_frame(trap, (const struct pt_regs *)regs))
		lose(LOSS_FRAME_UNREAD);
}

/* Read a word of pt_regs behind a pointer whose type the verifier knows; asm, or BCC would make it a helper's call. */
#define TYPED_READ(to, type, regs, member) \
	asm volatile("%0 = *(" #type " *)(%1 + %2)" : "=r"(to) : "r"(regs), "i"(__builtin_offsetof(struct pt_regs, member)))

/*
 * The frame in a tracepoint's argument. A helper's call takes longer than all else that a count does. CS is read as the
 * 16 bits it is: where the kernel knows FRED it is a union whose first member has no more (struct pt_regs,
 * arch/x86/include/asm/ptrace.h), and the verifier lets nothing be read beyond a member.
 */
static __always_inline void read_argument_frame(struct trap *trap, u64 regs)
{
#ifdef IRETRACE_TYPED
	TYPED_READ(trap->frame.ip, u64, regs, ip);
	TYPED_READ(trap->frame.cs, u16, regs, cs);
	TYPED_READ(trap->frame.flags, u64, regs, flags);
	TYPED_READ(trap->frame.sp, u64, regs, sp);
	saw_frame(trap);
#else
	read_frame_at(trap, regs);
#endif
}

/*
 * Look for the entry stub's frame in the words from `address` up: a return address into the stub, with the
 * pt_regs right above it (`call sysvec_*` in idtentry_body, arch/x86/entry/entry_64.S). Reads at most to the end
 * of the page. Returns the address of the pt_regs; 0 where there is none, and then *beyond is the first address
 * not looked at and *last the word below it.
 */
static __always_inline u64 scan_stack(struct scratch *s, u64 address, const struct text_range *text, u64 *beyond,
				      u64 *last)
{
	u64 size = 4096 - (address & 4095);
	u32 i;

	if (size > sizeof(s->words))
		size = sizeof(s->words);
	*beyond = address + size;
	*last = 0;
	if (bpf_probe_read_kernel(s->words, (u32)size, (void *)address))
		return 0;
	for (i = 0; i < STACK_WORDS; i++) {
		u64 word = s->words[i];
		if (8 * i >= size)
			return 0;
		if (word >= text->low && word < text->high)
			return address + 8 * i + 8;
		*last = word;
	}
	return 0;
}

/*
 * The frame of the interrupt that this probe runs in, where no argument gives it.
 *
 * An interrupt from user mode runs on the task's stack, right above lies its pt_regs. One from the kernel moves to
 * the CPU's IRQ stack unless it is there already (call_on_irqstack_cond, arch/x86/include/asm/irq_stack.h); the
 * IRQ stack's top word is the stack pointer it came from, so where the page ends the search goes on there, and
 * only then in the next page: above the IRQ stack lies a guard page, and reading it would be a page fault of our
 * own. `ctx` lies on the current stack: bpf_trace_run*() builds it there.
 *
 * An NMI's pt_regs lie above the return address into asm_exc_nmi, on its IST stack or on the task's.
 *
 * Returns the address of the pt_regs; 0 where they were not found.
 */
static __always_inline u64 find_frame(struct trap *trap, void *ctx, u32 text_index, u32 scratch_index)
{
	struct scratch *s = scratch.lookup(&scratch_index);
	struct text_range *text = entry_text.lookup(&text_index);
	u64 regs, next, hop, last;

	if (!s || !text || !text->low)
		goto unread;
	/* A pointer that went through memory comes back as a number. */
	s->address = (u64)ctx;
	asm volatile("" ::: "memory");
	regs = scan_stack(s, s->address & ~7ull, text, &next, &hop);
	if (!regs && !(next & 4095)) {
		if ((s64)hop < 0 && !(hop & 7)) {
			u64 hop_next;
			regs = scan_stack(s, hop, text, &hop_next, &last);
			if (!regs && !(hop_next & 4095) && hop_next - hop < 256)
				regs = scan_stack(s, hop_next, text, &hop_next, &last);
		}
		if (!regs)
			regs = scan_stack(s, next, text, &next, &last);
	}
	if (regs && !read_frame(trap, (const struct pt_regs *)regs))
		return regs;
unread:
	lose(LOSS_FRAME_UNREAD);
	lose(LOSS_TARGET_UNKNOWN);
	return 0;
}
