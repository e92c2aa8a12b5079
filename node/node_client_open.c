/*
 * Opening an image in whichever server runs, and when that is given up.
 *
 * A server that crashes while it opens several images does not say which one it was. So images that
 * were there at one crash less than they are given up for are suspects, which are opened one at a
 * time: the one to blame is found, and those that were only beside it are opened.
 */
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

#define CRASHES_MAX 3u
/* What containers use is given up last: two requests that crash servers, each of which is given up
 * after three, do so while images that have nothing to do with them are gone on with. */
#define RESUME_CRASHES_MAX 10u
#define REFUSED_MS         600000u
/* Of a suspect that neither opens nor crashes the server; then the next one is tried beside it. */
#define TURN_MS 2000u

#define RESUME_FAILURES_MAX 3u
#define RESUME_PAUSE_MS     250u

/* ---- limits ---- */

bool client_image_is_refused(struct client_image *image, struct error **error)
{
    if (image->refused_until == 0) return false;
    if (clock_ms() < image->refused_until) {
        error_set(error, ERROR_SYSTEM, "%s", image->reason ? image->reason : "it crashes servers");
        return true;
    }
    image->refused_until = 0;
    image->crashes = 0;
    return false;
}

static int check_crashes(struct client_image *image, struct error **error)
{
    unsigned most = client_image_can_resume(image) ? RESUME_CRASHES_MAX : CRASHES_MAX;
    if (image->crashes < most) return 0;
    image->refused_until = clock_ms() + REFUSED_MS;
    return error_set(error, ERROR_SYSTEM,
                     "the server of images crashed %u times when it opened this one; it is not "
                     "tried again for %u minutes",
                     image->crashes, REFUSED_MS / 60000);
}

/* False: another suspect has its turn. */
static bool take_turn(struct node_client *client, struct client_image *image)
{
    uint64_t now = clock_ms();
    if (image->crashes + 1 < CRASHES_MAX) return true;
    if (client->suspect && now < client->turn_end) return false;
    client->suspect = image;
    client->turn_end = now + TURN_MS;
    return true;
}

static void end_turn(struct node_client *client, const struct client_image *image)
{
    if (client->suspect != image) return;
    client->suspect = NULL;
    pthread_cond_broadcast(&client->changed);
}

/* ---- waiting for a server ---- */

/* Who reads from what is mounted waits for the next server, and may be one of our own threads. */
static bool is_cancelled(const struct node_client *client, const struct client_image *image)
{
    return client->stopping || (client->cancelled && !client_image_can_resume(image));
}

static int wait_for_server(struct node_client *client, const struct client_image *image,
                           uint64_t deadline, struct error **error)
{
    while (!client->running && !is_cancelled(client, image) && image->state == IMAGE_OPENING)
        if (!client_wait(client, deadline)) break;
    if (is_cancelled(client, image)) return client_cancelled(error);
    if (image->state != IMAGE_OPENING)
        return error_set(error, ERROR_CANCELLED, "the image was closed");
    if (client->running) return 0;
    return error_set(error, ERROR_UNREACHABLE, "there is no server%s%s",
                     client->failure ? ": " : "",
                     client->failure ? error_message(client->failure) : "");
}

/* How the server before has ended is known once there is another one. */
static int wait_for_turn(struct node_client *client, struct client_image *image, uint64_t deadline,
                         struct error **error)
{
    for (;;) {
        if (wait_for_server(client, image, deadline, error) < 0 || check_crashes(image, error) < 0)
            return -1;
        if (take_turn(client, image)) return 0;
        client_wait(client, client->turn_end < deadline ? client->turn_end : deadline);
        if (clock_ms() >= deadline)
            return error_set(error, ERROR_UNREACHABLE,
                             "others that crash servers were tried first");
    }
}

/* Its end of the socket is gone, or goes soon. */
static bool has_ended(int commands, int patience_ms)
{
    struct pollfd watched = { .fd = commands };
    return poll(&watched, 1, patience_ms) != 0;
}

/* Until the supervisor has seen, too, that it has ended; perhaps there is another one by then. */
static void await_end(struct node_client *client, unsigned server, int commands, uint64_t deadline)
{
    while (client->running && client->servers == server && has_ended(commands, 0))
        if (!client_wait(client, deadline)) return;
}

/* ---- asking it ---- */

/* One that is killed while it answers leaves half an answer. */
static bool is_whole(const struct buffer *answer)
{
    cleanup_json json_t *object = json_read_object(answer->data, answer->length, "", NULL);
    return object != NULL;
}

static bool was_cancelled(int result, struct error **error)
{
    return result < 0 && *error && error_kind_of(*error) == ERROR_CANCELLED;
}

/* Without the lock. *ret_ended: there is no answer because the server has died. */
static int ask_once(const struct client_image *image, const char *text, bool resume, int cancel,
                    int commands, uint64_t deadline, struct buffer *ret, int *ret_connection,
                    bool *ret_ended, struct error **error)
{
    const struct question_peer peer = { commands, "the server" };
    uint64_t now = clock_ms();
    int left = deadline > now ? (int)(deadline - now) : 0;
    if (image->mountpoint && !resume) mount_keeper_renew((struct mount_keeper *)&image->keeper);
    int result = client_image_ask(image, &peer, text, resume, resume ? -1 : cancel, left, ret,
                                  ret_connection, error);
    /* The kernel closes the descriptors of who is killed in any order. */
    int patience_ms = ret->length > 0 || was_cancelled(result, error) ? 0 : DYING_MS;
    *ret_ended = result < 0 ? has_ended(commands, patience_ms) : !is_whole(ret);
    /* It may still be at it. */
    if (result < 0 && image->mountpoint && !resume)
        mount_keeper_close((struct mount_keeper *)&image->keeper);
    return result;
}

static char *command_text(struct node_client *client, struct client_image *image, bool resume,
                          struct error **error)
{
    cleanup_json json_t *command =
        resume ? client_image_resume_command(image, error) : json_incref(image->command);
    if (!command) return NULL;
    image->number = ++client->last_number;
    image->has_gone = false;
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

/* ---- what came of it ---- */

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

/* What is missing may be there in a moment, and readers wait gladly. 1: to be tried again. */
static int resume_failed(struct node_client *client, struct client_image *image, uint64_t deadline,
                         struct error *reason, struct error **error)
{
    unsigned pause = RESUME_PAUSE_MS << image->failures;
    if (error_kind_of(reason) == ERROR_UNSUPPORTED || clock_ms() + pause >= deadline ||
        ++image->failures >= RESUME_FAILURES_MAX)
        return give_up_resuming(client, image, reason, error);
    log_warning("'%s' is not served on yet: %s; trying again", image->mountpoint,
                error_message(reason));
    error_free(reason);
    client_pause(client, pause);
    return 1;
}

static int opened(struct node_client *client, struct client_image *image, bool resume,
                  const struct buffer *answer, int *connection, struct error **error)
{
    image->crashes = image->failures = 0;
    if (client_image_keep_answer(image, answer, error) < 0) return -1;
    image->was_served = true;
    if (resume) return 0;
    image->keeper.connection = take_descriptor(connection);
    client_image_hold(client, image);
    return 0;
}

/* One server's try. 1: it died, or another try may go better. */
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
    unsigned server = image->asked = client->servers;
    pthread_mutex_unlock(&client->lock);
    int result = ask_once(image, text, resume, client->cancel, commands, deadline, &answer,
                          &connection, &ended, &reason);
    pthread_mutex_lock(&client->lock);
    if (ended) {
        error_free(reason);
        await_end(client, server, commands, deadline);
        return 1;
    }
    image->asked = 0;
    if (result < 0 && resume) return resume_failed(client, image, deadline, reason, error);
    if (result < 0) return error_move(error, reason);
    return opened(client, image, resume, &answer, &connection, error);
}

static int open_in_any(struct node_client *client, struct client_image *image, uint64_t deadline,
                       struct error **error)
{
    int result = 1;
    while (result > 0) {
        if (wait_for_turn(client, image, deadline, error) < 0) return -1;
        result = open_once(client, image, deadline, error);
        end_turn(client, image);
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
        if (image->has_gone && image->mountpoint) client_image_gone(client, image);
        return 0;
    }
    client_image_set_state(client, image, IMAGE_FAILED, error_message(reason));
    if (image->id == 0) client_image_drop(image);
    return error_move(error, reason);
}
