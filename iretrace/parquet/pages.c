/*
 * Columns of a row group to the bodies of a Parquet file's pages. What surrounds them (headers, compression, the file's
 * metadata) is writer.py; the encodings are encodings.c and dictionary.c.
 */
#include "encodings.h"
#include "native.h"

#define SCRATCH_BYTES(n) (MAX_DICTIONARY * sizeof(uint64_t) + MOST_SLOTS * sizeof(uint32_t) + (n) * sizeof(uint16_t))

static bool column_from(struct column *column, const Py_buffer *values, const Py_buffer *valid, Py_ssize_t valid_from,
			int width)
{
	if ((width != 1 && width != 2 && width != 4 && width != 8) || values->len % width) {
		PyErr_SetString(PyExc_ValueError, "values of 1, 2, 4 or 8 bytes are wanted");
		return false;
	}
	*column = (struct column){
		.values = values->buf,
		.valid = valid->buf,
		.valid_size = (size_t)valid->len,
		.valid_from = (size_t)valid_from,
		.n = (size_t)(values->len / width),
		.width = (unsigned)width,
	};
	if (column->n > MAX_ROWS || valid_from < 0 || (valid->buf && (size_t)valid->len * 8 < column->valid_from + column->n)) {
		PyErr_SetString(PyExc_ValueError, "a validity bitmap of another length, or too many rows");
		return false;
	}
	return true;
}

static PyObject *length_or_error(const struct sink *page, const uint8_t *begin)
{
	if (page->full) {
		PyErr_SetString(PyExc_ValueError, "too little room for the page");
		return NULL;
	}
	return PyLong_FromSsize_t((Py_ssize_t)(page->at - begin));
}

static PyObject *page_integers(PyObject *module, PyObject *args)
{
	Py_buffer values = {0}, valid = {0}, scratch = {0}, dictionary = {0}, page = {0};
	struct dictionary known = {.n_slots = FIRST_SLOTS};
	PyObject *result = NULL;
	struct column column;
	Py_ssize_t from;
	size_t n = 0, i;
	struct sink sink;
	int width, nullable;
	bool few = false;

	(void)module;
	if (!PyArg_ParseTuple(args, "y*iz*npw*w*w*", &values, &width, &valid, &from, &nullable, &scratch, &dictionary,
			      &page))
		return NULL;
	if (!column_from(&column, &values, &valid, from, width))
		goto done;
	if ((size_t)scratch.len < SCRATCH_BYTES(column.n) || (size_t)dictionary.len < MAX_DICTIONARY * 8) {
		PyErr_SetString(PyExc_ValueError, "too little scratch memory");
		goto done;
	}
	sink = (struct sink){.at = page.buf, .end = (uint8_t *)page.buf + page.len};
	Py_BEGIN_ALLOW_THREADS
	known.values = scratch.buf;
	known.slots = (uint32_t *)(known.values + MAX_DICTIONARY);
	memset(known.slots, 0, FIRST_SLOTS * sizeof *known.slots);
	if (nullable)
		parquet_levels(&sink, &column);
	few = parquet_indices(&column, &known, (uint16_t *)(known.slots + MOST_SLOTS), &n) && known.n;
	if (few && room(&sink, 1)) {
		struct sink texts = {.at = dictionary.buf, .end = (uint8_t *)dictionary.buf + dictionary.len};
		unsigned bits = known.n > 1 ? bits_for(known.n - 1) : 1;

		for (i = 0; i < known.n; i++)
			bytes_le(&texts, known.values[i], plain_width(column.width));
		*sink.at++ = (uint8_t)bits;
		parquet_hybrid(&sink, (uint16_t *)(known.slots + MOST_SLOTS), n, bits);
	} else if (!few) {
		parquet_plain(&sink, &column);
	}
	Py_END_ALLOW_THREADS
	result = length_or_error(&sink, page.buf);
	if (result)
		result = Py_BuildValue("(nN)", (Py_ssize_t)(few ? known.n : 0), result);
done:
	PyBuffer_Release(&values);
	PyBuffer_Release(&valid);
	PyBuffer_Release(&scratch);
	PyBuffer_Release(&dictionary);
	PyBuffer_Release(&page);
	return result;
}

static PyObject *page_bits(PyObject *module, PyObject *args)
{
	Py_buffer values = {0}, valid = {0}, page = {0};
	Py_ssize_t from, valid_from, n;
	PyObject *result = NULL;
	struct column column;
	struct sink sink;
	int nullable;

	(void)module;
	if (!PyArg_ParseTuple(args, "y*nz*nnpw*", &values, &from, &valid, &valid_from, &n, &nullable, &page))
		return NULL;
	column = (struct column){
		.valid = valid.buf, .valid_size = (size_t)valid.len, .valid_from = (size_t)valid_from, .n = (size_t)n};
	if (n < 0 || n > MAX_ROWS || from < 0 || valid_from < 0 || values.len * 8 < from + n ||
	    (valid.buf && valid.len * 8 < valid_from + n)) {
		PyErr_SetString(PyExc_ValueError, "bitmaps of another length, or too many rows");
		goto done;
	}
	sink = (struct sink){.at = page.buf, .end = (uint8_t *)page.buf + page.len};
	Py_BEGIN_ALLOW_THREADS
	if (nullable)
		parquet_levels(&sink, &column);
	parquet_plain_bits(&sink, &column, values.buf, (size_t)values.len, (size_t)from);
	Py_END_ALLOW_THREADS
	result = length_or_error(&sink, page.buf);
done:
	PyBuffer_Release(&values);
	PyBuffer_Release(&valid);
	PyBuffer_Release(&page);
	return result;
}

static PyObject *page_deltas(PyObject *module, PyObject *args)
{
	Py_buffer values = {0}, page = {0};
	PyObject *result = NULL;
	struct sink sink;

	(void)module;
	if (!PyArg_ParseTuple(args, "y*w*", &values, &page))
		return NULL;
	if (values.len % 8 || values.len / 8 > MAX_ROWS) {
		PyErr_SetString(PyExc_ValueError, "values of 8 bytes are wanted");
		goto done;
	}
	sink = (struct sink){.at = page.buf, .end = (uint8_t *)page.buf + page.len};
	Py_BEGIN_ALLOW_THREADS
	parquet_deltas(&sink, values.buf, (size_t)values.len / 8);
	Py_END_ALLOW_THREADS
	result = length_or_error(&sink, page.buf);
done:
	PyBuffer_Release(&values);
	PyBuffer_Release(&page);
	return result;
}

PyMethodDef iretrace_pages_methods[] = {
	{"page_integers", page_integers, METH_VARARGS, "Integers to a dictionary and its indices, or plain; their sizes."},
	{"page_bits", page_bits, METH_VARARGS, "Booleans to a plain page; its size."},
	{"page_deltas", page_deltas, METH_VARARGS, "64-bit integers to a page of binary packed deltas; its size."},
	{NULL, NULL, 0, NULL},
};
