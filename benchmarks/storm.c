/* storm N CPU: N page faults on one CPU, as fast as it can; prints nanoseconds of its own CPU time a fault. */
#define _GNU_SOURCE
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#define PAGE 4096ul
#define CHUNK_PAGES 16384ul

static double now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return t.tv_sec * 1e9 + t.tv_nsec;
}

int main(int argc, char **argv)
{
	unsigned long n = argc > 1 ? strtoul(argv[1], NULL, 0) : 1000000, left = n;
	cpu_set_t set;
	double spent = 0;

	CPU_ZERO(&set);
	CPU_SET(argc > 2 ? atoi(argv[2]) : 0, &set);
	if (sched_setaffinity(0, sizeof set, &set))
		return 1;
	while (left) {
		unsigned long pages = left < CHUNK_PAGES ? left : CHUNK_PAGES;
		volatile char *p = mmap(NULL, pages * PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (p == MAP_FAILED || madvise((void *)p, pages * PAGE, MADV_NOHUGEPAGE))
			return 1;
		/* Reads: each maps the zero page, the cheapest fault there is, so that what is added shows best. */
		double begin = now_ns();
		for (unsigned long i = 0; i < pages; i++)
			(void)p[i * PAGE];
		spent += now_ns() - begin;
		munmap((void *)p, pages * PAGE);
		left -= pages;
	}
	printf("%.2f\n", spent / n);
	return 0;
}
