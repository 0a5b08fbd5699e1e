/*
 * NMIs: where one begins and ends in the trace, and what came inside it.
 *
 * One at a time: after an NMI is delivered none is until the next IRET (Intel SDM vol. 3A, 6.7.1). An exception inside it
 * returns by IRET too, and then another may be delivered; the kernel lets that one run only when the first is over
 * (asm_exc_nmi, Linux kernel commit 3f3c8b8c4b2a ("x86: Add workaround to NMI iret woes") (in v3.3); where the first came
 * from user mode, nmi_state in exc_nmi(), arch/x86/kernel/nmi.c). So struct nmi_state (state.bpf.c) has room for one.
 *
 * Its begin: exc_nmi() and default_do_nmi() are noinstr. nmi_handle() walks the list of NMI_LOCAL, whole and in its order;
 * the first of its handlers that is hooked opens the NMI (handle_nmi_handler()). Where no function can be hooked, the
 * tracepoint nmi:nmi_handler shows that an NMI came, and not that it ended (handle_nmi()).
 *
 * Its end: the last handler's is the last that can be hooked (handle_nmi_exit()). If a handler claimed the NMI, nothing
 * follows. If none did, default_do_nmi() goes on to unknown_nmi_error(), which prints, and may meet a #BP or #PF: inside the
 * NMI, behind its last hook. So that exit is held back until the CPU's next event shows whether the NMI is over:
 *
 *     what that event's trap interrupted    the event             the exit
 *     ran on the NMI's stack                is sent, inside it    stays held, with a new time stamp
 *     did not, or no frame tells            is sent, behind it    is sent
 *
 * An NMI of the kernel's has a stack of its own. One of user mode's runs on its task's (Linux kernel commit 9b6e6a8334d5
 * ("x86/nmi/64: Switch stacks on userspace NMI entry") (in v4.2)), as system calls do, but under pt_regs that tell it from
 * those. An exit still held when recording ends is written by user space (held_exits(), collect/probes.py).
 *
 * All this may be interrupted by an NMI at any instruction, whose own probes then find a state half changed: take_held()
 * says how an exit is nevertheless sent once. What runs in an NMI, or as one, writes to the NMIs' ring (event.bpf.c).
 *
 * Every program sends through emit(), so that none passes by a held exit. Where traps are counted (IRETRACE_AGGREGATE),
 * an NMI ends with its last handler and nothing is held back.
 */

/* Whether a trap came inside an NMI that was shown: until its last handler ended, or behind; or else in a machine check. */
enum nesting { NOT_IN_NMI, IN_CHECK, IN_NMI, BEHIND_LAST_HANDLER };

/*
 * Whether a trap came inside the NMI whose exit is held back: what it interrupted ran on the NMI's stack, or in a #DB or
 * machine check that had interrupted that. An NMI of the kernel's has a stack for itself, which stacks_below() knows; where
 * the kernel's BTF does not tell, it is at most so many bytes below its pt_regs. One of user mode's runs on its task's.
 * Either may be the next NMI's or a later system call's by now: then its pt_regs are overwritten (asm_exc_nmi,
 * arch/x86/entry/entry_64.S). Of KASAN's task stacks, twice as large, only the upper half is asked: another task's may lie
 * below.
 */
#define NMI_STACK_BYTES  16384
#define TASK_STACK_BYTES 16384
static __always_inline u32 is_inside(const struct nmi_state *nmi, const struct trap *trap, const struct below *below)
{
	struct {
		u64 orig_ax;
		struct iret_frame frame;
	} now;

	if ((trap->seen & (TRAP_SEEN_FRAME | TRAP_TO_KERNEL)) != (TRAP_SEEN_FRAME | TRAP_TO_KERNEL))
		return 0;
	if ((nmi->frame.cs & 3) == 0 ?
		    !(below->stacks & 1 << STACK_NMI) && nmi->regs - trap->frame.sp - 1 >= NMI_STACK_BYTES :
		    nmi->regs - below->sp - 1 >= TASK_STACK_BYTES)
		return 0;
	return !bpf_probe_read_kernel(&now, sizeof(now), &((const struct pt_regs *)nmi->regs)->orig_ax) &&
	       now.orig_ax == ~0ull && now.frame.ip == nmi->frame.ip && now.frame.sp == nmi->frame.sp &&
	       now.frame.flags == nmi->frame.flags;
}

static __always_inline enum nesting nmi_around(struct cpu_state *state, const struct trap *trap, u64 tsc)
{
	struct below below;

	stacks_below(state->inner, trap, tsc, &below);
	if (state->nmi.open)
		return IN_NMI;
	if (state->nmi.settled != state->nmi.held && is_inside(&state->nmi, trap, &below))
		return BEHIND_LAST_HANDLER;
	if (below.stacks & 1 << STACK_NMI && state->inner[STACK_NMI].tsc == SHOWN)
		state->inner[STACK_NMI].tsc = tsc; /* the next NMI, which no hook has shown yet */
	return below.stacks & 1 << STACK_MC ? IN_CHECK : NOT_IN_NMI;
}

/*
 * Take the exit that is held back, to send it. NMIs may come anywhere in between, and will send what they find not
 * settled, so the order matters: what is to be sent is copied first, since an NMI may put its own exit there; then it is
 * settled, after which no NMI sends it; only then it shows whether one did before. The first NMI that finds it settled and
 * not sent leaves word, since the next may send a later one. So it is sent once whatever comes.
 */
static __always_inline u32 take_held(struct nmi_state *nmi, struct trap *exit, u64 *tsc)
{
	u32 number = nmi->held, take = 1;

	if (nmi->settled == number) {
		if ((s32)(nmi->sent - number) < 0)
			nmi->owed = number;
		return 0;
	}
	barrier();
	*exit = nmi->exit;
	*tsc = nmi->exit_tsc;
	barrier();
	nmi->settled = number;
	barrier();
	if ((s32)(nmi->sent - number) >= 0)
		take = number && nmi->owed == number;
	else
		nmi->sent = number;
	barrier();
	if (nmi->owed == number)
		nmi->owed = 0;
	return take;
}

/* Send an event; `as_nmi`: its trap runs in NMI context. */
static __always_inline int emit_nested(struct cpu_state *state, const struct trap *trap, u64 tsc, u32 as_nmi,
				       enum nesting nesting)
{
#ifdef IRETRACE_AGGREGATE
	return aggregate(state, trap);
#else
	const struct trap *now = trap;
	struct trap exit;
	u64 exit_tsc, now_tsc = tsc;
	u32 i;

	if (nesting <= IN_CHECK) {
		if (take_held(&state->nmi, &exit, &exit_tsc)) {
			now = &exit;
			now_tsc = exit_tsc;
		}
		if (nesting == NOT_IN_NMI)
			state->interrupted.tsc = 0; /* a machine check is still what came last, until it is over */
		state->last_ended |= trap->phase == TRAP_EXIT;
	} else if (trap->vector == 3) {
		/* Where an NMI interrupted the probe on a #BP's entry, those inside it are skipped, and their exits are not:
		 * such an exit would end the #BP that is open below the NMI. */
		if (trap->phase == TRAP_ENTRY)
			state->nmi.inside++;
		else if (state->nmi.inside)
			state->nmi.inside--;
		else
			return pass(state);
	}
	/* What was held back first, and one call for both, since all of it is in every program. */
#pragma clang loop unroll(disable)
	for (i = 0; i < 2; i++) {
		send(now, now_tsc, as_nmi || nesting != NOT_IN_NMI);
		if (now == trap)
			break;
		now = trap;
		now_tsc = tsc;
	}
	if (nesting == BEHIND_LAST_HANDLER)
		state->nmi.exit_tsc = read_counter(); /* it is not over yet */
	return 0;
#endif
}

static __always_inline int emit(struct cpu_state *state, const struct trap *trap, u64 tsc, u32 as_nmi)
{
#ifdef IRETRACE_AGGREGATE
	return aggregate(state, trap);
#else
	if (!state)
		return send(trap, tsc, as_nmi); /* no hook is compiled that could show an NMI's end */
	return emit_nested(state, trap, tsc, as_nmi, nmi_around(state, trap, tsc));
#endif
}

/*
 * nmi:nmi_handler fires after each registered handler (nmi_handle(), arch/x86/kernel/nmi.c), so an NMI shows as
 * often as there are handlers. The first one seen on a CPU stands for all: a list is walked whole, in its order.
 */
BPF_PERCPU_ARRAY(first_nmi_handler, u64, 1);

static __always_inline int handle_nmi(struct bpf_raw_tracepoint_args *ctx)
{
	struct cpu_state *state = this_cpu();
	u64 tsc;
	struct trap trap = {};
	u32 zero = 0;
	u64 *first = first_nmi_handler.lookup(&zero);

	if (!first)
		return 0;
	if (!*first)
		*first = ctx->args[0];
	if (*first != ctx->args[0])
		return pass(state);
	if (!is_wanted(LEFT_OUT_NMIS))
		return 0;
	tsc = read_clock();
	saw_vector(&trap, HOOK_NMI_HANDLER, TRAP_ENTRY, 2);
	find_frame(&trap, ctx, TEXT_NMI, SCRATCH_NMI);
	return emit(state, &trap, tsc, 1);
}

/* NMI handlers that are on the list of NMI_LOCAL: whichever is called first shows the NMI. */
static __always_inline int handle_nmi_handler(u64 regs, u8 opener)
{
	struct cpu_state *state = this_cpu();
	struct trap trap = {};
	u64 tsc, since = 0;

	/* Opened by another handler's hook; by this one: it was never closed, and this is the next NMI. */
	if (!state || (state->nmi.open && state->nmi.open != opener))
		return pass(state);
	if (!is_wanted(LEFT_OUT_NMIS))
		return 0;
	tsc = read_clock();
	saw_vector(&trap, HOOK_FUNCTION_ENTRY, TRAP_ENTRY, 2);
	read_frame_at(&trap, regs);
	if (state->nmi.open)
		lose(LOSS_NMI_UNCLOSED);
	state->nmi.open = 0;
#ifndef IRETRACE_AGGREGATE
	since = state->interrupted.tsc;
	if (since && was_interrupted(state, &trap, regs)) {
		lose(LOSS_ORDER_MENDED);
		tsc = state->interrupted.tsc - 1;
	}
	tsc = before_inner(&state->inner[STACK_NMI], &trap, tsc);
#endif
	emit(state, &trap, tsc, 1);
	state->inner[STACK_NMI].tsc = SHOWN;
	state->nmi.open = opener;
	state->nmi.claims = 0;
	state->nmi.inside = 0;
	state->nmi.regs = regs;
	state->nmi.frame = trap.frame;
	state->nmi.entry_tsc = tsc;
	state->nmi.entries++;
#ifndef IRETRACE_AGGREGATE
	remember_interruption(state, &trap, tsc, since, SCRATCH_NMI);
#endif
	return 0;
}

/* The last of it that is seen. Only of an NMI that its handlers claimed it is certain that nothing follows. */
static __always_inline int handle_nmi_exit(struct cpu_state *state, u64 regs, u8 hook)
{
	struct trap trap = {};

	if (!state || !state->nmi.open)
		return pass(state);
	saw_vector(&trap, hook, TRAP_EXIT, 2);
	if (regs)
		read_frame_at(&trap, regs);
#ifdef IRETRACE_AGGREGATE
	emit(state, &trap, 0, 1);
	state->nmi.open = 0;
	return 0;
#else
	if (state->nmi.claims) {
		emit(state, &trap, read_clock(), 1);
		state->nmi.open = 0;
		return 0;
	}
	state->nmi.exit = trap;
	state->nmi.exit_tsc = read_counter();
	state->nmi.open = 0;
	barrier();
	state->nmi.held++;
	return 0;
#endif
}
