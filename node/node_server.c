#include "node/node_server.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/queue.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/confine.h"
#include "base/descriptor_message.h"
#include "base/exit_code.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/thread.h"
#include "node/broker.h"
#include "node/child_process.h"
#include "node/give_back.h"
#include "node/node_protocol-internal.h"
#include "node/process_status.h"
#include "node/question.h"

#define IMAGES_MAX 4096u

struct node_server {
    struct node node;
    struct confinement confinement;
    struct broker *broker;
    struct request_journal *journal;
    time_t started;
    /* Held in common while an image is loaded: what that finds in the cache is not given back
     * before it is known to be in use. */
    pthread_rwlock_t loading;
    pthread_mutex_t lock;
    LIST_HEAD(, served_image) images;
    unsigned image_count;
};

/* Has a thread of its own, from the command to the end. */
struct served_image {
    LIST_ENTRY(served_image) link;
    struct node_server *server;
    json_t *command;
    struct node_open open; /* borrows from the command */
    struct broker_mount mount;
    struct fuse_lasting lasting;
    struct mounted_image *image; /* once it is loaded; written with the lock */
    int to;                      /* where the answer is waited for; -1: it was given */
};

/* ---- answers ---- */

static int answer_object(int to, json_t *object, int descriptor)
{
    cleanup_free char *text = object ? json_dumps(object, JSON_COMPACT) : NULL;
    if (!text) {
        cleanup_error struct error *error = NULL;
        error_set_memory(&error);
        return question_answer(to, error, NULL, -1);
    }
    struct buffer buffer = { .data = (uint8_t *)text, .length = strlen(text) };
    return question_answer(to, NULL, &buffer, descriptor);
}

/* -1: who has asked has given up. */
static int answer_opened(struct served_image *served)
{
    char text[FUSE_NEGOTIATED_TEXT_SIZE];
    cleanup_json json_t *status = mounted_image_status(served->image);
    cleanup_close int to = take_descriptor(&served->to);
    size_t count;
    cleanup_free struct digest *keys = mounted_image_cache_keys(served->image, &count);
    if (keys) json_object_set_new(status, "cache_keys", json_digests(keys, count));
    const struct fuse_negotiated *negotiated =
        served->open.options.mountpoint ? mounted_image_negotiated(served->image) : NULL;
    json_object_set_new(status, "negotiated",
                        negotiated ? json_string(fuse_negotiated_format(negotiated, text))
                                   : json_null());
    return answer_object(to, status, negotiated ? mounted_image_connection(served->image) : -1);
}

/* ---- an image ---- */

static int load(struct served_image *served, struct error **error)
{
    struct node_server *server = served->server;
    struct mounted_image *image;
    pthread_rwlock_rdlock(&server->loading);
    int result = mounted_image_new(&image, &server->node, &served->open.options, error);
    pthread_rwlock_unlock(&server->loading);
    if (result < 0) return -1;
    pthread_mutex_lock(&server->lock);
    served->image = image;
    pthread_mutex_unlock(&server->lock);
    return 0;
}

static void tell_ready(void *context)
{
    struct served_image *served = context;
    if (answer_opened(served) < 0) mounted_image_stop(served->image);
}

static int serve(struct served_image *served, struct error **error)
{
    if (load(served, error) < 0) return -1;
    if (!served->open.options.mountpoint) {
        answer_opened(served);
        return 0;
    }
    int result = mounted_image_mount(served->image, error);
    /* Whether it worked or not, they are taken over. */
    served->open.resumed.connection = served->open.resumed.end = -1;
    if (result < 0) return -1;
    return mounted_image_serve(served->image, tell_ready, served, error);
}

static void tell_failure(struct served_image *served, const struct error *error)
{
    if (served->to >= 0)
        question_answer(served->to, error, NULL, -1);
    else
        log_about(LOG_ERROR, served->open.options.reference, "%s: %s",
                  served->open.options.reference, error_message(error));
}

static void close_resumed(struct served_image *served)
{
    struct front_resumed *resumed = &served->open.resumed;
    if (!served->open.is_resumed) return;
    if (resumed->connection >= 0) close(resumed->connection);
    if (resumed->end >= 0) close(resumed->end);
}

static void end_image(struct served_image *served)
{
    struct node_server *server = served->server;
    if (served->image) mounted_image_end(served->image);
    pthread_mutex_lock(&server->lock);
    LIST_REMOVE(served, link);
    server->image_count--;
    pthread_mutex_unlock(&server->lock);
    mounted_image_free(served->image);
    broker_mount_gone(&served->mount);
    if (served->to >= 0) close(served->to);
    close_resumed(served);
    json_decref(served->command);
    free(served);
}

static void *run_image(void *argument)
{
    struct served_image *served = argument;
    cleanup_error struct error *error = NULL;
    if (serve(served, &error) < 0) {
        /* Who hears of it may have the same connection served again. */
        if (served->image) mounted_image_end(served->image);
        tell_failure(served, error);
    }
    end_image(served);
    return NULL;
}

/* ---- giving back ---- */

struct giving_back {
    struct node_server *server;
    struct digest *digests;
    size_t count;
    int to;
};

static void giving_back_free(struct giving_back *giving)
{
    if (giving->to >= 0) close(giving->to);
    free(giving->digests);
    free(giving);
}

static void *run_give_back(void *argument)
{
    struct giving_back *giving = argument;
    struct node_server *server = giving->server;
    size_t left = giving->count;
    if (pthread_rwlock_trywrlock(&server->loading) == 0) {
        left = node_give_back(server->node.cache, giving->digests, giving->count);
        pthread_rwlock_unlock(&server->loading);
    }
    cleanup_json json_t *answer =
        json_pack("{s:o}", "digests", json_digests(giving->digests, left));
    answer_object(giving->to, answer, -1);
    giving_back_free(giving);
    return NULL;
}

/* Large files take a while. The thread has `*to`. */
static int give_back(struct node_server *server, const json_t *command, int *to,
                     struct error **error)
{
    pthread_t thread;
    struct giving_back *giving = calloc(1, sizeof *giving);
    if (!giving) return error_set_memory(error);
    *giving = (struct giving_back){ .server = server, .to = -1 };
    if (json_field_digests(command, "digests", NODE_GIVE_BACK_MAX, &giving->digests, &giving->count,
                           error) == 0) {
        giving->to = *to;
        if (thread_start(&thread, "sluice-forget", run_give_back, giving, error) == 0) {
            pthread_detach(thread);
            *to = -1;
            return 0;
        }
        giving->to = -1;
    }
    giving_back_free(giving);
    return -1;
}

/* ---- commands ---- */

static int add_image(struct node_server *server, struct served_image *served, struct error **error)
{
    pthread_t thread;
    pthread_mutex_lock(&server->lock);
    bool room = server->image_count < IMAGES_MAX;
    if (room) {
        LIST_INSERT_HEAD(&server->images, served, link);
        server->image_count++;
    }
    pthread_mutex_unlock(&server->lock);
    if (!room) return error_set(error, ERROR_SYSTEM, "%u images are open already", IMAGES_MAX);
    if (thread_start(&thread, "sluice-image", run_image, served, error) == 0) {
        pthread_detach(thread);
        return 0;
    }
    pthread_mutex_lock(&server->lock);
    LIST_REMOVE(served, link);
    server->image_count--;
    pthread_mutex_unlock(&server->lock);
    return -1;
}

static int receive_resumed(int from, int *descriptor, struct error **error)
{
    char item;
    if (*descriptor < 0) return 0;
    if (descriptor_message_receive(from, &item, 1, descriptor) > 0 && *descriptor >= 0) return 0;
    return error_set(error, ERROR_INVALID, "what is resumed is not complete");
}

/* Descriptors of a tree that another server has mounted. */
static int prepare_lasting(struct served_image *served, struct error **error)
{
    struct front_resumed *resumed = &served->open.resumed;
    struct mounted_image_options *options = &served->open.options;
    served->lasting = (struct fuse_lasting){ .journal = served->server->journal,
                                             .connection = served->open.connection };
    options->lasting = &served->lasting;
    if (!served->open.is_resumed) return 0;
    options->resumed = resumed;
    int result = receive_resumed(served->to, &resumed->connection, error);
    if (result < 0) resumed->end = -1;
    return result < 0 ? -1 : receive_resumed(served->to, &resumed->end, error);
}

/* The image has its thread, the command, and `*to`; unless it fails. */
static int open_image(struct node_server *server, json_t *command, int *to, struct error **error)
{
    struct served_image *served = calloc(1, sizeof *served);
    if (!served) return error_set_memory(error);
    served->server = server;
    served->to = *to;
    served->command = command;
    if (node_open_decode(command, &served->open, error) == 0) {
        broker_mount_init(&served->mount, server->broker, served->open.number);
        served->open.options.mounter = &served->mount.mounter;
        if (prepare_lasting(served, error) == 0 && add_image(server, served, error) == 0) {
            *to = -1;
            return 0;
        }
        close_resumed(served);
    }
    free(served);
    return -1;
}

/* Of what one layer changes, that layer alone is told: each has a mount, and those below it would
 * be there as often as there are layers above them. */
static void keep_last_layer(json_t *status)
{
    json_t *layers = json_object_get(status, "layers");
    size_t count = json_array_size(layers);
    if (count < 2) return;
    json_t *last = json_incref(json_array_get(layers, count - 1));
    json_array_clear(layers);
    json_array_append_new(layers, last);
}

static json_t *images_status(struct node_server *server)
{
    struct served_image *served;
    json_t *images = json_array();
    pthread_mutex_lock(&server->lock);
    LIST_FOREACH(served, &server->images, link)
    {
        json_t *status = served->image ? mounted_image_status(served->image) : NULL;
        if (!status) continue;
        if (served->open.options.difference) keep_last_layer(status);
        json_object_set_new(status, "id", json_integer((json_int_t)served->open.number));
        json_array_append_new(images, status);
    }
    pthread_mutex_unlock(&server->lock);
    return images;
}

static void answer_status(struct node_server *server, int to)
{
    json_t *process = process_status(&server->node, &server->confinement, server->started);
    cleanup_json json_t *root =
        json_pack("{s:o, s:o}", "process", process, "images", images_status(server));
    answer_object(to, root, -1);
}

static void handle(struct node_server *server, const char *text, size_t length, int *to)
{
    cleanup_error struct error *error = NULL;
    cleanup_json json_t *command = json_read_object(text, length, "a command", &error);
    const char *name = command ? json_field_text(command, "command", &error) : NULL;
    if (name && strcmp(name, NODE_OPEN) == 0) {
        if (open_image(server, command, to, &error) == 0) {
            (void)take_pointer(&command);
            return;
        }
    } else if (name && strcmp(name, NODE_GIVE_BACK) == 0) {
        if (give_back(server, command, to, &error) == 0) return;
    } else if (name && strcmp(name, NODE_PING) == 0) {
        data_path_pass(server->node.path);
    } else if (name && strcmp(name, NODE_STATUS) == 0) {
        answer_status(server, *to);
        return;
    } else if (name) {
        error_set(&error, ERROR_INVALID, "'%.50s' is no command", name);
    }
    question_answer(*to, error, NULL, -1);
}

/* ---- start and end ---- */

/* Who has started us may have ended before the kernel was told to end us then. */
static int end_with_parent(const json_t *command, struct error **error)
{
    uint64_t parent;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (json_field_size(command, "parent", &parent, error) < 0) return -1;
    if (parent == (uint64_t)getppid()) return 0;
    return error_set(error, ERROR_SYSTEM, "who has started the server has ended");
}

static int start(struct node_server *server, const json_t *command, struct error **error)
{
    struct node_options options;
    uint64_t before;
    const char *name = json_field_text(command, "command", error);
    if (!name) return -1;
    if (strcmp(name, NODE_START) != 0)
        return error_set(error, ERROR_INVALID, "the first command is not '%s'", NODE_START);
    if (end_with_parent(command, error) < 0 ||
        json_field_size(command, "before", &before, error) < 0 ||
        request_journal_open(&server->journal, NODE_JOURNAL, (enum server_end)before, error) < 0 ||
        node_start_decode(command, &options, error) < 0 ||
        directory_make(options.cache, 0700, error) < 0)
        return -1;
    confine_process(&options.cache, 1, &server->confinement);
    server->broker = broker_connect(NODE_BROKER_SOCKET, "sluiced");
    if (!server->broker) return error_set_memory(error);
    options.credentials = broker_credentials;
    options.credentials_context = server->broker;
    return node_open(&server->node, &options, error);
}

/* Before there is another thread. */
static int answer_start(struct node_server *server)
{
    char text[QUESTION_LENGTH_MAX + 1];
    cleanup_close int to = -1;
    cleanup_error struct error *error = NULL;
    ssize_t length = question_receive(NODE_COMMANDS_SOCKET, text, &to);
    if (length <= 0 || to < 0) return -1;
    cleanup_json json_t *command = json_read_object(text, (size_t)length, "a command", &error);
    int result = command ? start(server, command, &error) : -1;
    return question_answer(to, error, NULL, -1) < 0 ? -1 : result;
}

static void serve_commands(struct node_server *server)
{
    for (;;) {
        char text[QUESTION_LENGTH_MAX + 1];
        cleanup_close int to = -1;
        ssize_t length = question_receive(NODE_COMMANDS_SOCKET, text, &to);
        if (length <= 0) return;
        if (to >= 0) handle(server, text, (size_t)length, &to);
    }
}

int node_server_main(int argc, char **argv)
{
    static struct node_server server = { .loading = PTHREAD_RWLOCK_INITIALIZER,
                                         .lock = PTHREAD_MUTEX_INITIALIZER };
    (void)argv;
    if (argc != 1 || !child_process_take_socket(NODE_COMMANDS_SOCKET) ||
        !child_process_take_socket(NODE_BROKER_SOCKET)) {
        fputs(NODE_SERVER_NAME ": 'sluiced' starts this; it is of no use otherwise\n", stderr);
        return EXIT_USAGE;
    }
    /* Who stops a whole unit of processes stops the one that has started us, too. */
    fcntl(NODE_JOURNAL, F_SETFD, FD_CLOEXEC);
    signal(SIGTERM, SIG_IGN);
    signal(SIGINT, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    signal(SIGPIPE, SIG_IGN);
    setsid();
    server.started = time(NULL);
    log_set_program(NODE_SERVER_NAME);
    child_process_show_name(NODE_SERVER_NAME);
    if (chdir("/") < 0 || answer_start(&server) < 0) _exit(EXIT_FAILED);
    serve_commands(&server);
    /* Trees are served to the last moment: whatever is in memory is on disk or may be lost. */
    _exit(EXIT_OK);
}
