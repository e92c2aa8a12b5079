#include "deploytool/node_image.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/parallel.h"

#define MEMORY_LENGTH_MAX (64u << 10)
/* A node that knows what a tag last meant does not wait longer to hear what it means now. */
#define TAG_PATIENCE_MS 3000u
#define FETCHES_AT_ONCE 4

const char *index_trust_name(enum index_trust trust)
{
    return trust == TRUST_PINNED ? "pinned" : "referrer";
}

/* ---- what a name last meant on this node ---- */

struct memory {
    struct digest target, manifest, index;
    char media_type[128];
};

/* The key: the name in full and the platform. NULL: out of memory. */
static char *memory_name(const struct image *image)
{
    char platform[PLATFORM_TEXT_SIZE];
    return format_text("image %s %s", image->name, platform_format(&image->platform, platform));
}

static bool recall(struct cache *cache, const struct image *image, struct memory *ret)
{
    cleanup_free char *name = memory_name(image);
    cleanup_buffer struct buffer text = { 0 };
    if (!name || cache_recall(cache, name, MEMORY_LENGTH_MAX, &text, NULL) < 0) return false;
    cleanup_json json_t *root = json_read_object(text.data, text.length, "memory", NULL);
    const char *media_type = root ? json_optional_text(root, "media_type") : NULL;
    if (!media_type || strlen(media_type) >= sizeof ret->media_type) return false;
    strcpy(ret->media_type, media_type);
    return json_field_digest(root, "target", &ret->target, NULL) == 0 &&
           json_field_digest(root, "manifest", &ret->manifest, NULL) == 0 &&
           json_field_digest(root, "index", &ret->index, NULL) == 0;
}

static int remember(struct cache *cache, const struct node_image *node, struct error **error)
{
    const struct image *image = &node->image;
    char target[DIGEST_TEXT_SIZE], manifest[DIGEST_TEXT_SIZE], index[DIGEST_TEXT_SIZE];
    cleanup_free char *name = memory_name(image);
    cleanup_json json_t *root = json_pack(
        "{s:s, s:s, s:s, s:s, s:s}", "name", image->name, "target",
        digest_format(&image->target, target), "manifest", digest_format(&image->digest, manifest),
        "media_type", image->media_type, "index", digest_format(&node->index_digest, index));
    cleanup_free char *text = root ? json_dumps(root, JSON_COMPACT) : NULL;
    if (!name || !text) return error_set_memory(error);
    return cache_remember(cache, name, text, strlen(text), error);
}

/* ---- manifests ---- */

struct loader {
    struct node_image *node;
    struct registry_client *client;
    struct cache *cache;
};

/* Puts a blob into the cache. One that cannot keep it (a full disk) costs fetching it again at the
 * next mount, and nothing else. True: it is kept. */
static bool keep_blob(struct loader *loader, const struct digest *digest, const void *data,
                      size_t length)
{
    struct error *reason = NULL;
    if (cache_put_blob(loader->cache, digest, data, length, &reason) == 0) return true;
    log_warning("%s; going on without keeping it", error_message(reason));
    error_free(reason);
    return false;
}

/* A manifest by digest: from the cache, else from the registry (and then kept). */
static int load_manifest(struct loader *loader, const struct digest *digest, struct buffer *ret,
                         struct error **error)
{
    char text[DIGEST_TEXT_SIZE];
    struct registry_manifest manifest = { 0 };
    if (cache_get_blob(loader->cache, digest, REGISTRY_MANIFEST_LIMIT, ret, NULL) == 0) return 0;
    if (registry_get_manifest(loader->client, &loader->node->image.repository,
                              digest_format(digest, text), &manifest, error) < 0)
        return -1;
    buffer_free(ret);
    *ret = manifest.body;
    manifest.body = (struct buffer){ 0 };
    registry_manifest_free(&manifest);
    keep_blob(loader, digest, ret->data, ret->length);
    return 0;
}

/* Whether the node's memory of the name still holds. 1: use it, 0: ask the registry for all, -1. */
static int is_current(struct loader *loader, const struct memory *known, struct error **error)
{
    const struct image *image = &loader->node->image;
    char text[DIGEST_TEXT_SIZE];
    struct digest now;
    struct error *reason = NULL;
    if (image->reference.digest) return 1;
    if (registry_resolve_tag(loader->client, &image->repository, image->reference.tag,
                             TAG_PATIENCE_MS, &now, &reason) == 0)
        return digest_equal(&now, &known->target);
    enum error_kind kind = error_kind_of(reason);
    if (kind != ERROR_UNREACHABLE && kind != ERROR_DENIED) return error_move(error, reason);
    log_warning("%s; using what %s last meant on this node: %s", error_message(reason), image->name,
                digest_format(&known->target, text));
    error_free(reason);
    return 1;
}

static int resolve(struct loader *loader, const struct memory *known, struct error **error)
{
    struct image *image = &loader->node->image;
    if (known) {
        cleanup_buffer struct buffer body = { 0 };
        image->target = known->target;
        if (load_manifest(loader, &known->manifest, &body, error) < 0) return -1;
        return image_set_manifest(image, &known->manifest, known->media_type, &body, error);
    }
    if (image_resolve(image, loader->client, error) < 0) return -1;
    keep_blob(loader, &image->digest, image->body.data, image->body.length);
    return 0;
}

static int find_index(struct loader *loader, const struct memory *known,
                      const struct digest *pinned, struct error **error)
{
    struct node_image *node = loader->node;
    node->trust = pinned ? TRUST_PINNED : TRUST_REFERRER;
    if (pinned) {
        node->index_digest = *pinned;
        return 0;
    }
    if (known) {
        node->index_digest = known->index;
        return 0;
    }
    int found = image_find_index(&node->image, loader->client, &node->index_digest, error);
    if (found == 0) return image_without_index(&node->image, error);
    return found < 0 ? -1 : 0;
}

static int load_artifact(struct loader *loader, struct error **error)
{
    struct node_image *node = loader->node;
    cleanup_buffer struct buffer body = { 0 };
    if (load_manifest(loader, &node->index_digest, &body, error) < 0 ||
        index_artifact_decode(&node->artifact, body.data, body.length, error) < 0)
        return error_prefix(error, "index of %s", node->image.name);
    return image_check_index(&node->image, &node->artifact, error);
}

/* ---- parts ---- */

/* The decoded content of a part from the registry, kept in the cache if that can be. */
static int fetch_part(struct loader *loader, const struct index_part *part, struct buffer *ret,
                      bool *ret_kept, struct error **error)
{
    cleanup_buffer struct buffer blob = { 0 };
    char text[DIGEST_TEXT_SIZE];
    if (registry_get_blob(loader->client, &loader->node->image.repository, &part->digest,
                          (size_t)part->size, &blob, error) < 0 ||
        index_part_expand(part, blob.data, blob.length, ret, error) < 0)
        return -1;
    log_info("fetched part %s of the index: %zu bytes, %zu decoded",
             digest_format(&part->digest, text), blob.length, ret->length);
    *ret_kept = keep_blob(loader, &part->content_digest, ret->data, ret->length);
    return 0;
}

/* Maps the metadata out of the cache; 1: it is there and has its digest, 0: it is not. */
static int map_metadata(struct loader *loader, struct error **error)
{
    struct node_image *node = loader->node;
    const struct index_part *part = &node->artifact.metadata;
    cleanup_close int descriptor = -1;
    uint64_t length;
    struct error *reason = NULL;
    if (cache_open_blob(loader->cache, &part->content_digest, &descriptor, &length, &reason) < 0) {
        if (error_kind_of(reason) != ERROR_NOT_FOUND) return error_move(error, reason);
        error_free(reason);
        return 0;
    }
    if (length != part->content_size || length == 0) {
        cache_remove_blob(loader->cache, &part->content_digest);
        return 0;
    }
    void *mapping = mmap(NULL, length, PROT_READ, MAP_SHARED | MAP_POPULATE, descriptor, 0);
    if (mapping == MAP_FAILED) return error_set_errno(error, errno, "map the metadata");
    struct digest digest;
    digest_of(mapping, length, &digest);
    if (!digest_equal(&digest, &part->content_digest)) {
        log_warning("metadata in the cache was damaged; fetching it again");
        munmap(mapping, length);
        cache_remove_blob(loader->cache, &part->content_digest);
        return 0;
    }
    node->mapping = mapping;
    node->mapping_length = length;
    return 1;
}

/* For a cache that could not keep it. */
static int copy_metadata(struct node_image *node, const struct buffer *content,
                         struct error **error)
{
    void *mapping =
        mmap(NULL, content->length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapping == MAP_FAILED) return error_set_errno(error, errno, "memory for the metadata");
    memcpy(mapping, content->data, content->length);
    node->mapping = mapping;
    node->mapping_length = content->length;
    return 0;
}

static int load_metadata(struct loader *loader, struct error **error)
{
    int mapped = map_metadata(loader, error);
    if (mapped) return mapped < 0 ? -1 : 0;
    cleanup_buffer struct buffer content = { 0 };
    bool kept;
    if (fetch_part(loader, &loader->node->artifact.metadata, &content, &kept, error) < 0) return -1;
    if (!kept) return copy_metadata(loader->node, &content, error);
    buffer_free(&content); /* it can be large, and is mapped now */
    mapped = map_metadata(loader, error);
    if (mapped == 0)
        return error_set(error, ERROR_SYSTEM, "what was just written to the cache is not there");
    return mapped < 0 ? -1 : 0;
}

static int load_table(struct loader *loader, size_t layer, struct error **error)
{
    struct node_image *node = loader->node;
    const struct index_part *part = &node->artifact.layers[layer].chunks;
    const struct descriptor *blob = &node->image.manifest.layers[layer];
    cleanup_buffer struct buffer content = { 0 };
    if (cache_get_blob(loader->cache, &part->content_digest, (size_t)part->content_size, &content,
                       NULL) < 0) {
        bool kept;
        content.length = 0;
        if (fetch_part(loader, part, &content, &kept, error) < 0) return -1;
    }
    if (chunk_table_decode(&node->tables[layer], content.data, content.length, error) < 0)
        return -1;
    const struct chunk_table *table = node->tables[layer];
    if (!digest_equal(&table->blob_digest, &blob->digest) || table->blob_length != blob->size ||
        table->windows_length != node->artifact.layers[layer].windows.size)
        return error_set(error, ERROR_INVALID, "chunk table of layer %zu is of another layer",
                         layer + 1);
    return 0;
}

/* parallel_work: position 0 is the metadata, layer i stands at i + 1. */
static int load_part(void *context, size_t position, struct error **error)
{
    struct loader *loader = context;
    int result =
        position == 0 ? load_metadata(loader, error) : load_table(loader, position - 1, error);
    return result < 0 ? error_prefix(error, "index of %s", loader->node->image.name) : 0;
}

static int validate_metadata(struct node_image *node, struct error **error)
{
    size_t count = node->artifact.layer_count;
    cleanup_free uint64_t *lengths = calloc(count, sizeof *lengths);
    if (!lengths) return error_set_memory(error);
    /* The analyzer does not see that parallel_run() has called load_part() for each. */
    for (size_t i = 0; i < count; i++)
        lengths[i] = node->tables[i]->stream_length; // NOLINT(clang-analyzer-core.NullDereference)
    if (erofs_image_open(&node->metadata, node->mapping, node->mapping_length, error) < 0 ||
        erofs_image_validate(&node->metadata, lengths, (uint32_t)count, error) < 0)
        return error_prefix(error, "index of %s: metadata", node->image.name);
    log_info("metadata is valid: %llu inodes, %zu bytes, %zu layers",
             (unsigned long long)node->metadata.inode_count, node->mapping_length, count);
    for (size_t i = 0; i < count; i++) {
        struct digest tag;
        uint64_t length;
        if (erofs_image_device(&node->metadata, (uint32_t)i + 1, &length, &tag, error) < 0)
            return -1;
        if (!digest_equal(&tag, &node->tables[i]->stream_digest))
            return error_set(error, ERROR_INVALID,
                             "index of %s: metadata names another layer %zu than the chunk table",
                             node->image.name, i + 1);
    }
    return 0;
}

static int load_index(struct loader *loader, const struct memory *known,
                      const struct digest *pinned, struct error **error)
{
    struct node_image *node = loader->node;
    char manifest[DIGEST_TEXT_SIZE], index[DIGEST_TEXT_SIZE];
    if (find_index(loader, known, pinned, error) < 0) return -1;
    log_info("%s is %s; its index is %s (%s)", node->image.name,
             digest_format(&node->image.digest, manifest),
             digest_format(&node->index_digest, index),
             pinned  ? "pinned"
             : known ? "known on this node"
                     : "found beside it");
    if (load_artifact(loader, error) < 0) return -1;
    node->tables = calloc(node->artifact.layer_count, sizeof *node->tables);
    if (!node->tables) return error_set_memory(error);
    if (parallel_run(node->artifact.layer_count + 1, FETCHES_AT_ONCE, load_part, loader, error) < 0)
        return -1;
    return validate_metadata(node, error);
}

static void free_index(struct node_image *node)
{
    if (node->tables)
        for (size_t i = 0; i < node->artifact.layer_count; i++)
            chunk_table_free(node->tables[i]);
    free(node->tables);
    node->tables = NULL;
    if (node->mapping) munmap(node->mapping, node->mapping_length);
    node->mapping = NULL;
    node->metadata = (struct erofs_image){ 0 };
    index_artifact_free(&node->artifact);
}

static int load(struct loader *loader, const struct digest *pinned, struct error **error)
{
    struct node_image *node = loader->node;
    struct memory memory;
    struct memory *known = recall(loader->cache, &node->image, &memory) ? &memory : NULL;
    if (known) {
        int current = is_current(loader, known, error);
        if (current < 0) return -1;
        if (!current) known = NULL;
    }
    if (resolve(loader, known, error) < 0) return -1;
    struct error *reason = NULL;
    int result = load_index(loader, known, pinned, &reason);
    if (result < 0 && known && !pinned && error_kind_of(reason) == ERROR_NOT_FOUND) {
        /* Of the index that the node remembers something was lost here, and the registry has it no
         * more: another may have taken its place. */
        log_info("%s; looking for another index", error_message(reason));
        error_free(reason);
        reason = NULL;
        free_index(node);
        known = NULL;
        result = load_index(loader, NULL, NULL, &reason);
    }
    if (result < 0) return error_move(error, reason);
    /* A pinned index must not become what the bare name means. */
    if ((known && digest_equal(&known->index, &node->index_digest)) || pinned) return 0;
    if (remember(loader->cache, node, &reason) < 0) {
        log_warning("%s; without the registry this node will not know the image",
                    error_message(reason));
        error_free(reason);
    }
    return 0;
}

int node_image_load(struct node_image *ret, struct registry_client *client, struct cache *cache,
                    const char *reference, const struct platform *platform,
                    const struct digest *pinned, struct error **error)
{
    struct loader loader = { ret, client, cache };
    *ret = (struct node_image){ 0 };
    if (image_parse(&ret->image, reference, platform, error) < 0) return -1;
    if (load(&loader, pinned, error) == 0) return 0;
    node_image_free(ret);
    return -1;
}

void node_image_free(struct node_image *image)
{
    free_index(image);
    image_free(&image->image);
    *image = (struct node_image){ 0 };
}
