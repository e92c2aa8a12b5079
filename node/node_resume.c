/* What it takes to have the next server go on with a tree that another one has mounted. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/descriptor_message.h"
#include "base/json.h"
#include "fetcher/reference.h"
#include "node/node_client-internal.h"
#include "node/node_protocol-internal.h"
#include "node/question.h"

bool client_image_can_resume(const struct client_image *image)
{
    return image->mountpoint && image->was_served &&
           (image->keeper.connection >= 0 || image->keeper.end >= 0);
}

/* The very manifest that was mounted, whatever the tag means by now. */
static char *pinned_reference(const char *name, const char *manifest, struct error **error)
{
    struct image_reference reference;
    if (image_reference_parse(&reference, name, error) < 0) return NULL;
    free(reference.digest);
    reference.digest = strdup(manifest);
    char *text = reference.digest ? image_reference_format(&reference) : NULL;
    image_reference_free(&reference);
    if (!text) error_set_memory(error);
    return text;
}

/* struct front_resumed, in fresh memory. */
static char *list_files(const json_t *answer)
{
    const json_t *layers = json_object_get(answer, "layers");
    size_t count = json_array_size(layers);
    char *files = calloc(1, count + 1);
    for (size_t i = 0; files && i < count; i++) {
        const char *device = json_optional_text(json_array_get(layers, i), "device");
        files[i] = device && strcmp(device, "file") == 0 ? '1' : '0';
    }
    return files;
}

static json_t *encode_resumed(const struct client_image *image, const json_t *answer,
                              struct error **error)
{
    const char *front = json_field_text(answer, "front", error);
    const char *reason = front ? json_field_text(answer, "front_reason", error) : NULL;
    const char *negotiated = json_optional_text(answer, "negotiated");
    cleanup_free char *files = list_files(answer);
    if (!reason) return NULL;
    struct front_resumed resumed = { .by_kernel = image->keeper.end >= 0,
                                     .connection = image->keeper.connection,
                                     .end = image->keeper.end,
                                     .has_negotiated = negotiated != NULL,
                                     .files = files,
                                     .reason = reason };
    if (negotiated && fuse_negotiated_parse(&resumed.negotiated, negotiated, error) < 0)
        return NULL;
    json_t *object = files ? node_resumed_encode(&resumed) : NULL;
    if (!object) error_set_memory(error);
    return object;
}

json_t *client_image_resume_command(const struct client_image *image, struct error **error)
{
    cleanup_json json_t *answer =
        json_read_object(image->answer, strlen(image->answer), "an image's answer", error);
    const char *name = json_string_value(json_object_get(image->command, "reference"));
    const char *manifest = answer ? json_field_text(answer, "manifest_digest", error) : NULL;
    const char *index = manifest ? json_field_text(answer, "index_digest", error) : NULL;
    const char *trust = index ? json_field_text(answer, "trust", error) : NULL;
    cleanup_free char *reference = trust && name ? pinned_reference(name, manifest, error) : NULL;
    json_t *resumed = reference ? encode_resumed(image, answer, error) : NULL;
    if (!resumed) return NULL;
    json_t *command = json_copy(image->command);
    if (!command || json_object_set_new(command, "reference", json_string(reference)) < 0 ||
        json_object_set_new(command, "index", json_string(index)) < 0 ||
        json_object_set_new(command, "index_trust", json_string(trust)) < 0 ||
        json_object_set(command, "resumed", resumed) < 0) {
        json_decref(command);
        command = NULL;
        error_set_memory(error);
    }
    json_decref(resumed);
    return command;
}

static int send_one(const struct question_peer *peer, int to, int descriptor, struct error **error)
{
    if (descriptor < 0 || descriptor_message_send(to, "", 1, descriptor) == 0) return 0;
    return error_set_errno(error, errno, "%s has ended", peer->name);
}

int client_image_ask(const struct client_image *image, const struct question_peer *peer,
                     const char *text, bool resume, int cancel, int timeout_ms, struct buffer *ret,
                     int *ret_connection, struct error **error)
{
    cleanup_close int from = question_send(peer, text, strlen(text), error);
    if (from < 0 || (resume && (send_one(peer, from, image->keeper.connection, error) < 0 ||
                                send_one(peer, from, image->keeper.end, error) < 0)))
        return -1;
    return question_wait(peer, from, cancel, timeout_ms, ret, ret_connection, error);
}
