#include "native.h"

static int add_functions(PyObject *module)
{
	if (PyModule_AddFunctions(module, iretrace_tsc_methods) < 0)
		return -1;
	if (PyModule_AddFunctions(module, iretrace_returns_methods) < 0)
		return -1;
	if (PyModule_AddFunctions(module, iretrace_count_methods) < 0)
		return -1;
	return PyModule_AddFunctions(module, iretrace_engine_methods);
}

static PyModuleDef_Slot slots[] = {
	{Py_mod_exec, add_functions},
	{0, NULL},
};

static struct PyModuleDef definition = {
	PyModuleDef_HEAD_INIT,
	.m_name = "iretrace._native",
	.m_doc = "What Python cannot say: RDTSC, the timed return paths, and the sequential loops of the replay.",
	.m_size = 0,
	.m_slots = slots,
};

PyMODINIT_FUNC PyInit__native(void)
{
	return PyModuleDef_Init(&definition);
}
