/*
 * The broker's own end. Mounting is done as it is asked for, one after the other; a search for
 * credentials has a thread of its own, because a helper may take its time and the server's end does
 * not wait for it: the socket for the answer is then closed, which ends the helper.
 */
#include "node/broker.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/descriptor_message.h"
#include "base/exit_code.h"
#include "base/file.h"
#include "base/thread.h"
#include "fetcher/credentials.h"
#include "fuse/erofs_mount.h"
#include "fuse/fuse_mount.h"
#include "fuse/tree_mount.h"
#include "index/erofs_image.h"
#include "node/broker-internal.h"

#define READAHEAD_KIBIBYTES_MAX (64u << 10)
#define SEARCHES_MAX            16u
#define SEARCHES_END_SECONDS    5

struct state {
    const char *mountpoint;
    bool allow_suid, allow_devices;
    bool was_mounted;
    struct tree_mount mount;
    bool by_fuse;
    int device_mount; /* until the kernel front door is mounted; or -1 */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    unsigned searches; /* under way */
};

/* ---- answers ---- */

/* -1: nobody listens any more. */
static int answer(int to, const struct error *error, const struct buffer *text, int descriptor)
{
    unsigned char status = error ? (unsigned char)error_kind_of(error) : ANSWER_DONE;
    if (descriptor_message_send(to, &status, 1, descriptor) < 0) return -1;
    /* Who does not listen any more has closed the socket. SIGPIPE is ignored. */
    if (error)
        write_fully(to, error_message(error), strlen(error_message(error)));
    else if (text && text->length)
        write_fully(to, text->data, text->length);
    return 0;
}

/* ---- mounting ---- */

static void forget_device_mount(struct state *state)
{
    if (state->device_mount >= 0) close(take_descriptor(&state->device_mount));
}

static int check_first_mount(const struct state *state, struct error **error)
{
    if (!state->was_mounted) return 0;
    return error_set(error, ERROR_INVALID, "'%s' was mounted before", state->mountpoint);
}

static void answer_mounted(struct state *state, int to, const struct error *error, int descriptor)
{
    state->was_mounted |= descriptor >= 0;
    /* A server that was killed meanwhile leaves no mount that was never served. */
    if (answer(to, error, NULL, descriptor) < 0) tree_mount_detach(&state->mount);
}

static void mount_fuse(struct state *state, const char *source, int to)
{
    cleanup_error struct error *error = NULL;
    cleanup_close int descriptor = -1;
    struct fuse_mount_options options = { .source = source,
                                          .allow_suid = state->allow_suid,
                                          .allow_devices = state->allow_devices };
    forget_device_mount(state);
    if (check_first_mount(state, &error) == 0)
        descriptor = fuse_mount_attach(&state->mount, state->mountpoint, &options, &error);
    state->by_fuse = descriptor >= 0;
    answer_mounted(state, to, error, descriptor);
}

static void mount_devices(struct state *state, int to)
{
    cleanup_error struct error *error = NULL;
    cleanup_close int descriptor = -1;
    forget_device_mount(state);
    if (check_first_mount(state, &error) == 0)
        descriptor = device_mount_attach(&state->device_mount, &error);
    answer(to, error, NULL, descriptor);
}

/* The metadata and the devices. */
struct tree_files {
    int descriptors[1 + EROFS_DEVICES_MAX + 1]; /* -1: a file of the device mount */
    uint32_t count;
};

static void tree_files_close(struct tree_files *files)
{
    for (uint32_t i = 0; i < files->count; i++)
        if (files->descriptors[i] >= 0) close(files->descriptors[i]);
}

static int receive_tree(struct tree_files *ret, int from, struct error **error)
{
    for (;;) {
        char item = 0;
        int descriptor;
        if (descriptor_message_receive(from, &item, 1, &descriptor) <= 0) break;
        bool room = ret->count < sizeof ret->descriptors / sizeof *ret->descriptors;
        bool fits = item == TREE_FILE ? descriptor >= 0 : descriptor < 0;
        if (item == TREE_END && fits && ret->count > 0) return 0;
        if (room) ret->descriptors[ret->count++] = descriptor;
        if (!room && descriptor >= 0) close(descriptor);
        if (!room || !fits || (item != TREE_FILE && item != TREE_DEVICE_MOUNT)) break;
    }
    return error_set(error, ERROR_INVALID, "what the kernel is to mount is not complete");
}

static void mount_by_kernel(struct state *state, const char *source, int to)
{
    cleanup_error struct error *error = NULL;
    cleanup_close int descriptor = -1;
    struct erofs_mount_options options = { .allow_suid = state->allow_suid,
                                           .allow_devices = state->allow_devices };
    struct tree_files files = { .count = 0 };
    if (check_first_mount(state, &error) == 0 && receive_tree(&files, to, &error) == 0) {
        struct kernel_tree tree = { .source = source,
                                    .metadata = files.descriptors[0],
                                    .devices = files.descriptors + 1,
                                    .device_count = files.count - 1 };
        descriptor = erofs_mount_attach(&state->mount, state->mountpoint, &tree,
                                        state->device_mount, &options, &error);
    }
    tree_files_close(&files);
    /* From now on the kernel's EROFS keeps it. */
    forget_device_mount(state);
    answer_mounted(state, to, error, descriptor);
}

static void tune(const struct state *state, const char *readahead)
{
    char *end;
    unsigned long kibibytes = strtoul(readahead, &end, 10);
    if (!state->mount.attached) return;
    if (state->by_fuse) fuse_mount_tune(state->mount.device_minor);
    if (*readahead && !*end && kibibytes <= READAHEAD_KIBIBYTES_MAX)
        tree_mount_set_readahead(&state->mount, (unsigned)kibibytes);
}

/* ---- credentials ---- */

struct search {
    struct state *state;
    int to;
    struct credentials_asked asked;
};

static bool take_place(struct state *state)
{
    pthread_mutex_lock(&state->lock);
    bool room = state->searches < SEARCHES_MAX;
    state->searches += room;
    pthread_mutex_unlock(&state->lock);
    return room;
}

static void leave_place(struct state *state)
{
    pthread_mutex_lock(&state->lock);
    state->searches--;
    pthread_cond_signal(&state->changed);
    pthread_mutex_unlock(&state->lock);
}

static void *run_search(void *argument)
{
    struct search *search = argument;
    struct state *state = search->state;
    cleanup_error struct error *error = NULL;
    cleanup_secret struct buffer text = { 0 };
    struct credentials found;
    credentials_search(search->asked.question.registry, search->to, &found);
    credentials_write(&found, &text, &error);
    answer(search->to, error, &text, -1);
    credentials_free(&found);
    credentials_asked_free(&search->asked);
    close(search->to);
    free(search);
    leave_place(state);
    return NULL;
}

/* Takes `to` over, unless it fails. */
static int start_search(struct state *state, const char *question, int to, struct error **error)
{
    struct search *search = calloc(1, sizeof *search);
    if (!search) return error_set_memory(error);
    search->state = state;
    search->to = to;
    pthread_t thread;
    if (credentials_question_parse(&search->asked, question, error) < 0 ||
        thread_start(&thread, "search", run_search, search, error) < 0) {
        credentials_asked_free(&search->asked);
        free(search);
        return -1;
    }
    pthread_detach(thread);
    return 0;
}

static void search_credentials(struct state *state, const char *question, int *to)
{
    cleanup_error struct error *error = NULL;
    if (!take_place(state)) {
        error_set(&error, ERROR_SYSTEM, "too many searches for credentials at once");
    } else if (start_search(state, question, *to, &error) < 0) {
        leave_place(state);
    } else {
        take_descriptor(to);
        return;
    }
    answer(*to, error, NULL, -1);
}

/* ---- the loop ---- */

static void handle(struct state *state, enum broker_verb verb, const char *text, int *to)
{
    switch (verb) {
    case BROKER_MOUNT:
        mount_fuse(state, text, *to);
        return;
    case BROKER_DEVICES:
        mount_devices(state, *to);
        return;
    case BROKER_KERNEL:
        mount_by_kernel(state, text, *to);
        return;
    case BROKER_TUNE:
        tune(state, text);
        answer(*to, NULL, NULL, -1);
        return;
    case BROKER_UNMOUNT:
        tree_mount_detach(&state->mount);
        answer(*to, NULL, NULL, -1);
        return;
    case BROKER_CREDENTIALS:
        search_credentials(state, text, to);
        return;
    }
}

static void serve(struct state *state)
{
    for (;;) {
        char request[BROKER_REQUEST_MAX + 1];
        cleanup_close int to = -1;
        ssize_t length =
            descriptor_message_receive(BROKER_SOCKET, request, BROKER_REQUEST_MAX, &to);
        if (length <= 0) return;
        request[length] = 0;
        if (to >= 0) handle(state, (enum broker_verb)request[0], request + 1, &to);
    }
}

static void do_nothing(int number)
{
    (void)number;
}

/* Who ends a whole group or unit of processes gets the server to unmount, for which it needs us.
 * Handlers, because programs that we run would inherit that a signal is ignored. */
static void outlive_signals(void)
{
    static const int signals[] = { SIGTERM, SIGINT, SIGHUP, SIGQUIT };
    struct sigaction action = { .sa_handler = do_nothing, .sa_flags = SA_RESTART };
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
        sigaction(signals[i], &action, NULL);
    setsid();
}

static bool is_socket(int descriptor)
{
    struct stat status;
    return fstat(descriptor, &status) == 0 && S_ISSOCK(status.st_mode);
}

/* So that their helpers are ended. Not for long: a home directory on a server that does not answer
 * may hold a search up for ever, and the mount's server waits for us. */
static bool wait_for_searches(struct state *state)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += SEARCHES_END_SECONDS;
    int result = 0;
    pthread_mutex_lock(&state->lock);
    while (state->searches > 0 && result == 0)
        result = pthread_cond_timedwait(&state->changed, &state->lock, &until);
    pthread_mutex_unlock(&state->lock);
    return result == 0;
}

int broker_main(int argc, char **argv)
{
    if (argc != 4 || !is_socket(BROKER_SOCKET)) {
        fputs(BROKER_NAME ": 'sluice mount' starts this; it is of no use otherwise\n", stderr);
        return EXIT_USAGE;
    }
    struct state state = { .mountpoint = argv[1],
                           .allow_suid = strcmp(argv[2], "suid") == 0,
                           .allow_devices = strcmp(argv[3], "dev") == 0,
                           .device_mount = -1,
                           .lock = PTHREAD_MUTEX_INITIALIZER,
                           .changed = PTHREAD_COND_INITIALIZER };
    fcntl(BROKER_SOCKET, F_SETFD, FD_CLOEXEC);
    outlive_signals();
    if (chdir("/") < 0) return EXIT_FAILED;
    serve(&state);
    /* One that goes on uses what is on this stack. */
    if (!wait_for_searches(&state)) _exit(EXIT_FAILED);
    free(state.mount.mountpoint);
    return EXIT_OK;
}
