#include "index/gzip_decoder.h"

#include <isa-l/igzip_lib.h>
#include <limits.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "index/chunk_table.h"
#include "index/gzip_member.h"

enum step {
    STEP_HEADER,  /* of a member */
    STEP_PARTIAL, /* the first byte of a checkpoint inside a byte is yet to come */
    STEP_DEFLATE,
    STEP_TRAILER,
    STEP_GARBAGE, /* what follows is no member */
};

struct gzip_decoder {
    enum step step;
    unsigned bits;
    unsigned trailer_left;
    bool first_member;
    struct gzip_header header;
    struct inflate_state state;
};

static void start_deflate(struct gzip_decoder *decoder)
{
    isal_inflate_reset(&decoder->state);
    decoder->state.crc_flag = ISAL_DEFLATE;
    decoder->step = STEP_DEFLATE;
}

struct gzip_decoder *gzip_decoder_new(void)
{
    struct gzip_decoder *decoder = malloc(sizeof *decoder);
    if (!decoder) return NULL;
    memset(decoder, 0, offsetof(struct gzip_decoder, state));
    isal_inflate_init(&decoder->state);
    decoder->step = STEP_HEADER;
    decoder->first_member = true;
    return decoder;
}

struct gzip_decoder *gzip_decoder_new_at(const uint8_t *window, unsigned bits)
{
    struct gzip_decoder *decoder = gzip_decoder_new();
    if (!decoder) return NULL;
    decoder->first_member = false;
    start_deflate(decoder);
    /* It copies the window; its signature only lacks the const. */
    isal_inflate_set_dict(&decoder->state, (uint8_t *)window, GZIP_WINDOW_LENGTH);
    decoder->bits = bits;
    if (bits) decoder->step = STEP_PARTIAL;
    return decoder;
}

/* The input bytes that ISA-L took ahead into its bit buffer belong to what follows the deflate
 * data. They are the newest bytes read, so they are whole bytes at the buffer's upper end. */
static unsigned bytes_read_ahead(const struct inflate_state *state)
{
    return state->read_in_length > 0 ? (unsigned)state->read_in_length / 8 : 0;
}

static ssize_t run_deflate(struct gzip_decoder *decoder, const uint8_t **data, size_t *length,
                           uint8_t *out, size_t capacity, struct error **error)
{
    struct inflate_state *state = &decoder->state;
    uint32_t available = *length > INT_MAX ? INT_MAX : (uint32_t)*length;
    uint32_t room = capacity > INT_MAX ? INT_MAX : (uint32_t)capacity;
    state->next_in = (uint8_t *)*data;
    state->avail_in = available;
    state->next_out = out;
    state->avail_out = room;
    int result = isal_inflate(state);
    if (result < 0)
        return error_set(error, ERROR_INVALID, "gzip data does not decode (ISA-L error %d)",
                         result);
    *data += available - state->avail_in;
    *length -= available - state->avail_in;
    if (state->block_state == ISAL_BLOCK_FINISH) {
        /* At most seven bytes, and the trailer has eight: none belongs to a next member. */
        unsigned ahead = bytes_read_ahead(state);
        decoder->trailer_left = GZIP_TRAILER_LENGTH - (ahead < 8 ? ahead : 8);
        decoder->step = STEP_TRAILER;
    }
    return room - state->avail_out;
}

static int run_header(struct gzip_decoder *decoder, const uint8_t **data, size_t *length,
                      struct error **error)
{
    size_t used = 0;
    switch (gzip_header_feed(&decoder->header, *data, *length, &used)) {
    case GZIP_HEADER_DONE:
        decoder->first_member = false;
        start_deflate(decoder);
        break;
    case GZIP_HEADER_MORE:
        break;
    case GZIP_HEADER_INVALID:
        if (decoder->first_member)
            return error_set(error, ERROR_INVALID, "gzip member has no valid header");
        decoder->step = STEP_GARBAGE;
        return 0;
    }
    *data += used;
    *length -= used;
    return 0;
}

ssize_t gzip_decoder_run(struct gzip_decoder *decoder, const uint8_t **data, size_t *length,
                         uint8_t *out, size_t capacity, struct error **error)
{
    size_t written = 0;
    while (written < capacity) {
        switch (decoder->step) {
        case STEP_HEADER:
            if (*length == 0) return (ssize_t)written;
            if (run_header(decoder, data, length, error) < 0) return -1;
            break;
        case STEP_PARTIAL:
            if (*length == 0) return (ssize_t)written;
            decoder->state.read_in = **data >> decoder->bits;
            decoder->state.read_in_length = (int32_t)(8 - decoder->bits);
            (*data)++;
            (*length)--;
            decoder->step = STEP_DEFLATE;
            break;
        case STEP_DEFLATE: {
            size_t before = *length;
            ssize_t count =
                run_deflate(decoder, data, length, out + written, capacity - written, error);
            if (count < 0) return -1;
            written += (size_t)count;
            if (count == 0 && *length == before && decoder->step == STEP_DEFLATE)
                return (ssize_t)written;
            break;
        }
        case STEP_TRAILER: {
            size_t skip = *length < decoder->trailer_left ? *length : decoder->trailer_left;
            *data += skip;
            *length -= skip;
            decoder->trailer_left -= (unsigned)skip;
            if (decoder->trailer_left) return (ssize_t)written;
            decoder->header = (struct gzip_header){ 0 };
            decoder->step = STEP_HEADER;
            break;
        }
        case STEP_GARBAGE:
            *data += *length;
            *length = 0;
            return (ssize_t)written;
        }
    }
    return (ssize_t)written;
}

void gzip_decoder_free(struct gzip_decoder *decoder)
{
    free(decoder);
}
