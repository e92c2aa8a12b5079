/*
 * write_seeds BLOB PREFIX: what the writers make of a layer's blob, each in the
 * form that its format has when it is decoded: PREFIX.chunks, PREFIX.entries and
 * PREFIX.erofs. For tests/fuzz/make-corpus.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "index/layer_scan.h"
#include "index/merge.h"

static ssize_t read_blob(void *context, void *data, size_t capacity, struct error **error)
{
    FILE *file = context;
    (void)error;
    return (ssize_t)fread(data, 1, capacity, file);
}

static int digest_of_file(const char *path, struct digest *ret, uint64_t *ret_length,
                          struct error **error)
{
    cleanup_buffer struct buffer blob = { 0 };
    if (file_read(path, (size_t)1 << 30, &blob, error) < 0) return -1;
    digest_of(blob.data, blob.length, ret);
    *ret_length = blob.length;
    return 0;
}

static int write_part(const char *prefix, const char *suffix, const struct buffer *bytes,
                      struct error **error)
{
    cleanup_free char *path = format_text("%s.%s", prefix, suffix);
    if (!path) return error_set_memory(error);
    return file_write_atomic(path, bytes->data, bytes->length, 0644, error);
}

static int write_all(const struct layer_tables *tables, const char *prefix, struct error **error)
{
    cleanup_buffer struct buffer chunks = { 0 }, entries = { 0 }, erofs = { 0 };
    struct merge_layer layer = { tables->entries, tables->chunks->stream_length,
                                 tables->chunks->stream_digest };
    if (chunk_table_encode(tables->chunks, &chunks, error) < 0 ||
        entry_table_encode(tables->entries, &entries, error) < 0 ||
        merge_layers(&layer, 1, &erofs, error) < 0)
        return -1;
    if (write_part(prefix, "chunks", &chunks, error) < 0 ||
        write_part(prefix, "entries", &entries, error) < 0)
        return -1;
    return write_part(prefix, "erofs", &erofs, error);
}

static int scan(const char *path, struct layer_tables *ret, struct error **error)
{
    struct digest digest;
    uint64_t length;
    if (digest_of_file(path, &digest, &length, error) < 0) return -1;
    FILE *file = fopen(path, "re");
    if (!file) {
        error_set(error, ERROR_SYSTEM, "cannot open '%s'", path);
        return -1;
    }
    int status = layer_scan(read_blob, file, length, &digest, NULL, ret, error);
    fclose(file);
    return status;
}

int main(int argc, char **argv)
{
    struct layer_tables tables = { 0 };
    struct error *error = NULL;
    if (argc != 3) {
        fputs("usage: write_seeds BLOB PREFIX\n", stderr);
        return 2;
    }
    int status = scan(argv[1], &tables, &error);
    if (status == 0) status = write_all(&tables, argv[2], &error);
    if (status < 0) fprintf(stderr, "write_seeds: %s\n", error_message(error));
    layer_tables_free(&tables);
    error_free(error);
    return status < 0 ? 1 : 0;
}
