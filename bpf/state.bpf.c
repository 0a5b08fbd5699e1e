/*
 * What is remembered of a CPU between two runs of its probes, and what the loader tells them once.
 *
 * Everything here belongs to one CPU, and is changed by what runs on it: a probe, and the probe of whatever interrupts
 * that, an NMI at any instruction. Who keeps what: nmi.bpf.c the open NMI, order.bpf.c and stacks.bpf.c what helps to put
 * traps in order, trap.bpf.c and functions.bpf.c the trap of user mode.
 */

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
	u32 inside; /* interrupts of the kernel's of the same kind, shown since, that have not ended */
};

/* What tells one trap of a CPU from another that is open at the same time. */
struct place {
	u64 regs;
	u64 ip;
};

/*
 * The NMI that is or was last handled, and its exit, which is held back where it may not be over with its last handler:
 * see nmi.bpf.c.
 */
struct nmi_state {
	u64 open;      /* the hook that opened the NMI that is being handled, by number; 0: none is */
	u64 claims;    /* how much its handlers say that they handled */
	u64 regs;      /* its pt_regs */
	struct iret_frame frame;
	struct trap exit; /* held back */
	u64 exit_tsc;
	u32 held;      /* how many exits were held back */
	u32 settled;   /* up to which of them nothing is left to do */
	u32 sent;      /* the last that was sent */
	u32 owed;      /* one that was settled and not yet sent when an NMI came; 0: none */
	u32 entries;   /* NMIs shown */
	u32 inside;    /* #BPs that were shown inside it and have not ended */
	u64 entry_tsc; /* of the last */
};

/*
 * The last NMI or machine check that interrupted the kernel, as long as no other event came: it may have interrupted
 * another trap before that one's hook, which then is the next.
 */
struct interruption {
	u64 tsc; /* of the first of those that came one right behind the other; 0: none */
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
	struct inner_event inner[N_STACKS]; /* by enum own_stack: see stacks.bpf.c */
	u64 entering; /* pt_regs of the trap whose entry is being shown: see enter() */
	struct place last, outer; /* the trap that was entered last, and the one that it came in */
	u32 last_ended;
};
BPF_PERCPU_ARRAY(cpu_state, struct cpu_state, 1);

/* Never NULL, which the verifier does not know. */
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
