/*
 * The order of traps that came inside each other before the outer one's hook.
 *
 * Events are in the order of their hooks, and a hook is not the CPU's first instruction: the entry stubs, and what they
 * call first, cannot be hooked (noinstr since Linux v5.8). NMIs and machine checks are not masked by IF: one that strikes
 * between the CPU's entry into another trap and that one's hook is shown first, and the trace would have it before the trap
 * that it interrupted. So
 *
 *  - remember_interruption() keeps what the last NMI or machine check interrupted, until the next event on this CPU;
 *  - was_interrupted() asks, where the next event is a trap's entry, whether that trap was what it interrupted;
 *  - entered_at() gives the entry the time stamp just below that of the first event that came inside it.
 *
 * NMIs often come one right behind the other, since the next waits until the first returns (Intel SDM vol. 3A, 6.7.1): as
 * long as they interrupt the same, the first one's time stamp is kept.
 *
 * User space sorts by time stamp, so that an event sent late finds its place. Mended is only what is certain
 * (LOSS_ORDER_MENDED counts it); where another explanation is as good, the order stays that of the hooks
 * (LOSS_ORDER_UNSURE). What is certain rests on how a stub is made: it saves pt_regs and calls the handler, so that the
 * return address lies right below them (idtentry_body, arch/x86/entry/entry_64.S). Address of pt_regs, return address and
 * frame together tell traps apart.
 */

/*
 * Whether an NMI or machine check came between the CPU's entry into this trap and its hook. It was the last event, so
 * either it did, or it came on the way out of an earlier trap, behind that one's last hook. It did where
 *  - it interrupted what runs on entry alone: before this trap's entry stub calls its handler, or what stubs call first;
 *  - the trap that it interrupted had the pt_regs of this one, and was called from the same stub: the same address, frame
 *    and return address. (An interrupt that waited comes right where a system call, or a trap that is not hooked, returns
 *    to, with the same frame.) An earlier trap of this vector may have had the same: it is the one entered last, or the
 *    one that that came in; then nothing is certain.
 */
static __always_inline u32 was_interrupted(struct cpu_state *state, const struct trap *trap, u64 regs)
{
	const struct interruption *by = &state->interrupted;
	u64 returns_to = 0;
	u32 stub = trap->vector >= 32 && trap->vector < 0xec ? TEXT_DEVICE : trap->vector;

	if (!regs || bpf_probe_read_kernel(&returns_to, sizeof(returns_to), (void *)(regs - 8)))
		return 0;
	if (by->on_entry)
		return by->on_entry == 1 || trap->vector == 1 || trap->vector == 8 || trap->vector == 18;
	if (is_in_text(by->ip, stub))
		return by->ip < returns_to;
	if (by->regs != regs || by->returns_to != returns_to || by->frame.ip != trap->frame.ip ||
	    by->frame.sp != trap->frame.sp || by->frame.flags != trap->frame.flags)
		return 0;
	if ((state->last.regs == regs && state->last.ip == trap->frame.ip) ||
	    (state->outer.regs == regs && state->outer.ip == trap->frame.ip)) {
		lose(LOSS_ORDER_UNSURE);
		return 0;
	}
	return 1;
}

/*
 * The time stamp of an entry: that of its hook, unless it is certain that what is written before it came after. `nmis`:
 * NMIs shown when the hook's program began.
 */
static __always_inline u64 entered_at(struct cpu_state *state, const struct trap *trap, u64 regs, u64 tsc, u32 nmis,
				      u32 user_exits)
{
	u64 before = 0;

	if (state->nmi.entries != nmis && state->nmi.entry_tsc < tsc)
		before = state->nmi.entry_tsc; /* it interrupted this very program */
	if (state->interrupted.tsc && state->interrupted.tsc < (before ? before : tsc) &&
	    was_interrupted(state, trap, regs))
		before = state->interrupted.tsc;
	if (user_exits && is_from_user(trap)) {
		/* The way to user mode is seen, and is gone with interrupts off: what came from the kernel since came inside. */
		if (state->kernel_tsc && (!before || state->kernel_tsc < before))
			before = state->kernel_tsc;
		state->kernel_tsc = 0;
	} else if (!state->kernel_tsc && !runs_as_nmi(trap) && (s64)tsc >= 0) {
		state->kernel_tsc = tsc;
	}
	if (!before)
		return tsc;
	lose(LOSS_ORDER_MENDED);
	return before - 1;
}

/* How many NMIs were shown on this CPU: asked for before the clock is read. */
static __always_inline u32 nmis_shown(const struct cpu_state *state)
{
	u32 shown = state ? state->nmi.entries : 0;

	barrier();
	return shown;
}

/*
 * Remember an NMI or machine check for the next event: whether it interrupted a trap before its hook is found then. The
 * trap that it interrupted is the one whose entry stub called what runs there: the pt_regs lie above the return address.
 * Never looks beyond the page that the stack pointer is in and the stack from which the CPU came to an IRQ stack.
 * `since`: the time stamp of the event before this one, where that is remembered here; 0: it is not.
 */
static __always_inline void remember_interruption(struct cpu_state *state, const struct trap *trap, u64 tsc, u64 since,
						  u32 scratch_index)
{
	struct interruption *by = &state->interrupted;
	struct scratch *s = scratch.lookup(&scratch_index);
	u32 index = TEXT_ENTRY;
	struct text_range *text = entry_text.lookup(&index);
	u64 sp = trap->frame.sp, regs, beyond, hop, last;
	u64 ip_before = by->ip, regs_before = by->regs, returned_before = by->returns_to, sp_before = by->frame.sp;

	by->tsc = 0;
	if (!(trap->seen & TRAP_SEEN_FRAME) || is_from_user(trap) || !s || !text)
		return;
	by->ip = trap->frame.ip;
	by->on_entry = is_in_text(by->ip, TEXT_ERROR_ENTRY) || is_in_text(by->ip, TEXT_IRQ_ENTRIES) ? 1 :
		       is_in_text(by->ip, TEXT_PARANOID_ENTRY) ? 2 : 0;
	by->regs = 0;
	if (!(sp & 7) && !(by->ip >= text->low && by->ip < text->high)) {
		regs = scan_stack(s, sp, text, &beyond, &hop);
		if (!regs && !(beyond & 4095) && (s64)hop < 0 && !(hop & 7))
			regs = scan_stack(s, hop, text, &beyond, &last);
		if (regs && !bpf_probe_read_kernel(&by->frame, sizeof(by->frame), &((const struct pt_regs *)regs)->ip) &&
		    !bpf_probe_read_kernel(&by->returns_to, sizeof(by->returns_to), (void *)(regs - 8)))
			by->regs = regs;
	}
	if (since && by->regs == regs_before &&
	    (by->regs ? by->returns_to == returned_before && by->frame.sp == sp_before : by->ip == ip_before))
		tsc = since; /* one right behind the other */
	by->tsc = (s64)tsc < 0 ? 0 : tsc; /* where the clock could not be read, nothing can be put before it */
}
