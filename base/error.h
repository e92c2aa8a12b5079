/*
 * Errors that travel up by an argument.
 *
 * A function that can fail takes `struct error **error` last and returns -1
 * (or NULL) after filling it. Callers add what they were doing with
 * error_prefix(). The command line prints one line: what failed, on what, why,
 * and what to do (error_hint()). Messages never hold secrets.
 */
#ifndef SLUICE_BASE_ERROR_H
#define SLUICE_BASE_ERROR_H

#include <stdarg.h>

enum error_kind {
    ERROR_SYSTEM = 1,   /* the operating system refused; error_errno() says how */
    ERROR_INVALID,      /* input (file, index, answer of a registry) is malformed or hostile */
    ERROR_UNSUPPORTED,  /* valid, but nothing that sluice handles */
    ERROR_NOT_FOUND,    /* the other side says, with authority, that it does not exist */
    ERROR_DENIED,       /* credentials missing, wrong or insufficient */
    ERROR_UNREACHABLE,  /* no usable answer in time: network, name lookup, TLS, 5xx after retries */
    ERROR_CANCELLED,    /* the caller gave up */
    ERROR_EXISTS,       /* what shall be made is there already */
    ERROR_PRECONDITION, /* not in the state that this needs */
};

struct error;

/* Each returns -1, so that `return error_set(...)` reads well. `error` may be
 * NULL (the message is dropped) but must not point at an error already set. */
int error_set(struct error **error, enum error_kind kind, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Kind ERROR_SYSTEM; ": " and strerror(number) are appended. */
int error_set_errno(struct error **error, int number, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Out of memory, without allocating. */
int error_set_memory(struct error **error);

/* Puts "context: " before the message of an error that is set. Returns -1. */
int error_prefix(struct error **error, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* Appends "; what to do" after the message of an error that is set. Returns -1. */
int error_hint(struct error **error, const char *format, ...) __attribute__((format(printf, 2, 3)));

enum error_kind error_kind_of(const struct error *error);
/* The errno of an ERROR_SYSTEM error, else 0. */
int error_errno(const struct error *error);
/* One line, without a newline; control characters from outside are shown as '?'. */
const char *error_message(const struct error *error);

void error_free(struct error *error);
/* Moves `from` into `*to` (frees `from` when `to` is NULL). Returns -1. */
int error_move(struct error **to, struct error *from);

static inline void cleanup_error_function(struct error **error)
{
    error_free(*error);
}
#define cleanup_error __attribute__((cleanup(cleanup_error_function)))

#endif
