/*
 * An event, and how it leaves the kernel: what a hook knows of a trap, the clock, the rings, and what could not be sent.
 *
 * Macros that the loader gives:
 *   IRETRACE_CPUS       number of possible CPUs
 *   IRETRACE_CLOCK_TSC  read the TSC through the msr PMU; otherwise bpf_ktime_get_ns()
 *   IRETRACE_AGGREGATE  count in place of writing events; aggregate.bpf.c is joined then
 */
#include <uapi/linux/ptrace.h>
#include "trap.h"

/* A ring a CPU for everything but NMIs, then a ring a CPU for NMIs: rings[cpu], rings[IRETRACE_CPUS + cpu]; one for names
 * of processes, rings[2 * IRETRACE_CPUS].
 * One CPU's events never wait for another's, and an NMI never finds its ring locked by what it interrupted: reserving
 * takes a lock (__bpf_ringbuf_reserve(), kernel/bpf/ringbuf.c) that NMIs can only try, or, since Linux kernel commit
 * a650d38915c1 ("bpf: Convert ringbuf map to rqspinlock") (in v6.15), give up when they see whom they wait for. What else
 * runs as an NMI does, or inside one, writes there too. */
BPF_RINGBUF_OUTPUT(ring_template, 1);
BPF_ARRAY_OF_MAPS(rings, "ring_template", 2 * IRETRACE_CPUS + 1);

BPF_PERF_ARRAY(tsc_counter, IRETRACE_CPUS);
BPF_PERCPU_ARRAY(losses, u64, N_LOSSES);

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

/* What every hook knows whose vector is certain. */
static __always_inline void saw_vector(struct trap *trap, u8 hook, u8 phase, u8 vector)
{
	trap->hook = hook;
	trap->phase = phase;
	trap->vector = vector;
	trap->seen = TRAP_SEEN_VECTOR;
}

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
