/*
 * Wire format between the BPF programs and user space: only structs and constants, no code.
 * Mirrored by collect/wire.py; tests/test_wire.py compiles this file and compares the two.
 */
#ifndef IRETRACE_TRAP_H
#define IRETRACE_TRAP_H

/*
 * One event. With the ring buffer's header of 8 bytes a slot is 64 bytes, one cache line, so that the ring's
 * memory is an array and a batch of events is one copy.
 */
struct trap_event {
	__u64 tsc;        /* raw count of the clock: see collect/clock.py for what is added */
	__u64 ip;         /* saved RIP */
	__u64 sp;         /* saved RSP */
	__u32 flags;      /* saved RFLAGS, low half */
	__u32 error_code;
	__u32 pid;        /* thread group */
	__u32 tid;
	__u16 cs;         /* saved CS */
	__u16 irq;        /* Linux IRQ number */
	__u16 cpu;
	__u8 vector;
	__u8 hook;        /* enum trap_hook */
	__u8 phase;       /* enum trap_phase */
	__u8 seen;        /* TRAP_SEEN_*: which of the fields above hold something */
	__u8 reserved[6];
};

/*
 * A process got another name or ended. As large as a trap_event: the ring of names, behind those of the CPUs, has the
 * same slots. Mostly written by the process itself, so `pid` is the thread group of the task on the CPU.
 */
#define COMM_BYTES 16 /* TASK_COMM_LEN, include/linux/sched.h */
struct process_event {
	__u64 tsc;
	__u32 pid;
	__u16 cpu;
	__u8 what; /* enum process_what */
	__u8 reserved[9];
	char before[COMM_BYTES]; /* its name until now */
	char after[COMM_BYTES];  /* PROCESS_RENAMED */
};

enum process_what {
	PROCESS_RENAMED = 0,
	PROCESS_ENDED = 1,
	PROCESS_RENAMED_BY_OTHER = 2, /* a thread renamed another task, maybe this process's first: look it up */
};

enum trap_phase {
	TRAP_ENTRY = 0,
	TRAP_EXIT = 1,
};

#define TRAP_SEEN_VECTOR     0x01
#define TRAP_SEEN_IRQ        0x02
#define TRAP_SEEN_FRAME      0x04 /* cs, ip, flags, sp */
#define TRAP_SEEN_ERROR_CODE 0x08
#define TRAP_SEEN_TARGET     0x10 /* TRAP_TO_KERNEL is known */
#define TRAP_TO_KERNEL       0x20

/* Where an event came from; the names of the hooks are in collect/hooks.py. */
enum trap_hook {
	HOOK_PAGE_FAULT_USER = 0,
	HOOK_PAGE_FAULT_KERNEL = 1,
	HOOK_IRQ_VECTOR_ENTRY = 2,
	HOOK_IRQ_VECTOR_EXIT = 3,
	HOOK_IRQ_HANDLER_ENTRY = 4,
	HOOK_IRQ_HANDLER_EXIT = 5,
	HOOK_NMI_HANDLER = 6,
	HOOK_FUNCTION_ENTRY = 7,     /* fentry of the handler of the trap's class */
	HOOK_FUNCTION_EXIT = 8,      /* its fexit */
	HOOK_DIE_CHAIN = 9,          /* fentry of the die chain's first notifier */
	HOOK_DIE_CHAIN_EXIT = 10,    /* its fexit */
	HOOK_EXIT_TO_USER = 11,
	HOOK_SWITCHED_OUT = 12,      /* the task left its CPU inside the trap */
	HOOK_NMI_LAST_HANDLER = 13,
};

/* Index into the per-CPU array of losses; the causes are in iretrace/losses.py. */
enum trap_loss {
	LOSS_RING_FULL = 0,
	LOSS_NMI_RING_BUSY = 1,
	LOSS_TSC_UNREADABLE = 2,
	LOSS_FRAME_UNREAD = 3,
	LOSS_TARGET_UNKNOWN = 4,
	LOSS_PROCESS_NAMES = 5,
	LOSS_ORDER_MENDED = 6,
	LOSS_ORDER_UNSURE = 7,
	LOSS_NMI_UNCLOSED = 8,
	N_LOSSES = 9,
};

/* Kernel text [low, high) of an entry stub: a return address in it lies right below the trap's pt_regs. */
struct text_range {
	__u64 low;
	__u64 high;
};

/* Traps that have a stack of their own when they interrupt the kernel. */
enum own_stack {
	STACK_NMI = 0,
	STACK_DB = 1,
	STACK_MC = 2,
	N_STACKS = 3,
};

/* Where such a stack lies in the entry area of its CPU: offsets [low, high). */
struct stack_range {
	__u32 low;
	__u32 high;
};

/* What the loader tells the programs: the hooks once they are chosen, and how the kernel lays out its entry areas. */
struct settings {
	__u64 last_nmi_handler; /* the function at the end of the list of NMI_LOCAL */
	__u32 user_exits;       /* nonzero: exit_to_user_mode_prepare() shows the returns to user mode */
	__u32 exceptions;       /* those asked for, by vector: some share a hook */
	__u64 areas_low;        /* the entry areas of all CPUs, one behind the other: [low, high); 0: not known */
	__u64 areas_high;
	__u64 area_bytes;       /* of one */
	struct stack_range stacks[N_STACKS];
};

#define TEXT_DEVICE 256 /* index of asm_common_interrupt, behind the 256 vectors */
#define TEXT_NMI    2   /* asm_exc_nmi with all its labels */
#define TEXT_MC     18  /* asm_exc_machine_check */
#define TEXT_ENTRY  257 /* all entry code */
/* What entry stubs call or come from before they call a handler; nothing runs it on the way out. */
#define TEXT_ERROR_ENTRY    258
#define TEXT_PARANOID_ENTRY 259
#define TEXT_IRQ_ENTRIES    260
#define N_TEXT      261

#endif
