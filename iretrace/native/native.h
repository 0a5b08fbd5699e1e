/* The compiled part: one extension module, iretrace._native, whose functions live beside their topic. */
#ifndef IRETRACE_NATIVE_H
#define IRETRACE_NATIVE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

extern PyMethodDef iretrace_tsc_methods[];       /* collect/tsc.c */
extern PyMethodDef iretrace_returns_methods[];   /* collect/returns.c */
extern PyMethodDef iretrace_traps_methods[];     /* collect/traps.c */
extern PyMethodDef iretrace_engine_methods[];    /* replay/engine_module.c */
extern PyMethodDef iretrace_count_methods[];     /* analysis/count.c */
extern PyMethodDef iretrace_pages_methods[];     /* iretrace/parquet/pages.c */
extern PyMethodDef iretrace_rows_methods[];      /* iretrace/importers/rows.c */
extern PyMethodDef iretrace_perf_scan_methods[]; /* iretrace/importers/perf_scan.c */
extern PyMethodDef iretrace_ring_scan_methods[]; /* iretrace/importers/ring_scan.c */
extern PyMethodDef iretrace_capabilities_methods[]; /* collect/capabilities.c */

#endif
