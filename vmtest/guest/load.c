/*
 * A mixed load until it is killed: page faults in user and kernel mode, forks, threads that wake each other across
 * CPUs (reschedule IPIs), unmapping in a process that runs on two (call-function IPIs), short sleeps (timers).
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static void pin(int cpu)
{
	cpu_set_t one;
	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	sched_setaffinity(0, sizeof(one), &one);
}

static void *answer(void *ends)
{
	int *end = ends;
	char byte;

	pin(1);
	while (read(end[0], &byte, 1) == 1)
		if (write(end[1], &byte, 1) != 1)
			break;
	return NULL;
}

static void touch(size_t pages, int zero)
{
	size_t size = pages * 4096;
	volatile char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		abort();
	madvise((void *)memory, size, MADV_NOHUGEPAGE);
	for (size_t i = 0; i < pages / 2; i++)
		memory[i * 4096] = 1;
	if (read(zero, (void *)(memory + size / 2), size / 2) < 0)
		abort();
	munmap((void *)memory, size); /* other CPUs that run this process flush their TLBs */
}

static void fork_once(void)
{
	pid_t child = fork();
	if (!child)
		_exit(0);
	waitpid(child, NULL, 0);
}

int main(void)
{
	int there[2], back[2], zero = open("/dev/zero", O_RDONLY);
	int ends[2];
	pthread_t other;
	char byte = 'x';

	if (zero < 0 || pipe(there) || pipe(back))
		return 1;
	ends[0] = there[0];
	ends[1] = back[1];
	pin(0);
	if (pthread_create(&other, NULL, answer, ends))
		return 1;
	for (;;) {
		for (int i = 0; i < 20; i++)
			if (write(there[1], &byte, 1) != 1 || read(back[0], &byte, 1) != 1)
				return 1;
		touch(128, zero);
		fork_once();
		usleep(2000);
	}
}
