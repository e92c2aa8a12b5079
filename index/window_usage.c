#include "index/window_usage.h"

#include <stdlib.h>
#include <string.h>
#include <zlib.h>

/*
 * The idea: decode the data twice, with windows of made-up content. Position p
 * of the window holds the byte p mod 256 in the first, and another byte in the
 * second, so that the pair tells p. Where both outputs have the same byte it was
 * a literal (or copied from one); where they differ the pair names the position
 * in the window it came from. Only the first 32 KiB of output can refer to the
 * window directly, and copies of copies lie within what these refer to.
 */
struct window_usage {
    z_stream stream;
    uint8_t windows[2][GZIP_WINDOW_LENGTH];
    uint8_t outputs[2][GZIP_WINDOW_LENGTH];
    bool used[GZIP_WINDOW_LENGTH];
};

struct window_usage *window_usage_new(void)
{
    struct window_usage *usage = calloc(1, sizeof *usage);
    if (!usage) return NULL;
    if (inflateInit2(&usage->stream, -MAX_WBITS) != Z_OK) {
        free(usage);
        return NULL;
    }
    for (unsigned p = 0; p < GZIP_WINDOW_LENGTH; p++) {
        usage->windows[0][p] = (uint8_t)p;
        usage->windows[1][p] = (uint8_t)(p + 1 + (p >> 8)); /* differs by 1 to 128 */
    }
    return usage;
}

void window_usage_free(struct window_usage *usage)
{
    if (!usage) return;
    inflateEnd(&usage->stream);
    free(usage);
}

/* Output of the sample with made-up window `which`: its length, or -1 when it does not decode.
 * *ret_complete: nothing behind it can refer to the window. */
static long decode_sample(struct window_usage *usage, int which, unsigned bits,
                          const uint8_t *sample, size_t length, bool *ret_complete)
{
    z_stream *stream = &usage->stream;
    if (inflateReset(stream) != Z_OK) return -1;
    if (bits && inflatePrime(stream, (int)(8 - bits), sample[0] >> bits) != Z_OK) return -1;
    if (inflateSetDictionary(stream, usage->windows[which], GZIP_WINDOW_LENGTH) != Z_OK) return -1;
    stream->next_in = (z_const Bytef *)sample + (bits ? 1 : 0);
    stream->avail_in = (uInt)(length - (bits ? 1 : 0));
    stream->next_out = usage->outputs[which];
    stream->avail_out = GZIP_WINDOW_LENGTH;
    int result = inflate(stream, Z_SYNC_FLUSH);
    if (result != Z_OK && result != Z_STREAM_END && result != Z_BUF_ERROR) return -1;
    *ret_complete = result == Z_STREAM_END || stream->avail_out == 0;
    return (long)(GZIP_WINDOW_LENGTH - stream->avail_out);
}

void window_usage_clear_unused(struct window_usage *usage, uint8_t window[GZIP_WINDOW_LENGTH],
                               unsigned bits, const uint8_t *sample, size_t sample_length,
                               bool sample_ends)
{
    bool complete[2];
    if (sample_length == 0) return;
    long first = decode_sample(usage, 0, bits, sample, sample_length, &complete[0]);
    long second = decode_sample(usage, 1, bits, sample, sample_length, &complete[1]);
    if (first < 0 || first != second || !(complete[0] || sample_ends)) return;
    memset(usage->used, 0, sizeof usage->used);
    for (long i = 0; i < first; i++) {
        uint8_t low = usage->outputs[0][i];
        uint8_t difference = (uint8_t)(usage->outputs[1][i] - low);
        if (difference == 0) continue;
        usage->used[(unsigned)(difference - 1) << 8 | low] = true;
    }
    for (unsigned p = 0; p < GZIP_WINDOW_LENGTH; p++)
        if (!usage->used[p]) window[p] = 0;
}
