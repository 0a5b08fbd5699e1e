/*
 * Walks the records of perf.data and turns samples of tracepoints into rows. Everything it reads is untrusted: every
 * length is checked against what is left. Layout: include/uapi/linux/perf_event.h (enum perf_event_type); the plain
 * Python twin is tests/import_twins.py.
 */
#include "rows.h"
#include "native.h"

enum {
	S_IP = 1 << 0, S_TID = 1 << 1, S_TIME = 1 << 2, S_ADDR = 1 << 3, S_READ = 1 << 4, S_CALLCHAIN = 1 << 5,
	S_ID = 1 << 6, S_CPU = 1 << 7, S_PERIOD = 1 << 8, S_STREAM_ID = 1 << 9, S_RAW = 1 << 10,
	S_BRANCH_STACK = 1 << 11, S_REGS_USER = 1 << 12, S_IDENTIFIER = 1 << 16,
};
enum { READ_ENABLED = 1, READ_RUNNING = 2, READ_ID = 4, READ_GROUP = 8, READ_LOST = 16 };
enum { BRANCH_HW_INDEX = 1 << 17, BRANCH_COUNTERS = 1 << 19 };
enum { REG_SP = 7, REG_IP = 8, REG_FLAGS = 9, REG_CS = 10 };
enum { RECORD_SAMPLE = 9 };

/* Why the walk ended. */
enum stop { STOP_END, STOP_FULL, STOP_SPECIAL, STOP_MALFORMED, STOP_LENGTH };

struct perf_event {
	uint64_t sample_type, read_format, branch_type, user_regs;
	struct action action;
	uint32_t reserved;
};

struct id {
	uint64_t id, event;
};

#define MET 256u

struct scan {
	const struct perf_event *events;
	const struct id *ids;
	size_t n_events, n_ids;
	int id_position; /* 64-bit words into the sample; negative: there is but one event */
	const uint8_t *special; /* 128 flags: these record types go to the caller */
	uint64_t *counts, *first_on_cpu;
	uint32_t met[MET]; /* where ids were found, by their lowest bits: the kernel gives them out one after the other */
};

static inline uint64_t word(const uint8_t *at)
{
	uint64_t value;

	memcpy(&value, at, sizeof value);
	return value;
}

static const struct perf_event *find_event(struct scan *scan, const uint8_t *body, size_t size)
{
	size_t low = 0, high = scan->n_ids;
	uint32_t *met;
	uint64_t id;

	if (scan->id_position < 0)
		return scan->events;
	if (size < 8 * ((size_t)scan->id_position + 1))
		return NULL;
	id = word(body + 8 * scan->id_position);
	if (!scan->n_ids)
		return NULL;
	met = scan->met + id % MET;
	if (scan->ids[*met].id == id)
		return scan->events + scan->ids[*met].event;
	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (scan->ids[middle].id < id)
			low = middle + 1;
		else
			high = middle;
	}
	if (low == scan->n_ids || scan->ids[low].id != id)
		return NULL;
	*met = (uint32_t)low;
	return scan->events + scan->ids[low].event;
}

/* Takes `n` bytes of what is left; NULL where there are not so many. */
static inline const uint8_t *take(const uint8_t **at, const uint8_t *end, uint64_t n)
{
	const uint8_t *here = *at;

	if ((uint64_t)(end - here) < n)
		return NULL;
	*at = here + n;
	return here;
}

static bool skip_read(const uint8_t **at, const uint8_t *end, uint64_t format)
{
	uint64_t each = 8 + (format & READ_ID ? 8 : 0) + (format & READ_LOST ? 8 : 0);
	uint64_t times = (format & READ_ENABLED ? 8 : 0) + (format & READ_RUNNING ? 8 : 0);
	const uint8_t *n;

	if (!(format & READ_GROUP))
		return take(at, end, each + times);
	n = take(at, end, 8);
	if (!n || word(n) > (uint64_t)(end - *at) / 8)
		return false;
	return take(at, end, times + word(n) * each);
}

static bool skip_words(const uint8_t **at, const uint8_t *end, uint64_t each, uint64_t extra)
{
	const uint8_t *n = take(at, end, 8);

	return n && word(n) <= (uint64_t)(end - *at) / 8 && take(at, end, word(n) * each + extra);
}

/* The saved user registers: the interrupted frame where the trap came from user mode; none at all: a kernel thread. */
static bool read_user_regs(const struct perf_event *event, const uint8_t **at, const uint8_t *end, struct trap_row *row)
{
	const uint8_t *abi = take(at, end, 8), *regs;
	int reg, position = 0;

	if (!abi)
		return false;
	if (!word(abi)) {
		if (!(row->known & KNOWN_TARGET))
			row->known |= KNOWN_TARGET | TO_KERNEL;
		return true;
	}
	regs = take(at, end, 8 * (uint64_t)__builtin_popcountll(event->user_regs));
	if (!regs)
		return false;
	if (event->action.target != TARGET_USER)
		return true;
	for (reg = 0; reg <= REG_CS; reg++) {
		uint64_t value;

		if (!(event->user_regs >> reg & 1))
			continue;
		value = word(regs + 8 * position++);
		switch (reg) {
		case REG_SP:
			row->sp = value;
			row->known |= KNOWN_SP;
			break;
		case REG_IP:
			row->ip = value;
			row->known |= KNOWN_IP;
			break;
		case REG_FLAGS:
			row->flags = (uint32_t)value;
			row->known |= KNOWN_FLAGS;
			break;
		case REG_CS:
			row->cs = (uint16_t)value;
			row->known |= KNOWN_CS;
			break;
		}
	}
	return true;
}

static enum applied read_sample(struct scan *scan, const uint8_t *at, const uint8_t *end, struct trap_row *row)
{
	const struct perf_event *event = find_event(scan, at, (size_t)(end - at));
	const uint8_t *piece, *raw;
	uint32_t raw_size, cpu = 0;
	enum applied applied;
	uint64_t type;

	if (!event)
		return APPLIED_MALFORMED;
	if (!event->action.is_trap) {
		scan->counts[event - scan->events]++;
		return APPLIED_NOTHING;
	}
	type = event->sample_type;
	row->tsc = 0;
	row->pid = 0;
	if ((type & S_IDENTIFIER && !take(&at, end, 8)) || (type & S_IP && !take(&at, end, 8)))
		return APPLIED_MALFORMED;
	if (type & S_TID) {
		piece = take(&at, end, 8);
		if (!piece)
			return APPLIED_MALFORMED;
		memcpy(&row->pid, piece, 4);
	}
	if (type & S_TIME) {
		piece = take(&at, end, 8);
		if (!piece)
			return APPLIED_MALFORMED;
		row->tsc = word(piece);
	}
	if ((type & S_ADDR && !take(&at, end, 8)) || (type & S_ID && !take(&at, end, 8)) ||
	    (type & S_STREAM_ID && !take(&at, end, 8)))
		return APPLIED_MALFORMED;
	if (type & S_CPU) {
		piece = take(&at, end, 8);
		if (!piece)
			return APPLIED_MALFORMED;
		memcpy(&cpu, piece, 4);
		if (cpu >= N_CPUS)
			return APPLIED_MALFORMED;
	}
	row->cpu = (uint16_t)cpu;
	if ((type & S_PERIOD && !take(&at, end, 8)) || (type & S_READ && !skip_read(&at, end, event->read_format)) ||
	    (type & S_CALLCHAIN && !skip_words(&at, end, 8, 0)))
		return APPLIED_MALFORMED;
	piece = take(&at, end, 4);
	if (!piece)
		return APPLIED_MALFORMED;
	memcpy(&raw_size, piece, 4);
	raw = take(&at, end, raw_size);
	if (!raw)
		return APPLIED_MALFORMED;
	applied = apply_action(&event->action, raw, raw_size, scan->first_on_cpu, row);
	if (applied == APPLIED_MALFORMED)
		return applied;
	if (type & S_BRANCH_STACK &&
	    !skip_words(&at, end, event->branch_type & BRANCH_COUNTERS ? 32 : 24,
			event->branch_type & BRANCH_HW_INDEX ? 8 : 0))
		return APPLIED_MALFORMED;
	if (type & S_REGS_USER && !read_user_regs(event, &at, end, row))
		return APPLIED_MALFORMED;
	scan->counts[event - scan->events]++;
	return applied;
}

static enum stop walk(struct scan *scan, const uint8_t *data, size_t size, size_t *position, struct trap_row *rows,
		      size_t room, size_t *n_rows)
{
	while (size - *position >= 8) {
		const uint8_t *record = data + *position;
		uint16_t length;
		uint32_t type;

		memcpy(&type, record, 4);
		memcpy(&length, record + 6, 2);
		if (length < 8)
			return STOP_LENGTH;
		if (size - *position < length)
			return STOP_END;
		if (type == RECORD_SAMPLE) {
			if (*n_rows == room)
				return STOP_FULL;
			switch (read_sample(scan, record + 8, record + length, rows + *n_rows)) {
			case APPLIED_MALFORMED:
				return STOP_MALFORMED;
			case APPLIED_ROW:
				++*n_rows;
				break;
			case APPLIED_NOTHING:
				break;
			}
		} else if (type >= 128 || scan->special[type]) {
			return STOP_SPECIAL;
		}
		*position += length;
	}
	return STOP_END;
}

static PyObject *perf_scan(PyObject *module, PyObject *args)
{
	Py_buffer data = {0}, events = {0}, ids = {0}, special = {0}, counts = {0}, first = {0}, rows = {0};
	size_t position, room, n_rows = 0, i;
	PyObject *result = NULL;
	Py_ssize_t start;
	struct scan scan;
	enum stop stop;
	int id_position;

	(void)module;
	if (!PyArg_ParseTuple(args, "y*ny*y*iy*w*w*w*", &data, &start, &events, &ids, &id_position, &special, &counts,
			      &first, &rows))
		return NULL;
	scan = (struct scan){
		.events = events.buf,
		.ids = ids.buf,
		.n_events = (size_t)events.len / sizeof(struct perf_event),
		.n_ids = (size_t)ids.len / sizeof(struct id),
		.id_position = id_position,
		.special = special.buf,
		.counts = counts.buf,
		.first_on_cpu = first.buf,
	};
	room = (size_t)rows.len / sizeof(struct trap_row);
	if (start < 0 || start > data.len || !scan.n_events || special.len < 128 || id_position > 8 ||
	    (size_t)counts.len < 8 * scan.n_events || first.len < N_CPUS * 8) {
		PyErr_SetString(PyExc_ValueError, "buffers of the wrong size");
		goto done;
	}
	for (i = 0; i < scan.n_ids; i++) {
		if (scan.ids[i].event >= scan.n_events) {
			PyErr_SetString(PyExc_ValueError, "an id of no event");
			goto done;
		}
	}
	position = (size_t)start;
	Py_BEGIN_ALLOW_THREADS
	stop = walk(&scan, data.buf, (size_t)data.len, &position, rows.buf, room, &n_rows);
	Py_END_ALLOW_THREADS
	result = Py_BuildValue("(nni)", (Py_ssize_t)n_rows, (Py_ssize_t)position, (int)stop);
done:
	PyBuffer_Release(&data);
	PyBuffer_Release(&events);
	PyBuffer_Release(&ids);
	PyBuffer_Release(&special);
	PyBuffer_Release(&counts);
	PyBuffer_Release(&first);
	PyBuffer_Release(&rows);
	return result;
}

PyMethodDef iretrace_perf_scan_methods[] = {
	{"perf_scan", perf_scan, METH_VARARGS, "Samples of perf's records to rows; (rows, position, why it stopped)."},
	{NULL, NULL, 0, NULL},
};
