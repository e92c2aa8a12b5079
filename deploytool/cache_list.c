/*
 * A layer in the cache is known by its chunk table alone. Which images use it,
 * and which layer it is, follows from the names that the cache remembers: each
 * names an index, and the index names the tables.
 */
#include "deploytool/cache_list.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/cleanup.h"
#include "deploytool/command.h"
#include "fetcher/registry.h"
#include "index/artifact.h"

/* ---- images ---- */

/* The object of the layer whose chunk table has that digest, made where there is none. */
static json_t *images_of(json_t *by_key, const struct digest *key)
{
    char text[DIGEST_TEXT_SIZE];
    json_t *known = json_object_get(by_key, digest_format(key, text));
    if (known) return known;
    known = json_pack("{s:n, s:[]}", "digest", "images");
    json_object_set_new(by_key, text, known);
    return known;
}

static void add_layers(json_t *by_key, const char *image, const struct index_artifact *artifact)
{
    char text[DIGEST_TEXT_SIZE];
    for (size_t i = 0; i < artifact->layer_count; i++) {
        json_t *known = images_of(by_key, &artifact->layers[i].chunks.content_digest);
        digest_format(&artifact->layers[i].blob_digest, text);
        json_object_set_new(known, "digest", json_string(text));
        json_array_append_new(json_object_get(known, "images"), json_string(image));
    }
}

struct name_walk {
    struct cache *cache;
    json_t *by_key;
};

/* The text is what node_image.c has remembered; another one, or an index that is not here, tells
 * nothing. */
static void look_at_name(void *context, const char *name, const char *text, size_t length)
{
    const struct name_walk *walk = context;
    struct digest index;
    struct index_artifact artifact = { 0 };
    cleanup_buffer struct buffer body = { 0 };
    cleanup_json json_t *memory = json_read_object(text, length, name, NULL);
    const char *image = memory ? json_optional_text(memory, "name") : NULL;
    if (!image || json_field_digest(memory, "index", &index, NULL) < 0 ||
        cache_get_blob(walk->cache, &index, REGISTRY_MANIFEST_LIMIT, &body, NULL) < 0)
        return;
    if (index_artifact_decode(&artifact, body.data, body.length, NULL) == 0)
        add_layers(walk->by_key, image, &artifact);
    index_artifact_free(&artifact);
}

/* ---- layers and mounts ---- */

struct list_walk {
    json_t *by_key, *layers, *mounts;
};

static void look_at_layer(void *context, const struct cache_layer_info *info)
{
    const struct list_walk *walk = context;
    char key[DIGEST_TEXT_SIZE];
    json_t *known = images_of(walk->by_key, &info->key);
    json_array_append_new(
        walk->layers,
        json_pack("{s:s, s:O, s:O, s:I, s:I, s:I, s:I, s:I, s:I, s:b, s:b}", "table",
                  digest_format(&info->key, key), "digest", json_object_get(known, "digest"),
                  "images", json_object_get(known, "images"), "stream_bytes",
                  (json_int_t)info->stream_length, "stored_bytes", (json_int_t)info->stored,
                  "disk_bytes", (json_int_t)info->on_disk, "chunks", (json_int_t)info->chunk_count,
                  "chunks_stored", (json_int_t)info->chunks_stored, "last_use",
                  (json_int_t)info->last_use, "in_use", (int)info->in_use, "sealed",
                  (int)info->sealed));
}

static void look_at_user(void *context, const struct cache_use *use)
{
    const struct list_walk *walk = context;
    json_array_append_new(walk->mounts,
                          json_pack("{s:I, s:s, s:s, s:I, s:I}", "pid", (json_int_t)use->pid,
                                    "image", use->image, "mountpoint", use->mountpoint,
                                    "size_limit", (json_int_t)use->limits.size, "reserve",
                                    (json_int_t)use->limits.reserve));
}

json_t *cache_list(struct cache *cache)
{
    cleanup_json json_t *by_key = json_object();
    cleanup_json json_t *layers = json_array();
    cleanup_json json_t *mounts = json_array();
    if (!by_key || !layers || !mounts) return NULL;
    struct name_walk names = { cache, by_key };
    struct list_walk walk = { by_key, layers, mounts };
    struct cache_sizes sizes;
    cache_each_name(cache, look_at_name, &names);
    cache_each_layer(cache, look_at_layer, &walk);
    cache_each_user(cache, look_at_user, &walk);
    cache_measure(cache, &sizes);
    return json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:O, s:O}", "cache", cache_directory(cache),
                     "disk_bytes", (json_int_t)sizes.on_disk, "layer_bytes",
                     (json_int_t)sizes.layers, "blobs", (json_int_t)sizes.blob_count, "blob_bytes",
                     (json_int_t)sizes.blobs, "names", (json_int_t)sizes.name_count, "layers",
                     layers, "mounts", mounts);
}

/* ---- as text ---- */

static uint64_t size_of(const json_t *object, const char *field)
{
    json_int_t value = json_integer_value(json_object_get(object, field));
    return value > 0 ? (uint64_t)value : 0;
}

/* What a file of the cache says may be any text: nothing of it steers a terminal. */
static void print_text(const json_t *object, const char *field)
{
    const char *text = json_optional_text(object, field);
    for (; text && *text; text++)
        putchar((unsigned char)*text < 0x20 || *text == 0x7f ? '?' : *text);
}

static void print_age(uint64_t last_use)
{
    static const struct {
        const char *name;
        uint64_t seconds;
    } units[] = { { "d", 86400 }, { "h", 3600 }, { "min", 60 }, { "s", 1 } };
    uint64_t now = (uint64_t)time(NULL), age = now > last_use ? now - last_use : 0;
    size_t i = 0;
    while (i < 3 && age < units[i].seconds)
        i++;
    if (last_use == 0)
        printf("not used");
    else
        printf("used %llu %s ago", (unsigned long long)(age / units[i].seconds), units[i].name);
}

static void print_layer(const json_t *layer)
{
    char stored[SIZE_TEXT_SIZE], stream[SIZE_TEXT_SIZE];
    const char *digest = json_optional_text(layer, "digest");
    size_t i;
    json_t *image;
    printf("layer %.19s  %s of %s, %llu of %llu chunks, ",
           digest ? digest : json_optional_text(layer, "table"),
           format_size(size_of(layer, "stored_bytes"), stored),
           format_size(size_of(layer, "stream_bytes"), stream),
           (unsigned long long)size_of(layer, "chunks_stored"),
           (unsigned long long)size_of(layer, "chunks"));
    print_age(size_of(layer, "last_use"));
    printf("%s", json_is_true(json_object_get(layer, "sealed")) ? ", sealed" : "");
    puts(json_is_true(json_object_get(layer, "in_use")) ? ", in use" : "");
    json_array_foreach(json_object_get(layer, "images"), i, image)
    {
        cleanup_json json_t *line = json_pack("{s:O}", "image", image);
        printf("  of ");
        print_text(line, "image");
        putchar('\n');
    }
}

static void print_mount(const json_t *mount)
{
    char limit[SIZE_TEXT_SIZE], reserve[SIZE_TEXT_SIZE];
    uint64_t size = size_of(mount, "size_limit");
    printf("mount ");
    print_text(mount, "mountpoint");
    printf("  ");
    print_text(mount, "image");
    printf(", server %llu, cache size %s, reserve %s\n", (unsigned long long)size_of(mount, "pid"),
           size ? format_size(size, limit) : "not bounded",
           format_size(size_of(mount, "reserve"), reserve));
}

void cache_list_print(const json_t *list)
{
    char all[SIZE_TEXT_SIZE], layers[SIZE_TEXT_SIZE], blobs[SIZE_TEXT_SIZE];
    size_t i;
    json_t *entry;
    json_array_foreach(json_object_get(list, "layers"), i, entry) print_layer(entry);
    json_array_foreach(json_object_get(list, "mounts"), i, entry) print_mount(entry);
    size_t layer_count = json_array_size(json_object_get(list, "layers"));
    uint64_t blob_count = size_of(list, "blobs");
    printf("total %s on disk: %zu layer%s of %s, %llu part%s of indexes of %s\n",
           format_size(size_of(list, "disk_bytes"), all), layer_count, plural(layer_count),
           format_size(size_of(list, "layer_bytes"), layers), (unsigned long long)blob_count,
           plural(blob_count), format_size(size_of(list, "blob_bytes"), blobs));
}
