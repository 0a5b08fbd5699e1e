/*
 * Traps on purpose: `traps ROUNDS` takes each of them once a round, from user mode, on CPU 0 and 1 in turn, and has
 * system calls take page faults in the kernel. Each kind's name and count is printed at the end.
 *
 * Not here, since QEMU's emulation does not raise them: #XF (it ignores unmasked SIMD exceptions), #SS (it raises #GP).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static sigjmp_buf back;
static int signals;

static void on_signal(int number)
{
	signals++;
	if (number != SIGTRAP) /* a trap goes on behind its instruction; a fault would come again */
		siglongjmp(back, 1);
}

#define NON_CANONICAL 0x8000000000000123ul

static void undefined(void) { __asm__ volatile("ud2"); }
static void breakpoint(void) { __asm__ volatile("int3"); }
static void privileged(void) { __asm__ volatile("hlt"); }
static void overflow(void) { __asm__ volatile("int $4"); }

static void debug_step(void)
{
	__asm__ volatile("lea -128(%%rsp),%%rsp; pushf; orq $0x100,(%%rsp); popf; nop; nop;"
			 "pushf; andq $~0x100,(%%rsp); popf; lea 128(%%rsp),%%rsp" ::: "memory", "cc");
}

static void divide(void)
{
	unsigned quotient = 1, rest = 0;
	__asm__ volatile("divl %2" : "+a"(quotient), "+d"(rest) : "r"(0));
}

static void non_canonical(void)
{
	unsigned long value;
	__asm__ volatile("mov (%1),%0" : "=r"(value) : "r"(NON_CANONICAL));
}

static void x87(void)
{
	unsigned short control = 0x037f & ~4; /* zero divide unmasked */
	__asm__ volatile("fninit; fldcw %0; fld1; fldz; fdivrp; fwait" ::"m"(control));
}

static void *volatile nowhere = (void *)8; /* volatile: the compiler shall not know */

static void segfault(void) { *(volatile int *)nowhere = 1; }

static void *fresh_page(void)
{
	void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	return page == MAP_FAILED ? NULL : page;
}

/* The kernel fills a page that is not there yet: its fault is mended and it goes on where it was. */
static void kernel_fills(void)
{
	int pair[2];
	void *page = fresh_page();
	if (page && !pipe(pair)) {
		if (write(pair[1], "x", 1) != 1 || read(pair[0], page, 1) != 1)
			abort();
		close(pair[0]);
		close(pair[1]);
	}
	munmap(page, 4096);
}

/* The kernel is given an address that nothing is at: it goes on at its exception table's entry, with EFAULT. */
static void kernel_efault(void)
{
	int pair[2];
	if (pipe(pair))
		abort();
	if (write(pair[1], nowhere, 8) != -1 || errno != EFAULT)
		abort();
	close(pair[0]);
	close(pair[1]);
}

/* System calls on which tests put a hardware breakpoint and a kprobe, if they do. */
static void kernel_debug(void) { syscall(SYS_getppid); }
static void kernel_breakpoint(void) { syscall(SYS_getpgid, 0); }

static const struct {
	const char *name;
	void (*provoke)(void);
	int every; /* of so many rounds; 0: of each */
} traps[] = {
	{ "ud2", undefined, 0 },
	{ "int3", breakpoint, 0 },
	{ "single-step", debug_step, 0 },
	{ "hlt", privileged, 0 },
	{ "non-canonical", non_canonical, 0 },
	{ "int4", overflow, 0 },
	{ "divide", divide, 0 },
	{ "x87", x87, 0 },
	{ "segfault", segfault, 0 },
	{ "kernel-fills", kernel_fills, 0 },
	{ "kernel-efault", kernel_efault, 4 },
	{ "kernel-debug", kernel_debug, 0 },
	{ "kernel-breakpoint", kernel_breakpoint, 0 },
};

static void take(void (*provoke)(void))
{
	if (!sigsetjmp(back, 1))
		provoke();
	__asm__ volatile("fninit");
}

int main(int argc, char **argv)
{
	static const int numbers[] = { SIGSEGV, SIGILL, SIGFPE, SIGTRAP, SIGBUS };
	int rounds = argc > 1 ? atoi(argv[1]) : 1;
	int round;

	for (size_t i = 0; i < sizeof(numbers) / sizeof(*numbers); i++) {
		struct sigaction action = { .sa_handler = on_signal, .sa_flags = SA_NODEFER };
		sigaction(numbers[i], &action, NULL);
	}
	for (round = 0; round < rounds; round++) {
		cpu_set_t one;

		CPU_ZERO(&one);
		CPU_SET(round % 2, &one);
		sched_setaffinity(0, sizeof(one), &one);
		for (size_t i = 0; i < sizeof(traps) / sizeof(*traps); i++)
			if (!traps[i].every || round % traps[i].every == 0)
				take(traps[i].provoke);
		usleep(20000);
	}
	for (size_t i = 0; i < sizeof(traps) / sizeof(*traps); i++)
		printf("%s %d\n", traps[i].name,
		       traps[i].every ? (rounds + traps[i].every - 1) / traps[i].every : rounds);
	return signals == 0;
}
