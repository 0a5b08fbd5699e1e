/* The timed return paths: IRETQ against RET, from user mode.
 *
 * Every path starts, as in the kernel, from the five words that the CPU pushes on a trap (SS, RSP, RFLAGS, CS,
 * RIP) on the interrupted code's own stack, and returns to a label at the same privilege. What the RET paths
 * do beyond that (copy RIP and RFLAGS under the target RSP, switch RSP) is part of their cost; building the five
 * words is not: the paths "frame" and "frame-call" do only that, for the caller to subtract.
 *
 * The kernel's RET would meet a return stack buffer (RSB) whose top is the interrupted function's own return
 * address, not the target: nobody made a CALL. The loops put such a wrong entry on top with a CALL over an
 * INT3 whose return address is then dropped; "frame-call" has that CALL too, as the base of those paths.
 * ("popfq-ret-predicted" instead makes the CALL whose return address is the target.)
 *
 * The loops run on a stack of their own: nothing of the C frame or its red zone is written, and the stack has room
 * for a signal frame (AVX-512 and AMX state included).
 */
#include "native.h"

#if defined(__x86_64__) && defined(__linux__)

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <x86intrin.h>

#define STACK_BYTES (128 * 1024)
#define MAX_ITERATIONS 1000000
#define MAX_REPEATS 1000000

/* arch_prctl(2): Linux arch/x86/include/uapi/asm/prctl.h, Documentation/arch/x86/shstk.rst (in v6.6). */
#define ARCH_SHSTK_STATUS 0x5005
#define ARCH_SHSTK_SHSTK 1ull

/* Registers in the loops: RCX iterations left, R8 the target RSP, R9 CS, R10 SS, R11 RFLAGS, R12 the saved RSP;
 * RAX, RDX and RSI are scratch. Labels: 1 past a CALL, 2 the target, 3 and 4 thunks, 7 the loop, 9 its end. */
#define LOOP(body, out_of_line)       \
	"mov %%rsp, %%r12\n\t"        \
	"jmp 7f\n\t"                  \
	".p2align 6\n"                \
	"7:\n\t"                      \
	"mov %%r8, %%rsp\n\t" body    \
	"2:\n\t"                      \
	"dec %%rcx\n\t"               \
	"jnz 7b\n\t"                  \
	"jmp 9f\n" out_of_line        \
	"9:\n\t"                      \
	"mov %%r12, %%rsp\n\t"

/* The CPU pushes these on a trap (Intel SDM vol. 3A, "64-Bit Mode Stack Frame"). */
#define FRAME_TO(label)                       \
	"mov %%r8, %%rsp\n\t"                 \
	"lea " label "(%%rip), %%rax\n\t"     \
	"push %%r10\n\t"                      \
	"push %%r8\n\t"                       \
	"push %%r11\n\t"                      \
	"push %%r9\n\t"                       \
	"push %%rax\n\t"
#define FRAME FRAME_TO("2f")

/* A CALL to the very next instruction would not enter the RSB on many CPUs, so it leaps over something. */
#define WRONG_RSB     \
	"call 1f\n\t" \
	"int3\n"      \
	"1:\n\t"

#define TO_TARGET                         \
	"mov (%%rsp), %%rax\n\t"          \
	"mov 24(%%rsp), %%rsi\n\t"        \
	"mov %%rax, -8(%%rsi)\n\t"        \
	"lea -8(%%rsi), %%rsp\n\t"

#define TO_TARGET_WITH_FLAGS              \
	"mov (%%rsp), %%rax\n\t"          \
	"mov 16(%%rsp), %%rdx\n\t"        \
	"mov 24(%%rsp), %%rsi\n\t"        \
	"mov %%rax, -8(%%rsi)\n\t"        \
	"mov %%rdx, -16(%%rsi)\n\t"       \
	"lea -16(%%rsi), %%rsp\n\t"       \
	"popfq\n\t"

/* Far return: CS above RIP on the target stack. */
#define TO_TARGET_FAR                     \
	"mov (%%rsp), %%rax\n\t"          \
	"mov 8(%%rsp), %%rdx\n\t"         \
	"mov 24(%%rsp), %%rsi\n\t"        \
	"mov %%rdx, -8(%%rsi)\n\t"        \
	"mov %%rax, -16(%%rsi)\n\t"       \
	"lea -16(%%rsi), %%rsp\n\t"

#define RET        \
	"ret\n\t"  \
	"int3\n"

/* Linux arch/x86/lib/retpoline.S: retbleed_return_thunk and its_return_thunk are an aligned RET; INT3 to which
 * the kernel's returns jump (the latter in the upper half of the cache line). */
#define THUNK                 \
	".p2align 6\n\t"      \
	".skip 32, 0xcc\n"    \
	"3:\n\t" RET

/* Linux arch/x86/lib/retpoline.S: srso_return_thunk and srso_alias_return_thunk are CALL safe_ret; UD2, where
 * safe_ret drops the CALL's return address and does RET; INT3, so that the RSB sends speculation into the UD2. */
#define SAFE_THUNK                    \
	".p2align 6\n"                \
	"5:\n\t"                      \
	"lea 8(%%rsp), %%rsp\n\t" RET \
	".p2align 6\n"                \
	"4:\n\t"                      \
	"call 5b\n\t"                 \
	"ud2\n"

#define RUN(name, body, out_of_line)                                                        \
	static void name(uint64_t left, uint64_t stack)                                     \
	{                                                                                   \
		uint64_t flags_now = __readeflags(), cs_now, ss_now;                        \
		__asm__("mov %%cs, %k0\n\tmov %%ss, %k1" : "=r"(cs_now), "=r"(ss_now));     \
		register uint64_t target __asm__("r8") = stack;                             \
		register uint64_t cs __asm__("r9") = cs_now;                                \
		register uint64_t ss __asm__("r10") = ss_now;                               \
		register uint64_t flags __asm__("r11") = flags_now;                         \
		__asm__ volatile(LOOP(body, out_of_line)                                    \
				 : "+c"(left)                                               \
				 : "r"(target), "r"(cs), "r"(ss), "r"(flags)                \
				 : "rax", "rdx", "rsi", "r12", "cc", "memory");             \
	}

RUN(run_empty, "", "")
RUN(run_frame, FRAME, "")
RUN(run_frame_call, WRONG_RSB FRAME, "")
RUN(run_iretq, FRAME "iretq\n", "")
RUN(run_lretq, FRAME TO_TARGET_FAR "lretq\n", "")
RUN(run_ret, WRONG_RSB FRAME TO_TARGET RET, "")
RUN(run_ret_thunk, WRONG_RSB FRAME TO_TARGET "jmp 3f\n", THUNK)
RUN(run_ret_safe, WRONG_RSB FRAME TO_TARGET "jmp 4f\n", SAFE_THUNK)
RUN(run_popfq_ret, WRONG_RSB FRAME TO_TARGET_WITH_FLAGS RET, "")
RUN(run_popfq_ret_thunk, WRONG_RSB FRAME TO_TARGET_WITH_FLAGS "jmp 3f\n", THUNK)
RUN(run_popfq_ret_safe, WRONG_RSB FRAME TO_TARGET_WITH_FLAGS "jmp 4f\n", SAFE_THUNK)
/* Here the CALL's return address is the target, so the RSB predicts the RET. */
RUN(run_popfq_ret_predicted, "call 1f\n", "1:\n\t" FRAME_TO("2b") TO_TARGET_WITH_FLAGS RET)

static const struct path {
	const char *name;
	void (*run)(uint64_t left, uint64_t stack);
	int balanced; /* what it does to a shadow stack adds up, so that it may run under one */
} paths[] = {
	{"empty", run_empty, 1},
	{"frame", run_frame, 1},
	{"frame-call", run_frame_call, 0},
	{"iretq", run_iretq, 0},
	{"lretq", run_lretq, 0},
	{"ret", run_ret, 0},
	{"ret-thunk", run_ret_thunk, 0},
	{"ret-safe", run_ret_safe, 0},
	{"popfq-ret", run_popfq_ret, 0},
	{"popfq-ret-thunk", run_popfq_ret_thunk, 0},
	{"popfq-ret-safe", run_popfq_ret_safe, 0},
	{"popfq-ret-predicted", run_popfq_ret_predicted, 1},
};

static const struct path *find_path(const char *name)
{
	for (size_t i = 0; i < sizeof paths / sizeof *paths; i++)
		if (!strcmp(paths[i].name, name))
			return &paths[i];
	return NULL;
}

static int shadow_stack_on(void)
{
	unsigned long long features = 0;
	/* Kernels without user shadow stacks answer EINVAL. */
	if (syscall(SYS_arch_prctl, ARCH_SHSTK_STATUS, &features))
		return 0;
	return !!(features & ARCH_SHSTK_SHSTK);
}

static PyObject *shadow_stack(PyObject *self, PyObject *args)
{
	(void)self;
	(void)args;
	return PyBool_FromLong(shadow_stack_on());
}

/* RDTSCP waits for earlier instructions; the LFENCE keeps later ones behind it (Intel SDM vol. 2B, RDTSCP). */
static uint64_t read_tsc(void)
{
	unsigned int aux;
	uint64_t tsc = __rdtscp(&aux);
	_mm_lfence();
	return tsc;
}

static PyObject *measure(const struct path *path, long iterations, long repeats, uint64_t stack)
{
	PyObject *samples = PyList_New(repeats);
	if (!samples)
		return NULL;
	for (long i = 0; i < repeats; i++) {
		if (PyErr_CheckSignals()) {
			Py_DECREF(samples);
			return NULL;
		}
		uint64_t before = read_tsc();
		path->run((uint64_t)iterations, stack);
		uint64_t after = read_tsc();
		PyObject *sample = PyFloat_FromDouble((double)(after - before) / (double)iterations);
		/* PyList_SetItem takes the reference, also where it fails. */
		if (!sample || PyList_SetItem(samples, i, sample)) {
			Py_DECREF(samples);
			return NULL;
		}
	}
	return samples;
}

static PyObject *time_return(PyObject *self, PyObject *args)
{
	(void)self;
	const char *name;
	long iterations, repeats;
	if (!PyArg_ParseTuple(args, "sll", &name, &iterations, &repeats))
		return NULL;
	const struct path *path = find_path(name);
	if (!path)
		return PyErr_Format(PyExc_ValueError, "no return path is called '%s'", name);
	if (iterations < 1 || iterations > MAX_ITERATIONS || repeats < 1 || repeats > MAX_REPEATS)
		return PyErr_Format(PyExc_ValueError, "iterations and repeats must lie in 1..%d", MAX_ITERATIONS);
	if (!path->balanced && shadow_stack_on())
		return PyErr_Format(PyExc_PermissionError, "'%s' cannot run under a user shadow stack", name);
	char *stack = malloc(STACK_BYTES);
	if (!stack)
		return PyErr_NoMemory();
	/* Touch every page now, so that no page fault falls into a batch; room above for nothing, below for signals. */
	memset(stack, 0, STACK_BYTES);
	PyObject *samples = measure(path, iterations, repeats, ((uint64_t)stack + STACK_BYTES) & ~(uint64_t)63);
	free(stack);
	return samples;
}

static PyObject *return_paths(PyObject *self, PyObject *args)
{
	(void)self;
	(void)args;
	PyObject *names = PyDict_New();
	if (!names)
		return NULL;
	for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
		PyObject *balanced = PyBool_FromLong(paths[i].balanced);
		int failed = PyDict_SetItemString(names, paths[i].name, balanced);
		Py_DECREF(balanced);
		if (failed) {
			Py_DECREF(names);
			return NULL;
		}
	}
	return names;
}
#endif

PyMethodDef iretrace_returns_methods[] = {
#if defined(__x86_64__) && defined(__linux__)
	{"time_return", time_return, METH_VARARGS,
	 "time_return(path, iterations, repeats) -> list[float]\n\n"
	 "TSC cycles per iteration of `repeats` batches of `iterations` returns by one path, frame building included."},
	{"return_paths", return_paths, METH_NOARGS,
	 "return_paths() -> dict[str, bool]: the paths, and whether each may run under a user shadow stack."},
	{"shadow_stack", shadow_stack, METH_NOARGS,
	 "shadow_stack() -> bool: whether this thread runs under a user shadow stack (CET)."},
#endif
	{NULL, NULL, 0, NULL},
};
