/* What the fuzz targets share: entry points, and taking an input apart. */
#ifndef SLUICE_TESTS_FUZZ_FUZZ_H
#define SLUICE_TESTS_FUZZ_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/error.h"
#include "tests/tools/expect.h"

/* libFuzzer's entry points (https://llvm.org/docs/LibFuzzer.html). */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t length, size_t capacity, unsigned seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t length, size_t capacity);

/* Numbers off an input's start; when it is used up, they are 0. */
static inline uint64_t take_number(const uint8_t **data, size_t *length, size_t bytes)
{
    uint64_t value = 0;
    for (size_t i = 0; i<bytes && * length> 0; i++, ++*data, --*length)
        value |= (uint64_t) * *data << 8 * i;
    return value;
}

/* The bytes as a string, in fresh memory of its exact size. */
static inline char *text_of_bytes(const uint8_t *data, size_t length)
{
    char *text = malloc(length + 1);
    EXPECT(text);
    if (length) memcpy(text, data, length);
    text[length] = 0;
    return text;
}

static inline bool equal_buffers(const struct buffer *left, const struct buffer *right)
{
    return left->length == right->length &&
           (left->length == 0 || memcmp(left->data, right->data, left->length) == 0);
}

#endif
