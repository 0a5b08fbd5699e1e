/* One pass over rows of returns into the report's counts. analysis/count_twin.py says the same with numpy and is the
 * oracle of the property tests.
 *
 * What lies inside a trap needs no stack here: on one CPU a nested trap returns before the one it is in, so when a
 * trap returns at a depth, all that returned one deeper since the last that did so at its own depth lay inside it. */
#include <string.h>

#include "count.h"
#include "../iretrace/native/native.h"

#define TWO_TO_64 18446744073709551616.0

/* The RETs inside a trap, and its own added to what lies at its depth. */
static int64_t nested_in(int64_t *inner, const struct row *row, bool ret)
{
	int64_t found;

	if (row->end == END_OVERFLOW) { /* the oldest went: all others are one less deep now */
		memmove(inner, inner + 1, (MAX_DEPTH + 1) * sizeof(*inner));
		inner[MAX_DEPTH + 1] = 0;
		return 0;
	}
	found = inner[row->depth + 1];
	inner[row->depth + 1] = 0;
	inner[row->depth] += found + ret;
	return found;
}

static void count_durations(const struct counts *to, const struct row *row, bool ret, int64_t nested)
{
	uint64_t latency = row->exit_tsc - row->entry_tsc, projected = latency;
	int64_t slot = (int64_t)row->slot * N_BUCKETS, bucket = slot + bucket_of(latency);

	to->latency[bucket]++;
	if (row->self_known)
		to->self_time[slot + bucket_of(row->self_cycles)]++;
	if (!ret)
		return;
	to->ret_latency[bucket]++;
	if (!to->known)
		return;
	if (nested) {
		double shorter = (double)latency - (double)nested * to->saving;

		projected = shorter < TWO_TO_64 ? shorter > 0 ? (uint64_t)shorter : 0 : UINT64_MAX;
	}
	to->ret_projected[slot + bucket_of(projected)]++;
}

static void count_row(const struct counts *to, const struct row *row, bool ret)
{
	uint64_t tsc = tsc_of(row), offset = tsc > to->origin ? tsc - to->origin : 0;
	int64_t *inner = to->inner + (int64_t)row->cpu * (MAX_DEPTH + 2);
	int64_t nested = nested_in(inner, row, ret);

	to->depths[(int64_t)row->depth * N_SLOTS + row->slot]++;
	to->cpus[row->cpu] = 1;
	to->bins[(int64_t)(offset >> to->shift) * N_SLOTS + row->slot]++;
	if (row->end == END_EXIT)
		count_durations(to, row, ret, nested);
}

/* A buffer of `length` bytes (-1: any whole number of `unit`), lent until released. */
static void *borrow(PyObject *object, Py_buffer *view, Py_ssize_t length, Py_ssize_t unit, int flags)
{
	if (PyObject_GetBuffer(object, view, flags) < 0)
		return NULL;
	if (length < 0 ? view->len % unit == 0 : view->len == length)
		return view->buf;
	PyErr_Format(PyExc_ValueError, "a buffer holds %zd bytes", view->len);
	PyBuffer_Release(view);
	return NULL;
}

/* rows, contexts, choices and eight arrays of counts */
enum { ROWS, CONTEXTS, CHOICES, DEPTHS, LATENCY, SELF, RET_LATENCY, RET_PROJECTED, CPUS, BINS, INNER, N_BUFFERS };

static const Py_ssize_t lengths[N_BUFFERS] = {
	[ROWS] = -1,
	[CONTEXTS] = -1,
	[CHOICES] = N_CONTEXTS,
	[DEPTHS] = (MAX_DEPTH + 1) * N_SLOTS * 8,
	[LATENCY] = (Py_ssize_t)N_SLOTS * N_BUCKETS * 8,
	[SELF] = (Py_ssize_t)N_SLOTS * N_BUCKETS * 8,
	[RET_LATENCY] = (Py_ssize_t)N_SLOTS * N_BUCKETS * 8,
	[RET_PROJECTED] = (Py_ssize_t)N_SLOTS * N_BUCKETS * 8,
	[CPUS] = N_CPUS,
	[BINS] = -1,
	[INNER] = (Py_ssize_t)N_CPUS * (MAX_DEPTH + 2) * 8,
};
static const Py_ssize_t units[N_BUFFERS] = {
	[ROWS] = sizeof(struct row), [CONTEXTS] = 4, [BINS] = N_SLOTS * 8, [CHOICES] = 1};

static bool in_range(const struct counts *to, const struct row *rows, const uint32_t *contexts, int64_t n, int64_t n_bins)
{
	int64_t i;
	bool fine = true;

	for (i = 0; i < n; i++) {
		uint64_t tsc = tsc_of(&rows[i]), offset = tsc > to->origin ? tsc - to->origin : 0;

		fine &= rows[i].slot < N_SLOTS && rows[i].depth <= MAX_DEPTH && contexts[i] < N_CONTEXTS &&
			offset >> to->shift < (uint64_t)n_bins;
	}
	return fine;
}

static void count_all(const struct counts *to, const Py_buffer *views, int64_t n)
{
	const struct row *rows = views[ROWS].buf;
	const uint32_t *contexts = views[CONTEXTS].buf;
	const uint8_t *choices = views[CHOICES].buf;
	int64_t i;

	for (i = 0; i < n; i++)
		count_row(to, &rows[i], choices[contexts[i]] == CHOICE_RET);
}

static PyObject *count_returns(PyObject *module, PyObject *args)
{
	PyObject *objects[N_BUFFERS];
	Py_buffer views[N_BUFFERS];
	unsigned long long origin;
	struct counts to = {0};
	int taken, shift, known;
	bool fine = false;
	int64_t n;

	(void)module;
	if (!PyArg_ParseTuple(args, "OOOOOOOOOOOKipd", &objects[ROWS], &objects[CONTEXTS], &objects[CHOICES],
			      &objects[DEPTHS], &objects[LATENCY], &objects[SELF], &objects[RET_LATENCY],
			      &objects[RET_PROJECTED], &objects[CPUS], &objects[BINS], &objects[INNER], &origin, &shift,
			      &known, &to.saving))
		return NULL;
	for (taken = 0; taken < N_BUFFERS; taken++) {
		if (!borrow(objects[taken], &views[taken], lengths[taken], units[taken],
			    taken < DEPTHS ? PyBUF_SIMPLE : PyBUF_WRITABLE))
			goto out;
	}
	to.depths = views[DEPTHS].buf;
	to.latency = views[LATENCY].buf;
	to.self_time = views[SELF].buf;
	to.ret_latency = views[RET_LATENCY].buf;
	to.ret_projected = views[RET_PROJECTED].buf;
	to.cpus = views[CPUS].buf;
	to.bins = views[BINS].buf;
	to.inner = views[INNER].buf;
	to.origin = origin;
	to.shift = (unsigned int)shift & 63;
	to.known = known;
	n = views[ROWS].len / (int64_t)sizeof(struct row);
	if (views[CONTEXTS].len != n * 4) {
		PyErr_SetString(PyExc_ValueError, "not one context a row");
		goto out;
	}
	Py_BEGIN_ALLOW_THREADS
	fine = in_range(&to, views[ROWS].buf, views[CONTEXTS].buf, n, views[BINS].len / (N_SLOTS * 8));
	if (fine)
		count_all(&to, views, n);
	Py_END_ALLOW_THREADS
	if (!fine)
		PyErr_SetString(PyExc_ValueError, "a row is out of range");
out:
	while (taken--)
		PyBuffer_Release(&views[taken]);
	return fine ? Py_NewRef(Py_None) : NULL;
}

/* Smallest and largest tsc_of. */
static PyObject *returns_span(PyObject *module, PyObject *object)
{
	uint64_t first = UINT64_MAX, last = 0;
	const struct row *rows;
	Py_buffer view;
	int64_t i;

	(void)module;
	rows = borrow(object, &view, -1, sizeof(*rows), PyBUF_SIMPLE);
	if (!rows)
		return NULL;
	for (i = 0; i < view.len / (int64_t)sizeof(*rows); i++) {
		uint64_t tsc = tsc_of(&rows[i]);

		first = tsc < first ? tsc : first;
		last = tsc > last ? tsc : last;
	}
	PyBuffer_Release(&view);
	return Py_BuildValue("KK", (unsigned long long)first, (unsigned long long)last);
}

PyMethodDef iretrace_count_methods[] = {
	{"count_returns", count_returns, METH_VARARGS,
	 "count_returns(rows, contexts, choices, depths, latency, self_time, ret_latency, ret_projected, cpus, bins, inner, "
	 "origin, shift, known, saving)"},
	{"returns_span", returns_span, METH_O, "returns_span(rows) -> (smallest, largest) TSC of the returns"},
	{NULL, NULL, 0, NULL},
};
