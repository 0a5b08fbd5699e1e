/* The sequential loops of the replay: pairing and nest counting. */
#include "native.h"

PyMethodDef iretrace_engine_methods[] = {
	{NULL, NULL, 0, NULL},
};
