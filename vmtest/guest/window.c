/*
 * Marks where the window begins or ends on each CPU: a page fault of user code at an address that nothing else has.
 * Emulator and trace both see it, so that the window is exact, CPU by CPU.
 *
 *   window begin|end     one fault on each online CPU, the instruction at MARKERS + 16 * (2 * cpu + (end ? 1 : 0))
 */
#define _GNU_SOURCE
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MARKERS ((uint8_t *)0x600000000000)
#define PAGE 4096

int main(int argc, char **argv)
{
	static const uint8_t store_and_return[] = { 0xc6, 0x07, 0x01, 0xc3 }; /* movb $1,(%rdi); ret */
	int end = argc == 2 && !strcmp(argv[1], "end");
	int cpus = (int)sysconf(_SC_NPROCESSORS_ONLN);
	uint8_t *code, *fresh;

	if (argc != 2 || (!end && strcmp(argv[1], "begin")))
		return 2;
	code = mmap(MARKERS, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	fresh = mmap(NULL, (size_t)cpus * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (code != MARKERS || fresh == MAP_FAILED || cpus * 32 > PAGE)
		return 1;
	madvise(fresh, (size_t)cpus * PAGE, MADV_NOHUGEPAGE);
	for (int slot = 0; slot < 2 * cpus; slot++)
		memcpy(code + 16 * slot, store_and_return, sizeof(store_and_return));
	for (int cpu = 0; cpu < cpus; cpu++) {
		cpu_set_t one;

		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		if (sched_setaffinity(0, sizeof(one), &one))
			return 1;
		((void (*)(uint8_t *))(uintptr_t)(code + 16 * (2 * cpu + end)))(fresh + (size_t)cpu * PAGE);
	}
	return 0;
}
