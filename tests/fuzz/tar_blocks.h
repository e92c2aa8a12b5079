/* Tar streams out of any bytes. */
#ifndef SLUICE_TESTS_FUZZ_TAR_BLOCKS_H
#define SLUICE_TESTS_FUZZ_TAR_BLOCKS_H

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define BLOCK 512

/* Puts the checksums of headers right, so that what is behind them is reached. Also of data that is
 * no header: it is only somebody's bytes. */
static inline void seal_blocks(uint8_t *stream, size_t length)
{
    for (size_t at = 0; at + BLOCK <= length; at += BLOCK) {
        uint8_t *block = stream + at;
        unsigned sum = 0, any = 0;
        for (size_t i = 0; i < BLOCK; i++) {
            sum += i >= 148 && i < 156 ? ' ' : block[i];
            any |= block[i];
        }
        if (!any) continue;
        char text[9];
        snprintf(text, sizeof text, "%06o", sum);
        memcpy(block + 148, text, 7);
    }
}

#endif
