/*
 * What a holder keeps for this process, so that the one after it can go on with what is mounted:
 * the journal of requests, and for each image its descriptors and what is known of it.
 */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/thread.h"
#include "node/child_process.h"
#include "node/held_text-internal.h"
#include "node/node_client-internal.h"

#define JOURNAL      "journal"
#define IMAGE        "image-"
#define NAME_SIZE    48u
#define LOOK_SECONDS 1
#define HOLDER_NAME  "sluice-holder"

static const char *name_of(uint64_t connection, char *ret)
{
    snprintf(ret, NAME_SIZE, IMAGE "%" PRIu64, connection);
    return ret;
}

/* ---- an image as text ---- */

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

static char *describe(const struct client_image *image)
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

/* Fills an image that is empty. */
static int take_image(struct client_image *image, const json_t *root, struct holder_entry *entry,
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

/* ---- telling the holder: with the client's lock ---- */

static bool holds_images(const struct node_client *client)
{
    const struct client_image *image;
    LIST_FOREACH(image, &client->images, link)
    if (image->is_held) return true;
    return false;
}

/* The journal is of use as long as there are images. */
static void hold_journal(struct node_client *client)
{
    cleanup_error struct error *error = NULL;
    if (holder_put(client->holder, JOURNAL, "", 0, &client->journal, 1, &error) < 0)
        log_warning("%s", error_message(error));
}

void client_image_hold(struct node_client *client, struct client_image *image)
{
    char name[NAME_SIZE];
    int descriptors[2];
    size_t count = 0;
    cleanup_error struct error *error = NULL;
    if (!client->holder || !client_image_can_resume(image)) return;
    cleanup_free char *text = describe(image);
    if (!text) return;
    if (image->keeper.connection >= 0) descriptors[count++] = image->keeper.connection;
    if (image->keeper.end >= 0) descriptors[count++] = image->keeper.end;
    if (!holds_images(client)) hold_journal(client);
    image->is_held = held_text_put(client->holder, name_of(image->connection, name), text,
                                   descriptors, count, &error) == 0;
    if (!image->is_held)
        log_warning("'%s' does not outlive this process: %s", image->mountpoint,
                    error_message(error));
}

void client_image_release(struct node_client *client, struct client_image *image)
{
    char name[NAME_SIZE];
    cleanup_error struct error *error = NULL;
    if (!image->is_held || client->stopping) return;
    image->is_held = false;
    if (!client->holder) return;
    if (holder_drop(client->holder, name_of(image->connection, name), &error) < 0 ||
        (!holds_images(client) && holder_drop(client->holder, JOURNAL, &error) < 0))
        log_warning("%s", error_message(error));
}

static void hold_everything(struct node_client *client)
{
    struct client_image *image;
    LIST_FOREACH(image, &client->images, link)
    image->is_held = false;
    LIST_FOREACH(image, &client->images, link)
    client_image_hold(client, image);
}

/* ---- finding the holder ---- */

/* It is beside our own program. */
static char *holder_program(void)
{
    char path[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
    if (length <= 0) return NULL;
    path[length] = 0;
    char *slash = strrchr(path, '/');
    if (slash) *slash = 0;
    return format_text("%s/" HOLDER_NAME, path);
}

static int start_holder(const struct node_client_options *options, struct error **error)
{
    pid_t process;
    int status;
    cleanup_free char *program =
        options->holder_program ? strdup(options->holder_program) : holder_program();
    char *const arguments[] = { (char *)HOLDER_NAME, (char *)"--background", (char *)"--socket",
                                (char *)options->holder, NULL };
    struct child_process child = { .program = program,
                                   .arguments = arguments,
                                   .keeps_errors = true };
    if (!program) return error_set_memory(error);
    if (child_process_start(&process, &child, error) < 0) return -1;
    while (waitpid(process, &status, 0) < 0 && errno == EINTR)
        continue;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return 0;
    return error_set(error, ERROR_SYSTEM, "%s could not be started", program);
}

static int find_holder(struct node_client *client, struct error **error)
{
    const char *socket = client->options.holder;
    if (holder_connect(&client->holder, socket, NULL) == 0) return 0;
    if (start_holder(&client->options, error) < 0) return -1;
    return holder_connect(&client->holder, socket, error);
}

/* ---- taking what the process before has left ---- */

static int adopt_image(struct node_client *client, struct holder_entry *entry, struct error **error)
{
    if (held_text_take(entry, error) < 0) return -1;
    cleanup_json json_t *root =
        json_read_object(entry->data.data, entry->data.length, "what is held", error);
    struct client_image *image = root ? calloc(1, sizeof *image) : NULL;
    if (!image) return root ? error_set_memory(error) : -1;
    image->client = client;
    image->references = 1;
    image->state = IMAGE_LOST;
    image->is_held = image->was_served = true;
    LIST_INSERT_HEAD(&client->images, image, link);
    image->is_listed = true;
    int result = take_image(image, root, entry, error);
    if (image->connection > client->last_number) client->last_number = image->connection;
    if (result == 0) return 0;
    image->is_held = false;
    client_image_drop(image);
    return -1;
}

static void adopt(struct node_client *client, struct holder_entry *entry)
{
    cleanup_error struct error *error = NULL;
    if (strcmp(entry->name, JOURNAL) == 0) {
        if (client->journal < 0 && entry->descriptor_count == 1 &&
            request_journal_fits(entry->descriptors[0]))
            client->journal = take_descriptor(&entry->descriptors[0]);
    } else if (strncmp(entry->name, IMAGE, strlen(IMAGE)) == 0) {
        if (adopt_image(client, entry, &error) == 0) return;
        log_error("'%s' of the holder is of no use: %s; who reads from it gets errors", entry->name,
                  error_message(error));
        holder_drop(client->holder, entry->name, NULL);
    }
}

static int adopt_all(struct node_client *client, struct error **error)
{
    struct holder_entry *entries;
    size_t count;
    if (holder_list(client->holder, &entries, &count, error) < 0) return -1;
    for (size_t i = 0; i < count; i++)
        adopt(client, &entries[i]);
    holder_entries_free(entries, count);
    return 0;
}

/* ---- the thread ---- */

/* The holder was replaced (then it has everything), or is another one (then it has nothing). */
static void look_after_holder(struct node_client *client)
{
    cleanup_error struct error *error = NULL;
    struct pollfd watched = { .fd =
                                  client->holder ? holder_client_descriptor(client->holder) : -1 };
    if (watched.fd >= 0 && poll(&watched, 1, 0) == 0) return;
    bool told = !client->holder;
    holder_disconnect(client->holder);
    client->holder = NULL;
    if (find_holder(client, &error) == 0)
        hold_everything(client);
    else if (!told)
        log_error("there is no holder: images do not outlive this process: %s",
                  error_message(error));
}

static void *look_after(void *argument)
{
    struct node_client *client = argument;
    pthread_mutex_lock(&client->lock);
    while (!client->stopping) {
        look_after_holder(client);
        uint64_t until = clock_ms() + LOOK_SECONDS * 1000;
        while (!client->stopping && clock_ms() < until)
            client_wait(client, until);
    }
    pthread_mutex_unlock(&client->lock);
    return NULL;
}

/* ---- start and end ---- */

int client_held_start(struct node_client *client, struct error **error)
{
    cleanup_error struct error *reason = NULL;
    bool wanted = client->options.holder != NULL;
    if (wanted && (find_holder(client, &reason) < 0 || adopt_all(client, &reason) < 0))
        log_error("there is no holder: images do not outlive this process: %s",
                  error_message(reason));
    if (client->journal < 0 && (client->journal = request_journal_make(error)) < 0) return -1;
    if (!wanted) return 0;
    if (thread_start(&client->keeper, "sluice-held", look_after, client, error) < 0) return -1;
    client->keeper_runs = true;
    return 0;
}

void client_held_stop(struct node_client *client)
{
    if (client->keeper_runs) pthread_join(client->keeper, NULL);
    holder_disconnect(client->holder);
    client->holder = NULL;
    if (client->journal >= 0) close(client->journal);
}
