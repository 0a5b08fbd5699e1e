/* The timed return paths: IRETQ against RET, from user mode. */
#include "native.h"

PyMethodDef iretrace_returns_methods[] = {
	{NULL, NULL, 0, NULL},
};
