/* Rows, in a given order, to the columns of a trace: one pass, so that Arrow gets buffers that it need not copy. */
#include "rows.h"
#include "native.h"

#define ALIGN 64

static size_t padded(size_t bytes)
{
	return (bytes + ALIGN - 1) / ALIGN * ALIGN;
}

/* Bytes of each column in the buffer, in the order of the trace's columns; then the validity bitmaps. */
static const uint8_t widths[] = {8, 2, 1, 1, 2, 1, 2, 8, 4, 8, 4, 0 /* a bitmap */, 4};
enum { N_COLUMNS = sizeof widths, N_BITMAPS = 8 };
static const uint16_t bits[N_BITMAPS] = {
	KNOWN_VECTOR, KNOWN_IRQ, KNOWN_CS, KNOWN_IP, KNOWN_FLAGS, KNOWN_SP, KNOWN_ERROR_CODE, KNOWN_TARGET,
};

static size_t lay_out(size_t n, size_t offsets[N_COLUMNS + N_BITMAPS])
{
	size_t total = 0;
	int i;

	for (i = 0; i < N_COLUMNS + N_BITMAPS; i++) {
		offsets[i] = total;
		total += padded(i < N_COLUMNS && widths[i] ? n * widths[i] : (n + 7) / 8);
	}
	return total;
}

/* Which of up to eight rows have the bit; those that have not are added to `nulls`. */
static inline uint8_t bitmap(const uint16_t known[8], size_t n, uint16_t bit, uint64_t *nulls)
{
	uint8_t has = 0;
	size_t i;

	for (i = 0; i < n; i++) {
		has |= (uint8_t)(!!(known[i] & bit) << i);
		*nulls += !(known[i] & bit);
	}
	return has;
}

static void fill(const struct trap_row *rows, const int64_t *order, size_t n, uint8_t *out, const size_t *at,
		 uint64_t nulls[N_BITMAPS])
{
	uint64_t *tsc = (uint64_t *)(out + at[0]), *ip = (uint64_t *)(out + at[7]), *sp = (uint64_t *)(out + at[9]);
	uint16_t *cpu = (uint16_t *)(out + at[1]), *irq = (uint16_t *)(out + at[4]), *cs = (uint16_t *)(out + at[6]);
	uint32_t *flags = (uint32_t *)(out + at[8]), *error = (uint32_t *)(out + at[10]);
	uint32_t *pid = (uint32_t *)(out + at[12]);
	uint8_t *phase = out + at[2], *vector = out + at[3], *hook = out + at[5], *target = out + at[11];
	uint16_t known[8], all = UINT16_MAX, any = 0;
	uint8_t to_kernel = 0;
	size_t i;
	int b;

	for (i = 0; i < n; i++) {
		const struct trap_row *row = rows + (order ? order[i] : (int64_t)i);
		uint8_t bit = (uint8_t)(1 << (i & 7));

		tsc[i] = row->tsc;
		cpu[i] = row->cpu;
		phase[i] = row->phase;
		vector[i] = row->vector;
		irq[i] = row->irq;
		hook[i] = row->hook;
		cs[i] = row->cs;
		ip[i] = row->ip;
		flags[i] = row->flags;
		sp[i] = row->sp;
		error[i] = row->error_code;
		pid[i] = row->pid;
		to_kernel |= row->known & TO_KERNEL ? bit : 0;
		known[i & 7] = row->known;
		all &= row->known;
		any |= row->known;
		if ((i & 7) == 7 || i == n - 1) {
			target[i / 8] = to_kernel;
			for (b = 0; b < N_BITMAPS; b++) {
				uint8_t *has = out + at[N_COLUMNS + b] + i / 8;

				if (all & bits[b])
					*has = (uint8_t)(0xff >> (7 - (i & 7)));
				else if (any & bits[b])
					*has = bitmap(known, (i & 7) + 1, bits[b], nulls + b);
				else {
					*has = 0;
					nulls[b] += (i & 7) + 1;
				}
			}
			to_kernel = 0;
			all = UINT16_MAX;
			any = 0;
		}
	}
}

static bool names_rows(const Py_buffer *order, size_t n_rows)
{
	const int64_t *indices = order->buf;
	size_t n = (size_t)order->len / sizeof(int64_t), i;

	for (i = 0; i < n; i++) {
		if (indices[i] < 0 || (uint64_t)indices[i] >= n_rows) {
			PyErr_SetString(PyExc_IndexError, "the order names a row that is not there");
			return false;
		}
	}
	return true;
}

static PyObject *rows_to_columns(PyObject *module, PyObject *args)
{
	size_t at[N_COLUMNS + N_BITMAPS], n, n_rows;
	uint64_t nulls[N_BITMAPS] = {0};
	Py_buffer rows = {0}, order = {0}, out = {0};
	PyObject *result = NULL;

	(void)module;
	if (!PyArg_ParseTuple(args, "y*y*w*", &rows, &order, &out))
		return NULL;
	n = (size_t)order.len / sizeof(int64_t);
	n_rows = (size_t)rows.len / sizeof(struct trap_row);
	if ((size_t)out.len < lay_out(n, at)) {
		PyErr_SetString(PyExc_ValueError, "the buffer for the columns is too small");
		goto done;
	}
	if (!names_rows(&order, n_rows))
		goto done;
	Py_BEGIN_ALLOW_THREADS
	fill(rows.buf, order.buf, n, out.buf, at, nulls);
	Py_END_ALLOW_THREADS
	result = Py_BuildValue("(KKKKKKKK)", (unsigned long long)nulls[0], (unsigned long long)nulls[1],
			       (unsigned long long)nulls[2], (unsigned long long)nulls[3], (unsigned long long)nulls[4],
			       (unsigned long long)nulls[5], (unsigned long long)nulls[6], (unsigned long long)nulls[7]);
done:
	PyBuffer_Release(&rows);
	PyBuffer_Release(&order);
	PyBuffer_Release(&out);
	return result;
}

static PyObject *rows_gather(PyObject *module, PyObject *args)
{
	Py_buffer rows = {0}, order = {0}, out = {0};
	PyObject *result = NULL;
	size_t n, i;

	(void)module;
	if (!PyArg_ParseTuple(args, "y*y*w*", &rows, &order, &out))
		return NULL;
	n = (size_t)order.len / sizeof(int64_t);
	if ((size_t)out.len / sizeof(struct trap_row) < n) {
		PyErr_SetString(PyExc_ValueError, "too little room for the rows");
		goto done;
	}
	if (!names_rows(&order, (size_t)rows.len / sizeof(struct trap_row)))
		goto done;
	Py_BEGIN_ALLOW_THREADS
	for (i = 0; i < n; i++)
		((struct trap_row *)out.buf)[i] = ((const struct trap_row *)rows.buf)[((const int64_t *)order.buf)[i]];
	Py_END_ALLOW_THREADS
	result = Py_NewRef(Py_None);
done:
	PyBuffer_Release(&rows);
	PyBuffer_Release(&order);
	PyBuffer_Release(&out);
	return result;
}

#define N_KEYS 1024

static PyObject *rows_account(PyObject *module, PyObject *args)
{
	uint64_t first = UINT64_MAX, last = 0;
	Py_buffer rows = {0}, seen = {0}, met = {0};
	PyObject *result = NULL;
	size_t n, n_pids, i;

	(void)module;
	if (!PyArg_ParseTuple(args, "y*w*w*", &rows, &seen, &met))
		return NULL;
	n = (size_t)rows.len / sizeof(struct trap_row);
	n_pids = (size_t)met.len;
	if (!n || !n_pids || (size_t)seen.len < N_KEYS * sizeof(uint64_t)) {
		PyErr_SetString(PyExc_ValueError, "no rows, or too little room for their counts");
		goto done;
	}
	for (i = 0; i < n; i++) {
		const struct trap_row *row = (const struct trap_row *)rows.buf + i;

		first = row->tsc < first ? row->tsc : first;
		last = row->tsc > last ? row->tsc : last;
		((uint64_t *)seen.buf)[row->vector | (row->phase & 1) << 8 | !!(row->known & KNOWN_VECTOR) << 9]++;
		((uint8_t *)met.buf)[row->pid < n_pids ? row->pid : n_pids - 1] = 1;
	}
	result = Py_BuildValue("(KK)", (unsigned long long)first, (unsigned long long)last);
done:
	PyBuffer_Release(&rows);
	PyBuffer_Release(&seen);
	PyBuffer_Release(&met);
	return result;
}

PyMethodDef iretrace_rows_methods[] = {
	{"rows_to_columns", rows_to_columns, METH_VARARGS, "Fill a buffer with the columns of rows; the nulls of each."},
	{"rows_gather", rows_gather, METH_VARARGS, "Copy rows, in an order, to the beginning of other rows."},
	{"rows_account", rows_account, METH_VARARGS, "Count rows by vector and phase, note their processes; their (first, last) TSC."},
	{NULL, NULL, 0, NULL},
};
