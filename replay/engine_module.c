/* The replay's engine as Python sees it: a capsule, fed record batches by the Arrow C Data Interface. */
#include <stdlib.h>
#include <string.h>

#include "arrow_abi.h"
#include "engine.h"
#include "native.h"

#define ENGINE_CAPSULE "iretrace.engine"

/* An engine, what Python lends it, and what became of it. */
struct handle {
	struct engine engine;
	Py_buffer cells;
	bool busy, failed;
};

static void engine_free(PyObject *capsule)
{
	struct handle *handle = PyCapsule_GetPointer(capsule, ENGINE_CAPSULE);
	struct engine *engine;
	int i;

	if (!handle)
		return;
	engine = &handle->engine;
	for (i = 0; engine->cpus && i < N_CPUS; i++) {
		if (engine->cpus[i])
			free(engine->cpus[i]->stack);
		free(engine->cpus[i]);
	}
	free(engine->cpus);
	free(engine->effects);
	free(engine->ranges);
	free(engine->calm);
	for (i = 0; i < TALLIES; i++)
		free(engine->tally[i]);
	free(engine->touched);
	PyBuffer_Release(&handle->cells);
	free(handle);
}

static struct handle *handle_get(PyObject *capsule)
{
	struct handle *handle = PyCapsule_GetPointer(capsule, ENGINE_CAPSULE);

	if (handle && (handle->busy || handle->failed)) {
		PyErr_SetString(PyExc_RuntimeError, handle->busy ? "the engine is in use" : "the engine has failed");
		return NULL;
	}
	return handle;
}

/* A writable buffer of exactly (or, with `at_least`, at least) `bytes` bytes. */
static bool take_buffer(PyObject *object, Py_buffer *view, int64_t bytes, bool at_least)
{
	if (PyObject_GetBuffer(object, view, PyBUF_WRITABLE) < 0)
		return false;
	if (at_least ? view->len >= bytes : view->len == bytes)
		return true;
	PyErr_Format(PyExc_ValueError, "a buffer holds %zd bytes, not %lld", view->len, (long long)bytes);
	PyBuffer_Release(view);
	return false;
}

static void *copy_bytes(const char *bytes, Py_ssize_t size)
{
	void *copy = malloc(size ? (size_t)size : 1);

	if (copy)
		memcpy(copy, bytes, (size_t)size);
	return copy;
}

static PyObject *engine_new(PyObject *module, PyObject *args)
{
	const char *exitless, *effects, *ranges;
	Py_ssize_t n_exitless, n_effects, n_ranges;
	PyObject *cells, *capsule;
	struct engine *engine;
	struct handle *handle;
	int kernel_cs, lossy, slot, byte;
	bool room = true, special[N_SLOTS] = {false};
	int target;
	int64_t k;

	(void)module;
	if (!PyArg_ParseTuple(args, "ipy#y#y#O", &kernel_cs, &lossy, &exitless, &n_exitless, &ranges, &n_ranges,
			      &effects, &n_effects, &cells))
		return NULL;
	if (n_exitless != N_SLOTS || n_effects % N_SLOTS || n_ranges % 16) {
		PyErr_SetString(PyExc_ValueError, "tables of the wrong size");
		return NULL;
	}
	handle = calloc(1, sizeof(*handle));
	if (!handle)
		return PyErr_NoMemory();
	capsule = PyCapsule_New(handle, ENGINE_CAPSULE, engine_free);
	if (!capsule) {
		free(handle);
		return NULL;
	}
	engine = &handle->engine;
	engine->kernel_cs = kernel_cs;
	engine->lossy = lossy;
	engine->n_configs = n_effects / N_SLOTS;
	engine->n_ranges = n_ranges / 16;
	memcpy(engine->exitless, exitless, N_SLOTS);
	engine->calm = calloc(N_CONTEXTS + 1, sizeof(*engine->calm));
	for (k = 0; k < TALLIES; k++) {
		engine->tally[k] = calloc(N_CONTEXTS + 1, sizeof(*engine->tally[k]));
		room &= engine->tally[k] != NULL;
	}
	engine->touched = calloc(N_CONTEXTS, sizeof(*engine->touched));
	engine->cpus = calloc(N_CPUS, sizeof(struct cpu *));
	engine->effects = copy_bytes(effects, n_effects);
	engine->ranges = copy_bytes(ranges, n_ranges);
	if (engine->ranges && engine->n_ranges) {
		engine->text_low = engine->ranges[0];
		engine->text_span = engine->ranges[2 * engine->n_ranges - 1] - engine->text_low;
	}
	if (!engine->cpus || !engine->effects || !engine->ranges || !engine->calm || !engine->touched || !room) {
		Py_DECREF(capsule);
		return PyErr_NoMemory();
	}
	for (byte = 0; byte < 256; byte++) {
		for (k = 0; k < 8; k++)
			engine->spread[byte][k] = byte >> k & 1;
	}
	for (slot = 0; slot < N_SLOTS; slot++) {
		for (k = 0; k < engine->n_configs; k++) {
			engine->counted[slot] |= engine->effects[k * N_SLOTS + slot] & EFFECT_UP;
			special[slot] |= engine->effects[k * N_SLOTS + slot] != 0;
		}
		for (target = 0; target < 3; target++) {
			uint16_t frame = (uint16_t)(target << CONTEXT_SHIFT);
			uint32_t kind = (exitless[slot] >> target & 1) * KIND_EXITLESS |
					(special[slot] | (slot == SLOT_NMI)) * KIND_SPECIAL;

			engine->base[slot << 2 | target] = context_of((uint16_t)slot, frame, false) | kind << KIND_SHIFT;
		}
	}
	engine->left = UINT64_MAX - 1;
	if (!take_buffer(cells, &handle->cells, engine->n_configs * N_CONTEXTS * (int64_t)sizeof(struct cell), false)) {
		Py_DECREF(capsule);
		return NULL;
	}
	engine->cells = handle->cells.buf;
	return capsule;
}

/* Point at the columns of a record batch (a struct array), which may be sliced. */
static bool take_columns(const struct ArrowArray *batch, struct column *columns)
{
	int64_t i;

	if (batch->n_children != PID && batch->n_children != N_COLUMNS) {
		PyErr_Format(PyExc_ValueError, "a batch of %lld columns", (long long)batch->n_children);
		return false;
	}
	memset(columns, 0, N_COLUMNS * sizeof(*columns));
	for (i = 0; i < batch->n_children; i++) {
		const struct ArrowArray *child = batch->children[i];

		if (child->n_buffers != 2 || child->length < batch->offset + batch->length ||
		    (batch->length && !child->buffers[1])) {
			PyErr_Format(PyExc_ValueError, "column %lld is not a plain array", (long long)i);
			return false;
		}
		columns[i].valid = child->null_count ? child->buffers[0] : NULL;
		columns[i].values = child->buffers[1];
		columns[i].offset = child->offset + batch->offset;
	}
	return true;
}

/* Where one call's rows go. */
struct sink {
	Py_buffer rows, nest;
	bool open;
};

/* Open the buffers for at most n rows; None: rows are not asked for. */
static bool open_sink(struct engine *engine, PyObject *rows, PyObject *nest, int64_t n, struct sink *sink)
{
	engine->rows = NULL;
	engine->n_rows = 0;
	sink->open = rows != Py_None;
	if (!sink->open)
		return true;
	if (!take_buffer(rows, &sink->rows, n * (int64_t)sizeof(struct row), true))
		return false;
	if (sink->rows.itemsize != sizeof(struct row)) {
		PyErr_Format(PyExc_ValueError, "rows of %zd bytes", sink->rows.itemsize);
		PyBuffer_Release(&sink->rows);
		return false;
	}
	if (!take_buffer(nest, &sink->nest, n * engine->n_configs * 2, true)) {
		PyBuffer_Release(&sink->rows);
		return false;
	}
	engine->rows = sink->rows.buf;
	engine->nest_rows = sink->nest.buf;
	return true;
}

static PyObject *close_sink(struct handle *handle, struct sink *sink)
{
	if (sink->open) {
		PyBuffer_Release(&sink->rows);
		PyBuffer_Release(&sink->nest);
	}
	handle->engine.rows = NULL;
	return handle->failed ? PyErr_NoMemory() : PyLong_FromLongLong(handle->engine.n_rows);
}

static PyObject *engine_feed(PyObject *module, PyObject *args)
{
	PyObject *capsule, *array, *rows, *nest;
	struct column columns[N_COLUMNS];
	const struct ArrowArray *batch;
	struct engine *engine;
	struct handle *handle;
	const char *is_exit;
	Py_ssize_t n_phases;
	struct sink sink;
	int width, i, n_exits;

	(void)module;
	if (!PyArg_ParseTuple(args, "OOiy#OO", &capsule, &array, &width, &is_exit, &n_phases, &rows, &nest))
		return NULL;
	handle = handle_get(capsule);
	batch = handle ? PyCapsule_GetPointer(array, "arrow_array") : NULL;
	if (!batch)
		return NULL;
	if (!batch->release || (width != 1 && width != 2 && width != 4)) {
		PyErr_Format(PyExc_ValueError, "a released batch, or dictionary indices of %d bytes", width);
		return NULL;
	}
	engine = &handle->engine;
	if (!take_columns(batch, columns) ||
	    !open_sink(engine, rows, nest, batch->length + (int64_t)engine->open, &sink))
		return NULL;
	engine->phase_width = width;
	engine->is_exit = is_exit;
	engine->n_phases = n_phases;
	memset(engine->is_exit_8, 0, sizeof(engine->is_exit_8));
	memcpy(engine->is_exit_8, is_exit, n_phases < 256 ? (size_t)n_phases : 256);
	for (i = 0, n_exits = 0; i < 256; i++) {
		n_exits += engine->is_exit_8[i];
		engine->exit_index = engine->is_exit_8[i] ? (uint8_t)i : engine->exit_index;
	}
	engine->one_exit_index = n_exits == 1;
	handle->busy = true;
	Py_BEGIN_ALLOW_THREADS
	handle->failed = !engine_run(engine, columns, batch->length);
	Py_END_ALLOW_THREADS
	handle->busy = false;
	return close_sink(handle, &sink);
}

static PyObject *engine_finish(PyObject *module, PyObject *args)
{
	PyObject *capsule, *rows, *nest;
	struct handle *handle;
	struct sink sink;

	(void)module;
	if (!PyArg_ParseTuple(args, "OOO", &capsule, &rows, &nest))
		return NULL;
	handle = handle_get(capsule);
	if (!handle || !open_sink(&handle->engine, rows, nest, (int64_t)handle->engine.open, &sink))
		return NULL;
	engine_end(&handle->engine);
	return close_sink(handle, &sink);
}

static PyObject *engine_open(PyObject *module, PyObject *capsule)
{
	struct handle *handle = handle_get(capsule);

	(void)module;
	return handle ? PyLong_FromUnsignedLongLong(handle->engine.open) : NULL;
}

static PyObject *engine_repairs(PyObject *module, PyObject *capsule)
{
	struct handle *handle = handle_get(capsule);
	const uint64_t *ends;

	(void)module;
	if (!handle)
		return NULL;
	ends = handle->engine.ends;
	return Py_BuildValue("KKKKKK", (unsigned long long)ends[END_NO_HOOK], (unsigned long long)ends[END_IMPLIED],
			     (unsigned long long)ends[END_ORPHAN], (unsigned long long)ends[END_OPEN],
			     (unsigned long long)ends[END_OVERFLOW],
			     (unsigned long long)handle->engine.unknown_target);
}

PyMethodDef iretrace_engine_methods[] = {
	{"engine_new", engine_new, METH_VARARGS,
	 "engine_new(kernel_cs, lossy, exitless, nmi_text, effects, cells) -> engine"},
	{"engine_feed", engine_feed, METH_VARARGS,
	 "engine_feed(engine, arrow_array, phase_width, is_exit, rows, nest) -> number of rows"},
	{"engine_finish", engine_finish, METH_VARARGS, "engine_finish(engine, rows, nest) -> number of rows"},
	{"engine_open", engine_open, METH_O, "engine_open(engine) -> number of traps that have not returned"},
	{"engine_repairs", engine_repairs, METH_O,
	 "engine_repairs(engine) -> (no exit hook, implied, orphan, open at end, overflow, unknown target)"},
	{NULL, NULL, 0, NULL},
};
