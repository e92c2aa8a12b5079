#include "deploytool/index_build-internal.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/parallel.h"
#include "index/erofs_image.h"
#include "index/merge.h"

/* Configs are small; a megabyte of history and labels is already odd. */

struct index_build {
    const struct image *image;
    struct registry_client *client;
    const struct mapping *const *blobs; /* or NULL */
    struct image_config config;
    struct index_progress *progress;
    struct built_index *index;
    size_t *image_layer; /* a position in the image for each different layer */
};

/* ---- one layer ---- */

struct layer_source {
    struct blob_stream *stream; /* or */
    const struct mapping *blob;
    size_t position; /* in `blob` */
    struct index_progress *progress;
};

static ssize_t read_layer(void *context, void *data, size_t capacity, struct error **error)
{
    struct layer_source *source = context;
    ssize_t count = blob_stream_read(source->stream, data, capacity, error);
    if (count > 0) atomic_fetch_add(&source->progress->bytes_read, (uint64_t)count);
    return count;
}

/* layer_read. What a damaged mapping gives has another digest. */
static ssize_t read_mapped(void *context, void *data, size_t capacity, struct error **error)
{
    (void)error;
    struct layer_source *source = context;
    size_t left = mapping_length(source->blob) - source->position;
    size_t count = capacity < left ? capacity : left;
    memcpy(data, (const uint8_t *)mapping_data(source->blob) + source->position, count);
    source->position += count;
    atomic_fetch_add(&source->progress->bytes_read, (uint64_t)count);
    return (ssize_t)count;
}

int built_part_pack(struct built_part *part, const struct buffer *content, struct error **error)
{
    if (index_part_compress(content->data, content->length, &part->blob, error) < 0) return -1;
    digest_of(content->data, content->length, &part->part.content_digest);
    part->part.content_size = content->length;
    digest_of(part->blob.data, part->blob.length, &part->part.digest);
    part->part.size = part->blob.length;
    return 0;
}

static int pack_layer(struct built_layer *layer, struct error **error)
{
    cleanup_buffer struct buffer chunks = { 0 }, entries = { 0 };
    if (chunk_table_encode(layer->tables.chunks, &chunks, error) < 0 ||
        built_part_pack(&layer->chunks, &chunks, error) < 0 ||
        entry_table_encode(layer->tables.entries, &entries, error) < 0 ||
        built_part_pack(&layer->entries, &entries, error) < 0)
        return -1;
    struct built_part *windows = &layer->windows;
    windows->blob = layer->tables.windows;
    layer->tables.windows = (struct buffer){ 0 };
    windows->part.size = windows->part.content_size = windows->blob.length;
    digest_of(windows->blob.data, windows->blob.length, &windows->part.digest);
    windows->part.content_digest = windows->part.digest;
    return 0;
}

static int build_layer(void *context, size_t position, struct error **error)
{
    struct index_build *build = context;
    const struct image *image = build->image;
    size_t number = build->image_layer[position];
    const struct descriptor *descriptor = &image->manifest.layers[number];
    struct built_layer *layer = &build->index->layers[position];
    struct layer_source source = { .progress = build->progress };
    int result = 0;
    if (build->blobs)
        source.blob = build->blobs[number];
    else
        result = registry_open_blob(build->client, &image->repository, &descriptor->digest,
                                    descriptor->size, &source.stream, error);
    if (result == 0)
        result = layer_scan(build->blobs ? read_mapped : read_layer, &source, descriptor->size,
                            &descriptor->digest, &build->config.stream_digests[number],
                            &layer->tables, error);
    if (source.stream) blob_stream_close(source.stream);
    if (result == 0) result = pack_layer(layer, error);
    if (result < 0) {
        char text[DIGEST_TEXT_SIZE];
        return error_prefix(error, "image %s: layer %zu (%.19s)", image->name, number + 1,
                            digest_format(&descriptor->digest, text));
    }
    if (build->progress->layer_done)
        build->progress->layer_done(build->progress->context, number, layer);
    return 0;
}

/* ---- the image ---- */

static int fetch_config(struct index_build *build, struct error **error)
{
    const struct image *image = build->image;
    cleanup_buffer struct buffer body = { 0 };
    if (registry_get_blob(build->client, &image->repository, &image->manifest.config.digest,
                          IMAGE_CONFIG_LENGTH_MAX, &body, error) < 0)
        return -1;
    if (image_config_parse(&build->config, body.data, body.length, error) < 0)
        return error_prefix(error, "image %s", image->name);
    if (build->config.layer_count != image->manifest.layer_count)
        return error_set(error, ERROR_INVALID,
                         "image %s: its config names %zu layers and its manifest %zu", image->name,
                         build->config.layer_count, image->manifest.layer_count);
    return 0;
}

/* Gives each different layer one place: images may hold the same layer several times. */
static int plan_layers(struct index_build *build, struct error **error)
{
    const struct image_manifest *manifest = &build->image->manifest;
    struct built_index *index = build->index;
    size_t count = manifest->layer_count;
    index->layers = calloc(count, sizeof *index->layers);
    index->layer_of = calloc(count, sizeof *index->layer_of);
    build->image_layer = calloc(count, sizeof *build->image_layer);
    if (!index->layers || !index->layer_of || !build->image_layer) return error_set_memory(error);
    index->layer_count = count;
    for (size_t i = 0; i < count; i++) {
        size_t first = 0;
        while (!digest_equal(&manifest->layers[first].digest, &manifest->layers[i].digest))
            first++;
        if (first < i) {
            index->layer_of[i] = index->layer_of[first];
            continue;
        }
        build->image_layer[index->different_count] = i;
        index->layer_of[i] = index->different_count++;
    }
    return 0;
}

static int build_metadata(struct index_build *build, struct error **error)
{
    struct built_index *index = build->index;
    cleanup_free struct merge_layer *layers = calloc(index->layer_count, sizeof *layers);
    cleanup_free uint64_t *lengths = calloc(index->layer_count, sizeof *lengths);
    cleanup_buffer struct buffer metadata = { 0 };
    if (!layers || !lengths) return error_set_memory(error);
    for (size_t i = 0; i < index->layer_count; i++) {
        const struct layer_tables *tables = &index->layers[index->layer_of[i]].tables;
        layers[i] = (struct merge_layer){ tables->entries, tables->chunks->stream_length,
                                          tables->chunks->stream_digest };
        lengths[i] = tables->chunks->stream_length;
    }
    struct erofs_image erofs;
    if (merge_layers(layers, index->layer_count, &metadata, error) < 0)
        return error_prefix(error, "image %s", build->image->name);
    /* What no node would accept must not be pushed. */
    if (erofs_image_open(&erofs, metadata.data, metadata.length, error) < 0 ||
        erofs_image_validate(&erofs, lengths, (uint32_t)index->layer_count, error) < 0)
        return error_prefix(error, "image %s: the metadata made for it", build->image->name);
    index->inode_count = erofs.inode_count;
    return built_part_pack(&index->metadata, &metadata, error);
}

int built_index_encode(struct built_index *index, struct error **error)
{
    buffer_free(&index->manifest);
    if (index_artifact_encode(&index->artifact, &index->manifest, error) < 0) return -1;
    digest_of(index->manifest.data, index->manifest.length, &index->digest);
    return 0;
}

static int build_artifact(struct index_build *build, struct error **error)
{
    const struct image *image = build->image;
    struct built_index *index = build->index;
    struct index_artifact *artifact = &index->artifact;
    artifact->subject = image->digest;
    artifact->subject_size = image->body.length;
    artifact->subject_media_type = strdup(image->media_type);
    artifact->metadata = index->metadata.part;
    artifact->layers = calloc(index->layer_count, sizeof *artifact->layers);
    if (!artifact->subject_media_type || !artifact->layers) return error_set_memory(error);
    artifact->layer_count = index->layer_count;
    for (size_t i = 0; i < index->layer_count; i++) {
        const struct built_layer *layer = &index->layers[index->layer_of[i]];
        artifact->layers[i] = (struct index_layer){ .blob_digest = image->manifest.layers[i].digest,
                                                    .chunks = layer->chunks.part,
                                                    .entries = layer->entries.part,
                                                    .windows = layer->windows.part };
    }
    return built_index_encode(index, error);
}

int index_build(const struct image *image, struct registry_client *client, unsigned threads,
                const struct mapping *const *blobs, struct index_progress *progress,
                struct built_index *ret, struct error **error)
{
    *ret = (struct built_index){ 0 };
    struct index_build build = {
        .image = image, .client = client, .blobs = blobs, .progress = progress, .index = ret
    };
    if (threads == 0) threads = (unsigned)sysconf(_SC_NPROCESSORS_ONLN);
    int result = fetch_config(&build, error);
    if (result == 0) result = plan_layers(&build, error);
    if (result == 0)
        result = parallel_run(ret->different_count, threads, build_layer, &build, error);
    if (result == 0) result = build_metadata(&build, error);
    if (result == 0) result = build_artifact(&build, error);
    image_config_free(&build.config);
    free(build.image_layer);
    if (result < 0) built_index_free(ret);
    return result;
}

void built_index_free(struct built_index *index)
{
    for (size_t i = 0; i < index->different_count; i++) {
        struct built_layer *layer = &index->layers[i];
        layer_tables_free(&layer->tables);
        buffer_free(&layer->chunks.blob);
        buffer_free(&layer->entries.blob);
        buffer_free(&layer->windows.blob);
    }
    free(index->layers);
    free(index->layer_of);
    buffer_free(&index->metadata.blob);
    buffer_free(&index->profile.blob);
    buffer_free(&index->manifest);
    index_artifact_free(&index->artifact);
    *index = (struct built_index){ 0 };
}

int built_index_each_part(const struct built_index *index,
                          int (*each)(void *context, const struct built_part *part), void *context)
{
    int result = each(context, &index->metadata);
    for (size_t i = 0; result == 0 && i < index->different_count; i++) {
        const struct built_layer *layer = &index->layers[i];
        result = each(context, &layer->chunks);
        if (result == 0) result = each(context, &layer->entries);
        if (result == 0 && layer->windows.part.size) result = each(context, &layer->windows);
    }
    if (result == 0 && index->profile.part.size) result = each(context, &index->profile);
    return result;
}
