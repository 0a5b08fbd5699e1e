/* spin SECONDS: stays in one function; prints its pid, that function's range and its stack's. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

__attribute__((noinline, aligned(64))) static void spin(void)
{
	__asm__ volatile("mov $20000000, %%ecx\n"
			 "1: dec %%ecx\n"
			 "jnz 1b"
			 ::: "ecx", "cc");
}

int main(int argc, char **argv)
{
	double until = now() + (argc > 1 ? atof(argv[1]) : 1);
	char here;

	printf("%d %p %#lx %#lx %#lx\n", getpid(), (void *)spin, (unsigned long)spin + 64, (unsigned long)&here - 4096,
	       (unsigned long)&here + 4096);
	fflush(stdout);
	while (now() < until)
		spin();
	return 0;
}
