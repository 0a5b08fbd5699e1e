/* Giving up capabilities in every thread: capset(2) and PR_SET_NO_NEW_PRIVS concern the calling thread alone. */
#include "native.h"

#if defined(__linux__)
#include <errno.h>
#include <linux/capability.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static _Atomic uint64_t mask_to_keep;
static atomic_long threads_done, threads_failed;

/* Effective and permitted become `mask`; nothing that is executed later gains more. Only system calls: it is also
 * run in a signal handler, as libpsx does. */
static int give_up(uint64_t mask)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
	struct __user_cap_data_struct data[2] = {
		{.effective = (uint32_t)mask, .permitted = (uint32_t)mask, .inheritable = 0},
		{.effective = (uint32_t)(mask >> 32), .permitted = (uint32_t)(mask >> 32), .inheritable = 0},
	};
	if (syscall(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return -1;
	return syscall(SYS_capset, &header, data) ? -1 : 0;
}

static void on_signal(int number)
{
	int saved = errno;
	(void)number;
	if (give_up(atomic_load(&mask_to_keep)))
		atomic_fetch_add(&threads_failed, 1);
	else
		atomic_fetch_add(&threads_done, 1);
	errno = saved;
}

/* keep_capabilities(mask, thread_ids) -> how many threads did it. All threads of the process but the calling one are
 * named; one that has ended or does not answer within a second is not counted. */
static PyObject *keep_capabilities(PyObject *self, PyObject *args)
{
	unsigned long long mask;
	PyObject *threads;
	struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART}, before;
	long asked = 0, done;
	int number = SIGRTMIN + 5;

	(void)self;
	if (!PyArg_ParseTuple(args, "KO", &mask, &threads))
		return NULL;
	Py_ssize_t n = PySequence_Size(threads);
	if (n < 0)
		return NULL;
	atomic_store(&mask_to_keep, mask);
	atomic_store(&threads_done, 0);
	atomic_store(&threads_failed, 0);
	sigfillset(&action.sa_mask);
	if (sigaction(number, &action, &before))
		return PyErr_SetFromErrno(PyExc_OSError);
	for (Py_ssize_t i = 0; i < n; i++) {
		PyObject *item = PySequence_GetItem(threads, i);
		long tid = item ? PyLong_AsLong(item) : -1;
		Py_XDECREF(item);
		if (tid == -1 && PyErr_Occurred())
			return NULL;
		if (!syscall(SYS_tgkill, (long)getpid(), tid, number))
			asked++;
	}
	Py_BEGIN_ALLOW_THREADS
	for (int i = 0; i < 1000 && atomic_load(&threads_done) + atomic_load(&threads_failed) < asked; i++)
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
	Py_END_ALLOW_THREADS
	/* A thread that is late must not be killed by the signal's default action: the handler stays. */
	if (atomic_load(&threads_done) + atomic_load(&threads_failed) == asked)
		sigaction(number, &before, NULL);
	if (give_up(mask))
		return PyErr_SetFromErrno(PyExc_OSError);
	done = atomic_load(&threads_done) + 1;
	return PyLong_FromLong(done);
}
#endif

PyMethodDef iretrace_capabilities_methods[] = {
#if defined(__linux__)
	{"keep_capabilities", keep_capabilities, METH_VARARGS,
	 "keep_capabilities(mask, thread_ids): give up all but these in the named threads and this one."},
#endif
	{NULL, NULL, 0, NULL},
};
