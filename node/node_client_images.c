#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "node/node_client-internal.h"
#include "node/node_protocol-internal.h"

/* ---- time ---- */

bool client_wait(struct node_client *client, uint64_t deadline)
{
    return clock_wait(&client->changed, &client->lock, deadline);
}

bool client_pause(struct node_client *client, unsigned milliseconds)
{
    uint64_t until = clock_ms() + milliseconds;
    while (!client->stopping && clock_ms() < until)
        client_wait(client, until);
    return !client->stopping;
}

int client_cancelled(struct error **error)
{
    return error_set(error, ERROR_CANCELLED, "sluiced is being stopped");
}

/* ---- the list ---- */

struct client_image *client_image_of_id(struct node_client *client, uint64_t id)
{
    struct client_image *image;
    LIST_FOREACH(image, &client->images, link)
    if (image->id == id) return image;
    return NULL;
}

struct client_image *client_image_of_number(struct node_client *client, uint64_t number)
{
    struct client_image *image;
    LIST_FOREACH(image, &client->images, link)
    if (image->number == number && number != 0) return image;
    return NULL;
}

static void client_image_free(struct client_image *image)
{
    client_image_release(image->client, image);
    if (image->mountpoint) mount_keeper_free(&image->keeper);
    json_decref(image->command);
    free(image->mountpoint);
    free(image->reason);
    free(image->answer);
    free(image->cache_keys);
    free(image);
}

struct client_image *client_image_new(struct node_client *client,
                                      const struct node_image_request *request,
                                      struct error **error)
{
    const char *mountpoint = request->image.mountpoint;
    struct client_image *image = calloc(1, sizeof *image);
    json_t *command = node_open_encode(request, image ? error : NULL);
    char *kept = mountpoint ? strdup(mountpoint) : NULL;
    if (!image || !command || (mountpoint && !kept)) {
        if (!image || command) error_set_memory(error);
        json_decref(command);
        free(kept);
        free(image);
        return NULL;
    }
    image->client = client;
    image->references = 1;
    image->id = request->id;
    image->state = IMAGE_FAILED;
    image->command = command;
    image->mountpoint = kept;
    if (kept) mount_keeper_init(&image->keeper, kept, request->allow_suid, request->allow_devices);
    image->keeper.keeps = true;
    LIST_INSERT_HEAD(&client->images, image, link);
    image->is_listed = true;
    return image;
}

void client_image_unreference(struct client_image *image)
{
    if (--image->references == 0) client_image_free(image);
}

void client_image_drop(struct client_image *image)
{
    if (!image->is_listed) return;
    image->id = 0;
    image->number = 0;
    image->is_listed = false;
    LIST_REMOVE(image, link);
    client_image_unreference(image);
}

void client_image_set_state(struct node_client *client, struct client_image *image,
                            enum image_state state, const char *reason)
{
    image->state = state;
    if (state == IMAGE_FAILED && image->mountpoint) {
        /* Nobody waits for what will not be served. */
        client_image_release(client, image);
        mount_keeper_forget(&image->keeper);
    }
    free(image->reason);
    image->reason = reason ? strdup(reason) : NULL;
    pthread_cond_broadcast(&client->changed);
}

int client_image_keep_answer(struct client_image *image, const struct buffer *text,
                             struct error **error)
{
    struct node_image_answer answer;
    free(image->answer);
    image->answer = strndup((const char *)text->data, text->length);
    if (!image->answer) return error_set_memory(error);
    if (node_answer_decode(image->answer, &answer, error) < 0) return -1;
    free(image->cache_keys);
    image->cache_keys = take_pointer(&answer.cache_keys);
    image->cache_key_count = answer.cache_key_count;
    digests_sort(image->cache_keys, image->cache_key_count);
    node_image_answer_free(&answer);
    return 0;
}

void client_image_gone(struct node_client *client, struct client_image *image)
{
    if (image->state == IMAGE_LEFT)
        client_image_drop(image);
    else if (image->state == IMAGE_OPEN)
        client_image_set_state(client, image, IMAGE_FAILED, "it was unmounted");
    else
        image->has_gone = true;
}

/* ---- the server's death ---- */

void client_images_lost(struct node_client *client)
{
    struct client_image *image, *next;
    unsigned left = 0;
    for (image = LIST_FIRST(&client->images); image; image = next) {
        next = LIST_NEXT(image, link);
        if (image->state == IMAGE_OPEN) {
            client_image_set_state(client, image, IMAGE_LOST, NULL);
        } else if (image->state == IMAGE_LEFT && client_image_can_resume(image)) {
            client_image_set_state(client, image, IMAGE_LOST, NULL);
        } else if (image->state == IMAGE_LEFT) {
            left++;
            client_image_drop(image);
        }
    }
    if (left > 0)
        log_warning("%u unmounted images may still have been in use: reads of them fail now", left);
}

void client_images_blame(struct node_client *client, enum server_end end)
{
    struct client_image *image;
    if (end != SERVER_CRASHED) return;
    LIST_FOREACH(image, &client->images, link)
    image->crashes += image->asked == client->servers;
}
