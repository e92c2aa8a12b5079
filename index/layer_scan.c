#include "index/layer_scan.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "index/chunk_builder.h"
#include "index/layer_decode.h"
#include "index/tar.h"
#include "index/window_usage.h"

/* One thread reads and decodes, the other hashes, reads the tar and packs windows. Chunks go round
 * between them, so neither waits long for the other and memory stays bounded. */
#define CHUNKS_IN_FLIGHT 4
#define READ_LENGTH      (256u << 10)
/* Windows are mostly zeros; higher levels win a few percent for many times the work. */
#define WINDOW_ZSTD_LEVEL 9

struct layer_scan {
    struct built_chunk chunks[CHUNKS_IN_FLIGHT];

    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct built_chunk *empty[CHUNKS_IN_FLIGHT];
    unsigned empty_count;
    struct built_chunk *full[CHUNKS_IN_FLIGHT]; /* oldest first */
    unsigned full_count;
    bool ended;          /* no more chunks will come */
    bool failed;         /* the second thread has stopped with `error` */
    struct error *error; /* of the second thread */

    /* The second thread's own. */
    struct chunk_table *table;
    size_t chunk_capacity, group_capacity;
    struct entry_table *entries;
    struct tar_reader *tar;
    struct digest_stream *stream_digest;
    struct window_usage *usage;
    struct buffer group;   /* windows not yet compressed */
    struct buffer windows; /* the windows blob */
    int copy;              /* where the stream is written to, or -1 */
};

void layer_tables_free(struct layer_tables *tables)
{
    chunk_table_free(tables->chunks);
    entry_table_free(tables->entries);
    buffer_free(&tables->windows);
    *tables = (struct layer_tables){ 0 };
}

static int close_group(struct layer_scan *scan, struct error **error)
{
    struct chunk_table *table = scan->table;
    if (scan->group.length == 0) return 0;
    size_t bound = ZSTD_compressBound(scan->group.length);
    if (buffer_reserve(&scan->windows, bound) < 0) return error_set_memory(error);
    if (table->group_count == scan->group_capacity) {
        size_t capacity = scan->group_capacity ? 2 * scan->group_capacity : 16;
        struct window_group *groups = realloc(table->groups, capacity * sizeof *groups);
        if (!groups) return error_set_memory(error);
        table->groups = groups;
        scan->group_capacity = capacity;
    }
    uint8_t *out = scan->windows.data + scan->windows.length;
    size_t length =
        ZSTD_compress(out, bound, scan->group.data, scan->group.length, WINDOW_ZSTD_LEVEL);
    if (ZSTD_isError(length)) return error_set_memory(error);
    struct window_group *group = &table->groups[table->group_count++];
    group->offset = scan->windows.length;
    group->length = (uint32_t)length;
    digest_of(out, length, &group->digest);
    scan->windows.length += length;
    table->windows_length = scan->windows.length;
    scan->group.length = 0;
    return 0;
}

static int add_window(struct layer_scan *scan, struct built_chunk *built, struct error **error)
{
    window_usage_clear_unused(scan->usage, built->window, built->bits, built->sample.data,
                              built->sample.length, built->sample_ends);
    if (buffer_append(&scan->group, built->window, GZIP_WINDOW_LENGTH) < 0)
        return error_set_memory(error);
    scan->table->window_count++;
    if (scan->table->window_count % WINDOWS_PER_GROUP == 0) return close_group(scan, error);
    return 0;
}

static int add_chunk(struct layer_scan *scan, struct built_chunk *built, struct error **error)
{
    struct chunk_table *table = scan->table;
    if (table->chunk_count == scan->chunk_capacity) {
        size_t capacity = scan->chunk_capacity ? 2 * scan->chunk_capacity : 64;
        struct chunk *chunks = realloc(table->chunks, capacity * sizeof *chunks);
        if (!chunks) return error_set_memory(error);
        table->chunks = chunks;
        scan->chunk_capacity = capacity;
    }
    struct chunk *chunk = &table->chunks[table->chunk_count++];
    *chunk = (struct chunk){ .stream_offset = built->stream_offset,
                             .blob_offset = built->blob_offset,
                             .start = (uint8_t)built->start,
                             .bits = (uint8_t)built->bits,
                             .window = table->window_count };
    digest_of(built->data, built->length, &chunk->digest);
    digest_stream_update(scan->stream_digest, built->data, built->length);
    if (scan->copy >= 0 && write_fully(scan->copy, built->data, built->length) < 0)
        return error_set_errno(error, errno, "write a temporary file");
    table->stream_length += built->length;
    if (built->start == CHUNK_WINDOW && add_window(scan, built, error) < 0) return -1;
    return tar_reader_feed(scan->tar, built->data, built->length, error);
}

static struct built_chunk *next_full(struct layer_scan *scan)
{
    struct built_chunk *chunk = NULL;
    pthread_mutex_lock(&scan->lock);
    while (scan->full_count == 0 && !scan->ended)
        pthread_cond_wait(&scan->changed, &scan->lock);
    if (scan->full_count) {
        chunk = scan->full[0];
        memmove(scan->full, scan->full + 1, --scan->full_count * sizeof *scan->full);
    }
    pthread_mutex_unlock(&scan->lock);
    return chunk;
}

static void *run_second_thread(void *context)
{
    struct layer_scan *scan = context;
    struct built_chunk *chunk;
    struct error *error = NULL;
    int result = 0;
    while (result == 0 && (chunk = next_full(scan))) {
        result = add_chunk(scan, chunk, &error);
        pthread_mutex_lock(&scan->lock);
        scan->empty[scan->empty_count++] = chunk;
        pthread_cond_broadcast(&scan->changed);
        pthread_mutex_unlock(&scan->lock);
    }
    if (result == 0) result = close_group(scan, &error);
    if (result == 0) result = tar_reader_finish(scan->tar, &error);
    pthread_mutex_lock(&scan->lock);
    scan->failed = result < 0;
    scan->error = error;
    pthread_cond_broadcast(&scan->changed);
    pthread_mutex_unlock(&scan->lock);
    return NULL;
}

/* chunk_built: on the first thread. */
static struct built_chunk *exchange(void *context, struct built_chunk *full)
{
    struct layer_scan *scan = context;
    struct built_chunk *chunk = NULL;
    pthread_mutex_lock(&scan->lock);
    scan->full[scan->full_count++] = full;
    pthread_cond_broadcast(&scan->changed);
    while (scan->empty_count == 0 && !scan->failed)
        pthread_cond_wait(&scan->changed, &scan->lock);
    if (!scan->failed) chunk = scan->empty[--scan->empty_count];
    pthread_mutex_unlock(&scan->lock);
    return chunk;
}

/* Reads and decodes the whole blob. 1: the second thread has failed. */
static int decode_blob(struct layer_scan *scan, layer_read *read, void *context,
                       uint64_t blob_length, struct error **error)
{
    cleanup_free uint8_t *data = malloc(READ_LENGTH);
    struct digest_stream *blob_digest = digest_stream_new();
    struct chunk_builder *builder =
        chunk_builder_new(chunk_target_length(blob_length), scan->empty[0], exchange, scan);
    struct layer_decode *decode = NULL;
    struct built_chunk *unused;
    size_t carried = 0;
    int result = -1;
    if (!data || !blob_digest || !builder) {
        error_set_memory(error);
        goto done;
    }
    scan->empty[0] = scan->empty[--scan->empty_count];
    for (;;) {
        ssize_t count = read(context, data + carried, READ_LENGTH - carried, error);
        if (count < 0) goto done;
        digest_stream_update(blob_digest, data + carried, (size_t)count);
        scan->table->blob_length += (uint64_t)count;
        size_t length = carried + (size_t)count;
        carried = 0;
        if (!decode) {
            if (length < 4 && count > 0) { /* too few bytes to tell what it is */
                carried = length;
                continue;
            }
            scan->table->kind = layer_kind_detect(data, length);
            decode = layer_decode_new(scan->table->kind, builder, error);
            if (!decode) goto done;
        }
        result = layer_decode_feed(decode, data, length, error);
        if (result) goto done;
        result = -1;
        if (count == 0) break;
    }
    if (layer_decode_finish(decode, error) < 0) goto done;
    scan->table->decoder_window = layer_decode_window(decode);
    result = chunk_builder_finish(builder, &unused) < 0 ? 1 : 0;
    digest_stream_finish(blob_digest, &scan->table->blob_digest);
done:
    layer_decode_free(decode);
    chunk_builder_free(builder);
    digest_stream_free(blob_digest);
    return result;
}

static int check_digest(const struct digest *found, const struct digest *expected, const char *what,
                        struct error **error)
{
    char found_text[DIGEST_TEXT_SIZE], expected_text[DIGEST_TEXT_SIZE];
    if (digest_equal(found, expected)) return 0;
    return error_set(error, ERROR_INVALID, "%s has digest %s and not %s", what,
                     digest_format(found, found_text), digest_format(expected, expected_text));
}

static int run(struct layer_scan *scan, layer_read *read, void *context, uint64_t blob_length,
               struct error **error)
{
    pthread_t second;
    int number = pthread_create(&second, NULL, run_second_thread, scan);
    if (number) return error_set_errno(error, number, "start a thread");
    int result = decode_blob(scan, read, context, blob_length, error);
    pthread_mutex_lock(&scan->lock);
    scan->ended = true;
    pthread_cond_broadcast(&scan->changed);
    pthread_mutex_unlock(&scan->lock);
    pthread_join(second, NULL);
    /* The first thread's reason is the earlier one: what it broke off, the second cannot end. */
    if (result >= 0 && scan->failed) return error_move(error, take_pointer(&scan->error));
    return result < 0 ? -1 : 0;
}

static void layer_scan_free(struct layer_scan *scan)
{
    if (!scan) return;
    for (unsigned i = 0; i < CHUNKS_IN_FLIGHT; i++) {
        free(scan->chunks[i].data);
        buffer_free(&scan->chunks[i].sample);
    }
    chunk_table_free(scan->table);
    tar_reader_free(scan->tar);
    entry_table_free(scan->entries);
    digest_stream_free(scan->stream_digest);
    window_usage_free(scan->usage);
    buffer_free(&scan->group);
    buffer_free(&scan->windows);
    error_free(scan->error);
    pthread_mutex_destroy(&scan->lock);
    pthread_cond_destroy(&scan->changed);
    free(scan);
}

static struct layer_scan *layer_scan_new(void)
{
    struct layer_scan *scan = calloc(1, sizeof *scan);
    if (!scan) return NULL;
    pthread_mutex_init(&scan->lock, NULL);
    pthread_cond_init(&scan->changed, NULL);
    bool complete = true;
    for (unsigned i = 0; i < CHUNKS_IN_FLIGHT; i++) {
        scan->chunks[i].data = malloc(CHUNK_LENGTH_MAX);
        if (!scan->chunks[i].data ||
            buffer_reserve(&scan->chunks[i].sample, WINDOW_USAGE_SAMPLE_MAX) < 0)
            complete = false;
        scan->empty[scan->empty_count++] = &scan->chunks[i];
    }
    scan->table = calloc(1, sizeof *scan->table);
    scan->entries = entry_table_new();
    scan->tar = scan->entries ? tar_reader_new(scan->entries) : NULL;
    scan->stream_digest = digest_stream_new();
    scan->usage = window_usage_new();
    if (complete && scan->table && scan->tar && scan->stream_digest && scan->usage) return scan;
    layer_scan_free(scan);
    return NULL;
}

static inline void cleanup_scan_function(struct layer_scan **scan)
{
    layer_scan_free(*scan);
}

int layer_scan_copy(layer_read *read, void *context, uint64_t blob_length,
                    const struct digest *blob_digest, const struct digest *stream_digest, int file,
                    struct layer_tables *ret, struct error **error)
{
    __attribute__((cleanup(cleanup_scan_function))) struct layer_scan *scan = layer_scan_new();
    if (!scan) return error_set_memory(error);
    struct chunk_table *table = scan->table;
    scan->copy = file;
    if (run(scan, read, context, blob_length, error) < 0) return -1;
    if (table->blob_length != blob_length)
        return error_set(error, ERROR_INVALID, "blob has %llu bytes and not %llu",
                         (unsigned long long)table->blob_length, (unsigned long long)blob_length);
    if (check_digest(&table->blob_digest, blob_digest, "blob", error) < 0) return -1;
    digest_stream_finish(scan->stream_digest, &table->stream_digest);
    if (stream_digest && check_digest(&table->stream_digest, stream_digest,
                                      "uncompressed layer (diffID)", error) < 0)
        return -1;
    *ret = (struct layer_tables){ .chunks = take_pointer(&scan->table),
                                  .entries = take_pointer(&scan->entries),
                                  .windows = scan->windows };
    scan->windows = (struct buffer){ 0 };
    return 0;
}

int layer_scan(layer_read *read, void *context, uint64_t blob_length,
               const struct digest *blob_digest, const struct digest *stream_digest,
               struct layer_tables *ret, struct error **error)
{
    return layer_scan_copy(read, context, blob_length, blob_digest, stream_digest, -1, ret, error);
}
