/*
 * The CPU, the kernel's helpers and the rings, for the programs of bpf/ compiled as ordinary C (shim.h).
 *
 * The programs are compiled with -fsanitize=thread, which calls a function of this file before every access to memory
 * that others may see. So an interrupt can be had at any of them: interrupt_at(n, f) calls f before the n-th.
 */
#define _GNU_SOURCE
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <linux/types.h>

#include "trap.h"

/* ---- memory: what is not here cannot be read. The kernel's half has the same bytes as the lower one. */

#define MEMORY_BYTES (1 << 16)
__attribute__((aligned(1 << 16))) uint8_t memory[MEMORY_BYTES];

long bpf_probe_read_kernel(void *to, uint32_t size, const void *from)
{
	uint64_t offset = ((uint64_t)from & ~(1ull << 63)) - (uint64_t)memory;

	if (offset >= MEMORY_BYTES || size > MEMORY_BYTES - offset) {
		memset(to, 0, size);
		return -14; /* EFAULT */
	}
	memcpy(to, memory + offset, size);
	return 0;
}

long bpf_probe_read_kernel_str(void *to, uint32_t size, const void *from)
{
	return bpf_probe_read_kernel(to, size, from);
}

/* ---- the task and the clock */

uint64_t now = 1000; /* TSC: rises with every reading */
uint64_t unreadable; /* so many readings fail first */

uint64_t read_perf_counter(uint32_t cpu)
{
	(void)cpu;
	if (unreadable) {
		unreadable--;
		return -22ull; /* EINVAL */
	}
	now += 10;
	return now;
}

uint32_t bpf_get_smp_processor_id(void)
{
	return 0;
}

uint64_t bpf_get_current_pid_tgid(void)
{
	return 77ull << 32 | 78;
}

uint64_t bpf_get_current_task(void)
{
	return 1;
}

long bpf_get_current_comm(void *to, uint32_t size)
{
	memset(to, 0, size);
	return 0;
}

/* ---- rings: events in the order in which they are reserved */

#define MAX_EVENTS 4096
struct trap_event events[MAX_EVENTS];
uint8_t ring_of[MAX_EVENTS];
long n_events;
extern uint8_t map_rings[];

void *bpf_ringbuf_reserve(void *ring, uint64_t size, uint64_t flags)
{
	(void)flags;
	if (size != sizeof(struct trap_event) || n_events == MAX_EVENTS)
		return NULL;
	ring_of[n_events] = (uint8_t *)ring - map_rings;
	return &events[n_events++];
}

void bpf_ringbuf_submit(void *data, uint64_t flags)
{
	(void)data;
	(void)flags;
}

/* ---- a new machine */

extern uint8_t __start_maps[], __stop_maps[]; /* by the linker */

void start_over(void)
{
	memset(__start_maps, 0, __stop_maps - __start_maps);
	memset(memory, 0, sizeof(memory));
	now = 1000;
	unreadable = 0;
	n_events = 0;
}

/* ---- interrupts */

static long countdown;
static void (*interrupt)(void);
long accesses;

void interrupt_at(long n, void (*handler)(void))
{
	countdown = n;
	interrupt = handler;
}

static void accessed(void)
{
	void (*handler)(void) = interrupt;

	accesses++;
	if (handler && countdown-- == 0) {
		interrupt = NULL;
		handler();
	}
}

#define ON_ACCESS(bytes)                                                       \
	void __tsan_read##bytes(void *at) { (void)at; accessed(); }              \
	void __tsan_write##bytes(void *at) { (void)at; accessed(); }             \
	void __tsan_unaligned_read##bytes(void *at) { (void)at; accessed(); }    \
	void __tsan_unaligned_write##bytes(void *at) { (void)at; accessed(); }
ON_ACCESS(1)
ON_ACCESS(2)
ON_ACCESS(4)
ON_ACCESS(8)
ON_ACCESS(16)

void __tsan_read_range(void *at, size_t bytes) { (void)at; (void)bytes; accessed(); }
void __tsan_write_range(void *at, size_t bytes) { (void)at; (void)bytes; accessed(); }
void __tsan_func_entry(void *at) { (void)at; }
void __tsan_func_exit(void) {}
void __tsan_init(void) {}

uint64_t __tsan_atomic64_fetch_add(volatile uint64_t *at, uint64_t add, int order)
{
	(void)order;
	accessed();
	*at += add;
	return *at - add;
}
