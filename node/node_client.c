#include "node/node_client.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "base/parallel.h"
#include "base/thread.h"
#include "node/node_client-internal.h"
#include "node/node_protocol-internal.h"
#include "node/question.h"

#define RESTORE_TIMEOUT_MS 60000u
#define RESTORES_AT_ONCE   8u
/* Who asks for it has as much patience as fuse/control.h says, and wants to hear of the rest. */
#define STATUS_TIMEOUT_MS 2000
/* Longer than any start of a server. */
#define START_PATIENCE_MS 100000u

/* ---- opening ---- */

/* With the lock: the image, as it is or on its way; NULL with the error set. */
static struct client_image *find_or_make(struct node_client *client,
                                         const struct node_image_request *request,
                                         struct error **error)
{
    struct client_image *image =
        request->image.mountpoint ? client_image_of_id(client, request->id) : NULL;
    if (!image) image = client_image_new(client, request, error);
    if (!image) return NULL;
    if (!image->mountpoint) image->id = 0;
    image->references++;
    return image;
}

/* With the lock. */
static int open_or_wait(struct node_client *client, struct client_image *image, uint64_t deadline,
                        struct error **error)
{
    while (image->state == IMAGE_OPENING || image->state == IMAGE_LOST)
        if (client->cancelled)
            return client_cancelled(error);
        else if (!client_wait(client, deadline))
            return error_set(error, ERROR_UNREACHABLE, "'%s' was not mounted in time",
                             image->mountpoint);
    if (image->state == IMAGE_OPEN) return 0;
    if (!image->is_listed) /* who has tried it before has given it up */
        return error_set(error, ERROR_UNREACHABLE, "%s", image->reason ? image->reason : "closed");
    if (image->state == IMAGE_LEFT)
        return error_set(error, ERROR_CANCELLED, "the image was closed");
    if (client_image_is_refused(image, error)) return -1;
    return client_image_open(client, image, deadline, error);
}

/* It was never open. What crashes servers is remembered until it is closed. */
static bool is_nobodys_concern(const struct client_image *image)
{
    if (!image->mountpoint) return image->state != IMAGE_LEFT;
    return image->state == IMAGE_FAILED && !image->answer && image->refused_until == 0;
}

int node_client_open(struct node_client *client, const struct node_image_request *request,
                     unsigned timeout_ms, struct node_image_answer *ret, struct error **error)
{
    uint64_t deadline = clock_ms() + timeout_ms;
    pthread_mutex_lock(&client->lock);
    struct client_image *image = find_or_make(client, request, error);
    int result = image ? open_or_wait(client, image, deadline, error) : -1;
    if (result == 0) result = node_answer_decode(image->answer, ret, error);
    if (image && is_nobodys_concern(image)) client_image_drop(image);
    if (image) client_image_unreference(image);
    client_give_back_again(client);
    pthread_mutex_unlock(&client->lock);
    return result;
}

bool node_client_has(struct node_client *client, uint64_t id)
{
    pthread_mutex_lock(&client->lock);
    bool found = client_image_of_id(client, id) != NULL;
    pthread_mutex_unlock(&client->lock);
    return found;
}

void node_client_close(struct node_client *client, uint64_t id)
{
    pthread_mutex_lock(&client->lock);
    struct client_image *image = client_image_of_id(client, id);
    if (image) {
        bool lost = image->state == IMAGE_LOST && client_image_can_resume(image);
        bool served = image->state == IMAGE_OPEN || lost;
        image->references++;
        image->id = 0;
        if (!lost) client_image_set_state(client, image, IMAGE_LEFT, NULL);
        pthread_mutex_unlock(&client->lock);
        mount_keeper_close(&image->keeper);
        pthread_mutex_lock(&client->lock);
        if (image->is_held) client_image_hold(client, image);
        /* Else the server says when it has gone, or has done so already. */
        if (!served) client_image_drop(image);
        client_image_unreference(image);
    }
    pthread_mutex_unlock(&client->lock);
}

/* ---- after a server's death ---- */

/* With the lock: what is lost, each with a reference. -1: out of memory. */
static ssize_t list_lost(struct node_client *client, struct client_image ***ret)
{
    struct client_image *image;
    size_t count = 0;
    LIST_FOREACH(image, &client->images, link)
    count += image->state == IMAGE_LOST;
    *ret = calloc(count + 1, sizeof **ret);
    if (!*ret) return -1;
    count = 0;
    LIST_FOREACH(image, &client->images, link)
    if (image->state == IMAGE_LOST) {
        image->references++;
        (*ret)[count++] = image;
    }
    return (ssize_t)count;
}

struct restoring {
    struct node_client *client;
    struct client_image **images;
};

/* parallel_work; one that fails holds up no other. */
static int restore(void *context, size_t position, struct error **error)
{
    struct restoring *restoring = context;
    struct node_client *client = restoring->client;
    struct client_image *image = restoring->images[position];
    struct error *reason = NULL;
    (void)error;
    pthread_mutex_lock(&client->lock);
    if (image->state == IMAGE_LOST && !client->stopping &&
        client_image_open(client, image, clock_ms() + RESTORE_TIMEOUT_MS, &reason) < 0) {
        if (error_kind_of(reason) != ERROR_CANCELLED)
            log_error("'%s' is not mounted again: %s", image->mountpoint, error_message(reason));
        error_free(reason);
    }
    client_image_unreference(image);
    pthread_mutex_unlock(&client->lock);
    return 0;
}

/* With the lock. */
static void restore_lost(struct node_client *client)
{
    struct restoring restoring = { .client = client };
    ssize_t count = list_lost(client, &restoring.images);
    if (count > 0) {
        cleanup_error struct error *error = NULL;
        pthread_mutex_unlock(&client->lock);
        if (parallel_run((size_t)count, RESTORES_AT_ONCE, restore, &restoring, &error) < 0)
            log_error("%s", error_message(error));
        pthread_mutex_lock(&client->lock);
    }
    free(restoring.images);
}

static bool something_is_lost(const struct node_client *client)
{
    const struct client_image *image;
    LIST_FOREACH(image, &client->images, link)
    if (image->state == IMAGE_LOST) return true;
    return false;
}

static void *run_restorer(void *argument)
{
    struct node_client *client = argument;
    pthread_mutex_lock(&client->lock);
    while (!client->stopping) {
        if (client->running && something_is_lost(client))
            restore_lost(client);
        else
            pthread_cond_wait(&client->changed, &client->lock);
    }
    pthread_mutex_unlock(&client->lock);
    return NULL;
}

/* ---- status ---- */

static const char *state_name(enum image_state state)
{
    static const char *const names[] = { [IMAGE_OPENING] = "opening",
                                         [IMAGE_OPEN] = "open",
                                         [IMAGE_LOST] = "lost",
                                         [IMAGE_FAILED] = "failed",
                                         [IMAGE_LEFT] = "left" };
    return names[state];
}

/* What the server says of the image, or NULL; borrowed. */
static json_t *find_said(const json_t *said, uint64_t number)
{
    size_t position;
    json_t *image;
    json_array_foreach(json_object_get(said, "images"), position, image)
    {
        if (json_integer_value(json_object_get(image, "id")) == (json_int_t)number) return image;
    }
    return NULL;
}

/* With the lock. */
static json_t *image_status(const struct client_image *image, const json_t *said)
{
    json_t *found = find_said(said, image->number);
    json_t *status = found ? json_copy(found) : json_object();
    json_object_set_new(status, "id", json_integer((json_int_t)image->id));
    json_object_set_new(status, "state", json_string(state_name(image->state)));
    json_object_set_new(status, "reason",
                        image->reason ? json_any_text(image->reason) : json_null());
    return status;
}

static json_t *client_status(struct node_client *client, const json_t *said, const char *reason)
{
    const struct client_image *image;
    json_t *images = json_array();
    pthread_mutex_lock(&client->lock);
    LIST_FOREACH(image, &client->images, link)
    json_array_append_new(images, image_status(image, said));
    json_int_t servers = client->servers, hangs = client->hangs;
    pthread_mutex_unlock(&client->lock);
    json_t *process = json_object_get(said, "process");
    return json_pack("{s:O?, s:o, s:I, s:I, s:o}", "server", process, "server_reason",
                     reason ? json_any_text(reason) : json_null(), "servers_started", servers,
                     "servers_hung", hangs, "images", images);
}

static json_t *ask_server(struct node_client *client, struct error **error)
{
    static const char command[] = "{\"command\": \"" NODE_STATUS "\"}";
    cleanup_buffer struct buffer answer = { 0 };
    pthread_mutex_lock(&client->lock);
    cleanup_close int commands = client->running ? fcntl(client->commands, F_DUPFD_CLOEXEC, 0) : -1;
    if (commands < 0)
        error_set(error, ERROR_UNREACHABLE, "%s",
                  client->failure ? error_message(client->failure) : "it is being started");
    pthread_mutex_unlock(&client->lock);
    const struct question_peer peer = { commands, "the server" };
    if (commands < 0 ||
        question_ask(&peer, command, strlen(command), STATUS_TIMEOUT_MS, &answer, error) < 0)
        return NULL;
    return json_read_object(answer.data, answer.length, "the server's status", error);
}

int node_client_status(struct node_client *client, struct buffer *ret, struct error **error)
{
    cleanup_error struct error *reason = NULL;
    cleanup_json json_t *said = ask_server(client, &reason);
    cleanup_json json_t *status =
        client_status(client, said, reason ? error_message(reason) : NULL);
    cleanup_free char *text = status ? json_dumps(status, JSON_COMPACT) : NULL;
    if (!text || buffer_append(ret, text, strlen(text)) < 0) return error_set_memory(error);
    return 0;
}

/* ---- start and end ---- */

static int wait_for_first(struct node_client *client, struct error **error)
{
    uint64_t deadline = clock_ms() + START_PATIENCE_MS;
    int result = 0;
    pthread_mutex_lock(&client->lock);
    while (!client->running && !client->failure && client_wait(client, deadline))
        continue;
    if (client->failure) {
        error_move(error, client->failure);
        client->failure = NULL;
        result = -1;
    }
    pthread_mutex_unlock(&client->lock);
    return result;
}

static int start(struct node_client *client, struct error **error)
{
    client->cancel = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (client->cancel < 0) return error_set_errno(error, errno, "eventfd");
    if (client_held_start(client, error) < 0) return -1;
    /* The server ends with the thread that has started it: prctl(2), PR_SET_PDEATHSIG. */
    if (thread_start(&client->supervisor, "sluice-super", node_supervise, client, error) < 0)
        return -1;
    client->supervisor_runs = true;
    if (thread_start(&client->restorer, "sluice-restore", run_restorer, client, error) < 0)
        return -1;
    client->restorer_runs = true;
    if (client->options.watchdog_ms > 0) {
        if (thread_start(&client->watchdog, "sluice-watchdog", node_watch, client, error) < 0)
            return -1;
        client->watchdog_runs = true;
    }
    if (client_give_back_start(client, error) < 0) return -1;
    return wait_for_first(client, error);
}

int node_client_start(struct node_client **ret, const struct node_client_options *options,
                      struct error **error)
{
    struct node_client *client = calloc(1, sizeof *client);
    if (!client) return error_set_memory(error);
    client->options = *options;
    client->commands = client->requests = client->cancel = -1;
    client->journal = -1;
    client->last_end = SERVER_KILLED; /* by the end of who has started it */
    LIST_INIT(&client->images);
    pthread_mutex_init(&client->lock, NULL);
    clock_condition_init(&client->changed);
    credential_searches_init(&client->searches, options->node.credentials,
                             options->node.credentials_context);
    if (start(client, error) < 0) {
        node_client_stop(client);
        return -1;
    }
    *ret = client;
    return 0;
}

static void free_images(struct node_client *client)
{
    while (!LIST_EMPTY(&client->images))
        client_image_drop(LIST_FIRST(&client->images));
}

void node_client_cancel(struct node_client *client)
{
    pthread_mutex_lock(&client->lock);
    client->cancelled = true;
    if (client->cancel >= 0) eventfd_write(client->cancel, 1);
    pthread_cond_broadcast(&client->changed);
    pthread_mutex_unlock(&client->lock);
}

static void stop_threads(struct node_client *client)
{
    pthread_mutex_lock(&client->lock);
    client->stopping = true;
    /* The second one is for a server that hangs: the supervisor ends it then. */
    if (client->commands >= 0) shutdown(client->commands, SHUT_RDWR);
    if (client->requests >= 0) shutdown(client->requests, SHUT_RDWR);
    if (client->starting) kill(client->starting, SIGKILL);
    pthread_cond_broadcast(&client->changed);
    pthread_mutex_unlock(&client->lock);
    if (client->supervisor_runs) pthread_join(client->supervisor, NULL);
    if (client->watchdog_runs) pthread_join(client->watchdog, NULL);
    if (client->restorer_runs) pthread_join(client->restorer, NULL);
}

void node_client_stop(struct node_client *client)
{
    if (!client) return;
    node_client_cancel(client);
    stop_threads(client);
    client_give_back_stop(client);
    free_images(client);
    client_held_stop(client);
    if (client->cancel >= 0) close(client->cancel);
    error_free(client->failure);
    /* A search that goes on uses the client. */
    if (!credential_searches_end(&client->searches)) return;
    pthread_cond_destroy(&client->changed);
    pthread_mutex_destroy(&client->lock);
    free(client);
}
