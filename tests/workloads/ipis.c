/*
 * ipis SECONDS: wakes a thread on every other CPU as fast as it answers (reschedule IPIs), and changes a mapping
 * that all of them use (TLB shootdowns: call-function IPIs).
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096ul

static int ping[2], pong[2];
static atomic_int done;
static volatile char *shared;

static void pin(int cpu)
{
	cpu_set_t set;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	sched_setaffinity(0, sizeof set, &set);
}

static void *answer(void *cpu)
{
	char byte;
	pin((int)(long)cpu);
	while (read(ping[0], &byte, 1) == 1 && !done) {
		shared[0]++;
		if (write(pong[1], &byte, 1) != 1)
			break;
	}
	return NULL;
}

int main(int argc, char **argv)
{
	double seconds = argc > 1 ? atof(argv[1]) : 1;
	struct timespec now, begin;
	pthread_t thread;
	char byte = 0;

	shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED || pipe(ping) || pipe(pong) || sysconf(_SC_NPROCESSORS_ONLN) < 2)
		return 1;
	pin(0);
	if (pthread_create(&thread, NULL, answer, (void *)1l))
		return 1;
	clock_gettime(CLOCK_MONOTONIC, &begin);
	for (unsigned i = 0;; i++) {
		if (write(ping[1], &byte, 1) != 1 || read(pong[0], &byte, 1) != 1)
			return 1;
		if (i % 8 == 0) {
			mprotect((void *)shared, PAGE, PROT_READ);
			mprotect((void *)shared, PAGE, PROT_READ | PROT_WRITE);
			shared[1]++;
		}
		clock_gettime(CLOCK_MONOTONIC, &now);
		if (now.tv_sec - begin.tv_sec + (now.tv_nsec - begin.tv_nsec) / 1e9 > seconds)
			break;
	}
	done = 1;
	if (write(ping[1], &byte, 1) != 1)
		return 1;
	pthread_join(thread, NULL);
	return 0;
}
