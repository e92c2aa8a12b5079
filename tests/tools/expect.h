/* Claims about the code under test, for what unit tests and fuzz targets share. */
#ifndef SLUICE_TESTS_TOOLS_EXPECT_H
#define SLUICE_TESTS_TOOLS_EXPECT_H

#include <stdio.h>
#include <stdlib.h>

#include "base/error.h"

/* Ends the program, which a fuzzer takes for a crash and tests/run for a failure. */
#define EXPECT(condition)                                                             \
    do {                                                                              \
        if (!(condition)) {                                                           \
            fprintf(stderr, "%s:%d: expected: %s\n", __FILE__, __LINE__, #condition); \
            abort();                                                                  \
        }                                                                             \
    } while (0)

/* The call must succeed; what it says otherwise is shown. Takes an `error` in scope. */
#define EXPECT_SUCCESS(call)                                                          \
    do {                                                                              \
        if ((call) < 0) {                                                             \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, error_message(error)); \
            abort();                                                                  \
        }                                                                             \
    } while (0)

/* An error must be one line that can be printed. */
static inline void expect_error(const struct error *error)
{
    EXPECT(error != NULL);
    const char *message = error_message(error);
    EXPECT(*message);
    for (; *message; message++)
        EXPECT((unsigned char)*message >= ' ' && *message != 0x7f);
}

#endif
