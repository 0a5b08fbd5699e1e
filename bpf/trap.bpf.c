/*
 * The probes on tracepoints: one thin program a hook, each of which calls a handle_*(); and enter(), by which all probes
 * show an entry. Macro that the loader gives:
 *   IRETRACE_STAND_INS  have the tracepoints that stand in for functions, where a kernel has no fentry
 */

/* An entry: send it, and where it came from user mode leave word for the hook that will see it return. */
static __always_inline int enter(struct cpu_state *state, const struct trap *trap, u64 regs, u64 tsc, u32 nmis)
{
	u32 zero = 0;
	struct settings *set;

#ifdef IRETRACE_AGGREGATE
	aggregate(state, trap);
	if (!state || !is_from_user(trap))
		return 0;
	set = settings.lookup((int *)&zero);
#else
	enum nesting nesting;
	u64 found;

	if (!state)
		return send(trap, tsc, runs_as_nmi(trap));
	set = settings.lookup((int *)&zero);
	/* A pointer that went through memory comes back as a number: what is below it is read as well. Whoever enters on top of
	 * this leaves there what it found. */
	found = state->entering;
	barrier();
	state->entering = regs;
	barrier();
	regs = state->entering;
	barrier();
	state->entering = found;
	nesting = nmi_around(state, trap, tsc);
	if (nesting <= IN_CHECK) {
		tsc = entered_at(state, trap, regs, tsc, nmis, set && set->user_exits);
		if (!state->last_ended)
			state->outer = state->last;
		state->last.regs = regs;
		state->last.ip = trap->frame.ip;
		state->last_ended = 0;
	}
	emit_nested(state, trap, tsc, runs_as_nmi(trap), nesting);
#endif
	if (set && set->user_exits && is_from_user(trap)) {
		state->user.open = 0;
		state->user.inside = 0;
		state->user.regs = regs;
		state->user.irq = trap->irq;
		state->user.vector = trap->vector;
		state->user.seen = trap->seen & (TRAP_SEEN_VECTOR | TRAP_SEEN_IRQ);
		state->user.open = 1;
	}
	return 0;
}

/* Whether a trap will be shown returning to user mode by a later hook than the one that asks. */
static __always_inline int returns_later(const struct cpu_state *state, const struct trap *trap)
{
	return state && state->user.open && state->user.vector == trap->vector && state->user.irq == trap->irq &&
	       state->user.seen == (trap->seen & (TRAP_SEEN_VECTOR | TRAP_SEEN_IRQ));
}

static __always_inline int handle_page_fault(struct bpf_raw_tracepoint_args *ctx, u8 hook)
{
	struct cpu_state *state = open_here();
	u32 nmis = nmis_shown(state);
	u64 tsc, regs = ctx->args[1];
	struct trap trap = {};

	if (!is_wanted(LEFT_OUT_OTHERS))
		return 0;
	tsc = read_clock();
	trap.hook = hook;
	trap.phase = TRAP_ENTRY;
	trap.vector = 14;
	trap.error_code = ctx->args[2];
	trap.seen = TRAP_SEEN_VECTOR | TRAP_SEEN_ERROR_CODE;
	read_argument_frame(&trap, regs);
	return enter(state, &trap, regs, tsc, nmis);
}

static __always_inline int handle_irq(struct bpf_raw_tracepoint_args *ctx, struct trap *trap, u32 text_index)
{
	struct cpu_state *state = open_here();
	u32 nmis = nmis_shown(state);
	u64 tsc, regs;

	if (!is_wanted(LEFT_OUT_OTHERS))
		return 0;
	tsc = read_clock();
	if (trap->phase == TRAP_EXIT) {
		/* No frame tells whose exit it is. On the way back to user mode interrupts are on, and the same may come again. */
		if (returns_later(state, trap)) {
			if (!state->user.inside)
				return pass(state);
			state->user.inside--;
		}
		return emit(state, trap, tsc, 0);
	}
	regs = find_frame(trap, ctx, text_index, SCRATCH_IRQ);
	if (!is_from_user(trap) && returns_later(state, trap))
		state->user.inside++;
	return enter(state, trap, regs, tsc, nmis);
}

static __always_inline int handle_irq_vector(struct bpf_raw_tracepoint_args *ctx, u8 hook, u8 phase)
{
	struct trap trap = {};

	trap.hook = hook;
	trap.phase = phase;
	trap.vector = ctx->args[0];
	trap.seen = TRAP_SEEN_VECTOR;
	return handle_irq(ctx, &trap, trap.vector);
}

static __always_inline int handle_irq_handler(struct bpf_raw_tracepoint_args *ctx, u8 hook, u8 phase)
{
	struct trap trap = {};

	trap.hook = hook;
	trap.phase = phase;
	trap.irq = ctx->args[0];
	trap.seen = TRAP_SEEN_IRQ;
	return handle_irq(ctx, &trap, TEXT_DEVICE);
}

RAW_TRACEPOINT_PROBE(page_fault_user)
{
	return handle_page_fault(ctx, HOOK_PAGE_FAULT_USER);
}

RAW_TRACEPOINT_PROBE(page_fault_kernel)
{
	return handle_page_fault(ctx, HOOK_PAGE_FAULT_KERNEL);
}

/* A program of its own for each tracepoint, so that the kernel counts and times each hook apart. */
#define IRQ_VECTOR(name)                                                              \
	RAW_TRACEPOINT_PROBE(name##_entry)                                            \
	{                                                                             \
		return handle_irq_vector(ctx, HOOK_IRQ_VECTOR_ENTRY, TRAP_ENTRY);     \
	}                                                                             \
	RAW_TRACEPOINT_PROBE(name##_exit)                                             \
	{                                                                             \
		return handle_irq_vector(ctx, HOOK_IRQ_VECTOR_EXIT, TRAP_EXIT);       \
	}

IRQ_VECTOR(reschedule)
#ifdef IRETRACE_STAND_INS
IRQ_VECTOR(local_timer)
IRQ_VECTOR(call_function)
IRQ_VECTOR(call_function_single)
IRQ_VECTOR(irq_work)
IRQ_VECTOR(x86_platform_ipi)
IRQ_VECTOR(error_apic)
IRQ_VECTOR(spurious_apic)
IRQ_VECTOR(thermal_apic)
IRQ_VECTOR(threshold_apic)
IRQ_VECTOR(deferred_error_apic)

RAW_TRACEPOINT_PROBE(irq_handler_entry)
{
	return handle_irq_handler(ctx, HOOK_IRQ_HANDLER_ENTRY, TRAP_ENTRY);
}

RAW_TRACEPOINT_PROBE(irq_handler_exit)
{
	return handle_irq_handler(ctx, HOOK_IRQ_HANDLER_EXIT, TRAP_EXIT);
}
#endif

RAW_TRACEPOINT_PROBE(nmi_handler)
{
	return handle_nmi(ctx);
}
