#include "native.h"

static int add_functions(PyObject *module)
{
	PyMethodDef *groups[] = {
		iretrace_tsc_methods,  iretrace_returns_methods,   iretrace_traps_methods, iretrace_engine_methods,
		iretrace_count_methods,     iretrace_rows_methods,   iretrace_perf_scan_methods,
		iretrace_pages_methods,
		iretrace_ring_scan_methods, iretrace_capabilities_methods,
	};
	size_t i;

	for (i = 0; i < sizeof groups / sizeof *groups; i++) {
		if (PyModule_AddFunctions(module, groups[i]) < 0)
			return -1;
	}
	return 0;
}

static PyModuleDef_Slot slots[] = {
	{Py_mod_exec, add_functions},
	{0, NULL},
};

static struct PyModuleDef definition = {
	PyModuleDef_HEAD_INIT,
	.m_name = "iretrace._native",
	.m_doc = "What Python cannot say: RDTSC, the timed return paths, and the sequential loops of replay and import.",
	.m_size = 0,
	.m_slots = slots,
};

PyMODINIT_FUNC PyInit__native(void)
{
	return PyModuleDef_Init(&definition);
}
