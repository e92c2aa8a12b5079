#include <stdlib.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/json.h"
#include "node/mounted_image-internal.h"

static void add_size(json_t *object, const char *name, uint64_t value)
{
    json_object_set_new(object, name, json_integer((json_int_t)value));
}

static void add_text(json_t *object, const char *name, const char *value)
{
    json_object_set_new(object, name, value ? json_any_text(value) : json_null());
}

static json_t *layer_status(const struct mounted_image *image, size_t layer)
{
    char digest[DIGEST_TEXT_SIZE], stream[DIGEST_TEXT_SIZE];
    uint32_t chunks_present;
    uint64_t bytes_present;
    const struct chunk_table *table = image->image.tables[layer];
    struct digest note;
    struct layer_device_statistics fetched;
    layer_device_presence(image->devices[layer], &chunks_present, &bytes_present);
    layer_device_statistics(image->devices[layer], &fetched);
    bool sealed = layer_cache_is_sealed(layer_device_cache(image->devices[layer]), &note);
    bool file = image->front && front_has_file(image->front, (uint32_t)layer);
    return json_pack("{s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:b, s:s, s:I, s:I, s:I}", "digest",
                     digest_format(&table->blob_digest, digest), "stream_digest",
                     digest_format(&table->stream_digest, stream), "kind",
                     layer_kind_name(table->kind), "chunks", (json_int_t)table->chunk_count,
                     "chunks_present", (json_int_t)chunks_present, "bytes_present",
                     (json_int_t)bytes_present, "stream_bytes", (json_int_t)table->stream_length,
                     "blob_bytes", (json_int_t)table->blob_length, "sealed", (int)sealed, "device",
                     file ? "file" : "fuse", "chunks_fetched", (json_int_t)fetched.chunks_fetched,
                     "bytes_fetched", (json_int_t)fetched.bytes_fetched, "mounts",
                     (json_int_t)shared_layer_shares(image->shares[layer]));
}

static void add_layers(json_t *root, const struct mounted_image *image)
{
    json_t *layers = json_array();
    for (size_t i = 0; i < image->device_count; i++)
        json_array_append_new(layers, layer_status(image, i));
    json_object_set_new(root, "layers", layers);
}

/* Since the layers were opened, by whichever image. */
static void add_fetched(json_t *root, const struct mounted_image *image)
{
    struct layer_device_statistics layer, all = { 0 };
    for (size_t i = 0; i < image->device_count; i++) {
        layer_device_statistics(image->devices[i], &layer);
        all.chunks_fetched += layer.chunks_fetched;
        all.bytes_fetched += layer.bytes_fetched;
    }
    add_size(root, "chunks_fetched", all.chunks_fetched);
    add_size(root, "bytes_fetched", all.bytes_fetched);
}

/* The newest of its layers, for which another image may have come first. */
static char *last_error(const struct mounted_image *image)
{
    char *newest = NULL;
    uint64_t age = UINT64_MAX;
    for (size_t i = 0; i < image->device_count; i++) {
        uint64_t layer_age;
        cleanup_free char *text = layer_device_last_error(image->devices[i], &layer_age);
        if (!text || layer_age > age) continue;
        free(newest);
        newest = take_pointer(&text);
        age = layer_age;
    }
    return newest;
}

static void add_errors(json_t *root, const struct mounted_image *image)
{
    const struct device_reader *reader = &image->reader;
    uint64_t failed_at = reader->failed_at, now = clock_ms();
    add_size(root, "errors", reader->errors);
    if (!failed_at) {
        add_text(root, "last_error", NULL);
        return;
    }
    cleanup_free char *text = last_error(image);
    add_text(root, "last_error", text);
    add_size(root, "last_error_seconds_ago", now > failed_at ? (now - failed_at) / 1000 : 0);
}

static void add_reads(json_t *root, const struct mounted_image *image)
{
    const struct device_reader *reader = &image->reader;
    add_size(root, "bytes_served", reader->bytes_served);
    add_size(root, "reads_hit", reader->reads_hit);
    add_size(root, "reads_missed", reader->reads_missed);
    add_size(root, "reads_waiting", reader->reads_waiting);
    add_size(root, "oldest_wait_ms", data_path_oldest_wait_ms(image->node->path, reader));
}

/* With the lock. */
static json_t *status_of(const struct mounted_image *image)
{
    char digest[DIGEST_TEXT_SIZE];
    const struct node_image *node = &image->image;
    json_t *root = json_object();
    if (!root) return NULL;
    add_text(root, "reference", node->image.name);
    add_text(root, "manifest_digest", digest_format(&node->image.digest, digest));
    add_text(root, "index_digest", digest_format(&node->index_digest, digest));
    add_text(root, "trust", index_trust_name(node->trust));
    add_text(root, "mountpoint", image->options.mountpoint);
    add_text(root, "front", image->front ? front_name(image->front) : NULL);
    add_text(root, "front_reason", image->front ? front_reason(image->front) : NULL);
    add_size(root, "image_bytes", image_blob_bytes(&node->image));
    add_size(root, "entries", node->metadata.inode_count);
    const struct mapping *metadata = node->metadata_content.mapping;
    json_object_set_new(root, "metadata_damaged",
                        json_boolean(metadata && mapping_is_damaged(metadata)));
    json_object_set_new(root, "profile", profile_player_status(image->profile));
    json_object_set_new(root, "fill", fill_status(image->fill));
    add_layers(root, image);
    add_fetched(root, image);
    add_reads(root, image);
    add_errors(root, image);
    return root;
}

json_t *mounted_image_status(struct mounted_image *image)
{
    pthread_mutex_lock(&image->status_lock);
    json_t *status = !image->stopping ? status_of(image) : NULL;
    pthread_mutex_unlock(&image->status_lock);
    return status;
}
