/* Starting the threads of a long-running process. */
#ifndef SLUICE_BASE_THREAD_H
#define SLUICE_BASE_THREAD_H

#include <pthread.h>

#include "base/error.h"

/* Runs `function` in a new thread named `name` (at most 15 characters) that takes no signals but
 * SIGBUS: these belong to the threads of the program itself. */
int thread_start(pthread_t *ret, const char *name, void *(*function)(void *), void *argument,
                 struct error **error);

#endif
