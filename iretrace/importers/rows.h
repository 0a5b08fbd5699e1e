/*
 * One event of any foreign trace, and how the bytes of a tracepoint become one. numpy sees the same layouts:
 * ROW, ACTION and PERF_EVENT in iretrace/importers/rows.py; tests hold the two together.
 */
#ifndef IRETRACE_ROWS_H
#define IRETRACE_ROWS_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

enum {
	KNOWN_VECTOR = 1,
	KNOWN_IRQ = 2,
	KNOWN_CS = 4,
	KNOWN_IP = 8,
	KNOWN_FLAGS = 16,
	KNOWN_SP = 32,
	KNOWN_ERROR_CODE = 64,
	KNOWN_TARGET = 128,
	TO_KERNEL = 256,
};

struct trap_row {
	uint64_t tsc, ip, sp;
	uint32_t flags, error_code, pid;
	uint16_t cpu, cs, irq, known;
	uint8_t vector, phase, hook, reserved;
};

/* Where a value lies in a tracepoint's bytes; size 0: nowhere. */
struct field {
	uint16_t offset, size;
};

enum { TARGET_UNKNOWN, TARGET_USER, TARGET_KERNEL };
enum { VECTOR_NONE = -2, VECTOR_FIELD = -1 };

struct action {
	uint8_t is_trap, phase, hook, target;
	int16_t vector;
	uint16_t reserved;
	/* `once`: of the events of a CPU only those count whose value here is that of the CPU's first. */
	struct field vector_at, irq_at, ip_at, error_code_at, once_at;
};

#define N_CPUS 65536
enum applied { APPLIED_MALFORMED = -1, APPLIED_NOTHING, APPLIED_ROW };

/* A value of 1, 2, 4 or 8 bytes, little-endian; false where it lies outside of `length` bytes. */
static inline bool read_field(struct field at, const uint8_t *bytes, uint32_t length, uint64_t *value)
{
	if ((uint32_t)at.offset + at.size > length)
		return false;
	*value = 0;
	switch (at.size) {
	case 1:
	case 2:
	case 4:
	case 8:
		memcpy(value, bytes + at.offset, at.size); /* x86 data on a little-endian machine */
		return true;
	}
	return false;
}

/* `row` has time, CPU and process already. */
static inline enum applied apply_action(const struct action *action, const uint8_t *bytes, uint32_t length,
					uint64_t *first_on_cpu, struct trap_row *row)
{
	uint64_t value;

	row->phase = action->phase;
	row->hook = action->hook;
	row->known = 0;
	row->reserved = 0;
	row->ip = row->sp = 0;
	row->flags = row->error_code = 0;
	row->cs = row->irq = 0;
	row->vector = 0;
	if (action->once_at.size) {
		if (!read_field(action->once_at, bytes, length, &value))
			return APPLIED_MALFORMED;
		if (!first_on_cpu[row->cpu])
			first_on_cpu[row->cpu] = value;
		if (first_on_cpu[row->cpu] != value)
			return APPLIED_NOTHING;
	}
	if (action->vector >= 0) {
		row->vector = (uint8_t)action->vector;
		row->known |= KNOWN_VECTOR;
	} else if (action->vector == VECTOR_FIELD) {
		if (!read_field(action->vector_at, bytes, length, &value) || value > 255)
			return APPLIED_MALFORMED;
		row->vector = (uint8_t)value;
		row->known |= KNOWN_VECTOR;
	}
	if (action->irq_at.size) {
		if (!read_field(action->irq_at, bytes, length, &value) || value > 65535)
			return APPLIED_MALFORMED;
		row->irq = (uint16_t)value;
		row->known |= KNOWN_IRQ;
	}
	if (action->ip_at.size) {
		if (!read_field(action->ip_at, bytes, length, &row->ip))
			return APPLIED_MALFORMED;
		row->known |= KNOWN_IP;
	}
	if (action->error_code_at.size) {
		if (!read_field(action->error_code_at, bytes, length, &value) || value > UINT32_MAX)
			return APPLIED_MALFORMED;
		row->error_code = (uint32_t)value;
		row->known |= KNOWN_ERROR_CODE;
	}
	if (action->target == TARGET_USER)
		row->known |= KNOWN_TARGET;
	else if (action->target == TARGET_KERNEL || !row->pid) /* the idle task has no user mode */
		row->known |= KNOWN_TARGET | TO_KERNEL;
	return APPLIED_ROW;
}

#endif
