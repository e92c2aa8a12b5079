#include "snapshotter/layer_uses.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/json.h"
#include "snapshotter/lazy_record.h"

#define FILE_LENGTH_MAX (64u << 20)

struct layer_use {
    char *image;
    struct digest blob;
    struct lazy_use use;
    uint64_t count;
};

struct layer_uses {
    pthread_mutex_t lock;
    char *path;
    struct layer_use *entries;
    size_t count, capacity;
};

/* ---- the file; under the lock ---- */

static int write_down(const struct layer_uses *uses, struct error **error)
{
    char blob[DIGEST_TEXT_SIZE];
    json_t *layers = json_array();
    cleanup_json json_t *root = json_pack("{s:o}", "layers", layers);
    for (size_t i = 0; i < uses->count; i++) {
        const struct layer_use *entry = &uses->entries[i];
        json_array_append_new(layers,
                              json_pack("{s:s, s:s, s:I, s:i, s:I}", "image", entry->image, "blob",
                                        digest_format(&entry->blob, blob), "number",
                                        (json_int_t)entry->use.image, "layers",
                                        (int)entry->use.layers, "uses", (json_int_t)entry->count));
    }
    cleanup_free char *text = root ? json_dumps(root, JSON_INDENT(1)) : NULL;
    if (!text || json_array_size(layers) != uses->count) return error_set_memory(error);
    return file_write_atomic(uses->path, text, strlen(text), 0600, error);
}

static struct layer_use *append(struct layer_uses *uses, const char *image)
{
    if (uses->count == uses->capacity) {
        size_t capacity = uses->capacity ? 2 * uses->capacity : 16;
        struct layer_use *entries = reallocarray(uses->entries, capacity, sizeof *entries);
        if (!entries) return NULL;
        uses->entries = entries;
        uses->capacity = capacity;
    }
    char *copy = strdup(image);
    if (!copy) return NULL;
    uses->entries[uses->count] = (struct layer_use){ .image = copy };
    return &uses->entries[uses->count++];
}

static int read_entry(struct layer_uses *uses, const json_t *object, struct error **error)
{
    uint64_t layers;
    struct layer_use read = { 0 };
    const char *image = json_field_text(object, "image", error);
    if (!image || json_field_digest(object, "blob", &read.blob, error) < 0 ||
        json_field_size(object, "number", &read.use.image, error) < 0 ||
        json_field_size(object, "layers", &layers, error) < 0 ||
        json_field_size(object, "uses", &read.count, error) < 0)
        return -1;
    if (read.use.image == 0 || layers == 0 || layers > LAZY_LAYERS_MAX || read.count == 0)
        return error_set(error, ERROR_INVALID, "a layer that is none");
    struct layer_use *entry = append(uses, image);
    if (!entry) return error_set_memory(error);
    read.image = entry->image;
    read.use.layers = (uint32_t)layers;
    *entry = read;
    return 0;
}

static int read_file(struct layer_uses *uses, struct error **error)
{
    cleanup_buffer struct buffer text = { 0 };
    struct error *reason = NULL;
    size_t i;
    const json_t *entry;
    if (file_read(uses->path, FILE_LENGTH_MAX, &text, &reason) < 0) {
        if (error_kind_of(reason) != ERROR_NOT_FOUND) return error_move(error, reason);
        error_free(reason);
        return 0;
    }
    cleanup_json json_t *root = json_read_object(text.data, text.length, "layers.json", error);
    const json_t *layers = root ? json_field_array(root, "layers", error) : NULL;
    int result = layers ? 0 : -1;
    json_array_foreach(layers, i, entry)
    {
        if (result == 0) result = read_entry(uses, entry, error);
    }
    return result < 0 ? error_prefix(error, "'%s'", uses->path) : 0;
}

int layer_uses_open(struct layer_uses **ret, const char *path, struct error **error)
{
    struct layer_uses *uses = calloc(1, sizeof *uses);
    if (!uses) return error_set_memory(error);
    pthread_mutex_init(&uses->lock, NULL);
    uses->path = strdup(path);
    int result = uses->path ? read_file(uses, error) : error_set_memory(error);
    if (result < 0) {
        layer_uses_free(uses);
        return error_hint(error, "remove the file, and pull Podman's lazy images again");
    }
    *ret = uses;
    return 0;
}

void layer_uses_free(struct layer_uses *uses)
{
    if (!uses) return;
    for (size_t i = 0; i < uses->count; i++)
        free(uses->entries[i].image);
    free(uses->entries);
    free(uses->path);
    pthread_mutex_destroy(&uses->lock);
    free(uses);
}

/* ---- counting ---- */

static struct layer_use *find(const struct layer_uses *uses, const char *image,
                              const struct digest *blob)
{
    for (size_t i = 0; i < uses->count; i++) {
        struct layer_use *entry = &uses->entries[i];
        if (digest_equal(&entry->blob, blob) && strcmp(entry->image, image) == 0) return entry;
    }
    return NULL;
}

bool layer_uses_find(struct layer_uses *uses, const char *image, const struct digest *blob,
                     struct lazy_use *ret)
{
    pthread_mutex_lock(&uses->lock);
    const struct layer_use *entry = find(uses, image, blob);
    if (entry) *ret = entry->use;
    pthread_mutex_unlock(&uses->lock);
    return entry != NULL;
}

int layer_uses_add(struct layer_uses *uses, const char *image, const struct digest *blob,
                   const struct lazy_use *use, struct error **error)
{
    int result = -1;
    pthread_mutex_lock(&uses->lock);
    struct layer_use *entry = find(uses, image, blob);
    if (!entry && (entry = append(uses, image))) {
        entry->blob = *blob;
        entry->use = *use;
    }
    if (entry) {
        entry->count++;
        result = write_down(uses, error);
    } else {
        error_set_memory(error);
    }
    pthread_mutex_unlock(&uses->lock);
    return result;
}

static void take_out(struct layer_uses *uses, struct layer_use *entry)
{
    free(entry->image);
    *entry = uses->entries[--uses->count];
}

/* Under the lock. */
static bool is_used(const struct layer_uses *uses, uint64_t image)
{
    for (size_t i = 0; i < uses->count; i++)
        if (uses->entries[i].use.image == image) return true;
    return false;
}

int layer_uses_drop(struct layer_uses *uses, const char *image, const struct digest *blob,
                    uint64_t *ret_unused, struct error **error)
{
    int result = 0;
    *ret_unused = 0;
    pthread_mutex_lock(&uses->lock);
    struct layer_use *entry = find(uses, image, blob);
    if (entry) {
        uint64_t number = entry->use.image;
        if (--entry->count == 0) take_out(uses, entry);
        if (!is_used(uses, number)) *ret_unused = number;
        result = write_down(uses, error);
    }
    pthread_mutex_unlock(&uses->lock);
    return result;
}

uint64_t *layer_uses_images(struct layer_uses *uses, size_t *ret_count)
{
    pthread_mutex_lock(&uses->lock);
    uint64_t *numbers = calloc(uses->count + 1, sizeof *numbers);
    for (size_t i = 0; numbers && i < uses->count; i++)
        numbers[i] = uses->entries[i].use.image;
    *ret_count = uses->count;
    pthread_mutex_unlock(&uses->lock);
    return numbers;
}
