/*
 * faults N: touches N fresh pages, one page fault each, all from the one instruction at `touch`.
 *
 * Prints its pid, the address of that function, so that a trace's #PF can be told from all others of the process
 * (the loader's, libc's), and how many faults the kernel counted meanwhile: now and then it takes one twice. Huge
 * pages are refused, so that every page is a fault of its own.
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#define PAGE 4096ul
#define CHUNK_PAGES 4096ul

__attribute__((noinline)) static void touch(volatile char *pages, unsigned long n)
{
	for (unsigned long i = 0; i < n; i++)
		pages[i * PAGE] = 1;
}

extern const char __start_touch[], __stop_touch[];

static long minor_faults(void)
{
	struct rusage usage;
	getrusage(RUSAGE_SELF, &usage);
	return usage.ru_minflt;
}

int main(int argc, char **argv)
{
	unsigned long left = argc > 1 ? strtoul(argv[1], NULL, 0) : 100003;
	long counted = 0;

	touch(NULL, 0); /* so that the code itself is there */
	minor_faults();
	while (left) {
		unsigned long n = left < CHUNK_PAGES ? left : CHUNK_PAGES;
		char *pages = mmap(NULL, n * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (pages == MAP_FAILED || madvise(pages, n * PAGE, MADV_NOHUGEPAGE))
			return 1;
		long before = minor_faults();
		touch(pages, n);
		counted += minor_faults() - before;
		munmap(pages, n * PAGE);
		left -= n;
	}
	printf("%d %p %ld\n", getpid(), (void *)touch, counted);
	return 0;
}
