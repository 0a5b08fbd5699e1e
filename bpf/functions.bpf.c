/*
 * Probes on kernel functions (fentry, fexit), where the kernel has them, and what goes with them; compiled behind
 * trap.bpf.c. Macro given by the loader: IRETRACE_HYPERVISOR, where a hypervisor's vectors are in the IDT.
 *
 * Each function gets the trap's pt_regs, or something that leads there; collect/hooks.py cites it and holds its
 * prototype against the kernel's BTF before the program is loaded. Only chosen programs are loaded, so that a function
 * which a kernel does not have costs nothing but its compilation.
 */

/* A handler of one class of trap is called. */
static __always_inline int handle_function_entry(u64 regs, u8 vector)
{
	struct cpu_state *state = this_cpu();
	u32 nmis = nmis_shown(state);
	struct trap trap = {};
	u64 tsc;

	if (!is_wanted(LEFT_OUT_OTHERS))
		return 0;
	tsc = read_clock();
	saw_vector(&trap, HOOK_FUNCTION_ENTRY, TRAP_ENTRY, vector);
	read_frame_at(&trap, regs);
	return enter(state, &trap, regs, tsc, nmis);
}

/* It returns: the last that is seen of a trap of the kernel's; one of user mode's ends at exit_to_user_mode_prepare. */
static __always_inline int handle_function_exit(u64 regs, u8 vector, u8 hook)
{
	struct cpu_state *state = this_cpu();
	struct trap trap = {};
	u64 tsc;

	if (!is_wanted(LEFT_OUT_OTHERS))
		return 0;
	tsc = read_clock();
	saw_vector(&trap, hook, TRAP_EXIT, vector);
	read_frame_at(&trap, regs);
	if (is_from_user(&trap) && returns_later(state, &trap))
		return pass(state);
	return emit(state, &trap, tsc, runs_as_nmi(&trap));
}

/* System vectors: run_sysvec_on_irqstack_cond(__##func, regs) in DEFINE_IDTENTRY_SYSVEC, arch/x86/include/asm/idtentry.h. */
#define SYSVEC(name, number)                                                                    \
	KFUNC_PROBE(__sysvec_##name, struct pt_regs * regs)                                     \
	{                                                                                       \
		return handle_function_entry((u64)regs, number);                                \
	}                                                                                       \
	KRETFUNC_PROBE(__sysvec_##name, struct pt_regs * regs)                                  \
	{                                                                                       \
		return handle_function_exit((u64)regs, number, HOOK_FUNCTION_EXIT);             \
	}

SYSVEC(apic_timer_interrupt, 0xec)
SYSVEC(deferred_error, 0xf4)
SYSVEC(irq_work, 0xf6)
SYSVEC(x86_platform_ipi, 0xf7)
SYSVEC(threshold, 0xf9)
SYSVEC(thermal, 0xfa)
SYSVEC(call_function_single, 0xfb)
SYSVEC(call_function, 0xfc)
SYSVEC(error_interrupt, 0xfe)
SYSVEC(spurious_apic_interrupt, 0xff)
#ifdef IRETRACE_HYPERVISOR
SYSVEC(hyperv_stimer0, 0xed)
SYSVEC(kvm_posted_intr_wakeup_ipi, 0xf1)
SYSVEC(kvm_asyncpf_interrupt, 0xf3)
SYSVEC(hyperv_callback, 0xf3)
SYSVEC(xen_hvm_callback, 0xf3)
#endif

/* Device interrupts with their real vector: DEFINE_IDTENTRY_IRQ(common_interrupt), arch/x86/kernel/irq.c. */
KFUNC_PROBE(__common_interrupt, struct pt_regs *regs, u32 vector)
{
	return handle_function_entry((u64)regs, vector);
}

KRETFUNC_PROBE(__common_interrupt, struct pt_regs *regs, u32 vector)
{
	return handle_function_exit((u64)regs, vector, HOOK_FUNCTION_EXIT);
}

/* #BP: do_int3() asks kprobes first (arch/x86/kernel/traps.c). */
KFUNC_PROBE(kprobe_int3_handler, struct pt_regs *regs)
{
	return handle_function_entry((u64)regs, 3);
}

KRETFUNC_PROBE(kprobe_int3_handler, struct pt_regs *regs)
{
	return handle_function_exit((u64)regs, 3, HOOK_FUNCTION_EXIT);
}

static __always_inline u32 is_asked_for(u32 exception)
{
	u32 zero = 0;
	struct settings *set = settings.lookup((int *)&zero);

	return set && exception < 32 && (set->exceptions >> exception & 1);
}

/* #MF and #XF: exc_coprocessor_error(), exc_simd_coprocessor_error() (arch/x86/kernel/traps.c). */
KFUNC_PROBE(math_error, struct pt_regs *regs, int trapnr)
{
	return is_asked_for(trapnr) ? handle_function_entry((u64)regs, trapnr) : pass(this_cpu());
}

KRETFUNC_PROBE(math_error, struct pt_regs *regs, int trapnr)
{
	return is_asked_for(trapnr) ? handle_function_exit((u64)regs, trapnr, HOOK_FUNCTION_EXIT) : pass(this_cpu());
}

/* #GP: exc_general_protection() asks these for a fixup; other vectors pass here too, and have hooks of their own. */
KFUNC_PROBE(fixup_vdso_exception, struct pt_regs *regs, int trapnr)
{
	return trapnr == 13 ? handle_function_entry((u64)regs, 13) : pass(this_cpu());
}

KFUNC_PROBE(fixup_exception, struct pt_regs *regs, int trapnr)
{
	return trapnr == 13 ? handle_function_entry((u64)regs, 13) : pass(this_cpu());
}

KRETFUNC_PROBE(fixup_exception, struct pt_regs *regs, int trapnr)
{
	return trapnr == 13 ? handle_function_exit((u64)regs, 13, HOOK_FUNCTION_EXIT) : pass(this_cpu());
}

/* The kernel's own #UD: a WARN that traps; without pt_regs it was called as a function (kernel/panic.c). */
KFUNC_PROBE(__warn, const char *file, int line, void *caller, unsigned int taint, struct pt_regs *regs)
{
	return regs ? handle_function_entry((u64)regs, 6) : pass(this_cpu());
}

#define UD2 0x0b0f
#define UD2_BYTES 2

/* handle_bug() (arch/x86/kernel/traps.c) steps over the UD2 only after this hook, so that the frame is put right here. */
KRETFUNC_PROBE(__warn, const char *file, int line, void *caller, unsigned int taint, struct pt_regs *regs)
{
	struct cpu_state *state = this_cpu();
	struct trap trap = {};
	u16 opcode = 0;
	u64 tsc;

	if (!regs)
		return pass(state);
	if (!is_wanted(LEFT_OUT_OTHERS))
		return 0;
	tsc = read_clock();
	saw_vector(&trap, HOOK_FUNCTION_EXIT, TRAP_EXIT, 6);
	if (read_frame(&trap, regs) || bpf_probe_read_kernel(&opcode, sizeof(opcode), (void *)trap.frame.ip) ||
	    opcode != UD2) {
		trap.seen = TRAP_SEEN_VECTOR;
		lose(LOSS_FRAME_UNREAD);
	}
	trap.frame.ip += UD2_BYTES;
	return emit(state, &trap, tsc, 0);
}

/* struct die_args, enum die_val (arch/x86/include/asm/kdebug.h) */
struct die {
	u64 regs;
	u64 name;
	s64 error;
	s32 trapnr;
	s32 signal;
};
#define DIE_DEBUG 3
#define DIE_TRAP 8

#define WITH_ERROR_CODE (1u << 8 | 1u << 10 | 1u << 11 | 1u << 12 | 1u << 17) /* Intel SDM vol. 3A, table 6-1 */

/* The vector that a call of the die chain tells of; 0xff where another hook shows it better or it is no trap. */
static __always_inline u8 die_vector(struct die *die, u64 val, void *data)
{
	if ((val != DIE_DEBUG && val != DIE_TRAP) || bpf_probe_read_kernel(die, sizeof(*die), data))
		return 0xff;
	if (val == DIE_DEBUG)
		return is_asked_for(1) ? 1 : 0xff;
	return die->trapnr < 0 || die->trapnr > 17 || die->trapnr == 16 || !is_asked_for(die->trapnr) ? 0xff : die->trapnr;
}

/*
 * The first notifier of the die chain (priority 0x7fffffff): notify_die() itself cannot be probed. #DB by
 * exc_debug_kernel() and exc_debug_user(), #DF by exc_double_fault(), and what do_error_trap(), exc_bounds() and
 * exc_alignment_check() announce (arch/x86/kernel/traps.c).
 */
KFUNC_PROBE(hw_breakpoint_exceptions_notify, void *block, unsigned long val, void *data)
{
	struct cpu_state *state = this_cpu();
	u32 nmis = nmis_shown(state);
	struct trap trap = {};
	struct die die = {};
	u8 vector = die_vector(&die, val, data);
	u64 tsc;

	if (vector == 0xff)
		return pass(state);
	if (!is_wanted(LEFT_OUT_OTHERS))
		return 0;
	tsc = read_clock();
	saw_vector(&trap, HOOK_DIE_CHAIN, TRAP_ENTRY, vector);
	if (val == DIE_TRAP && (WITH_ERROR_CODE >> vector & 1)) {
		trap.error_code = die.error;
		trap.seen |= TRAP_SEEN_ERROR_CODE;
	}
	read_frame_at(&trap, die.regs);
#ifndef IRETRACE_AGGREGATE
	if (state && vector == 1) {
		enter(state, &trap, die.regs, before_inner(&state->inner[STACK_DB], &trap, tsc), nmis);
		state->inner[STACK_DB].tsc = is_from_user(&trap) ? 0 : SHOWN;
		return 0;
	}
#endif
	return enter(state, &trap, die.regs, tsc, nmis);
}

/* Of the others nothing more is seen when they return to the kernel: a fixup follows that may change the frame. */
KRETFUNC_PROBE(hw_breakpoint_exceptions_notify, void *block, unsigned long val, void *data)
{
	struct die die = {};

	if (die_vector(&die, val, data) != 1)
		return pass(this_cpu());
	return handle_function_exit(die.regs, 1, HOOK_DIE_CHAIN_EXIT);
}

/* struct mce (arch/x86/include/uapi/asm/mce.h), as far as it is read here */
struct machine_check {
	u64 status;
	u64 misc;
	u64 addr;
	u64 mcg_status;
	u64 ip;
	u64 tsc;
	u64 time;
	u8 origin[4];
	u32 cpuid;
	u8 cs;
};
#define MCG_STATUS_MCIP 4 /* a machine check is in progress: Intel SDM vol. 3B, 16.3.1.2 */

/* do_machine_check() is noinstr; each bank that it logs passes here (arch/x86/kernel/cpu/mce/genpool.c). */
KFUNC_PROBE(mce_gen_pool_add, void *mce)
{
	struct cpu_state *state = this_cpu();
	struct machine_check check = {};
	struct trap trap = {};
	u64 tsc, regs, since;
	u32 in_nmi;

	/* What polling finds is logged here as well, and is no trap; all banks of one trap have its time stamp. */
	if (!state || bpf_probe_read_kernel(&check, sizeof(check), mce) || !(check.mcg_status & MCG_STATUS_MCIP) ||
	    state->mce_tsc == check.tsc)
		return pass(state);
	state->mce_tsc = check.tsc;
	if (!is_wanted(LEFT_OUT_OTHERS))
		return 0;
	tsc = read_clock();
	saw_vector(&trap, HOOK_FUNCTION_ENTRY, TRAP_ENTRY, 18);
	regs = find_frame(&trap, ctx, TEXT_MC, SCRATCH_MC);
#ifdef IRETRACE_AGGREGATE
	return enter(state, &trap, regs, tsc, state->nmi.entries);
#else
	tsc = before_inner(&state->inner[STACK_MC], &trap, tsc);
	in_nmi = nmi_around(state, &trap, tsc) > IN_CHECK;
	since = state->interrupted.tsc;
	enter(state, &trap, regs, tsc, state->nmi.entries);
	state->inner[STACK_MC].tsc = is_from_user(&trap) ? 0 : SHOWN;
	if (!in_nmi)
		remember_interruption(state, &trap, tsc, since, SCRATCH_MC);
	return 0;
#endif
}

/* NMI handlers on the list of NMI_LOCAL, each with a number of its own: what they show is in nmi.bpf.c. */
KFUNC_PROBE(perf_event_nmi_handler, unsigned int type, struct pt_regs *regs)
{
	return handle_nmi_handler((u64)regs, 1);
}

KFUNC_PROBE(nmi_cpu_backtrace_handler, unsigned int type, struct pt_regs *regs)
{
	return handle_nmi_handler((u64)regs, 2);
}

KRETFUNC_PROBE(nmi_cpu_backtrace_handler, unsigned int type, struct pt_regs *regs)
{
	return handle_nmi_exit(this_cpu(), (u64)regs, HOOK_FUNCTION_EXIT);
}

/* nmi:nmi_handler after the last handler of the list: all of them ran inside the NMI that is shown. */
int raw_tracepoint__nmi_last_handler(struct bpf_raw_tracepoint_args *ctx)
{
	u32 zero = 0;
	struct settings *set = settings.lookup((int *)&zero);
	struct cpu_state *state = this_cpu();

	if (state && state->nmi.open)
		state->nmi.claims += (u32)ctx->args[2];
	if (!set || set->last_nmi_handler != ctx->args[0])
		return pass(state);
	return handle_nmi_exit(state, 0, HOOK_NMI_LAST_HANDLER);
}

static __always_inline int end_user_trap(struct cpu_state *state, u64 regs, u8 hook)
{
	struct trap trap = {};
	u64 tsc = read_clock();

	trap.hook = hook;
	trap.phase = TRAP_EXIT;
	trap.vector = state->user.vector;
	trap.irq = state->user.irq;
	trap.seen = state->user.seen;
	state->user.open = 0;
	if (regs)
		read_frame_at(&trap, regs);
	return emit(state, &trap, tsc, 0);
}

/* The last function on the way to user mode (kernel/entry/common.c); fexit, since signals change the frame inside it. */
KRETFUNC_PROBE(exit_to_user_mode_prepare, struct pt_regs *regs)
{
	struct cpu_state *state = this_cpu();

	if (state)
		state->kernel_tsc = 0;
	if (!state || !state->user.open)
		return pass(state);
	return end_user_trap(state, (u64)regs, HOOK_EXIT_TO_USER);
}

/* The task leaves the CPU inside its trap, and will return from it elsewhere or later: here this CPU is done with it. */
RAW_TRACEPOINT_PROBE(sched_switch)
{
	struct cpu_state *state = this_cpu();

	if (!state || !state->user.open)
		return pass(state);
	return end_user_trap(state, state->user.regs, HOOK_SWITCHED_OUT);
}
