/* Raising a trap in the calling thread on purpose, so that collect can see whether a hook on its handler runs. */
#include "native.h"

#if defined(__x86_64__) && defined(__linux__)
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>

static sigjmp_buf resume;

static void skip(int number)
{
	(void)number;
	siglongjmp(resume, 1);
}

/* The instructions; each handler jumps over what would fault again. */
static bool raise_vector(long vector)
{
	unsigned short control = 0x037f & ~4; /* x87: divide by zero unmasked */

	switch (vector) {
	case 3:
		__asm__ volatile("int3");
		return true;
	case 6:
		__asm__ volatile("ud2");
		return true;
	case 13:
		__asm__ volatile("hlt"); /* privileged */
		return true;
	case 16:
		__asm__ volatile("fninit; fldcw %0; fld1; fldz; fdivrp; fwait" : : "m"(control) : "memory");
		return true;
	default:
		return false;
	}
}

/* raise_trap(vector) -> bool: whether this function knows how to raise it. Signals and handlers are as before then. */
static PyObject *raise_trap(PyObject *self, PyObject *arg)
{
	static const int numbers[] = {SIGTRAP, SIGILL, SIGSEGV, SIGFPE};
	enum { N = sizeof(numbers) / sizeof(numbers[0]) };
	struct sigaction before[N], action = {.sa_handler = skip};
	long vector = PyLong_AsLong(arg);
	volatile bool known = true;
	sigset_t wanted, mask;
	int i;

	(void)self;
	if (vector == -1 && PyErr_Occurred())
		return NULL;
	sigemptyset(&wanted);
	for (i = 0; i < N; i++) {
		sigaddset(&wanted, numbers[i]);
		sigaction(numbers[i], &action, &before[i]);
	}
	pthread_sigmask(SIG_UNBLOCK, &wanted, &mask);
	if (!sigsetjmp(resume, 1))
		known = raise_vector(vector);
	__asm__ volatile("fninit");
	pthread_sigmask(SIG_SETMASK, &mask, NULL);
	for (i = 0; i < N; i++)
		sigaction(numbers[i], &before[i], NULL);
	return PyBool_FromLong(known);
}
#endif

PyMethodDef iretrace_traps_methods[] = {
#if defined(__x86_64__) && defined(__linux__)
	{"raise_trap", raise_trap, METH_O,
	 "raise_trap(vector) -> bool: raise #BP (3), #UD (6), #GP (13) or #MF (16) in this thread, harmlessly."},
#endif
	{NULL, NULL, 0, NULL},
};
