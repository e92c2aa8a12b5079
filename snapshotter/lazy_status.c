/*
 * What is told of lazy images. The node's server counts by mount; an image may have several, that
 * show all of its layers or the first ones, so that what one shows of a layer the others repeat:
 * a layer is counted once, by whichever mount tells of it, reads by all.
 */
#include <string.h>

#include "snapshotter/lazy_images-internal.h"

static json_int_t size_of(const json_t *object, const char *field)
{
    return json_integer_value(json_object_get(object, field));
}

static void add_size(json_t *object, const char *field, json_int_t value)
{
    json_object_set_new(object, field, json_integer(value));
}

static json_t *views_of(uint64_t number, const json_t *mounted)
{
    size_t i;
    json_t *view, *list = json_array();
    json_array_foreach(mounted, i, view)
    {
        json_int_t id = size_of(view, "id");
        if (id > 0 && lazy_view_image((uint64_t)id) == number) json_array_append(list, view);
    }
    return list;
}

/* ---- layers ---- */

static const json_t *layers_of(const json_t *view)
{
    return json_object_get(view, "layers");
}

/* How many layers a mount has open; 0: it is not open. */
static size_t shown_by(const struct lazy_record *record, const json_t *view)
{
    if (json_array_size(layers_of(view)) == 0) return 0;
    uint32_t first = lazy_view_layers((uint64_t)size_of(view, "id"));
    return first ? first : record->layer_count;
}

static const json_t *widest_of(const struct lazy_record *record, const json_t *views)
{
    size_t i;
    const json_t *view, *widest = NULL;
    json_array_foreach(views, i, view)
    {
        if (shown_by(record, view) > (widest ? shown_by(record, widest) : 0)) widest = view;
    }
    return widest;
}

/* Whether mounts of other images have the layer at that position, too. */
static bool is_shared(const struct lazy_record *record, const json_t *views, size_t position,
                      const json_t *layer)
{
    size_t i;
    json_int_t own = 0;
    const json_t *view;
    json_array_foreach(views, i, view) own += shown_by(record, view) > position;
    return size_of(layer, "mounts") > own;
}

/* By their position, NULL where no mount tells of it. What one layer changes tells of the last it
 * shows alone. */
static void find_layers(const struct lazy_record *record, const json_t *views,
                        const json_t **ret_layers)
{
    size_t i, k;
    const json_t *view, *layer;
    json_array_foreach(views, i, view)
    {
        size_t told = json_array_size(layers_of(view)), shown = shown_by(record, view);
        size_t first = shown > told ? shown - told : 0;
        json_array_foreach(layers_of(view), k, layer)
        {
            if (first + k < record->layer_count) ret_layers[first + k] = layer;
        }
    }
}

static void add_layers(json_t *status, const struct lazy_record *record, const json_t *views)
{
    const json_t *layers[LAZY_LAYERS_MAX] = { NULL }, *widest = widest_of(record, views);
    json_int_t whole = 0, present = 0, all = 0, shared = 0;
    if (!widest) return;
    find_layers(record, views, layers);
    for (size_t i = 0; i < record->layer_count; i++) {
        json_int_t here = size_of(layers[i], "bytes_present");
        if (!layers[i]) continue;
        whole += here == size_of(layers[i], "stream_bytes");
        present += here;
        all += size_of(layers[i], "stream_bytes");
        if (is_shared(record, views, i, layers[i])) shared += here;
    }
    add_size(status, "layers_complete", whole);
    add_size(status, "bytes_present", present);
    add_size(status, "bytes_shared", shared);
    add_size(status, "stream_bytes", all);
    add_size(status, "chunks_fetched", size_of(widest, "chunks_fetched"));
    add_size(status, "bytes_fetched", size_of(widest, "bytes_fetched"));
    json_object_set(status, "fill", json_object_get(widest, "fill"));
}

/* ---- reads ---- */

static void add_reads(json_t *status, const json_t *views)
{
    static const char *const fields[] = { "bytes_served", "reads_hit", "reads_missed",
                                          "reads_waiting", "errors" };
    size_t k;
    const json_t *view;
    json_int_t oldest = 0;
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        json_int_t sum = 0;
        json_array_foreach(views, k, view) sum += size_of(view, fields[i]);
        add_size(status, fields[i], sum);
    }
    json_array_foreach(views, k, view)
    {
        json_int_t waited = size_of(view, "oldest_wait_ms");
        if (waited > oldest) oldest = waited;
    }
    add_size(status, "oldest_wait_ms", oldest);
}

static void add_last_error(json_t *status, const json_t *views)
{
    size_t i;
    const json_t *view, *newest = NULL;
    json_array_foreach(views, i, view)
    {
        if (!json_optional_text(view, "last_error")) continue;
        if (newest &&
            size_of(newest, "last_error_seconds_ago") <= size_of(view, "last_error_seconds_ago"))
            continue;
        newest = view;
    }
    if (!newest) {
        json_object_set_new(status, "last_error", json_null());
        return;
    }
    json_object_set(status, "last_error", json_object_get(newest, "last_error"));
    add_size(status, "last_error_seconds_ago", size_of(newest, "last_error_seconds_ago"));
}

/* ---- images ---- */

/* "mounted", "not mounted", or what the mount of the whole image is otherwise. */
static const char *state_of(const json_t *views)
{
    const char *state = json_optional_text(json_array_get(views, 0), "state");
    if (!state) return "not mounted";
    return strcmp(state, "open") == 0 ? "mounted" : state;
}

static json_t *image_status(const struct lazy_image *image, const json_t *mounted)
{
    char digest[DIGEST_TEXT_SIZE];
    const struct lazy_record *record = &image->record;
    json_t *views = views_of(image->number, mounted);
    json_t *status = json_pack(
        "{s:I, s:o, s:s, s:s, s:s, s:i, s:b, s:s}", "number", (json_int_t)image->number, "name",
        json_any_text(record->name), "reference", record->reference, "index",
        digest_format(&record->index, digest), "trust", index_trust_name(record->trust), "layers",
        (int)record->layer_count, "used", (int)(image->users != 0), "state", state_of(views));
    if (image->decision_ms) add_size(status, "decision_ms", (json_int_t)image->decision_ms);
    add_layers(status, record, views);
    add_reads(status, views);
    add_last_error(status, views);
    json_object_set_new(status, "views", views);
    return status;
}

int lazy_images_status(struct lazy_images *images, const json_t *mounted, json_t *status)
{
    const struct lazy_image *image;
    json_t *list = json_array();
    pthread_mutex_lock(&images->lock);
    TAILQ_FOREACH(image, &images->images, entry)
    {
        json_array_append_new(list, image_status(image, mounted));
    }
    pthread_mutex_unlock(&images->lock);
    return json_object_set_new(status, "images", list) < 0 ? -1 : decision_status(images, status);
}
