#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/json.h"
#include "base/log.h"
#include "base/parallel.h"
#include "deploytool/command.h"
#include "deploytool/profile_files.h"
#include "index/artifact.h"
#include "index/chunk_table.h"
#include "index/entry_table.h"
#include "index/erofs_image.h"
#include "node/image.h"
#include "node/part_fetch.h"
#include "node/profile_part.h"
#include "node/trust.h"

#define FETCHES_AT_ONCE 4

struct inspected_layer {
    enum layer_kind kind;
    uint64_t blob_bytes, stream_bytes;
    uint32_t chunks, checkpoints, windows;
    bool kept_whole;
    uint64_t largest_chunk;
    uint64_t entries;
};

enum { OPTION_PROFILE = OPTION_OWN };

struct inspection {
    struct image image;
    struct registry_client *client;
    struct chosen_index index;
    struct index_artifact artifact;
    struct inspected_layer *layers;
    struct chunk_table **tables;
    uint64_t inodes;
    struct profile profile;
    char *profile_fault; /* why it is of no use; NULL: it is, or there is none */
};

static int inspect_metadata(struct inspection *inspection, struct error **error)
{
    struct mapping *mapping;
    struct erofs_image erofs;
    if (part_fetch_mapped(inspection->client, &inspection->image.repository,
                          &inspection->artifact.metadata, &mapping, error) < 0)
        return -1;
    int result = erofs_image_open(&erofs, mapping_data(mapping), mapping_length(mapping), error);
    if (result == 0 && mapping_is_damaged(mapping))
        result = error_set(error, ERROR_SYSTEM, "a temporary file cannot be read");
    inspection->inodes = result == 0 ? erofs.inode_count : 0;
    mapping_free(mapping);
    return result;
}

static int inspect_chunks(struct inspection *inspection, size_t layer, struct error **error)
{
    struct inspected_layer *found = &inspection->layers[layer];
    cleanup_buffer struct buffer content = { 0 };
    struct chunk_table *table;
    /* The artifact bounds their sum. */
    if (part_fetch_buffer(inspection->client, &inspection->image.repository,
                          &inspection->artifact.layers[layer].chunks, &content, error) < 0 ||
        chunk_table_decode(&table, content.data, content.length, error) < 0)
        return -1;
    found->kind = table->kind;
    found->blob_bytes = table->blob_length;
    found->stream_bytes = table->stream_length;
    found->chunks = table->chunk_count;
    found->windows = table->window_count;
    found->kept_whole = chunk_table_is_read_forward(table);
    for (uint32_t i = 0; i < table->chunk_count; i++) {
        if (table->chunks[i].start != CHUNK_CONTINUES) found->checkpoints++;
        if (chunk_length(table, i) > found->largest_chunk)
            found->largest_chunk = chunk_length(table, i);
    }
    inspection->tables[layer] = table;
    return 0;
}

struct head {
    uint8_t bytes[ENTRY_TABLE_HEAD_BYTES];
    size_t length;
};

/* part_write: the first bytes are all that is looked at. */
static int take_head(void *context, const void *data, size_t length, struct error **error)
{
    (void)error;
    struct head *head = context;
    size_t more = sizeof head->bytes - head->length;
    if (more > length) more = length;
    memcpy(head->bytes + head->length, data, more);
    head->length += more;
    return 0;
}

static int forget_head(void *context, struct error **error)
{
    (void)error;
    struct head *head = context;
    head->length = 0;
    return 0;
}

static int inspect_entries(struct inspection *inspection, size_t layer, struct error **error)
{
    struct head head = { 0 };
    struct part_sink sink = { .write = take_head, .restart = forget_head, .context = &head };
    if (part_fetch(inspection->client, &inspection->image.repository,
                   &inspection->artifact.layers[layer].entries, &sink, error) < 0)
        return -1;
    return entry_table_read_count(head.bytes, head.length, &inspection->layers[layer].entries,
                                  error);
}

static int inspect_layer(struct inspection *inspection, size_t layer, struct error **error)
{
    int result = inspect_chunks(inspection, layer, error);
    return result == 0 ? inspect_entries(inspection, layer, error) : result;
}

/* parallel_work: position 0 is the metadata, layer i stands at i + 1. */
static int inspect_part(void *context, size_t position, struct error **error)
{
    struct inspection *inspection = context;
    int result = position == 0 ? inspect_metadata(inspection, error)
                               : inspect_layer(inspection, position - 1, error);
    return result < 0 ? error_prefix(error, "index of %s", inspection->image.name) : 0;
}

/* Mounts do without a profile that is no good, and so does this. */
static int inspect_profile(struct inspection *inspection, struct error **error)
{
    const struct index_artifact *artifact = &inspection->artifact;
    cleanup_buffer struct buffer content = { 0 };
    cleanup_free struct profile_layer *layers = profile_layers_of(artifact, inspection->tables);
    cleanup_error struct error *reason = NULL;
    if (!layers) return error_set_memory(error);
    if (artifact->profile.size == 0) return 0;
    if (profile_part_fetch(inspection->client, &inspection->image.repository, &artifact->profile,
                           &content, &reason) == 0 &&
        profile_decode(&inspection->profile, content.data, content.length, layers,
                       artifact->layer_count, &reason) == 0)
        return 0;
    inspection->profile_fault = strdup(error_message(reason));
    return inspection->profile_fault ? 0 : error_set_memory(error);
}

static int inspect(struct inspection *inspection, struct error **error)
{
    char text[DIGEST_TEXT_SIZE];
    struct image *image = &inspection->image;
    struct registry_manifest manifest = { 0 };
    if (image_resolve(image, inspection->client, error) < 0) return -1;
    if (index_choose(image, inspection->client, NULL, NULL, &inspection->index, error) < 0 ||
        registry_get_manifest(inspection->client, &image->repository,
                              digest_format(&inspection->index.digest, text), &manifest, error) < 0)
        return -1;
    int result = index_artifact_decode(&inspection->artifact, manifest.body.data,
                                       manifest.body.length, error);
    registry_manifest_free(&manifest);
    if (result < 0) return error_prefix(error, "index of %s", image->name);
    if (image_check_index(image, &inspection->artifact, &inspection->index.digest, error) < 0)
        return -1;
    inspection->layers = calloc(inspection->artifact.layer_count, sizeof *inspection->layers);
    inspection->tables = calloc(inspection->artifact.layer_count, sizeof *inspection->tables);
    if (!inspection->layers || !inspection->tables) return error_set_memory(error);
    if (parallel_run(inspection->artifact.layer_count + 1, FETCHES_AT_ONCE, inspect_part,
                     inspection, error) < 0)
        return -1;
    return inspect_profile(inspection, error);
}

static void inspection_free(struct inspection *inspection)
{
    for (size_t i = 0; inspection->tables && i < inspection->artifact.layer_count; i++)
        chunk_table_free(inspection->tables[i]);
    free(inspection->tables);
    free(inspection->layers);
    profile_free(&inspection->profile);
    free(inspection->profile_fault);
    registry_client_free(inspection->client);
    index_artifact_free(&inspection->artifact);
    image_free(&inspection->image);
}

/* ---- output ---- */

struct part_sums {
    uint64_t metadata, chunks, entries, windows, profile, before_mount, all;
};

static struct part_sums sum_parts(const struct index_artifact *artifact)
{
    struct part_sums sums = { .metadata = artifact->metadata.size,
                              .profile = artifact->profile.size };
    for (size_t i = 0; i < artifact->layer_count; i++) {
        sums.chunks += artifact->layers[i].chunks.size;
        sums.entries += artifact->layers[i].entries.size;
        sums.windows += artifact->layers[i].windows.size;
    }
    sums.before_mount = sums.metadata + sums.chunks;
    sums.all = sums.before_mount + sums.entries + sums.windows + sums.profile;
    return sums;
}

static json_t *layer_json(const struct inspection *inspection, size_t i)
{
    char digest[DIGEST_TEXT_SIZE];
    const struct inspected_layer *layer = &inspection->layers[i];
    const struct index_layer *parts = &inspection->artifact.layers[i];
    return json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:b}", "digest",
                     digest_format(&parts->blob_digest, digest), "kind",
                     layer_kind_name(layer->kind), "blob_bytes", (json_int_t)layer->blob_bytes,
                     "stream_bytes", (json_int_t)layer->stream_bytes, "chunks",
                     (json_int_t)layer->chunks, "checkpoints", (json_int_t)layer->checkpoints,
                     "windows", (json_int_t)layer->windows, "largest_chunk_bytes",
                     (json_int_t)layer->largest_chunk, "entries", (json_int_t)layer->entries,
                     "chunk_table_bytes", (json_int_t)parts->chunks.size, "entry_table_bytes",
                     (json_int_t)parts->entries.size, "windows_bytes",
                     (json_int_t)parts->windows.size, "kept_whole", (int)layer->kept_whole);
}

/* NULL: there is no profile. */
static json_t *profile_json(const struct inspection *inspection, bool with_files)
{
    const struct profile *profile = &inspection->profile;
    if (inspection->artifact.profile.size == 0) return json_null();
    json_t *root = json_pack("{s:I}", "part_bytes", (json_int_t)inspection->artifact.profile.size);
    if (inspection->profile_fault) {
        json_object_set_new(root, "fault", json_any_text(inspection->profile_fault));
        return root;
    }
    json_object_set_new(root, "chunks", json_integer((json_int_t)profile->chunk_count));
    json_object_set_new(root, "entries", json_integer((json_int_t)profile->entry_count));
    json_object_set_new(
        root, "bytes", json_integer((json_int_t)profile_stream_bytes(profile, inspection->tables)));
    json_object_set_new(root, "blob_bytes",
                        json_integer((json_int_t)profile_blob_bytes(profile, inspection->tables)));
    if (with_files)
        json_object_set_new(root, "files", profile_files_json(profile, inspection->tables));
    return root;
}

static int print_json(const struct inspection *inspection, bool files, struct error **error)
{
    char platform[PLATFORM_TEXT_SIZE], manifest[DIGEST_TEXT_SIZE], index[DIGEST_TEXT_SIZE];
    struct part_sums sums = sum_parts(&inspection->artifact);
    json_t *layers = json_array();
    for (size_t i = 0; i < inspection->artifact.layer_count; i++)
        json_array_append_new(layers, layer_json(inspection, i));
    cleanup_json json_t *root = json_pack(
        "{s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o}", "reference",
        inspection->image.name, "platform", platform_format(&inspection->image.platform, platform),
        "manifest_digest", digest_format(&inspection->image.digest, manifest), "index_digest",
        digest_format(&inspection->index.digest, index), "trust",
        index_trust_name(inspection->index.trust), "image_bytes",
        (json_int_t)image_blob_bytes(&inspection->image), "inodes", (json_int_t)inspection->inodes,
        "metadata_bytes", (json_int_t)sums.metadata, "chunk_table_bytes", (json_int_t)sums.chunks,
        "entry_table_bytes", (json_int_t)sums.entries, "windows_bytes", (json_int_t)sums.windows,
        "bytes_before_mount", (json_int_t)sums.before_mount, "index_bytes", (json_int_t)sums.all,
        "layers", layers);
    if (!root) return error_set_memory(error);
    json_object_set_new(root, "profile", profile_json(inspection, files));
    json_dumpf(root, stdout, JSON_INDENT(2));
    putchar('\n');
    return 0;
}

static void print_profile(const struct inspection *inspection, bool files)
{
    const struct profile *profile = &inspection->profile;
    char a[SIZE_TEXT_SIZE], chunks[COUNT_TEXT_SIZE], paths[COUNT_TEXT_SIZE];
    if (inspection->artifact.profile.size == 0) return;
    if (inspection->profile_fault) {
        printf("  profile   of no use: %s\n", inspection->profile_fault);
        return;
    }
    printf("  profile   %s chunks (%s) that are fetched ahead, because of %s files\n",
           format_count(profile->chunk_count, chunks),
           format_size(profile_blob_bytes(profile, inspection->tables), a),
           format_count(profile->path_count, paths));
    if (files) profile_files_print(profile, inspection->tables);
}

static void print_text(const struct inspection *inspection, bool files)
{
    struct part_sums sums = sum_parts(&inspection->artifact);
    char a[SIZE_TEXT_SIZE], b[SIZE_TEXT_SIZE], c[SIZE_TEXT_SIZE], d[SIZE_TEXT_SIZE];
    char digest[DIGEST_TEXT_SIZE], platform[PLATFORM_TEXT_SIZE];
    char count[COUNT_TEXT_SIZE], more[COUNT_TEXT_SIZE];
    uint64_t image_bytes = image_blob_bytes(&inspection->image);
    printf("%s (%s)\n", inspection->image.name,
           platform_format(&inspection->image.platform, platform));
    printf("  manifest  %s\n", digest_format(&inspection->image.digest, digest));
    printf("  index     %s (%s)\n", digest_format(&inspection->index.digest, digest),
           index_trust_name(inspection->index.trust));
    printf("  size      %s, %.2f %% of the image's %s; a node fetches %s before it mounts\n",
           format_size(sums.all, a), image_bytes ? (double)sums.all * 100 / (double)image_bytes : 0,
           format_size(image_bytes, b), format_size(sums.before_mount, c));
    printf("  parts     metadata %s, chunk tables %s, entry tables %s, gzip windows %s\n",
           format_size(sums.metadata, a), format_size(sums.chunks, b), format_size(sums.entries, c),
           format_size(sums.windows, d));
    printf("  tree      %s inodes\n", format_count(inspection->inodes, count));
    print_profile(inspection, files);
    for (size_t i = 0; i < inspection->artifact.layer_count; i++) {
        const struct inspected_layer *layer = &inspection->layers[i];
        printf("  layer %zu   %.19s %s: %s (%s unpacked), %s chunks, %s entries%s\n", i + 1,
               digest_format(&inspection->artifact.layers[i].blob_digest, digest),
               layer_kind_name(layer->kind), format_size(layer->blob_bytes, a),
               format_size(layer->stream_bytes, b), format_count(layer->chunks, count),
               format_count(layer->entries, more),
               layer->kept_whole
                   ? "; one long zstd frame: read forward as a stream, kept whole in the cache"
               : layer->chunks > 8 * (uint64_t)layer->checkpoints
                   ? "; few places to start decoding: read forward as a stream"
                   : "");
    }
}

static enum exit_code run(int argc, char **argv)
{
    static const struct option options[] = {
        IMAGE_OPTIONS,
        JSON_LONG,
        { "profile", no_argument, NULL, OPTION_PROFILE },
        { 0 },
    };
    struct common_options common;
    struct inspection inspection = { 0 };
    struct error *error = NULL;
    enum exit_code code;
    bool files = false;
    int option;
    common_options_init(&common);
    while ((option = getopt_long(argc, argv, "hv", options, NULL)) != -1)
        if (option == OPTION_PROFILE)
            files = true;
        else if (!command_option(&inspect_command, &common, option, &code))
            return code;
    if (!command_arguments(&inspect_command, argc, 1, 1, &code)) return code;
    if (image_parse(&inspection.image, argv[optind], common_platform(&common), &error) < 0)
        return command_failed(error);
    struct registry_options registry = { .plain_http = common.plain_http,
                                         .hosts_directory = common.hosts_directory };
    inspection.client = registry_client_new(&registry, &error);
    if (!inspection.client || inspect(&inspection, &error) < 0)
        code = command_failed(error);
    else if (common.json && print_json(&inspection, files, &error) < 0)
        code = command_failed(error);
    else {
        if (!common.json) print_text(&inspection, files);
        code = command_finish();
    }
    inspection_free(&inspection);
    return code;
}

const struct command inspect_command = {
    .name = "inspect",
    .arguments = "REF",
    .summary = "show what the index of an image holds and what it costs",
    .help = "  --platform OS/ARCH[/VARIANT]  of a multi-platform image (this machine's)\n"
            "  --plain-http    speak HTTP (loopback registries: always)\n"
            "  --hosts-dir DIR mirrors and certificates (/etc/containerd/certs.d, then\n"
            "                  /etc/docker/certs.d)\n"
            "  --profile       also list the files that the profile is of, in their order\n"
            "  --json          print it as JSON\n"
            "  -v, --verbose   tell more\n\n"
            "example: sluice inspect registry.example.com/team/app:1.2\n",
    .run = run,
};
