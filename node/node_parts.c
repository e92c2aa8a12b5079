/*
 * The parts of an index that a mount needs. Each goes through a file of the cache directory, which
 * is mapped: what a part claims to hold does not become memory. Only where the cache cannot keep a
 * part, and it is small, it stays in memory.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/parallel.h"
#include "node/node_image-internal.h"
#include "node/part_fetch.h"

#define FETCHES_AT_ONCE 8
/* All parts of an image that the cache could not keep. */
#define UNKEPT_BYTES_MAX (256ull << 20)

/* ---- one part ---- */

const void *part_content_data(const struct part_content *content)
{
    return content->mapping ? mapping_data(content->mapping) : content->memory.data;
}

size_t part_content_length(const struct part_content *content)
{
    return content->mapping ? mapping_length(content->mapping) : content->memory.length;
}

void part_content_free(struct part_content *content)
{
    mapping_free(content->mapping);
    buffer_free(&content->memory);
    *content = (struct part_content){ 0 };
}

static bool has_digest(const struct mapping *mapping, const struct digest *expected)
{
    struct digest digest;
    digest_of(mapping_data(mapping), mapping_length(mapping), &digest);
    return !mapping_is_damaged(mapping) && digest_equal(&digest, expected);
}

static void drop_damaged(struct loader *loader, const struct index_part *part)
{
    char text[DIGEST_TEXT_SIZE];
    log_warning("part %s of the index was damaged in the cache; fetching it again",
                digest_format(&part->content_digest, text));
    cache_remove_blob(loader->cache, &part->content_digest);
}

/* Who hashes what is mapped. */
enum hashing {
    HASH_NOW,
    HASH_LATER, /* the caller, before the content counts */
};

/* Maps a part out of the cache; 1: it is there and has its digest, 0: it is not. */
static int map_part(struct loader *loader, const struct index_part *part, enum hashing hashing,
                    struct mapping **ret, struct error **error)
{
    cleanup_close int descriptor = -1;
    uint64_t length;
    struct mapping *mapping;
    struct error *reason = NULL;
    if (cache_open_blob(loader->cache, &part->content_digest, &descriptor, &length, &reason) < 0) {
        if (error_kind_of(reason) != ERROR_NOT_FOUND) return error_move(error, reason);
        error_free(reason);
        return 0;
    }
    bool good = length == part->content_size;
    if (good) {
        if (mapping_new(&mapping, descriptor, length, MAPPING_READ_ONLY, error) < 0) return -1;
        /* At once, not page by page: it is read from end to end now. A page that cannot be had is
         * found by who reads it. */
        madvise(mapping_data(mapping), length, MADV_POPULATE_READ);
        good = hashing == HASH_LATER || has_digest(mapping, &part->content_digest);
        if (!good) mapping_free(mapping);
    }
    if (good) {
        mapping_keep_file(mapping, take_descriptor(&descriptor));
        *ret = mapping;
        return 1;
    }
    drop_damaged(loader, part);
    return 0;
}

struct keeping {
    struct cache *cache;
    struct blob_writer *writer;
    struct mapping *mapping;
    struct part_sink sink;
    size_t length;
    bool failed; /* the cache, not the registry */
};

/* part_write */
static int write_to_cache(void *context, const void *data, size_t length, struct error **error)
{
    struct keeping *keeping = context;
    if (blob_writer_append(keeping->writer, data, length, error) == 0) return 0;
    keeping->failed = true;
    return -1;
}

static void stop_keeping(struct keeping *keeping)
{
    mapping_free(keeping->mapping);
    blob_writer_free(keeping->writer);
    keeping->mapping = NULL;
    keeping->writer = NULL;
}

/* At first, and to begin again. What is verified is what the file gives back, because that is what
 * will be used. */
static int start_in_cache(void *context, struct error **error)
{
    struct keeping *keeping = context;
    stop_keeping(keeping);
    if (blob_writer_new(&keeping->writer, keeping->cache, error) == 0 &&
        blob_writer_map(keeping->writer, keeping->length, &keeping->mapping, error) == 0) {
        keeping->sink.stored = mapping_data(keeping->mapping);
        return 0;
    }
    keeping->failed = true;
    return -1;
}

/* part_write; the memory was reserved. */
static int write_to_memory(void *context, const void *data, size_t length, struct error **error)
{
    return buffer_append(context, data, length) < 0 ? error_set_memory(error) : 0;
}

static int restart_in_memory(void *context, struct error **error)
{
    (void)error;
    struct buffer *buffer = context;
    buffer->length = 0;
    return 0;
}

static int fetch_and_publish(struct loader *loader, const struct index_part *part,
                             struct keeping *keeping, struct error **error)
{
    if (start_in_cache(keeping, error) < 0) return -1;
    int result =
        part_fetch(loader->client, &loader->node->image.repository, part, &keeping->sink, error);
    if (mapping_is_damaged(keeping->mapping)) {
        keeping->failed = true;
        if (result < 0) return -1;
        return error_set(error, ERROR_SYSTEM, "what was written to cache directory '%s' is lost",
                         cache_directory(loader->cache));
    }
    if (result < 0) return -1;
    result = blob_writer_publish(keeping->writer, &part->content_digest, error);
    keeping->failed = result < 0;
    return result;
}

/* 1: the cache has it, and `ret` is verified; 0: the cache cannot keep it (said in the log), -1: it
 * cannot be had. */
static int fetch_into_cache(struct loader *loader, const struct index_part *part,
                            struct mapping **ret, struct error **error)
{
    struct keeping keeping = { .cache = loader->cache, .length = part->content_size };
    keeping.sink = (struct part_sink){ .write = write_to_cache,
                                       .restart = start_in_cache,
                                       .context = &keeping };
    struct error *reason = NULL;
    int result = fetch_and_publish(loader, part, &keeping, &reason);
    if (result == 0) *ret = take_pointer(&keeping.mapping);
    stop_keeping(&keeping);
    if (result == 0) return 1;
    if (!keeping.failed) return error_move(error, reason);
    log_warning("%s; going on without keeping it", error_message(reason));
    error_free(reason);
    return 0;
}

static int fetch_into_memory(struct loader *loader, const struct index_part *part,
                             struct buffer *ret, struct error **error)
{
    if (atomic_fetch_add(&loader->unkept, part->content_size) + part->content_size >
        UNKEPT_BYTES_MAX) {
        error_set(error, ERROR_SYSTEM,
                  "the index takes more than %llu MiB, which the cache cannot keep",
                  UNKEPT_BYTES_MAX >> 20);
        return error_hint(error, "make room in '%s', or name another directory with --cache",
                          cache_directory(loader->cache));
    }
    if (buffer_reserve(ret, part->content_size) < 0) return error_set_memory(error);
    struct part_sink sink = {
        .write = write_to_memory, .restart = restart_in_memory, .context = ret, .stored = ret->data
    };
    return part_fetch(loader->client, &loader->node->image.repository, part, &sink, error);
}

static int fetch_content(struct loader *loader, const struct index_part *part,
                         struct part_content *ret, struct error **error)
{
    char text[DIGEST_TEXT_SIZE];
    int kept = fetch_into_cache(loader, part, &ret->mapping, error);
    if (kept < 0 || (!kept && fetch_into_memory(loader, part, &ret->memory, error) < 0)) return -1;
    log_info("fetched part %s of the index: %llu bytes, %llu decoded",
             digest_format(&part->digest, text), (unsigned long long)part->size,
             (unsigned long long)part->content_size);
    return 0;
}

/* Out of the cache, or else from the registry. What is fetched has been hashed. */
static int load_content(struct loader *loader, const struct index_part *part, enum hashing hashing,
                        struct part_content *ret, struct error **error)
{
    int mapped = map_part(loader, part, hashing, &ret->mapping, error);
    ret->hashed = mapped == 0 || hashing == HASH_NOW;
    if (mapped) return mapped < 0 ? -1 : 0;
    return fetch_content(loader, part, ret, error);
}

int part_content_load(struct loader *loader, const struct index_part *part,
                      struct part_content *ret, struct error **error)
{
    return load_content(loader, part, HASH_NOW, ret, error);
}

/* ---- what was made here ---- */

static int write_made(struct loader *loader, const struct buffer *made, const struct digest *digest,
                      struct mapping **ret, struct error **error)
{
    struct keeping keeping = { .cache = loader->cache, .length = made->length };
    int result = start_in_cache(&keeping, error);
    if (result == 0) result = blob_writer_append(keeping.writer, made->data, made->length, error);
    /* What the disk has is what will be used. */
    if (result == 0 && !has_digest(keeping.mapping, digest))
        result = error_set(error, ERROR_SYSTEM, "what was written to cache directory '%s' is lost",
                           cache_directory(loader->cache));
    if (result == 0) result = blob_writer_publish(keeping.writer, digest, error);
    if (result == 0) *ret = take_pointer(&keeping.mapping);
    stop_keeping(&keeping);
    return result;
}

int part_content_keep(struct loader *loader, struct buffer *made, struct part_content *ret,
                      struct index_part *ret_part, struct error **error)
{
    struct error *reason = NULL;
    *ret = (struct part_content){ .hashed = true };
    *ret_part = (struct index_part){ .content_size = made->length };
    digest_of(made->data, made->length, &ret_part->content_digest);
    int mapped = map_part(loader, ret_part, HASH_NOW, &ret->mapping, error);
    if (mapped < 0) return -1;
    if (mapped ||
        write_made(loader, made, &ret_part->content_digest, &ret->mapping, &reason) == 0) {
        buffer_free(made);
        return 0;
    }
    log_warning("%s; going on without keeping it", error_message(reason));
    error_free(reason);
    ret->memory = *made;
    *made = (struct buffer){ 0 };
    return 0;
}

/* ---- all of them ---- */

static int check_table(const struct node_image *node, size_t layer, struct error **error)
{
    const struct chunk_table *table = node->tables[layer];
    const struct descriptor *blob = &node->image.manifest.layers[layer];
    if (digest_equal(&table->blob_digest, &blob->digest) && table->blob_length == blob->size &&
        table->windows_length == node->artifact.layers[layer].windows.size)
        return 0;
    return error_set(error, ERROR_INVALID, "chunk table of layer %zu is of another layer",
                     layer + 1);
}

/* Without --force, an index that is there is not made again. */
static int suggest_new_index(const struct node_image *node, struct error **error)
{
    return error_hint(error, "make a new one with: sluice index --force %s", node->image.name);
}

static int load_table(struct loader *loader, size_t layer, struct error **error)
{
    struct node_image *node = loader->node;
    struct part_content content = { 0 };
    int result =
        load_content(loader, &node->artifact.layers[layer].chunks, HASH_NOW, &content, error);
    if (result == 0 && chunk_table_decode(&node->tables[layer], part_content_data(&content),
                                          part_content_length(&content), error) < 0)
        result = suggest_new_index(node, error);
    atomic_fetch_sub(&loader->unkept, content.memory.length);
    part_content_free(&content);
    return result < 0 ? -1 : check_table(node, layer, error);
}

struct parts {
    struct loader *loader;
    struct part_content *entries; /* of each layer, to make the metadata of; NULL: that is a part */
};

static int load_entries(struct parts *parts, size_t layer, struct error **error)
{
    return part_content_load(parts->loader, &parts->loader->node->artifact.layers[layer].entries,
                             &parts->entries[layer], error);
}

/* parallel_work: the metadata, or the entry tables that it is made of, and behind that the chunk
 * tables. */
static int load_part(void *context, size_t position, struct error **error)
{
    struct parts *parts = context;
    struct loader *loader = parts->loader;
    struct node_image *node = loader->node;
    size_t first = parts->entries ? node->artifact.layer_count : 1;
    int result;
    if (position >= first)
        result = load_table(loader, position - first, error);
    else if (parts->entries)
        result = load_entries(parts, position, error);
    else
        result = load_content(loader, &node->artifact.metadata, HASH_LATER, &node->metadata_content,
                              error);
    return result < 0 ? error_prefix(error, "index of %s", node->image.name) : 0;
}

static int validate_metadata(struct node_image *node, struct error **error)
{
    size_t count = node->artifact.layer_count;
    size_t length = part_content_length(&node->metadata_content);
    cleanup_free uint64_t *lengths = calloc(count, sizeof *lengths);
    if (!lengths) return error_set_memory(error);
    /* The analyzer does not see that parallel_run() has called load_part() for each. */
    for (size_t i = 0; i < count; i++)
        lengths[i] = node->tables[i]->stream_length; // NOLINT(clang-analyzer-core.NullDereference)
    if (erofs_image_open(&node->metadata, part_content_data(&node->metadata_content), length,
                         error) < 0 ||
        erofs_image_validate(&node->metadata, lengths, (uint32_t)count, error) < 0) {
        error_prefix(error, "index of %s: metadata", node->image.name);
        return suggest_new_index(node, error);
    }
    log_info("metadata is valid: %llu inodes, %zu bytes, %zu layers",
             (unsigned long long)node->metadata.inode_count, length, count);
    for (size_t i = 0; i < count; i++) {
        struct digest tag;
        uint64_t ignored;
        if (erofs_image_device(&node->metadata, (uint32_t)i + 1, &ignored, &tag, error) < 0)
            return -1;
        if (!digest_equal(&tag, &node->tables[i]->stream_digest))
            return error_set(error, ERROR_INVALID,
                             "index of %s: metadata names another layer %zu than the chunk table",
                             node->image.name, i + 1);
    }
    return 0;
}

struct metadata_check {
    struct node_image *node;
    int validated;
    struct error *error; /* of the validation */
    bool damaged;
};

/* parallel_work: each takes about as long as the other. The validator trusts nothing, so it can run
 * before it is known whether the bytes are those that the index names; what it says counts after.
 */
static int check_metadata_half(void *context, size_t position, struct error **error)
{
    (void)error;
    struct metadata_check *check = context;
    const struct mapping *mapping = check->node->metadata_content.mapping;
    if (position == 0)
        check->validated = validate_metadata(check->node, &check->error);
    else
        check->damaged = !has_digest(mapping, &check->node->artifact.metadata.content_digest);
    return 0;
}

static int check_metadata(struct loader *loader, struct error **error)
{
    struct node_image *node = loader->node;
    const struct index_part *part = &node->artifact.metadata;
    struct metadata_check check = { .node = node };
    if (node->metadata_content.hashed) return validate_metadata(node, error);
    if (parallel_run(2, 2, check_metadata_half, &check, error) < 0) return -1;
    if (!check.damaged) return check.validated < 0 ? error_move(error, check.error) : 0;
    error_free(check.error);
    part_content_free(&node->metadata_content);
    drop_damaged(loader, part);
    if (fetch_content(loader, part, &node->metadata_content, error) < 0)
        return error_prefix(error, "index of %s", node->image.name);
    return validate_metadata(node, error);
}

static int load_whole(struct loader *loader, struct error **error)
{
    struct parts parts = { .loader = loader };
    size_t count = loader->node->artifact.layer_count + 1;
    if (parallel_run(count, FETCHES_AT_ONCE, load_part, &parts, error) < 0) return -1;
    return check_metadata(loader, error);
}

static int load_merged(struct loader *loader, struct error **error)
{
    size_t count = loader->node->artifact.layer_count;
    struct parts parts = { .loader = loader, .entries = calloc(count, sizeof *parts.entries) };
    if (!parts.entries) return error_set_memory(error);
    int result = prefix_require_memory(loader->node, error);
    if (result == 0) result = parallel_run(2 * count, FETCHES_AT_ONCE, load_part, &parts, error);
    if (result == 0) result = prefix_merge(loader, parts.entries, error);
    for (size_t i = 0; i < count; i++) {
        atomic_fetch_sub(&loader->unkept, parts.entries[i].memory.length);
        part_content_free(&parts.entries[i]);
    }
    free(parts.entries);
    return result < 0 ? -1 : validate_metadata(loader->node, error);
}

int node_parts_load(struct loader *loader, struct error **error)
{
    struct node_image *node = loader->node;
    node->tables = calloc(node->artifact.layer_count, sizeof *node->tables);
    if (!node->tables) return error_set_memory(error);
    return node_image_is_merged_here(node) ? load_merged(loader, error) : load_whole(loader, error);
}

void node_parts_free(struct node_image *node)
{
    if (node->tables)
        for (size_t i = 0; i < node->artifact.layer_count; i++)
            chunk_table_free(node->tables[i]);
    free(node->tables);
    node->tables = NULL;
    part_content_free(&node->metadata_content);
    node->metadata = (struct erofs_image){ 0 };
}
