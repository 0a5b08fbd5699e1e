/*
 * A TCG plugin that logs every executed IRETQ with the frame it pops, one line each:
 *
 *   IRET cpu=1 site=ffffffff81c01220 at=fffffe0000002fd8 ip=... cs=0010 flags=00000246 sp=... ss=0018 before=0f05
 *
 * `before` holds the two bytes below the target, 0f05 where that is behind a SYSCALL; empty where they cannot be read.
 *
 * With the argument control=FILE it also holds a CPU where something shall strike it: FILE, which both sides have in memory,
 * is a struct control. A CPU that reaches `place` while `state` is ARMED, on a CPU that passed `first` before, waits there
 * until the other side, which has raised an interrupt meanwhile, lets it go. Its interrupts are taken before the next block
 * of instructions (vmtest/strikes.py).
 *
 * The plugin API is declared by hand, since Debian ships no header for it (include/qemu/qemu-plugin.h, version 1).
 * An API that reads memory or registers came with later versions; QEMU's own functions serve here, which its
 * executable exports for its modules.
 */
#include <fcntl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

typedef uint64_t qemu_plugin_id_t;
typedef uint32_t qemu_plugin_meminfo_t;
typedef struct qemu_info_t qemu_info_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum qemu_plugin_cb_flags { QEMU_PLUGIN_CB_NO_REGS };
enum qemu_plugin_mem_rw { QEMU_PLUGIN_MEM_R = 1 };

void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, struct qemu_plugin_tb *));
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);
size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *);
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *, void (*)(unsigned, void *),
					    enum qemu_plugin_cb_flags, void *);
void qemu_plugin_register_vcpu_mem_cb(struct qemu_plugin_insn *,
				      void (*)(unsigned, qemu_plugin_meminfo_t, uint64_t, void *),
				      enum qemu_plugin_cb_flags, enum qemu_plugin_mem_rw, void *);
void qemu_plugin_outs(const char *);

/* Of QEMU itself (include/exec/cpu-common.h, include/hw/core/cpu.h). */
typedef struct CPUState CPUState;
CPUState *qemu_get_cpu(int);
int cpu_memory_rw_debug(CPUState *, uint64_t address, void *, uint64_t length, bool is_write);

__attribute__((visibility("default"))) int qemu_plugin_version = 1;

enum { MAX_CPUS = 64 };

/* Mirrored by vmtest/strikes.py. */
enum control_state { IDLE, ARMED, HELD, LET_GO };
enum { MAX_PLACES = 16 };
struct control {
	uint64_t places[MAX_PLACES]; /* addresses that may be `first` or `place`; set before they are ever executed */
	_Atomic uint64_t first;      /* 0: none needs to be passed */
	_Atomic uint64_t place;
	_Atomic uint32_t state;      /* enum control_state */
	uint32_t cpu;                /* the one that is held */
};
static struct control *control;
static bool passed_first[MAX_CPUS];

static void on_place(unsigned cpu, void *at)
{
	uint32_t armed = ARMED;
	uint64_t here = (uintptr_t)at;

	if (cpu >= MAX_CPUS || atomic_load(&control->state) != ARMED) {
		return;
	}
	if (here == atomic_load(&control->first)) {
		passed_first[cpu] = true;
		return;
	}
	if (here != atomic_load(&control->place) || (atomic_load(&control->first) && !passed_first[cpu]) ||
	    !atomic_compare_exchange_strong(&control->state, &armed, HELD))
		return;
	memset(passed_first, 0, sizeof(passed_first));
	control->cpu = cpu;
	while (atomic_load(&control->state) == HELD)
		nanosleep(&(struct timespec){ .tv_nsec = 50000 }, NULL);
}

static bool is_place(uint64_t address)
{
	for (size_t i = 0; control && i < MAX_PLACES; i++)
		if (address && control->places[i] == address)
			return true;
	return false;
}

struct frame {
	uint64_t ip, cs, flags, sp, ss;
};

/* Set where an IRETQ begins; its first load is at RSP, the frame. */
static bool about_to_load[MAX_CPUS];

static void on_iretq(unsigned cpu, void *site)
{
	(void)site;
	if (cpu < MAX_CPUS)
		about_to_load[cpu] = true;
}

static void on_load(unsigned cpu, qemu_plugin_meminfo_t info, uint64_t address, void *site)
{
	struct frame frame;
	uint8_t before[2];
	char bytes[8] = "";
	char line[256];
	CPUState *state;

	(void)info;
	if (cpu >= MAX_CPUS || !about_to_load[cpu])
		return;
	about_to_load[cpu] = false;
	state = qemu_get_cpu((int)cpu);
	if (!state || cpu_memory_rw_debug(state, address, &frame, sizeof(frame), false)) {
		qemu_plugin_outs("IRET unread\n");
		return;
	}
	if (frame.cs & 3 && !cpu_memory_rw_debug(state, frame.ip - 2, before, sizeof(before), false))
		snprintf(bytes, sizeof(bytes), "%02x%02x", before[0], before[1]);
	snprintf(line, sizeof(line),
		 "IRET cpu=%u site=%016lx at=%016lx ip=%016lx cs=%04lx flags=%08lx sp=%016lx ss=%04lx before=%s\n", cpu,
		 (unsigned long)(uintptr_t)site, (unsigned long)address, (unsigned long)frame.ip, (unsigned long)frame.cs,
		 (unsigned long)frame.flags, (unsigned long)frame.sp, (unsigned long)frame.ss, bytes);
	qemu_plugin_outs(line); /* goes nowhere while the log is off */
}

static void on_translation(qemu_plugin_id_t id, struct qemu_plugin_tb *block)
{
	size_t count = qemu_plugin_tb_n_insns(block);

	(void)id;
	for (size_t i = 0; i < count; i++) {
		struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(block, i);
		const uint8_t *data = qemu_plugin_insn_data(insn);
		void *site = (void *)(uintptr_t)qemu_plugin_insn_vaddr(insn);

		if (is_place((uintptr_t)site))
			qemu_plugin_register_vcpu_insn_exec_cb(insn, on_place, QEMU_PLUGIN_CB_NO_REGS, site);
		if (qemu_plugin_insn_size(insn) != 2 || data[0] != 0x48 || data[1] != 0xcf)
			continue;
		qemu_plugin_register_vcpu_insn_exec_cb(insn, on_iretq, QEMU_PLUGIN_CB_NO_REGS, site);
		qemu_plugin_register_vcpu_mem_cb(insn, on_load, QEMU_PLUGIN_CB_NO_REGS, QEMU_PLUGIN_MEM_R, site);
	}
}

__attribute__((visibility("default"))) int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc,
							       char **argv)
{
	(void)info;
	for (int i = 0; i < argc; i++) {
		const char *prefix = "control=";
		int file;

		if (strncmp(argv[i], prefix, strlen(prefix)) != 0)
			return -1;
		file = open(argv[i] + strlen(prefix), O_RDWR | O_CLOEXEC);
		if (file < 0)
			return -1;
		control = mmap(NULL, sizeof(*control), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
		close(file);
		if (control == MAP_FAILED)
			return -1;
	}
	qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
	return 0;
}
