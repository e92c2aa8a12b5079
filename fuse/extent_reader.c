#include "fuse/extent_reader.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"

#define READ_MAX      (4u << 20) /* layer_device_read() takes no more */
#define GATHER_MEMORY (32u << 20)

struct read_request;

struct extent_reader {
    struct layer_device **devices;
    uint32_t device_count;
    struct device_reader *counts;
    extent_map *map;
    void *context;
    atomic_bool *refused; /* by device */

    pthread_mutex_t lock;
    pthread_cond_t changed;
    size_t outstanding;   /* reads that are not answered yet */
    size_t gather_memory; /* bytes that are being gathered */
    struct read_request *gather_first, *gather_last;
    bool gather_starting; /* some thread is starting what waits in the list */
    bool closing;
};

struct read_request {
    struct extent_reader *reader;
    fuse_req_t request;
    struct erofs_inode file;
    uint64_t offset;
    size_t length;

    /* While it is gathered: */
    struct read_request *next;
    uint8_t *data;
    atomic_uint pieces; /* that are not answered yet */
    atomic_int failure; /* the first one's errno */
};

/* Runs of the request, and holes between them, that stand one after the other on a device. */
struct piece {
    struct read_request *read;
    size_t position, end; /* in read->data */
    uint32_t device;
    uint64_t device_offset;
    size_t length; /* on the device */
};

/* A run of the file, from `position` of the request on, that is contiguous on one device. */
struct run {
    size_t position, length;
    uint32_t device; /* 0: a hole */
    uint64_t device_offset;
};

static void count_outstanding(struct extent_reader *reader)
{
    pthread_mutex_lock(&reader->lock);
    reader->outstanding++;
    pthread_mutex_unlock(&reader->lock);
}

/* The last thing that is done for a read: extent_reader_free() may go on from here. */
static void finish_read(struct read_request *read)
{
    struct extent_reader *reader = read->reader;
    free(read->data);
    free(read);
    pthread_mutex_lock(&reader->lock);
    if (--reader->outstanding == 0) pthread_cond_broadcast(&reader->changed);
    pthread_mutex_unlock(&reader->lock);
}

static void finish_read_with(struct read_request *read, int number)
{
    fuse_reply_err(read->request, number);
    finish_read(read);
}

static bool is_refused(const struct extent_reader *reader, uint32_t device)
{
    return atomic_load_explicit(&reader->refused[device], memory_order_relaxed);
}

/* The longest run at `position` of the request; 0 or a negative errno. */
static int next_run(const struct read_request *read, size_t position, struct run *ret)
{
    const struct extent_reader *reader = read->reader;
    *ret = (struct run){ .position = position };
    while (position < read->length) {
        struct erofs_extent extent;
        int result = reader->map(reader->context, &read->file, read->offset + position, &extent);
        if (result < 0) return result;
        if (extent.length == 0 || extent.device > reader->device_count) return -EIO;
        if (extent.device && is_refused(reader, extent.device - 1)) return -EIO;
        bool continues =
            ret->length > 0 && extent.device == ret->device &&
            (!extent.device || extent.device_offset == ret->device_offset + ret->length);
        if (ret->length > 0 && !continues) break;
        if (ret->length == 0) {
            ret->device = extent.device;
            ret->device_offset = extent.device_offset;
        }
        size_t left = read->length - position;
        size_t length = extent.length < left ? (size_t)extent.length : left;
        ret->length += length;
        position += length;
    }
    return 0;
}

/* ---- one run: straight ---- */

static void reply_straight(void *context, const void *data, ssize_t result)
{
    struct read_request *read = context;
    if (result == (ssize_t)read->length) {
        fuse_reply_buf(read->request, data, read->length);
        finish_read(read);
    } else {
        finish_read_with(read, result < 0 ? (int)-result : EIO);
    }
}

/* ---- several: gathered ---- */

static void start_waiting_gathers(struct extent_reader *reader);

static void finish_piece(struct read_request *read)
{
    if (atomic_fetch_sub(&read->pieces, 1) > 1) return;
    struct extent_reader *reader = read->reader;
    int failure = atomic_load(&read->failure);
    if (failure)
        fuse_reply_err(read->request, failure);
    else
        fuse_reply_buf(read->request, (const char *)read->data, read->length);

    pthread_mutex_lock(&reader->lock);
    reader->gather_memory -= read->length;
    pthread_mutex_unlock(&reader->lock);
    start_waiting_gathers(reader);
    finish_read(read);
}

static void fail_gather(struct read_request *read, int number)
{
    int none = 0;
    atomic_compare_exchange_strong(&read->failure, &none, number);
}

/* Copies the device's bytes to where the runs are; the memory of holes is zero already. */
static int scatter(const struct piece *piece, const uint8_t *data)
{
    struct read_request *read = piece->read;
    size_t used = 0;
    for (size_t position = piece->position; position < piece->end;) {
        struct run run;
        int result = next_run(read, position, &run);
        if (result < 0) return result;
        position += run.length;
        if (run.device == 0) continue;
        /* Only if the image changes under us. */
        if (position > piece->end || run.length > piece->length - used) return -EIO;
        memcpy(read->data + run.position, data + used, run.length);
        used += run.length;
    }
    return used == piece->length ? 0 : -EIO;
}

static void take_piece(void *context, const void *data, ssize_t result)
{
    struct piece *piece = context;
    struct read_request *read = piece->read;
    if (result == (ssize_t)piece->length)
        result = scatter(piece, data);
    else if (result >= 0)
        result = -EIO;
    if (result < 0) fail_gather(read, (int)-result);
    free(piece);
    finish_piece(read);
}

static int ask_for_piece(struct read_request *read, const struct piece *what)
{
    if (what->device == 0) return 0;
    struct piece *piece = malloc(sizeof *piece);
    if (!piece) return -ENOMEM;
    *piece = *what;
    atomic_fetch_add(&read->pieces, 1);
    layer_device_read(read->reader->devices[piece->device - 1], read->reader->counts,
                      piece->device_offset, piece->length, take_piece, piece);
    return 0;
}

/* True if the run has become a part of the piece. */
static bool piece_extend(struct piece *piece, const struct run *run)
{
    if (run->device == 0) return true;
    if (piece->device == 0) {
        piece->position = run->position;
        piece->device = run->device;
        piece->device_offset = run->device_offset;
    } else if (run->device != piece->device ||
               run->device_offset != piece->device_offset + piece->length) {
        return false;
    }
    piece->length += run->length;
    piece->end = run->position + run->length;
    return true;
}

static void gather(struct read_request *read)
{
    /* One piece is this function itself: the answer cannot go before all are asked for. */
    atomic_store(&read->pieces, 1);
    read->data = calloc(1, read->length);
    int result = read->data ? 0 : -ENOMEM;
    struct piece piece = { .read = read };
    for (size_t position = 0; !result && position < read->length;) {
        struct run run;
        result = next_run(read, position, &run);
        position += run.length;
        if (result || piece_extend(&piece, &run)) continue;
        result = ask_for_piece(read, &piece);
        piece = (struct piece){ .read = read };
        (void)piece_extend(&piece, &run);
    }
    if (!result) result = ask_for_piece(read, &piece);
    if (result < 0) fail_gather(read, -result);
    finish_piece(read);
}

/* One thread at a time starts them, in a loop: a device may answer at once, and then
 * finish_piece() comes back here. */
static void start_waiting_gathers(struct extent_reader *reader)
{
    pthread_mutex_lock(&reader->lock);
    if (reader->gather_starting) {
        pthread_mutex_unlock(&reader->lock);
        return;
    }
    reader->gather_starting = true;
    struct read_request *read;
    while ((read = reader->gather_first) && reader->gather_memory + read->length <= GATHER_MEMORY) {
        reader->gather_first = read->next;
        reader->gather_memory += read->length;
        pthread_mutex_unlock(&reader->lock);
        gather(read);
        pthread_mutex_lock(&reader->lock);
    }
    reader->gather_starting = false;
    pthread_cond_broadcast(&reader->changed);
    pthread_mutex_unlock(&reader->lock);
}

static void queue_gather(struct read_request *read)
{
    struct extent_reader *reader = read->reader;
    pthread_mutex_lock(&reader->lock);
    bool closing = reader->closing;
    if (!closing) {
        if (reader->gather_first)
            reader->gather_last->next = read;
        else
            reader->gather_first = read;
        reader->gather_last = read;
    }
    pthread_mutex_unlock(&reader->lock);
    if (closing)
        finish_read_with(read, EIO);
    else
        start_waiting_gathers(reader);
}

/* ---- the request ---- */

static void start_read(struct read_request *read)
{
    struct run run;
    int result = next_run(read, 0, &run);
    if (result < 0) {
        log_error("metadata: extents of inode %llu: %s", (unsigned long long)read->file.nid,
                  strerror(-result));
        device_reader_count(read->reader->counts, false, result);
        finish_read_with(read, -result);
    } else if (run.device != 0 && run.length == read->length) {
        layer_device_read(read->reader->devices[run.device - 1], read->reader->counts,
                          run.device_offset, run.length, reply_straight, read);
    } else {
        queue_gather(read);
    }
}

void extent_reader_read(struct extent_reader *reader, fuse_req_t request,
                        const struct erofs_inode *file, size_t size, off_t offset)
{
    if (offset < 0 || size > READ_MAX) {
        fuse_reply_err(request, EINVAL);
        return;
    }
    if ((uint64_t)offset >= file->size || size == 0) {
        fuse_reply_buf(request, NULL, 0);
        return;
    }
    uint64_t left = file->size - (uint64_t)offset;
    struct read_request *read = calloc(1, sizeof *read);
    if (!read) {
        fuse_reply_err(request, ENOMEM);
        return;
    }
    read->reader = reader;
    read->request = request;
    read->file = *file;
    read->offset = (uint64_t)offset;
    read->length = size < left ? size : (size_t)left;
    count_outstanding(reader);
    start_read(read);
}

/* ---- start and end ---- */

int extent_reader_new(struct extent_reader **ret, struct layer_device *const *devices,
                      uint32_t device_count, struct device_reader *counts, extent_map *map,
                      void *context, struct error **error)
{
    struct extent_reader *reader = calloc(1, sizeof *reader);
    struct layer_device **copy = calloc(device_count + 1u, sizeof(struct layer_device *));
    atomic_bool *refused = calloc(device_count + 1u, sizeof *refused);
    if (!reader || !copy || !refused) {
        free(reader);
        free(copy);
        free(refused);
        return error_set_memory(error);
    }
    if (device_count > 0) memcpy(copy, devices, device_count * sizeof(struct layer_device *));
    reader->devices = copy;
    reader->refused = refused;
    reader->device_count = device_count;
    reader->counts = counts;
    reader->map = map;
    reader->context = context;
    pthread_mutex_init(&reader->lock, NULL);
    pthread_cond_init(&reader->changed, NULL);
    *ret = reader;
    return 0;
}

void extent_reader_refuse(struct extent_reader *reader, uint32_t device)
{
    if (device < reader->device_count) atomic_store(&reader->refused[device], true);
}

void extent_reader_close(struct extent_reader *reader)
{
    pthread_mutex_lock(&reader->lock);
    reader->closing = true;
    struct read_request *waiting = reader->gather_first;
    reader->gather_first = NULL;
    while (reader->gather_starting)
        pthread_cond_wait(&reader->changed, &reader->lock);
    pthread_mutex_unlock(&reader->lock);
    while (waiting) {
        struct read_request *next = waiting->next;
        finish_read_with(waiting, EIO);
        waiting = next;
    }
}

void extent_reader_free(struct extent_reader *reader)
{
    if (!reader) return;
    extent_reader_close(reader);
    pthread_mutex_lock(&reader->lock);
    while (reader->outstanding > 0)
        pthread_cond_wait(&reader->changed, &reader->lock);
    pthread_mutex_unlock(&reader->lock);
    pthread_cond_destroy(&reader->changed);
    pthread_mutex_destroy(&reader->lock);
    free(reader->devices);
    free(reader->refused);
    free(reader);
}
