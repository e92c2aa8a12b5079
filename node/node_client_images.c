#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "node/node_client-internal.h"
#include "node/node_protocol-internal.h"
#include "node/question.h"

#define DYING_MS 1000

/* ---- time ---- */

bool client_wait(struct node_client *client, uint64_t deadline)
{
    return clock_wait(&client->changed, &client->lock, deadline);
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

/* ---- opening ---- */

static int wait_for_server(struct node_client *client, const struct client_image *image,
                           uint64_t deadline, struct error **error)
{
    while (!client->running && !client->stopping && image->state == IMAGE_OPENING)
        if (!client_wait(client, deadline)) break;
    if (client->stopping || image->state != IMAGE_OPENING)
        return error_set(error, ERROR_CANCELLED, "the image was closed");
    if (client->running) return 0;
    return error_set(error, ERROR_UNREACHABLE, "there is no server%s%s",
                     client->failure ? ": " : "",
                     client->failure ? error_message(client->failure) : "");
}

/* Its end of the socket is gone, or goes soon. */
static bool has_ended(int commands, int patience_ms)
{
    struct pollfd watched = { .fd = commands };
    return poll(&watched, 1, patience_ms) != 0;
}

/* One that is killed while it answers leaves half an answer. */
static bool is_whole(const struct buffer *answer)
{
    cleanup_json json_t *object = json_read_object(answer->data, answer->length, "", NULL);
    return object != NULL;
}

/* Without the lock. *ret_ended: there is no answer because the server has died. */
static int ask_once(const struct client_image *image, const char *text, bool resume, int commands,
                    uint64_t deadline, struct buffer *ret, int *ret_connection, bool *ret_ended,
                    struct error **error)
{
    const struct question_peer peer = { commands, "the server" };
    uint64_t now = clock_ms();
    int left = deadline > now ? (int)(deadline - now) : 0;
    if (image->mountpoint && !resume) mount_keeper_renew((struct mount_keeper *)&image->keeper);
    int result = client_image_ask(image, &peer, text, resume, left, ret, ret_connection, error);
    /* The kernel closes the descriptors of who is killed in any order. */
    *ret_ended = result < 0 ? has_ended(commands, ret->length > 0 ? 0 : DYING_MS) : !is_whole(ret);
    /* It may still be at it. */
    if (result < 0 && image->mountpoint && !resume)
        mount_keeper_close((struct mount_keeper *)&image->keeper);
    return result;
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

static char *command_text(struct node_client *client, struct client_image *image, bool resume,
                          struct error **error)
{
    cleanup_json json_t *command =
        resume ? client_image_resume_command(image, error) : json_incref(image->command);
    if (!command) return NULL;
    image->number = ++client->last_number;
    if (!resume) {
        image->was_served = false;
        client_image_release(client, image);
        image->connection = image->number;
    }
    json_object_set_new(command, "id", json_integer((json_int_t)image->number));
    json_object_set_new(command, "connection", json_integer((json_int_t)image->connection));
    char *text = json_dumps(command, JSON_COMPACT);
    if (!text) error_set_memory(error);
    return text;
}

/* 1: it may be mounted anew, which those who use it do not see. */
static int give_up_resuming(struct node_client *client, struct client_image *image,
                            struct error *reason, struct error **error)
{
    log_error("'%s' cannot be served any more as it was mounted: %s; who reads from it gets errors",
              image->mountpoint, error_message(reason));
    client_image_release(client, image);
    mount_keeper_forget(&image->keeper);
    if (image->id == 0) return error_move(error, reason);
    error_free(reason);
    return 1;
}

/* One server's try. 1: it died, and another may be asked. */
static int open_once(struct node_client *client, struct client_image *image, uint64_t deadline,
                     struct error **error)
{
    cleanup_buffer struct buffer answer = { 0 };
    bool ended = false;
    struct error *reason = NULL;
    cleanup_close int commands = fcntl(client->commands, F_DUPFD_CLOEXEC, 0);
    cleanup_close int connection = -1;
    bool resume = client_image_can_resume(image);
    cleanup_free char *text = command_text(client, image, resume, error);
    if (!text) return -1;
    if (commands < 0) return error_set_errno(error, errno, "copy a descriptor");
    pthread_mutex_unlock(&client->lock);
    int result =
        ask_once(image, text, resume, commands, deadline, &answer, &connection, &ended, &reason);
    pthread_mutex_lock(&client->lock);
    if (ended) {
        error_free(reason);
        /* Until the supervisor has seen it, too. */
        while (client->running && has_ended(commands, 0) && client_wait(client, deadline))
            continue;
        return 1;
    }
    if (result < 0 && resume) return give_up_resuming(client, image, reason, error);
    if (result < 0) return error_move(error, reason);
    if (client_image_keep_answer(image, &answer, error) < 0) return -1;
    image->was_served = true;
    if (!resume) image->keeper.connection = take_descriptor(&connection);
    if (!resume) client_image_hold(client, image);
    return 0;
}

static int open_in_any(struct node_client *client, struct client_image *image, uint64_t deadline,
                       struct error **error)
{
    int result = 1;
    while (result > 0) {
        if (wait_for_server(client, image, deadline, error) < 0) return -1;
        result = open_once(client, image, deadline, error);
        if (result > 0 && clock_ms() >= deadline)
            return error_set(error, ERROR_UNREACHABLE, "the server has died");
    }
    return result;
}

int client_image_open(struct node_client *client, struct client_image *image, uint64_t deadline,
                      struct error **error)
{
    struct error *reason = NULL;
    client_image_set_state(client, image, IMAGE_OPENING, NULL);
    int result = open_in_any(client, image, deadline, &reason);
    if (image->state != IMAGE_OPENING) {
        /* It was closed meanwhile. */
        error_free(reason);
        if (image->mountpoint) mount_keeper_close(&image->keeper);
        return error_set(error, ERROR_CANCELLED, "the image was closed");
    }
    if (result == 0) {
        client_image_set_state(client, image,
                               image->id == 0 && image->mountpoint ? IMAGE_LEFT : IMAGE_OPEN, NULL);
        return 0;
    }
    client_image_set_state(client, image, IMAGE_FAILED, error_message(reason));
    return error_move(error, reason);
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
