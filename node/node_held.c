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

/* One that did not answer is left to the thread that looks after it: nobody waits for it here
 * again. */
static bool can_be_told(const struct node_client *client)
{
    return client->holder && holder_client_descriptor(client->holder) >= 0;
}

void client_image_hold(struct node_client *client, struct client_image *image)
{
    char name[NAME_SIZE];
    int descriptors[2];
    size_t count = 0;
    cleanup_error struct error *error = NULL;
    if (!client_image_can_resume(image)) return;
    if (can_be_told(client) && !holds_images(client)) hold_journal(client);
    if (!can_be_told(client)) return;
    cleanup_free char *text = client_image_describe(image);
    if (!text) return;
    if (image->keeper.connection >= 0) descriptors[count++] = image->keeper.connection;
    if (image->keeper.end >= 0) descriptors[count++] = image->keeper.end;
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
    if (!can_be_told(client)) return;
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

static bool is_image_of(const struct node_client *client, const char *name)
{
    char its_name[NAME_SIZE];
    const struct client_image *image;
    LIST_FOREACH(image, &client->images, link)
    if (strcmp(name_of(image->connection, its_name), name) == 0) return true;
    return false;
}

/* What was closed while the holder could not be told. */
static void release_others(struct node_client *client, const struct holder_entry *held,
                           size_t count)
{
    for (size_t i = 0; i < count && can_be_told(client); i++)
        if (strncmp(held[i].name, IMAGE, strlen(IMAGE)) == 0 && !is_image_of(client, held[i].name))
            holder_drop(client->holder, held[i].name, NULL);
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

static int find_holder(const struct node_client_options *options, struct holder_client **ret,
                       struct error **error)
{
    struct error *reason = NULL;
    if (holder_connect(ret, options->holder, &reason) == 0) return 0;
    if (error_errno(reason) == EAGAIN) return error_move(error, reason);
    error_free(reason);
    if (start_holder(options, error) < 0) return -1;
    return holder_connect(ret, options->holder, error);
}

/* A holder that answers, and what it has. *ret_silent: there is one that does not answer. */
static int reach_holder(const struct node_client_options *options, struct holder_client **ret,
                        struct holder_entry **ret_held, size_t *ret_count, bool *ret_silent,
                        struct error **error)
{
    cleanup_error struct error *reason = NULL;
    *ret_silent = false;
    if (find_holder(options, ret, &reason) == 0) {
        if (holder_list(*ret, ret_held, ret_count, &reason) == 0) return 0;
        holder_disconnect(*ret);
    }
    *ret_silent = error_errno(reason) == EAGAIN;
    if (!*ret_silent) return error_move(error, take_pointer(&reason));
    error_set(error, ERROR_UNREACHABLE, "the holder at '%s' does not answer", options->holder);
    return error_hint(error, "let it go on if it was stopped; if it is killed, readers of what it "
                             "keeps get errors");
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
    int result = client_image_take(image, root, entry, error);
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

/* ---- the thread ---- */

/* With the client's lock, but for as long as a holder is looked for. It was replaced (then the next
 * one has everything), is another one (then it has nothing), or did not answer. */
static void look_after_holder(struct node_client *client)
{
    cleanup_error struct error *error = NULL;
    struct holder_client *found = NULL;
    struct holder_entry *held = NULL;
    size_t count = 0;
    bool silent;
    struct pollfd watched = { .fd =
                                  client->holder ? holder_client_descriptor(client->holder) : -1 };
    if (watched.fd >= 0 && poll(&watched, 1, 0) == 0) return;
    bool told = !client->holder;
    holder_disconnect(client->holder);
    client->holder = NULL;
    pthread_mutex_unlock(&client->lock);
    int result = reach_holder(&client->options, &found, &held, &count, &silent, &error);
    pthread_mutex_lock(&client->lock);
    if (result < 0) {
        if (!told)
            log_error("there is no holder: images do not outlive this process: %s",
                      error_message(error));
        return;
    }
    client->holder = found;
    release_others(client, held, count);
    holder_entries_free(held, count);
    hold_everything(client);
    if (told) log_info("there is a holder again");
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

/* Where the holder is silent nothing can start: what it keeps would be lost. */
static int adopt_all(struct node_client *client, struct error **error)
{
    struct error *reason = NULL;
    struct holder_entry *held = NULL;
    size_t count = 0;
    bool silent;
    if (reach_holder(&client->options, &client->holder, &held, &count, &silent, &reason) == 0) {
        for (size_t i = 0; i < count; i++)
            adopt(client, &held[i]);
        holder_entries_free(held, count);
        return 0;
    }
    client->holder = NULL;
    if (silent) return error_move(error, reason);
    log_error("there is no holder: images do not outlive this process: %s", error_message(reason));
    error_free(reason);
    return 0;
}

int client_held_start(struct node_client *client, struct error **error)
{
    bool wanted = client->options.holder != NULL;
    if (wanted && adopt_all(client, error) < 0) return -1;
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
