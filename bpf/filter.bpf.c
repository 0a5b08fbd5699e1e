/*
 * What a run leaves out, decided before anything is read of a trap.
 *
 * The loader puts this file before all others and names by macros what there is to ask, so that a run without filters
 * pays nothing:
 *   IRETRACE_FILTER_CPU     only the CPUs in wanted_cpus
 *   IRETRACE_FILTER_PID     only the processes in wanted_pids
 *   IRETRACE_FILTER_COMM    only tasks whose name is in wanted_comms
 *   IRETRACE_FILTER_CGROUP  only tasks in a cgroup of wanted_cgroups or below one
 * Values of one kind are alternatives; of several kinds all must hold.
 *
 * An entry and its exit run in the same task on the same CPU (an interrupt does not move), so that both are kept or
 * neither, unless somebody renames or moves the task in between.
 */
struct wanted_comm {
	char name[16]; /* TASK_COMM_LEN */
};

/* An ancestor at `level` below the root of the cgroup2 hierarchy that must have this id. */
struct wanted_cgroup {
	u64 id;
	u32 level;
	u32 used;
};
#define MAX_WANTED_CGROUPS 8

/* NMIs are counted apart: of an NMI's several runs of a probe only one stands for it. */
enum { LEFT_OUT_OTHERS, LEFT_OUT_NMIS, N_LEFT_OUT };
BPF_PERCPU_ARRAY(filtered_out, u64, N_LEFT_OUT);
#ifdef IRETRACE_FILTER_CPU
BPF_ARRAY(wanted_cpus, u32, IRETRACE_CPUS);
#endif
#ifdef IRETRACE_FILTER_PID
BPF_HASH(wanted_pids, u32, u32, 1024);
#endif
#ifdef IRETRACE_FILTER_COMM
BPF_HASH(wanted_comms, struct wanted_comm, u32, 1024);
#endif
#ifdef IRETRACE_FILTER_CGROUP
BPF_ARRAY(wanted_cgroups, struct wanted_cgroup, MAX_WANTED_CGROUPS);
#endif

static __always_inline int passes(void)
{
#ifdef IRETRACE_FILTER_CPU
	{
		u32 cpu = bpf_get_smp_processor_id();
		u32 *wanted = wanted_cpus.lookup((int *)&cpu);
		if (!wanted || !*wanted)
			return 0;
	}
#endif
#ifdef IRETRACE_FILTER_PID
	{
		u32 pid = bpf_get_current_pid_tgid() >> 32;
		if (!wanted_pids.lookup(&pid))
			return 0;
	}
#endif
#ifdef IRETRACE_FILTER_COMM
	{
		struct wanted_comm comm = {};
		bpf_get_current_comm(&comm, sizeof(comm));
		if (!wanted_comms.lookup(&comm))
			return 0;
	}
#endif
#ifdef IRETRACE_FILTER_CGROUP
	{
		u32 i, found = 0;
#pragma unroll
		for (i = 0; i < MAX_WANTED_CGROUPS; i++) {
			u32 index = i;
			struct wanted_cgroup *wanted = wanted_cgroups.lookup((int *)&index);
			if (!wanted || !wanted->used)
				break;
			if (bpf_get_current_ancestor_cgroup_id(wanted->level) == wanted->id) {
				found = 1;
				break;
			}
		}
		if (!found)
			return 0;
	}
#endif
	return 1;
}

/* Whether this trap is asked for; what is not is counted, so that every run of a probe stays accounted for. */
static __always_inline int is_wanted(u32 counter)
{
#if defined(IRETRACE_FILTER_CPU) || defined(IRETRACE_FILTER_PID) || defined(IRETRACE_FILTER_COMM) || \
	defined(IRETRACE_FILTER_CGROUP)
	u64 *count;

	if (passes())
		return 1;
	count = filtered_out.lookup((int *)&counter);
	if (count)
		__sync_fetch_and_add(count, 1);
	return 0;
#else
	return 1;
#endif
}
