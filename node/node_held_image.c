/* An image as the holder keeps it: its descriptors, and what is known of it as text. */
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/json.h"
#include "node/node_client-internal.h"

/* Of an answer what whoever comes next needs: the rest tells of another moment. */
static json_t *shorten(const json_t *answer)
{
    static const char *const fields[] = { "reference", "manifest_digest", "index_digest",
                                          "trust",     "entries",         "image_bytes",
                                          "front",     "front_reason",    "negotiated",
                                          "cache_keys" };
    static const char *const layer_fields[] = { "digest",     "stream_digest", "stream_bytes",
                                                "blob_bytes", "kind",          "device" };
    json_t *object = json_object(), *layers = json_array(), *layer;
    size_t position;
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        json_object_set(object, fields[i], json_object_get(answer, fields[i]));
    json_array_foreach(json_object_get(answer, "layers"), position, layer)
    {
        json_t *part = json_object();
        for (size_t i = 0; i < sizeof layer_fields / sizeof *layer_fields; i++)
            json_object_set(part, layer_fields[i], json_object_get(layer, layer_fields[i]));
        json_array_append_new(layers, part);
    }
    json_object_set_new(object, "layers", layers);
    return object;
}

char *client_image_describe(const struct client_image *image)
{
    const struct mount_keeper *keeper = &image->keeper;
    const struct tree_mount *mount = &keeper->mount;
    cleanup_json json_t *answer = json_loads(image->answer, 0, NULL);
    cleanup_json json_t *root =
        json_pack("{s:I, s:I, s:s, s:O, s:o, s:b, s:b, s:b, s:b, s:b, s:b, s:I, s:I, s:s}", "id",
                  (json_int_t)image->id, "connection", (json_int_t)image->connection, "mountpoint",
                  image->mountpoint, "command", image->command, "answer", shorten(answer),
                  "has_connection", (int)(keeper->connection >= 0), "has_end",
                  (int)(keeper->end >= 0), "allow_suid", (int)keeper->allow_suid, "allow_devices",
                  (int)keeper->allow_devices, "by_fuse", (int)keeper->by_fuse, "attached",
                  (int)mount->attached, "major", (json_int_t)mount->device_major, "minor",
                  (json_int_t)mount->device_minor, "bdi", mount->bdi);
    return root ? json_dumps(root, JSON_COMPACT) : NULL;
}

static int take_mount(struct client_image *image, const json_t *root, struct error **error)
{
    uint64_t major, minor;
    struct tree_mount *mount = &image->keeper.mount;
    const char *bdi = json_field_text(root, "bdi", error);
    if (!bdi || json_field_size(root, "major", &major, error) < 0 ||
        json_field_size(root, "minor", &minor, error) < 0)
        return -1;
    *mount = (struct tree_mount){ .mountpoint = strdup(image->mountpoint),
                                  .device_major = (unsigned)major,
                                  .device_minor = (unsigned)minor,
                                  .attached = json_is_true(json_object_get(root, "attached")) };
    if (!mount->mountpoint) return error_set_memory(error);
    snprintf(mount->bdi, sizeof mount->bdi, "%s", bdi);
    image->keeper.by_fuse = json_is_true(json_object_get(root, "by_fuse"));
    image->keeper.closed = true;
    return 0;
}

static int take_descriptors(struct client_image *image, const json_t *root,
                            struct holder_entry *entry, struct error **error)
{
    bool connection = json_is_true(json_object_get(root, "has_connection"));
    bool end = json_is_true(json_object_get(root, "has_end"));
    if (entry->descriptor_count != (size_t)connection + end)
        return error_set(error, ERROR_INVALID, "the number of its descriptors is another one");
    if (connection) image->keeper.connection = take_descriptor(&entry->descriptors[0]);
    if (end) image->keeper.end = take_descriptor(&entry->descriptors[connection]);
    return 0;
}

int client_image_take(struct client_image *image, const json_t *root, struct holder_entry *entry,
                      struct error **error)
{
    const char *mountpoint = json_field_text(root, "mountpoint", error);
    json_t *command = json_object_get(root, "command"), *answer = json_object_get(root, "answer");
    if (!mountpoint || json_field_size(root, "id", &image->id, error) < 0 ||
        json_field_size(root, "connection", &image->connection, error) < 0)
        return -1;
    if (!json_is_object(command) || !json_is_object(answer))
        return error_set(error, ERROR_INVALID, "what was asked for is missing");
    image->mountpoint = strdup(mountpoint);
    if (!image->mountpoint) return error_set_memory(error);
    mount_keeper_init(&image->keeper, image->mountpoint,
                      json_is_true(json_object_get(root, "allow_suid")),
                      json_is_true(json_object_get(root, "allow_devices")));
    image->keeper.keeps = true;
    image->command = json_incref(command);
    cleanup_free char *text = json_dumps(answer, JSON_COMPACT);
    if (!text) return error_set_memory(error);
    const struct buffer said = { .data = (uint8_t *)text, .length = strlen(text) };
    if (client_image_keep_answer(image, &said, error) < 0) return -1;
    if (take_mount(image, root, error) < 0) return -1;
    return take_descriptors(image, root, entry, error);
}
