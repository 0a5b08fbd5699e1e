/*
 * Walks pages of the kernel's trace ring buffer (kernel/trace/ring_buffer.c, include/linux/ring_buffer.h), as trace-cmd
 * stores them, and turns events into rows. Everything it reads is untrusted. Where the fields of a page and of an event
 * lie comes from the trace itself; the plain Python twin is tests/import_twins.py.
 */
#include "rows.h"
#include "native.h"

enum { TYPE_PADDING = 29, TYPE_TIME_EXTEND = 30, TYPE_TIME_STAMP = 31, TS_SHIFT = 27 };
#define TS_UPPER (0xf8ull << 56) /* what an absolute time stamp of 59 bits leaves to the one before */
#define COMMIT_BYTES 0xfffffffull
#define MISSED_EVENTS (1ull << 31)
#define MISSED_STORED (1ull << 30)

/* Why the walk ended. */
enum stop { STOP_END, STOP_FULL, STOP_MALFORMED };

struct ring {
	const struct action *actions;
	const int32_t *by_type; /* 65536: which action a tracepoint's number has, -1 for none */
	struct field commit, type, pid;
	size_t data_offset, page_bytes;
	uint64_t *counts, *first_on_cpu; /* counts: one of each action, then events of unknown number */
	size_t n_actions;
	uint16_t cpu;
	uint64_t missed; /* events known to be lost; pages that lost an unknown number */
	uint64_t missed_pages;
};

static uint32_t word(const uint8_t *at)
{
	uint32_t value;

	memcpy(&value, at, sizeof value);
	return value;
}

static bool take_event(struct ring *ring, const uint8_t *data, uint32_t length, uint64_t time, struct trap_row *row,
		       size_t *n_rows)
{
	uint64_t type, pid;
	int32_t index;

	if (!read_field(ring->type, data, length, &type) || type > 65535 ||
	    !read_field(ring->pid, data, length, &pid))
		return false;
	index = ring->by_type[type];
	if (index < 0 || (size_t)index >= ring->n_actions) {
		ring->counts[ring->n_actions]++;
		return true;
	}
	ring->counts[index]++;
	if (!ring->actions[index].is_trap)
		return true;
	row->tsc = time;
	row->cpu = ring->cpu;
	row->pid = (uint32_t)pid;
	switch (apply_action(ring->actions + index, data, length, ring->first_on_cpu, row)) {
	case APPLIED_MALFORMED:
		return false;
	case APPLIED_ROW:
		++*n_rows;
		break;
	case APPLIED_NOTHING:
		break;
	}
	return true;
}

/* False: malformed, at `*position` of the page. */
static bool walk_page(struct ring *ring, const uint8_t *page, size_t *position, struct trap_row *rows, size_t *n_rows)
{
	uint64_t time, commit;
	size_t at = ring->data_offset, end;

	*position = 0;
	memcpy(&time, page, 8);
	if (!read_field(ring->commit, page, (uint32_t)ring->page_bytes, &commit))
		return false;
	end = at + (size_t)(commit & COMMIT_BYTES & ~(MISSED_EVENTS | MISSED_STORED));
	if (end > ring->page_bytes)
		return false;
	if (commit & MISSED_EVENTS) {
		if (commit & MISSED_STORED && ring->page_bytes - end >= 8) {
			uint64_t missed;

			memcpy(&missed, page + end, 8);
			ring->missed += missed > UINT32_MAX ? UINT32_MAX : missed;
		} else {
			ring->missed_pages++;
		}
	}
	while (end - at >= 4) {
		uint32_t header = word(page + at), length = header & 31, delta = header >> 5;
		size_t data = at + 4;

		*position = at;
		if (length && length < TYPE_PADDING) {
			length *= 4;
		} else {
			uint32_t extra;

			if (length == TYPE_PADDING && !delta)
				return true;
			if (end - data < 4)
				return false;
			extra = word(page + data);
			if (length == TYPE_TIME_EXTEND) {
				time += ((uint64_t)extra << TS_SHIFT) + delta;
				at = data + 4;
				continue;
			}
			if (length == TYPE_TIME_STAMP) {
				time = (((uint64_t)extra << TS_SHIFT) + delta) | (time & TS_UPPER);
				at = data + 4;
				continue;
			}
			if (extra < 4 || extra > end - data)
				return false;
			if (length == TYPE_PADDING) {
				time += delta;
				at = data + extra;
				continue;
			}
			data += 4;
			length = extra - 4;
		}
		if (length > end - data)
			return false;
		time += delta;
		if (!take_event(ring, page + data, length, time, rows + *n_rows, n_rows))
			return false;
		at = data + length;
	}
	return true;
}

static PyObject *ring_scan(PyObject *module, PyObject *args)
{
	Py_buffer pages = {0}, actions = {0}, by_type = {0}, fields = {0}, counts = {0}, first = {0}, rows = {0};
	size_t room, n_rows = 0, page, n_pages, inside = 0;
	unsigned long cpu, page_bytes, data_offset;
	enum stop stop = STOP_END;
	PyObject *result = NULL;
	Py_ssize_t first_page;
	struct ring ring;

	(void)module;
	if (!PyArg_ParseTuple(args, "y*nkkky*y*y*w*w*w*", &pages, &first_page, &page_bytes, &data_offset, &cpu, &fields,
			      &actions, &by_type, &counts, &first, &rows))
		return NULL;
	ring = (struct ring){
		.actions = actions.buf,
		.by_type = by_type.buf,
		.data_offset = data_offset,
		.page_bytes = page_bytes,
		.counts = counts.buf,
		.first_on_cpu = first.buf,
		.n_actions = (size_t)actions.len / sizeof(struct action),
		.cpu = (uint16_t)cpu,
	};
	room = (size_t)rows.len / sizeof(struct trap_row);
	if (page_bytes < 16 || page_bytes > 1 << 24 || data_offset < 8 || data_offset > page_bytes || cpu >= N_CPUS ||
	    by_type.len < 65536 * 4 || fields.len < 12 || (size_t)counts.len < 8 * (ring.n_actions + 1) ||
	    first.len < N_CPUS * 8 || room < page_bytes / 4 || first_page < 0) {
		PyErr_SetString(PyExc_ValueError, "buffers of the wrong size");
		goto done;
	}
	memcpy(&ring.commit, fields.buf, 4);
	memcpy(&ring.type, (const uint8_t *)fields.buf + 4, 4);
	memcpy(&ring.pid, (const uint8_t *)fields.buf + 8, 4);
	n_pages = (size_t)pages.len / page_bytes;
	Py_BEGIN_ALLOW_THREADS
	for (page = (size_t)first_page; page < n_pages; page++) {
		/* An event takes four bytes at least, so that a page's always fit. */
		if (room - n_rows < page_bytes / 4) {
			stop = STOP_FULL;
			break;
		}
		if (!walk_page(&ring, (const uint8_t *)pages.buf + page * page_bytes, &inside, rows.buf, &n_rows)) {
			stop = STOP_MALFORMED;
			break;
		}
	}
	Py_END_ALLOW_THREADS
	result = Py_BuildValue("(nniKKn)", (Py_ssize_t)n_rows, (Py_ssize_t)page, (int)stop,
			       (unsigned long long)ring.missed, (unsigned long long)ring.missed_pages, (Py_ssize_t)inside);
done:
	PyBuffer_Release(&pages);
	PyBuffer_Release(&actions);
	PyBuffer_Release(&by_type);
	PyBuffer_Release(&fields);
	PyBuffer_Release(&counts);
	PyBuffer_Release(&first);
	PyBuffer_Release(&rows);
	return result;
}

PyMethodDef iretrace_ring_scan_methods[] = {
	{"ring_scan", ring_scan, METH_VARARGS,
	 "Pages of a ring buffer to rows; (rows, pages, why it stopped, events missed, pages with losses, where)."},
	{NULL, NULL, 0, NULL},
};
