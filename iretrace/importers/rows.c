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

#define BLOCK 64

/* Which rows of a block have the bit. */
static uint64_t bitmap(const uint16_t known[BLOCK], size_t n, uint16_t bit)
{
	uint64_t has = 0;
	size_t i;

	for (i = 0; i < n; i++)
		has |= (uint64_t)!!(known[i] & bit) << i;
	return has;
}

static void put_bitmap(uint8_t *out, uint64_t bits, size_t n)
{
	memcpy(out, &bits, (n + 7) / 8); /* little-endian, as Arrow's bitmaps are */
}

/* One column of a block of rows; what no row of it knows need not be copied. */
#define COPY(TYPE, COLUMN, FIELD)                                                                                      \
	do {                                                                                                           \
		TYPE *column = (TYPE *)(out + at[COLUMN]) + start;                                                     \
		for (i = 0; i < count; i++)                                                                            \
			column[i] = block[i]->FIELD;                                                                   \
	} while (0)

/* Rows by number: from `first` on they lie in `rows`; those before are `n_before` of another array, in an order. */
struct numbered {
	const struct trap_row *rows, *before;
	const int64_t *before_order;
	size_t n_rows, first, n_before, n_before_rows;
};

static inline const struct trap_row *row_at(const struct numbered *in, int64_t number)
{
	if ((size_t)number >= in->first)
		return in->rows + number;
	return in->before + in->before_order[(size_t)number - (in->first - in->n_before)];
}

static void fill(const struct numbered *in, const int64_t *order, size_t n, uint8_t *out, const size_t *at,
		 uint64_t nulls[N_BITMAPS])
{
	const struct trap_row *block[BLOCK];
	uint16_t known[BLOCK], any, all;
	size_t start, count, i;
	int b;

	for (start = 0; start < n; start += BLOCK) {
		count = n - start < BLOCK ? n - start : BLOCK;
		any = 0;
		all = UINT16_MAX;
		for (i = 0; i < count; i++) {
			block[i] = row_at(in, order[start + i]);
			known[i] = block[i]->known;
			any |= known[i];
			all &= known[i];
		}
		COPY(uint64_t, 0, tsc);
		COPY(uint16_t, 1, cpu);
		COPY(uint8_t, 2, phase);
		COPY(uint8_t, 5, hook);
		COPY(uint32_t, 12, pid);
		if (any & KNOWN_VECTOR)
			COPY(uint8_t, 3, vector);
		if (any & KNOWN_IRQ)
			COPY(uint16_t, 4, irq);
		if (any & KNOWN_CS)
			COPY(uint16_t, 6, cs);
		if (any & KNOWN_IP)
			COPY(uint64_t, 7, ip);
		if (any & KNOWN_FLAGS)
			COPY(uint32_t, 8, flags);
		if (any & KNOWN_SP)
			COPY(uint64_t, 9, sp);
		if (any & KNOWN_ERROR_CODE)
			COPY(uint32_t, 10, error_code);
		put_bitmap(out + at[11] + start / 8, any & TO_KERNEL ? bitmap(known, count, TO_KERNEL) : 0, count);
		for (b = 0; b < N_BITMAPS; b++) {
			uint64_t has = 0;

			if (all & bits[b])
				has = count < BLOCK ? (1ull << count) - 1 : UINT64_MAX;
			else if (any & bits[b])
				has = bitmap(known, count, bits[b]);
			put_bitmap(out + at[N_COLUMNS + b] + start / 8, has, count);
			nulls[b] += count - (size_t)__builtin_popcountll(has);
		}
	}
}

/* Whether an order names rows from `first` on. */
static bool names_rows(const Py_buffer *order, size_t first, size_t n_rows)
{
	const int64_t *indices = order->buf;
	size_t n = (size_t)order->len / sizeof(int64_t), i;

	for (i = 0; i < n; i++) {
		if (indices[i] < 0 || (uint64_t)indices[i] < first || (uint64_t)indices[i] >= n_rows) {
			PyErr_SetString(PyExc_IndexError, "the order names a row that is not there");
			return false;
		}
	}
	return true;
}

static PyObject *rows_to_columns(PyObject *module, PyObject *args)
{
	Py_buffer rows = {0}, order = {0}, out = {0}, before = {0}, before_order = {0};
	size_t at[N_COLUMNS + N_BITMAPS], n;
	uint64_t nulls[N_BITMAPS] = {0};
	PyObject *result = NULL;
	struct numbered in;
	Py_ssize_t first;

	(void)module;
	if (!PyArg_ParseTuple(args, "y*y*w*y*y*n", &rows, &order, &out, &before, &before_order, &first))
		return NULL;
	n = (size_t)order.len / sizeof(int64_t);
	in = (struct numbered){
		.rows = rows.buf,
		.n_rows = (size_t)rows.len / sizeof(struct trap_row),
		.first = (size_t)first,
		.before = before.buf,
		.n_before_rows = (size_t)before.len / sizeof(struct trap_row),
		.before_order = before_order.buf,
		.n_before = (size_t)before_order.len / sizeof(int64_t),
	};
	if ((size_t)out.len < lay_out(n, at)) {
		PyErr_SetString(PyExc_ValueError, "the buffer for the columns is too small");
		goto done;
	}
	if (first < 0 || in.n_before > in.first) {
		PyErr_SetString(PyExc_ValueError, "more rows before the first one than there are numbers");
		goto done;
	}
	if (!names_rows(&order, in.first - in.n_before, in.n_rows) || !names_rows(&before_order, 0, in.n_before_rows))
		goto done;
	Py_BEGIN_ALLOW_THREADS
	fill(&in, order.buf, n, out.buf, at, nulls);
	Py_END_ALLOW_THREADS
	result = Py_BuildValue("(KKKKKKKK)", (unsigned long long)nulls[0], (unsigned long long)nulls[1],
			       (unsigned long long)nulls[2], (unsigned long long)nulls[3], (unsigned long long)nulls[4],
			       (unsigned long long)nulls[5], (unsigned long long)nulls[6], (unsigned long long)nulls[7]);
done:
	PyBuffer_Release(&rows);
	PyBuffer_Release(&order);
	PyBuffer_Release(&out);
	PyBuffer_Release(&before);
	PyBuffer_Release(&before_order);
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
	if (!names_rows(&order, 0, (size_t)rows.len / sizeof(struct trap_row)))
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
