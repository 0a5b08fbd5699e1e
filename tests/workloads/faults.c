/*
 * faults N: touches N fresh pages, one page fault each, all from the one instruction at `touch`.
 *
 * Prints the its pid and the address of that function, so that a trace's #PF can be told from all others
 * of the process (the loader's, libc's). Huge pages are refused, so that every page is a fault of its own.
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096ul
#define CHUNK_PAGES 4096ul

__attribute__((noinline)) static void touch(volatile char *pages, unsigned long n)
{
	for (unsigned long i = 0; i < n; i++)
		pages[i * PAGE] = 1;
}

extern const char __start_touch[], __stop_touch[];

int main(int argc, char **argv)
{
	unsigned long left = argc > 1 ? strtoul(argv[1], NULL, 0) : 100003;

	printf("%d %p\n", getpid(), (void *)touch);
	fflush(stdout);
	while (left) {
		unsigned long n = left < CHUNK_PAGES ? left : CHUNK_PAGES;
		char *pages = mmap(NULL, n * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (pages == MAP_FAILED || madvise(pages, n * PAGE, MADV_NOHUGEPAGE))
			return 1;
		touch(pages, n);
		munmap(pages, n * PAGE);
		left -= n;
	}
	return 0;
}
