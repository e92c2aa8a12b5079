/* The same work for many things on a few threads. */
#ifndef SLUICE_BASE_PARALLEL_H
#define SLUICE_BASE_PARALLEL_H

#include <stddef.h>

#include "base/error.h"

/* 0, or -1 with the error set. Called on several threads at once, for different positions. */
typedef int parallel_work(void *context, size_t position, struct error **error);

/* Calls `work` for 0 to count - 1, in this order, on up to `threads` threads, and waits. After the
 * first failure nothing further is started, and that error (of the lowest position) is given. */
int parallel_run(size_t count, unsigned threads, parallel_work *work, void *context,
                 struct error **error);

#endif
