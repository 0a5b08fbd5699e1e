/* The sequential loop of the replay: pairing, nest counting, and a histogram of contexts.
 *
 * One pass over Arrow buffers, record batch by record batch, with the GIL released. replay/twin.py says the same
 * in plain Python and is the oracle of the property tests; replay/contexts.py owns the layout of the index and
 * replay/engine.py the arrays. Events are untrusted: any value of any column is allowed here.
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "arrow_abi.h"
#include "native.h"

#define ENGINE_CAPSULE "iretrace.engine"

enum {
	N_CPUS = 1 << 16,
	N_SLOTS = 257, /* vectors, and one for device interrupts without one */
	SLOT_DEVICE = 256,
	SLOT_NMI = 2,
	MAX_DEPTH = 128, /* a power of two: a full stack is a ring, so that dropping the oldest is cheap */
	FIRST_DEPTH = 8, /* stacks grow: a file may name 65536 CPUs */
	N_CONTEXTS = N_SLOTS * 3 * 128,
};

/* Keys of pairing: the vector, or what stands for one. */
enum { KEY_IRQ = 1 << 16, KEY_ANONYMOUS = 1 << 17 };

enum target { TARGET_KERNEL, TARGET_OTHER, TARGET_UNKNOWN };

/* Bits of a context index, as in replay/contexts.py. */
enum {
	CONTEXT_NESTED = 1,
	CONTEXT_NMI_TEXT = 2,
	CONTEXT_IF = 4,
	CONTEXT_TF = 8,
	CONTEXT_RF = 16,
	CONTEXT_NMI_ON_STACK = 32,
	CONTEXT_USER_SP = 64,
	CONTEXT_SHIFT = 7,
};

enum { KNOWN_IP = 1, KNOWN_FLAGS = 2, KNOWN_SP = 4, KNOWN_IRQ = 8 };

enum { EFFECT_UP = 1, EFFECT_DOWN = 2, EFFECT_CLEAR = 4, EFFECT_NOT_SELF = 8 };

/* How a trap ended; the same order as END in replay/engine.py. */
enum end { END_EXIT, END_NO_HOOK, END_IMPLIED, END_ORPHAN, END_OPEN, END_OVERFLOW, N_ENDS };

enum column_index { TSC, CPU, PHASE, VECTOR, IRQ, CS, IP, FLAGS, SP, TO_KERNEL, PID, N_COLUMNS };

struct column {
	const uint8_t *valid; /* NULL: no nulls */
	const void *values;
	int64_t offset;
};

/* What one event says, or what an open trap keeps of its entry. */
struct trap {
	uint64_t tsc, ip, sp;
	uint64_t nested_cycles; /* of the traps directly inside that have ended */
	uint32_t key, flags, pid;
	uint16_t slot, irq;
	uint8_t target, known;
	bool nested_unknown; /* a trap directly inside had no known duration */
};

struct cpu {
	unsigned int depth, base, room;
	unsigned int nmi_open;
	struct trap *stack;
	uint16_t nest[]; /* one counter a configuration */
};

/* One return; numpy's RETURN_DTYPE in replay/engine.py. */
struct row {
	uint64_t entry_tsc, exit_tsc, self_cycles;
	uint32_t context, pid;
	uint16_t cpu, slot, irq;
	uint8_t depth, end, self_known, irq_known;
};

struct engine {
	struct cpu **cpus;
	uint8_t exitless[N_SLOTS];
	uint8_t counted[N_SLOTS]; /* some configuration goes up here */
	uint8_t *effects;	  /* [configuration][slot] */
	int64_t n_configs;
	uint64_t *ranges; /* NMI text: low, high, low, high, …; sorted and disjoint */
	int64_t n_ranges;
	int32_t kernel_cs; /* -1: not known */
	bool lossy, busy, failed;
	uint64_t open;
	uint64_t ends[N_ENDS];
	uint64_t unknown_target;
	Py_buffer counts, first_tsc, first_cpu; /* [configuration][context], numpy's */
	struct row *rows;			/* NULL: not asked for */
	uint16_t *nest_rows;
	int64_t n_rows;
};

static inline bool is_valid(const struct column *column, int64_t i)
{
	i += column->offset;
	return !column->valid || (column->valid[i >> 3] >> (i & 7) & 1);
}

#define VALUE(column, type, i) (((const type *)(column)->values)[(column)->offset + (i)])

static inline bool bit(const struct column *column, int64_t i)
{
	i += column->offset;
	return ((const uint8_t *)column->values)[i >> 3] >> (i & 7) & 1;
}

static inline struct trap *at(const struct cpu *cpu, unsigned int depth)
{
	return &cpu->stack[(cpu->base + depth) & (MAX_DEPTH - 1)];
}

static bool in_nmi_text(const struct engine *engine, uint64_t ip)
{
	int64_t low = 0, high = engine->n_ranges;

	while (low < high) {
		int64_t middle = (low + high) / 2;

		if (ip < engine->ranges[2 * middle])
			high = middle;
		else if (ip >= engine->ranges[2 * middle + 1])
			low = middle + 1;
		else
			return true;
	}
	return false;
}

/* The context of a return but for the nest counter, which each configuration has of its own. */
static uint32_t context_of(const struct engine *engine, const struct trap *trap, bool nmi_below)
{
	uint32_t context = ((uint32_t)trap->slot * 3 + trap->target) << CONTEXT_SHIFT;

	if (trap->known & KNOWN_FLAGS) {
		context |= trap->flags & 1u << 9 ? CONTEXT_IF : 0;
		context |= trap->flags & 1u << 8 ? CONTEXT_TF : 0;
		context |= trap->flags & 1u << 16 ? CONTEXT_RF : 0;
	}
	if (trap->target == TARGET_KERNEL) {
		if ((trap->known & KNOWN_SP) && !(trap->sp >> 63))
			context |= CONTEXT_USER_SP;
		if ((trap->known & KNOWN_IP) && in_nmi_text(engine, trap->ip))
			context |= CONTEXT_NMI_TEXT;
	}
	return context | (nmi_below ? CONTEXT_NMI_ON_STACK : 0);
}

/* A trap returns: judge it by every configuration, then let its exit change the counters.
 *
 * `trap` holds the frame judged; `exit_tsc` counts only where `end` says that the exit was seen. */
static void give_back(struct engine *engine, struct cpu *cpu, uint16_t cpu_number, const struct trap *trap,
		      unsigned int depth, bool nmi_below, uint64_t exit_tsc, enum end end)
{
	uint32_t context = context_of(engine, trap, nmi_below);
	uint64_t tsc = end == END_EXIT || end == END_ORPHAN ? exit_tsc : trap->tsc;
	const uint8_t *effects = engine->effects + trap->slot;
	uint64_t *counts = engine->counts.buf;
	uint64_t *first_tsc = engine->first_tsc.buf;
	uint16_t *first_cpu = engine->first_cpu.buf;
	int64_t k;

	for (k = 0; k < engine->n_configs; k++, effects += N_SLOTS) {
		uint16_t *nest = &cpu->nest[k];
		uint16_t judged = *nest;
		int64_t cell;

		if ((*effects & EFFECT_NOT_SELF) && end != END_ORPHAN && judged)
			judged--;
		cell = k * N_CONTEXTS + (int64_t)(context | (judged ? CONTEXT_NESTED : 0));
		if (!counts[cell]++) {
			first_tsc[cell] = tsc;
			first_cpu[cell] = cpu_number;
		}
		if (engine->rows)
			engine->nest_rows[engine->n_rows * engine->n_configs + k] = judged;
		if (*effects & EFFECT_CLEAR)
			*nest = 0;
		else if ((*effects & EFFECT_DOWN) && *nest)
			--*nest;
	}
	engine->ends[end]++;
	engine->unknown_target += trap->target == TARGET_UNKNOWN;
	if (engine->rows) {
		struct row *row = &engine->rows[engine->n_rows++];
		bool self_known = end == END_EXIT && !trap->nested_unknown;

		*row = (struct row){
			.entry_tsc = end == END_ORPHAN ? 0 : trap->tsc,
			.exit_tsc = end == END_EXIT || end == END_ORPHAN ? exit_tsc : 0,
			.self_cycles = self_known ? exit_tsc - trap->tsc - trap->nested_cycles : 0,
			.context = context,
			.pid = trap->pid,
			.cpu = cpu_number,
			.slot = trap->slot,
			.irq = trap->known & KNOWN_IRQ ? trap->irq : 0,
			.depth = (uint8_t)depth,
			.end = (uint8_t)end,
			.self_known = self_known,
			.irq_known = !!(trap->known & KNOWN_IRQ),
		};
	}
	if (depth) {
		struct trap *parent = at(cpu, depth - 1);

		if (end == END_EXIT)
			parent->nested_cycles += exit_tsc - trap->tsc;
		else
			parent->nested_unknown = true;
	}
}

/* The top of the stack returns; `exit` is NULL where its exit was not seen. */
static void pop(struct engine *engine, struct cpu *cpu, uint16_t cpu_number, const struct trap *exit, enum end end)
{
	struct trap *trap = at(cpu, --cpu->depth);

	engine->open--;
	cpu->nmi_open -= trap->slot == SLOT_NMI;
	if (exit) {
		/* The frame saved at exit is the one returned to; the entry's stands in for what the hook did not see. */
		if (exit->target != TARGET_UNKNOWN)
			trap->target = exit->target;
		if (exit->known & KNOWN_IP)
			trap->ip = exit->ip;
		if (exit->known & KNOWN_FLAGS)
			trap->flags = exit->flags;
		if (exit->known & KNOWN_SP)
			trap->sp = exit->sp;
		trap->known |= exit->known & (KNOWN_IP | KNOWN_FLAGS | KNOWN_SP);
	}
	give_back(engine, cpu, cpu_number, trap, cpu->depth, cpu->nmi_open, exit ? exit->tsc : 0, end);
}

static void drop_oldest(struct engine *engine, struct cpu *cpu, uint16_t cpu_number)
{
	struct trap *trap = at(cpu, 0);

	cpu->base = (cpu->base + 1) & (MAX_DEPTH - 1);
	cpu->depth--;
	engine->open--;
	cpu->nmi_open -= trap->slot == SLOT_NMI;
	give_back(engine, cpu, cpu_number, trap, 0, false, 0, END_OVERFLOW);
}

static bool grow(struct cpu *cpu)
{
	unsigned int room = cpu->room ? cpu->room * 2 : FIRST_DEPTH;
	struct trap *stack = realloc(cpu->stack, room * sizeof(*stack)); /* base is 0 until the room is MAX_DEPTH */

	if (!stack)
		return false;
	cpu->stack = stack;
	cpu->room = room;
	return true;
}

static bool enter(struct engine *engine, struct cpu *cpu, uint16_t cpu_number, struct trap *trap)
{
	if (engine->lossy && trap->target == TARGET_OTHER) {
		/* From user mode: whatever was open here has ended, and the losses took its exit. */
		while (cpu->depth)
			pop(engine, cpu, cpu_number, NULL, END_IMPLIED);
	}
	if (cpu->depth == MAX_DEPTH)
		drop_oldest(engine, cpu, cpu_number);
	if (engine->counted[trap->slot]) {
		int64_t k;

		for (k = 0; k < engine->n_configs; k++) {
			if ((engine->effects[k * N_SLOTS + trap->slot] & EFFECT_UP) && cpu->nest[k] != UINT16_MAX)
				cpu->nest[k]++;
		}
	}
	if (engine->exitless[trap->slot]) {
		give_back(engine, cpu, cpu_number, trap, cpu->depth, cpu->nmi_open, 0, END_NO_HOOK);
		return true;
	}
	if (cpu->depth == cpu->room && !grow(cpu))
		return false;
	*at(cpu, cpu->depth++) = *trap;
	engine->open++;
	cpu->nmi_open += trap->slot == SLOT_NMI;
	return true;
}

static void leave(struct engine *engine, struct cpu *cpu, uint16_t cpu_number, const struct trap *exit)
{
	unsigned int depth = cpu->depth;

	while (depth && at(cpu, depth - 1)->key != exit->key)
		depth--;
	if (!depth) {
		give_back(engine, cpu, cpu_number, exit, cpu->depth, cpu->nmi_open, exit->tsc, END_ORPHAN);
		return;
	}
	while (cpu->depth > depth)
		pop(engine, cpu, cpu_number, NULL, END_IMPLIED);
	pop(engine, cpu, cpu_number, exit, END_EXIT);
}

static inline enum target target_of(const struct engine *engine, const struct column *columns, int64_t i)
{
	const struct column *cs = &columns[CS], *to_kernel = &columns[TO_KERNEL];
	bool kernel;

	if (is_valid(cs, i) && engine->kernel_cs >= 0)
		kernel = VALUE(cs, uint16_t, i) == engine->kernel_cs;
	else if (is_valid(to_kernel, i))
		kernel = bit(to_kernel, i);
	else if (is_valid(cs, i))
		kernel = !(VALUE(cs, uint16_t, i) & 3); /* CPL 0 */
	else
		return TARGET_UNKNOWN;
	return kernel ? TARGET_KERNEL : TARGET_OTHER;
}

static inline void load(const struct engine *engine, const struct column *columns, int64_t i, struct trap *trap)
{
	trap->tsc = VALUE(&columns[TSC], uint64_t, i);
	trap->nested_cycles = 0;
	trap->nested_unknown = false;
	trap->known = 0;
	trap->irq = 0;
	if (is_valid(&columns[IRQ], i)) {
		trap->irq = VALUE(&columns[IRQ], uint16_t, i);
		trap->known |= KNOWN_IRQ;
	}
	if (is_valid(&columns[VECTOR], i)) {
		trap->slot = VALUE(&columns[VECTOR], uint8_t, i);
		trap->key = trap->slot;
	} else {
		trap->slot = SLOT_DEVICE;
		trap->key = trap->known & KNOWN_IRQ ? (uint32_t)KEY_IRQ + trap->irq : KEY_ANONYMOUS;
	}
	if (is_valid(&columns[IP], i)) {
		trap->ip = VALUE(&columns[IP], uint64_t, i);
		trap->known |= KNOWN_IP;
	}
	if (is_valid(&columns[FLAGS], i)) {
		trap->flags = VALUE(&columns[FLAGS], uint32_t, i);
		trap->known |= KNOWN_FLAGS;
	}
	if (is_valid(&columns[SP], i)) {
		trap->sp = VALUE(&columns[SP], uint64_t, i);
		trap->known |= KNOWN_SP;
	}
	trap->target = (uint8_t)target_of(engine, columns, i);
	trap->pid = columns[PID].values ? VALUE(&columns[PID], uint32_t, i) : 0;
}

static inline uint64_t phase_index(const struct column *phase, int width, int64_t i)
{
	switch (width) {
	case 1:
		return VALUE(phase, uint8_t, i);
	case 2:
		return VALUE(phase, uint16_t, i);
	default:
		return VALUE(phase, uint32_t, i);
	}
}

/* One batch; false: out of memory. Runs without the GIL. */
static bool run(struct engine *engine, const struct column *columns, int64_t length, int width, const char *is_exit,
		Py_ssize_t n_phases)
{
	int64_t i;

	for (i = 0; i < length; i++) {
		uint16_t number = VALUE(&columns[CPU], uint16_t, i);
		uint64_t phase = phase_index(&columns[PHASE], width, i);
		struct cpu *cpu = engine->cpus[number];
		struct trap trap;

		if (!cpu) {
			cpu = calloc(1, sizeof(*cpu) + (size_t)engine->n_configs * sizeof(cpu->nest[0]));
			if (!cpu)
				return false;
			engine->cpus[number] = cpu;
		}
		load(engine, columns, i, &trap);
		if (phase < (uint64_t)n_phases && is_exit[phase])
			leave(engine, cpu, number, &trap);
		else if (!enter(engine, cpu, number, &trap))
			return false;
	}
	return true;
}

static void engine_free(PyObject *capsule)
{
	struct engine *engine = PyCapsule_GetPointer(capsule, ENGINE_CAPSULE);
	int i;

	if (!engine)
		return;
	for (i = 0; engine->cpus && i < N_CPUS; i++) {
		if (engine->cpus[i])
			free(engine->cpus[i]->stack);
		free(engine->cpus[i]);
	}
	free(engine->cpus);
	free(engine->effects);
	free(engine->ranges);
	PyBuffer_Release(&engine->counts);
	PyBuffer_Release(&engine->first_tsc);
	PyBuffer_Release(&engine->first_cpu);
	free(engine);
}

static struct engine *engine_get(PyObject *capsule)
{
	struct engine *engine = PyCapsule_GetPointer(capsule, ENGINE_CAPSULE);

	if (engine && (engine->busy || engine->failed)) {
		PyErr_SetString(PyExc_RuntimeError, engine->busy ? "the engine is in use" : "the engine has failed");
		return NULL;
	}
	return engine;
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
	PyObject *counts, *first_tsc, *first_cpu, *capsule;
	struct engine *engine;
	int kernel_cs, lossy, slot;
	int64_t k, cells;

	(void)module;
	if (!PyArg_ParseTuple(args, "ipy#y#y#OOO", &kernel_cs, &lossy, &exitless, &n_exitless, &ranges, &n_ranges,
			      &effects, &n_effects, &counts, &first_tsc, &first_cpu))
		return NULL;
	if (n_exitless != N_SLOTS || n_effects % N_SLOTS || n_ranges % 16) {
		PyErr_SetString(PyExc_ValueError, "tables of the wrong size");
		return NULL;
	}
	engine = calloc(1, sizeof(*engine));
	if (!engine)
		return PyErr_NoMemory();
	capsule = PyCapsule_New(engine, ENGINE_CAPSULE, engine_free);
	if (!capsule) {
		free(engine);
		return NULL;
	}
	engine->kernel_cs = kernel_cs;
	engine->lossy = lossy;
	engine->n_configs = n_effects / N_SLOTS;
	engine->n_ranges = n_ranges / 16;
	memcpy(engine->exitless, exitless, N_SLOTS);
	engine->cpus = calloc(N_CPUS, sizeof(struct cpu *));
	engine->effects = copy_bytes(effects, n_effects);
	engine->ranges = copy_bytes(ranges, n_ranges);
	if (!engine->cpus || !engine->effects || !engine->ranges) {
		Py_DECREF(capsule);
		return PyErr_NoMemory();
	}
	for (k = 0; k < engine->n_configs; k++) {
		for (slot = 0; slot < N_SLOTS; slot++)
			engine->counted[slot] |= engine->effects[k * N_SLOTS + slot] & EFFECT_UP;
	}
	cells = engine->n_configs * N_CONTEXTS;
	if (!take_buffer(counts, &engine->counts, cells * 8, false) ||
	    !take_buffer(first_tsc, &engine->first_tsc, cells * 8, false) ||
	    !take_buffer(first_cpu, &engine->first_cpu, cells * 2, false)) {
		Py_DECREF(capsule);
		return NULL;
	}
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

/* Open the buffers for rows; None: rows are not asked for. */
static bool take_rows(struct engine *engine, PyObject *rows, PyObject *nest, int64_t n, Py_buffer *row_view,
		      Py_buffer *nest_view)
{
	engine->rows = NULL;
	engine->n_rows = 0;
	if (rows == Py_None)
		return true;
	if (!take_buffer(rows, row_view, n * (int64_t)sizeof(struct row), true))
		return false;
	if (row_view->itemsize != sizeof(struct row)) {
		PyErr_Format(PyExc_ValueError, "rows of %zd bytes", row_view->itemsize);
		PyBuffer_Release(row_view);
		return false;
	}
	if (!take_buffer(nest, nest_view, n * engine->n_configs * 2, true)) {
		PyBuffer_Release(row_view);
		return false;
	}
	engine->rows = row_view->buf;
	engine->nest_rows = nest_view->buf;
	return true;
}

static PyObject *give_rows(struct engine *engine, Py_buffer *row_view, Py_buffer *nest_view)
{
	if (engine->rows) {
		PyBuffer_Release(row_view);
		PyBuffer_Release(nest_view);
	}
	engine->rows = NULL;
	if (engine->failed)
		return PyErr_NoMemory();
	return PyLong_FromLongLong(engine->n_rows);
}

static PyObject *engine_feed(PyObject *module, PyObject *args)
{
	PyObject *capsule, *array, *rows, *nest;
	struct column columns[N_COLUMNS];
	const struct ArrowArray *batch;
	Py_buffer row_view, nest_view;
	struct engine *engine;
	const char *is_exit;
	Py_ssize_t n_phases;
	int width;

	(void)module;
	if (!PyArg_ParseTuple(args, "OOiy#OO", &capsule, &array, &width, &is_exit, &n_phases, &rows, &nest))
		return NULL;
	engine = engine_get(capsule);
	batch = engine ? PyCapsule_GetPointer(array, "arrow_array") : NULL;
	if (!batch)
		return NULL;
	if (width != 1 && width != 2 && width != 4) {
		PyErr_Format(PyExc_ValueError, "dictionary indices of %d bytes", width);
		return NULL;
	}
	if (!batch->release || !take_columns(batch, columns))
		return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_ValueError, "the batch was released");
	if (!take_rows(engine, rows, nest, batch->length + (int64_t)engine->open, &row_view, &nest_view))
		return NULL;
	engine->busy = true;
	Py_BEGIN_ALLOW_THREADS
	engine->failed = !run(engine, columns, batch->length, width, is_exit, n_phases);
	Py_END_ALLOW_THREADS
	engine->busy = false;
	return give_rows(engine, &row_view, &nest_view);
}

static PyObject *engine_finish(PyObject *module, PyObject *args)
{
	PyObject *capsule, *rows, *nest;
	Py_buffer row_view, nest_view;
	struct engine *engine;
	int number;

	(void)module;
	if (!PyArg_ParseTuple(args, "OOO", &capsule, &rows, &nest))
		return NULL;
	engine = engine_get(capsule);
	if (!engine || !take_rows(engine, rows, nest, (int64_t)engine->open, &row_view, &nest_view))
		return NULL;
	for (number = 0; number < N_CPUS; number++) {
		struct cpu *cpu = engine->cpus[number];

		while (cpu && cpu->depth)
			pop(engine, cpu, (uint16_t)number, NULL, END_OPEN);
	}
	return give_rows(engine, &row_view, &nest_view);
}

static PyObject *engine_open(PyObject *module, PyObject *capsule)
{
	struct engine *engine = engine_get(capsule);

	(void)module;
	return engine ? PyLong_FromUnsignedLongLong(engine->open) : NULL;
}

static PyObject *engine_repairs(PyObject *module, PyObject *capsule)
{
	struct engine *engine = engine_get(capsule);

	(void)module;
	if (!engine)
		return NULL;
	return Py_BuildValue("KKKKKK", (unsigned long long)engine->ends[END_NO_HOOK],
			     (unsigned long long)engine->ends[END_IMPLIED],
			     (unsigned long long)engine->ends[END_ORPHAN], (unsigned long long)engine->ends[END_OPEN],
			     (unsigned long long)engine->ends[END_OVERFLOW],
			     (unsigned long long)engine->unknown_target);
}

PyMethodDef iretrace_engine_methods[] = {
	{"engine_new", engine_new, METH_VARARGS,
	 "engine_new(kernel_cs, lossy, exitless, nmi_text, effects, counts, first_tsc, first_cpu) -> engine"},
	{"engine_feed", engine_feed, METH_VARARGS,
	 "engine_feed(engine, arrow_array, phase_width, is_exit, rows, nest) -> number of rows"},
	{"engine_finish", engine_finish, METH_VARARGS, "engine_finish(engine, rows, nest) -> number of rows"},
	{"engine_open", engine_open, METH_O, "engine_open(engine) -> number of traps that have not returned"},
	{"engine_repairs", engine_repairs, METH_O,
	 "engine_repairs(engine) -> (no exit hook, implied, orphan, open at end, overflow, unknown target)"},
	{NULL, NULL, 0, NULL},
};
