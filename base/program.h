/*
 * Running a program that is asked one thing: it is fed a text and writes an answer. It is not
 * trusted to end, or to write little.
 */
#ifndef SLUICE_BASE_PROGRAM_H
#define SLUICE_BASE_PROGRAM_H

#include <stddef.h>

#include "base/buffer.h"
#include "base/error.h"

#define PROGRAM_INPUT_MAX 4096u /* a pipe holds that much before anybody reads */

struct program {
    const char *name;         /* searched for in PATH where there is no '/' in it */
    char *const *arguments;   /* the first is its own name; ended by NULL */
    char *const *environment; /* ended by NULL; NULL: as this process's */
    const char *input;
    size_t output_limit;
    unsigned timeout_ms;
    int cancel_descriptor; /* readable: the program is ended; or -1 */
};

/*
 * What it writes to its standard output is appended to `ret`, also where it fails, and may be
 * secret; its standard error goes nowhere. The output ends with the program, or when it closes it:
 * what it has started may go on. `ret_status` is as of waitpid(), or -1 where it cannot be known.
 * Nothing else in this process may wait for all of its children. Errors say "it ..." and quote
 * nothing of the output: ERROR_UNREACHABLE (the time is over), ERROR_CANCELLED, ERROR_INVALID (too
 * much was written). The program and what it has started in its process group are then ended.
 */
int program_run(const struct program *program, struct buffer *ret, int *ret_status,
                struct error **error);

#endif
