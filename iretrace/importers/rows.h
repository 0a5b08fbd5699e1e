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
	bytes += at.offset;
	switch (at.size) { /* x86 data on a little-endian machine; one load each, of a size that the compiler knows */
	case 1:
		*value = *bytes;
		return true;
	case 2: {
		uint16_t half;

		memcpy(&half, bytes, sizeof half);
		*value = half;
		return true;
	}
	case 4: {
		uint32_t full;

		memcpy(&full, bytes, sizeof full);
		*value = full;
		return true;
	}
	case 8:
		memcpy(value, bytes, sizeof *value);
		return true;
	}
	return false;
}

/* `row` has time, CPU and process already. What is found is kept in registers and written at the end, each field once. */
static inline enum applied apply_action(const struct action *action, const uint8_t *bytes, uint32_t length,
					uint64_t *first_on_cpu, struct trap_row *row)
{
	uint64_t value, ip = 0, irq = 0, error_code = 0, vector = 0;
	uint16_t known = 0;

	if (action->once_at.size) {
		if (!read_field(action->once_at, bytes, length, &value))
			return APPLIED_MALFORMED;
		if (!first_on_cpu[row->cpu])
			first_on_cpu[row->cpu] = value;
		if (first_on_cpu[row->cpu] != value)
			return APPLIED_NOTHING;
	}
	if (action->vector >= 0) {
		vector = (uint64_t)action->vector;
		known |= KNOWN_VECTOR;
	} else if (action->vector == VECTOR_FIELD) {
		if (!read_field(action->vector_at, bytes, length, &vector) || vector > 255)
			return APPLIED_MALFORMED;
		known |= KNOWN_VECTOR;
	}
	if (action->irq_at.size) {
		if (!read_field(action->irq_at, bytes, length, &irq) || irq > 65535)
			return APPLIED_MALFORMED;
		known |= KNOWN_IRQ;
	}
	if (action->ip_at.size) {
		if (!read_field(action->ip_at, bytes, length, &ip))
			return APPLIED_MALFORMED;
		known |= KNOWN_IP;
	}
	if (action->error_code_at.size) {
		if (!read_field(action->error_code_at, bytes, length, &error_code) || error_code > UINT32_MAX)
			return APPLIED_MALFORMED;
		known |= KNOWN_ERROR_CODE;
	}
	if (action->target == TARGET_USER)
		known |= KNOWN_TARGET;
	else if (action->target == TARGET_KERNEL || !row->pid) /* the idle task has no user mode */
		known |= KNOWN_TARGET | TO_KERNEL;
	row->ip = ip;
	row->sp = 0;
	row->flags = 0;
	row->error_code = (uint32_t)error_code;
	row->cs = 0;
	row->irq = (uint16_t)irq;
	row->known = known;
	row->vector = (uint8_t)vector;
	row->phase = action->phase;
	row->hook = action->hook;
	row->reserved = 0;
	return APPLIED_ROW;
}

#endif
