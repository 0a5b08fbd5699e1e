/* Reading the time stamp counter from user mode. */
#include "native.h"

#include <stdint.h>

#if defined(__x86_64__)
#include <x86intrin.h>

/* RDTSCP waits for earlier instructions; the LFENCE keeps later ones behind it (Intel SDM vol. 2B, RDTSCP). */
static uint64_t read_tsc(uint32_t *aux)
{
	uint64_t tsc = __rdtscp(aux);
	_mm_lfence();
	return tsc;
}

static PyObject *rdtsc(PyObject *self, PyObject *args)
{
	(void)self;
	(void)args;
	uint32_t aux;
	return PyLong_FromUnsignedLongLong(read_tsc(&aux));
}

#if defined(__linux__)
#include <time.h>
#include <unistd.h>

/* bracket_read(fd) -> (tsc_before, counter, tsc_after, cpu): one read(2) of a perf counter between two RDTSCP. */
static PyObject *bracket_read(PyObject *self, PyObject *arg)
{
	(void)self;
	long fd = PyLong_AsLong(arg);
	if (fd == -1 && PyErr_Occurred())
		return NULL;
	uint32_t aux;
	uint64_t counter = 0;
	uint64_t before = read_tsc(&aux);
	ssize_t got = read((int)fd, &counter, sizeof counter);
	uint64_t after = read_tsc(&aux);
	if (got != (ssize_t)sizeof counter)
		return PyErr_SetFromErrno(PyExc_OSError);
	return Py_BuildValue("KKKI", (unsigned long long)before, (unsigned long long)counter,
			     (unsigned long long)after, aux & 0xfffu);
}

static long long ns_of(const struct timespec *t)
{
	return (long long)t->tv_sec * 1000000000ll + t->tv_nsec;
}

/* bracket_clocks() -> (tsc_before, realtime_ns, monotonic_ns, tsc_after) */
static PyObject *bracket_clocks(PyObject *self, PyObject *args)
{
	(void)self;
	(void)args;
	uint32_t aux;
	struct timespec real, mono;
	uint64_t before = read_tsc(&aux);
	clock_gettime(CLOCK_REALTIME, &real);
	clock_gettime(CLOCK_MONOTONIC, &mono);
	uint64_t after = read_tsc(&aux);
	return Py_BuildValue("KLLK", (unsigned long long)before, ns_of(&real), ns_of(&mono),
			     (unsigned long long)after);
}
#endif /* __linux__ */
#endif /* __x86_64__ */

PyMethodDef iretrace_tsc_methods[] = {
#if defined(__x86_64__)
	{"rdtsc", rdtsc, METH_NOARGS, "rdtsc() -> int: the time stamp counter, in cycles."},
#if defined(__linux__)
	{"bracket_read", bracket_read, METH_O,
	 "bracket_read(fd) -> (tsc_before, counter, tsc_after, cpu): read(2) of a perf counter between two RDTSCP."},
	{"bracket_clocks", bracket_clocks, METH_NOARGS,
	 "bracket_clocks() -> (tsc_before, realtime_ns, monotonic_ns, tsc_after)."},
#endif
#endif
	{NULL, NULL, 0, NULL},
};
