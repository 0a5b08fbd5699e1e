/* The Arrow C Data Interface, as far as the replay reads it.
 *
 * Source: Apache Arrow, "The Arrow C data interface" (structure definitions, stable ABI).
 */
#ifndef IRETRACE_ARROW_ABI_H
#define IRETRACE_ARROW_ABI_H

#include <stdint.h>

struct ArrowArray {
	int64_t length;
	int64_t null_count;
	int64_t offset;
	int64_t n_buffers;
	int64_t n_children;
	const void **buffers;
	struct ArrowArray **children;
	struct ArrowArray *dictionary;
	void (*release)(struct ArrowArray *);
	void *private_data;
};

#endif
