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
