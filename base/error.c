#include "base/error.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct error {
    enum error_kind kind;
    int number;
    char *message; /* NULL: out of memory */
};

static struct error out_of_memory = { ERROR_SYSTEM, ENOMEM, NULL };

/* A message may quote a registry or a file name: a terminal must not obey it. */
static void make_printable(char *text)
{
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if (c < 0x20 || c == 0x7f) *text = '?';
    }
}

static int set_formatted(struct error **error, enum error_kind kind, int number, const char *format,
                         va_list arguments)
{
    if (!error) return -1;
    struct error *made = malloc(sizeof *made);
    char *message = NULL;
    if (!made || vasprintf(&message, format, arguments) < 0) {
        free(made);
        *error = &out_of_memory;
        return -1;
    }
    made->kind = kind;
    made->number = number;
    made->message = message;
    if (number) {
        char *with_reason = NULL;
        if (asprintf(&with_reason, "%s: %s", message, strerror(number)) >= 0) {
            free(message);
            made->message = with_reason;
        }
    }
    make_printable(made->message);
    *error = made;
    return -1;
}

int error_set(struct error **error, enum error_kind kind, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    set_formatted(error, kind, 0, format, arguments);
    va_end(arguments);
    return -1;
}

int error_set_errno(struct error **error, int number, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    set_formatted(error, ERROR_SYSTEM, number, format, arguments);
    va_end(arguments);
    return -1;
}

int error_set_memory(struct error **error)
{
    if (error) *error = &out_of_memory;
    return -1;
}

/* Replaces the message by `left` `separator` `right`; keeps the old one when memory is short. */
static int join(struct error *error, const char *left, const char *separator, const char *right)
{
    char *joined = NULL;
    if (asprintf(&joined, "%s%s%s", left, separator, right) < 0) return -1;
    make_printable(joined);
    free(error->message);
    error->message = joined;
    return -1;
}

int error_prefix(struct error **error, const char *format, ...)
{
    if (!error || !*error || *error == &out_of_memory) return -1;
    char *context = NULL;
    va_list arguments;
    va_start(arguments, format);
    int length = vasprintf(&context, format, arguments);
    va_end(arguments);
    if (length < 0) return -1;
    join(*error, context, ": ", (*error)->message);
    free(context);
    return -1;
}

int error_hint(struct error **error, const char *format, ...)
{
    if (!error || !*error || *error == &out_of_memory) return -1;
    char *hint = NULL;
    va_list arguments;
    va_start(arguments, format);
    int length = vasprintf(&hint, format, arguments);
    va_end(arguments);
    if (length < 0) return -1;
    join(*error, (*error)->message, "; ", hint);
    free(hint);
    return -1;
}

enum error_kind error_kind_of(const struct error *error)
{
    return error->kind;
}

int error_errno(const struct error *error)
{
    return error->number;
}

const char *error_message(const struct error *error)
{
    if (!error) return "unknown error";
    return error->message ? error->message : "out of memory";
}

void error_free(struct error *error)
{
    if (!error || error == &out_of_memory) return;
    free(error->message);
    free(error);
}

int error_move(struct error **to, struct error *from)
{
    if (to)
        *to = from;
    else
        error_free(from);
    return -1;
}
