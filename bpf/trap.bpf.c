/*
 * What all probes share, and those on tracepoints: one thin program a hook, each of which calls a handle_*().
 *
 * Compiled by BCC against bpf/stub (no kernel headers), behind filter.bpf.c and, where the kernel has fentry, before
 * functions.bpf.c: BCC knows maps in its main file only, so the loader (collect/probes.py) joins the files. Macros that it gives:
 *   IRETRACE_CPUS       number of possible CPUs
 *   IRETRACE_STAND_INS  have the tracepoints that stand in for functions, where a kernel has no fentry
 *   IRETRACE_AGGREGATE  count in place of writing events; aggregate.bpf.c is joined then
 *   IRETRACE_FUNCTIONS, IRETRACE_HYPERVISOR
 *                       functions.bpf.c is joined
 *   IRETRACE_TYPED      page faults' programs get arguments with types (collect/typed.py) and may follow the pointers
 *   IRETRACE_CLOCK_TSC  read the TSC through the msr PMU; otherwise bpf_ktime_get_ns()
 */
#include <uapi/linux/ptrace.h>
#include "trap.h"

/* A ring a CPU for everything but NMIs, then a ring a CPU for NMIs: rings[cpu], rings[IRETRACE_CPUS + cpu]; one for names
 * of processes, rings[2 * IRETRACE_CPUS].
 * One CPU's events never wait for another's, and an NMI never finds its ring locked by what it interrupted: reserving
 * takes a lock that in NMI context can only be tried (__bpf_ringbuf_reserve(), kernel/bpf/ringbuf.c). What else runs as
 * an NMI does, or inside one, writes there too. */
BPF_RINGBUF_OUTPUT(ring_template, 1);
BPF_ARRAY_OF_MAPS(rings, "ring_template", 2 * IRETRACE_CPUS + 1);

BPF_PERF_ARRAY(tsc_counter, IRETRACE_CPUS);
BPF_PERCPU_ARRAY(losses, u64, N_LOSSES);
BPF_ARRAY(entry_text, struct text_range, N_TEXT);
BPF_ARRAY(settings, struct settings, 1);

/*
 * A trap from user mode whose return to user mode exit_to_user_mode_prepare() will show. That hook sees the frame, and
 * not by which trap (or system call) the kernel was entered; but a task enters the kernel from user mode once before it
 * goes back, and what leaves the CPU earlier is closed at the switch, so one place a CPU is enough.
 */
struct user_trap {
	u64 regs;
	u16 irq;
	u8 vector;
	u8 seen;
	u8 open;
};

struct cpu_state {
	u64 passed; /* runs that rightly wrote no event: see collect/overhead.py */
	u64 nmi_open; /* the hook that opened the NMI that is being handled, plus one */
	u64 mce_tsc; /* of the last machine check: each of its banks is logged by itself */
	struct user_trap user;
};
BPF_PERCPU_ARRAY(cpu_state, struct cpu_state, 1);

#define STACK_WORDS 96 /* how far above the probe the entry stub's frame is looked for, a stack */
struct scratch {
	u64 address;
	u64 words[STACK_WORDS];
};
/* An NMI may interrupt a search of its CPU, and a machine check an NMI's, so each has a scratch of its own. */
enum { SCRATCH_IRQ, SCRATCH_NMI, SCRATCH_MC, N_SCRATCH };
BPF_PERCPU_ARRAY(scratch, struct scratch, N_SCRATCH);

/* The part of pt_regs that the CPU pushed. */
struct iret_frame {
	u64 ip;
	u64 cs;
	u64 flags;
	u64 sp;
};

/* All that a hook knows of a trap; a handler fills it, emit() sends it. */
struct trap {
	struct iret_frame frame;
	u32 error_code;
	u16 irq;
	u8 vector;
	u8 hook;
	u8 phase;
	u8 seen;
};

static __always_inline void lose(u32 cause)
{
	u64 *count = losses.lookup(&cause);
	if (count)
		__sync_fetch_and_add(count, 1);
}

/* Reading the counter yields a negative error number where there is none on this CPU. */
static __always_inline u64 read_counter(void)
{
#ifdef IRETRACE_CLOCK_TSC
	return tsc_counter.perf_read(CUR_CPU_IDENTIFIER);
#else
	return bpf_ktime_get_ns();
#endif
}

/* The time stamp of an event. Where there are none, only what has a duration reads the counter (aggregate.bpf.c). */
static __always_inline u64 read_clock(void)
{
#ifdef IRETRACE_AGGREGATE
	return 0;
#else
	return read_counter();
#endif
}

#ifdef IRETRACE_AGGREGATE
static __always_inline int aggregate(const struct cpu_state *state, const struct trap *trap);
#endif

static __always_inline struct cpu_state *this_cpu(void)
{
	u32 zero = 0;

	return cpu_state.lookup((int *)&zero);
}

/* What is open on this CPU; NULL where no hook is compiled that could close it, so that none is asked for it. */
static __always_inline struct cpu_state *open_here(void)
{
#if defined(IRETRACE_FUNCTIONS) || defined(IRETRACE_HYPERVISOR)
	return this_cpu();
#else
	return NULL;
#endif
}

/* This run of a probe writes nothing, and that is right. An NMI may come in between, hence the locked addition. */
static __always_inline int pass(struct cpu_state *state)
{
	if (state)
		__sync_fetch_and_add(&state->passed, 1);
	return 0;
}

/* Send an event; `as_nmi`: its trap runs in NMI context. */
static __always_inline int emit(const struct cpu_state *state, const struct trap *trap, u64 tsc, u32 as_nmi)
{
	u32 cpu = bpf_get_smp_processor_id();
	u32 in_nmi = as_nmi || (state && state->nmi_open);
	u32 index = in_nmi ? IRETRACE_CPUS + cpu : cpu;
	u32 loss = in_nmi ? LOSS_NMI_RING_BUSY : LOSS_RING_FULL;
	void *ring;
	struct trap_event *event;
	u64 pid_tgid;

#ifdef IRETRACE_AGGREGATE
	return aggregate(state, trap);
#endif
	if ((s64)tsc < 0) {
		lose(LOSS_TSC_UNREADABLE);
		return 0;
	}
	ring = rings.lookup((int *)&index);
	if (!ring) {
		lose(loss);
		return 0;
	}
	event = bpf_ringbuf_reserve(ring, sizeof(*event), 0);
	if (!event) {
		lose(loss);
		return 0;
	}
	pid_tgid = bpf_get_current_pid_tgid();
	event->tsc = tsc;
	event->ip = trap->frame.ip;
	event->sp = trap->frame.sp;
	event->flags = trap->frame.flags;
	event->error_code = trap->error_code;
	event->pid = pid_tgid >> 32;
	event->tid = pid_tgid;
	event->cs = trap->frame.cs;
	event->irq = trap->irq;
	event->cpu = cpu;
	event->vector = trap->vector;
	event->hook = trap->hook;
	event->phase = trap->phase;
	event->seen = trap->seen;
	bpf_ringbuf_submit(event, BPF_RB_NO_WAKEUP);
	return 0;
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
	if (read_frame(trap, (const struct pt_regs *)regs))
		lose(LOSS_FRAME_UNREAD);
#endif
}

static __always_inline int is_from_user(const struct trap *trap)
{
	return (trap->seen & (TRAP_SEEN_TARGET | TRAP_TO_KERNEL)) == TRAP_SEEN_TARGET;
}

/*
 * Whether a trap of the kernel's runs in NMI context (irqentry_nmi_enter(): exc_debug_kernel, exc_int3, exc_double_fault,
 * exc_machine_check_kernel; kernel/entry/common.c): it may have interrupted a probe that holds the other ring's lock.
 */
static __always_inline u32 runs_as_nmi(const struct trap *trap)
{
	return trap->vector == 18 ||
	       (!is_from_user(trap) && (trap->vector == 1 || trap->vector == 3 || trap->vector == 8));
}

/* An entry: send it, and where it came from user mode leave word for the hook that will see it return. */
static __always_inline int enter(struct cpu_state *state, const struct trap *trap, u64 regs, u64 tsc)
{
	u32 zero = 0;
	struct settings *set;

	emit(state, trap, tsc, runs_as_nmi(trap));
	if (!state || !is_from_user(trap))
		return 0;
	set = settings.lookup((int *)&zero);
	if (set && set->user_exits) {
		state->user.open = 0;
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

static __always_inline int handle_page_fault(struct bpf_raw_tracepoint_args *ctx, u8 hook)
{
	struct cpu_state *state = open_here();
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
	return enter(state, &trap, regs, tsc);
}

static __always_inline int handle_irq(struct bpf_raw_tracepoint_args *ctx, struct trap *trap, u32 text_index)
{
	struct cpu_state *state = open_here();
	u64 tsc, regs;

	if (!is_wanted(LEFT_OUT_OTHERS))
		return 0;
	tsc = read_clock();
	if (trap->phase == TRAP_EXIT)
		return returns_later(state, trap) ? pass(state) : emit(state, trap, tsc, 0);
	regs = find_frame(trap, ctx, text_index, SCRATCH_IRQ);
	return enter(state, trap, regs, tsc);
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
	trap.hook = HOOK_NMI_HANDLER;
	trap.phase = TRAP_ENTRY;
	trap.vector = 2;
	trap.seen = TRAP_SEEN_VECTOR;
	find_frame(&trap, ctx, TEXT_NMI, SCRATCH_NMI);
	return emit(state, &trap, tsc, 1);
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

/*
 * Names of processes, at the price of nothing an event: a record for each new name and each end. What is here when
 * recording begins or forks without a new name, user space reads in /proc (collect/processes.py).
 */
static __always_inline int handle_process(u8 what, u64 pid_tgid, const char *after)
{
	u64 tsc = read_clock();
	u32 index = 2 * IRETRACE_CPUS;
	void *ring = rings.lookup((int *)&index);
	struct process_event *event;

	if ((s64)tsc < 0 || !ring) {
		lose(LOSS_PROCESS_NAMES);
		return 0;
	}
	event = bpf_ringbuf_reserve(ring, sizeof(*event), 0);
	if (!event) {
		lose(LOSS_PROCESS_NAMES);
		return 0;
	}
	event->tsc = tsc;
	event->pid = pid_tgid >> 32;
	event->cpu = bpf_get_smp_processor_id();
	event->what = what;
	bpf_get_current_comm(event->before, COMM_BYTES);
	event->after[0] = 0;
	if (after)
		bpf_probe_read_kernel_str(event->after, COMM_BYTES, after);
	bpf_ringbuf_submit(event, BPF_RB_NO_WAKEUP);
	return 0;
}

/* A process is called what its first thread is called. */
static __always_inline bool is_first_thread(u64 pid_tgid)
{
	return pid_tgid >> 32 == (u32)pid_tgid;
}

/* __set_task_comm() calls it before the name changes, on execve too (begin_new_exec(), fs/exec.c). */
RAW_TRACEPOINT_PROBE(task_rename)
{
	u64 pid_tgid = bpf_get_current_pid_tgid();

	if (ctx->args[0] != bpf_get_current_task())
		return handle_process(PROCESS_RENAMED_BY_OTHER, pid_tgid, NULL);
	return is_first_thread(pid_tgid) ? handle_process(PROCESS_RENAMED, pid_tgid, (const char *)ctx->args[1]) : 0;
}

RAW_TRACEPOINT_PROBE(sched_process_exit)
{
	u64 pid_tgid = bpf_get_current_pid_tgid();

	return is_first_thread(pid_tgid) ? handle_process(PROCESS_ENDED, pid_tgid, NULL) : 0;
}
