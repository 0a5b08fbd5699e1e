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

/* What tells one trap of a CPU from another that is open at the same time. */
struct place {
	u64 regs;
	u64 ip;
};

/*
 * The NMI that is or was last handled. The last of it that can be hooked is not its end: what the kernel says of an NMI
 * that no handler claimed comes behind it (default_do_nmi(), arch/x86/kernel/nmi.c). So the exit of such an NMI is held
 * back until an event comes that is not inside it: see send_held().
 */
struct nmi_state {
	u64 open;      /* the hook that opened the NMI that is being handled, plus one */
	u64 claims;    /* how much its handlers say that they handled */
	u64 regs;      /* its pt_regs */
	struct iret_frame frame;
	struct trap exit; /* held back */
	u64 exit_tsc;
	u32 held;      /* how many exits were held back */
	u32 settled;   /* up to which of them nothing is left to do */
	u32 sent;      /* the last that was sent */
	u32 entries;   /* NMIs shown */
	u32 inside;    /* #BPs that were shown inside it and have not ended */
	u64 entry_tsc; /* of the last */
};

/*
 * The last NMI or machine check that interrupted the kernel, as long as no other event came: it may have interrupted
 * another trap before that one's hook, which then is the next.
 */
struct interruption {
	u64 tsc; /* 0: none */
	u64 ip;
	u64 on_entry; /* it interrupted what runs on the way into a trap alone: 1 any, 2 those with stacks of their own */
	u64 regs; /* pt_regs of the trap that it interrupted; 0: not found */
	u64 returns_to; /* where that trap's handler returns to: in its entry stub */
	struct iret_frame frame; /* of that trap */
};

struct cpu_state {
	u64 passed; /* runs that rightly wrote no event: see collect/overhead.py */
	u64 mce_tsc; /* of the last machine check: each of its banks is logged by itself */
	u64 kernel_tsc; /* of the first entry from the kernel since this CPU was on its way to user mode */
	struct user_trap user;
	struct nmi_state nmi;
	struct interruption interrupted;
	u64 entering; /* pt_regs of the trap whose entry is being shown */
	struct place last, outer; /* the trap that was entered last, and the one that it came in */
	u32 last_ended;
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

/* Whether a trap came inside an NMI that was shown: before its last handler ended, or behind. */
enum nesting { NOT_IN_NMI, IN_NMI, BEHIND_LAST_HANDLER };

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

/* Nothing that an NMI may change is read before, or written after, what stands before. */
static __always_inline void barrier(void)
{
	asm volatile("" ::: "memory");
}

/* Send an event to the NMIs' ring or to the other. */
static __always_inline int send(const struct trap *trap, u64 tsc, u32 in_nmi)
{
	u32 cpu = bpf_get_smp_processor_id();
	u32 index = in_nmi ? IRETRACE_CPUS + cpu : cpu;
	u32 loss = in_nmi ? LOSS_NMI_RING_BUSY : LOSS_RING_FULL;
	void *ring;
	struct trap_event *event;
	u64 pid_tgid;

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

/*
 * Whether a trap came inside the NMI whose exit is held back: what it interrupted ran on the NMI's stack. An NMI of the
 * kernel's has one of a page for itself. One of user mode's runs on its task's, as a system call does that comes later;
 * then its pt_regs, at the top, are overwritten (asm_exc_nmi, arch/x86/entry/entry_64.S).
 */
#define NMI_STACK_BYTES 4096
#define TASK_STACK_BYTES 16384
static __always_inline u32 is_inside(const struct nmi_state *nmi, const struct trap *trap)
{
	u64 below = nmi->regs - trap->frame.sp - 1;
	struct {
		u64 orig_ax;
		struct iret_frame frame;
	} now;

	if ((trap->seen & (TRAP_SEEN_FRAME | TRAP_TO_KERNEL)) != (TRAP_SEEN_FRAME | TRAP_TO_KERNEL))
		return 0;
	if ((nmi->frame.cs & 3) == 0)
		return below < NMI_STACK_BYTES;
	return below < TASK_STACK_BYTES &&
	       !bpf_probe_read_kernel(&now, sizeof(now), &((const struct pt_regs *)nmi->regs)->orig_ax) &&
	       now.orig_ax == ~0ull && now.frame.ip == nmi->frame.ip && now.frame.sp == nmi->frame.sp &&
	       now.frame.flags == nmi->frame.flags;
}

static __always_inline enum nesting nmi_around(const struct cpu_state *state, const struct trap *trap)
{
	if (state->nmi.open)
		return IN_NMI;
	if (state->nmi.settled != state->nmi.held && is_inside(&state->nmi, trap))
		return BEHIND_LAST_HANDLER;
	return NOT_IN_NMI;
}

/*
 * Take the exit that is held back, to send it. An NMI may come anywhere in between, and will send what it finds not
 * settled, so the order matters: what is to be sent is copied first, since the NMI may put its own exit there; then it is
 * settled, after which no NMI sends it; only then it shows whether one did before. So it is sent once whatever comes.
 */
static __always_inline u32 take_held(struct nmi_state *nmi, struct trap *exit, u64 *tsc)
{
	u32 number = nmi->held;

	if (nmi->settled == number)
		return 0;
	barrier();
	*exit = nmi->exit;
	*tsc = nmi->exit_tsc;
	barrier();
	nmi->settled = number;
	barrier();
	if ((s32)(nmi->sent - number) >= 0)
		return 0;
	nmi->sent = number;
	barrier();
	return 1;
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

	if (nesting == NOT_IN_NMI) {
		if (take_held(&state->nmi, &exit, &exit_tsc)) {
			now = &exit;
			now_tsc = exit_tsc;
		}
		state->interrupted.tsc = 0;
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
	return emit_nested(state, trap, tsc, as_nmi, nmi_around(state, trap));
#endif
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

/* Whether a place in the kernel is in the code of index `index` in entry_text. */
static __always_inline u32 is_in_text(u64 ip, u32 index)
{
	struct text_range *text = entry_text.lookup(&index);

	return text && ip >= text->low && ip < text->high;
}

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
	else if (state->interrupted.tsc && was_interrupted(state, trap, regs))
		before = state->interrupted.tsc;
	if (user_exits && is_from_user(trap)) {
		/* The way to user mode is seen, and is gone with interrupts off: what came from the kernel since came inside. */
		if (state->kernel_tsc && (!before || state->kernel_tsc < before))
			before = state->kernel_tsc;
		state->kernel_tsc = 0;
	} else if (!state->kernel_tsc && !runs_as_nmi(trap)) {
		state->kernel_tsc = tsc;
	}
	if (!before)
		return tsc;
	lose(LOSS_ORDER_MENDED);
	return before - 1;
}

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

	if (!state)
		return send(trap, tsc, runs_as_nmi(trap));
	set = settings.lookup((int *)&zero);
	/* A pointer that went through memory comes back as a number: what is below it is read as well. */
	state->entering = regs;
	barrier();
	regs = state->entering;
	nesting = nmi_around(state, trap);
	if (nesting == NOT_IN_NMI) {
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
		state->user.regs = regs;
		state->user.irq = trap->irq;
		state->user.vector = trap->vector;
		state->user.seen = trap->seen & (TRAP_SEEN_VECTOR | TRAP_SEEN_IRQ);
		state->user.open = 1;
	}
	return 0;
}

/* How many NMIs were shown on this CPU: asked for before the clock is read. */
static __always_inline u32 nmis_shown(const struct cpu_state *state)
{
	u32 shown = state ? state->nmi.entries : 0;

	barrier();
	return shown;
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

/*
 * Remember an NMI or machine check for the next event: whether it interrupted a trap before its hook is found then. The
 * trap that it interrupted is the one whose entry stub called what runs there: the pt_regs lie above the return address.
 * Never looks beyond the page that the stack pointer is in and the stack from which the CPU came to an IRQ stack.
 */
static __always_inline void remember_interruption(struct cpu_state *state, const struct trap *trap, u64 tsc,
						  u32 scratch_index)
{
	struct interruption *by = &state->interrupted;
	struct scratch *s = scratch.lookup(&scratch_index);
	u32 index = TEXT_ENTRY;
	struct text_range *text = entry_text.lookup(&index);
	u64 sp = trap->frame.sp, regs, beyond, hop, last;

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
	by->tsc = tsc;
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
	if (trap->phase == TRAP_EXIT)
		return returns_later(state, trap) ? pass(state) : emit(state, trap, tsc, 0);
	regs = find_frame(trap, ctx, text_index, SCRATCH_IRQ);
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
