#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/descriptor_message.h"
#include "base/log.h"
#include "node/broker-internal.h"
#include "node/broker.h"

/* Mounting and unmounting are quick; this is a bound for when something is wrong. A search for
 * credentials has a shorter one of its own. */
#define ANSWER_TIMEOUT_MS 60000

struct broker {
    int socket;
    pid_t process;
    struct mounter mounter;
};

/* ---- requests ---- */

/* Waits for bytes, the end, or `cancel` (or -1). 0, or -1 with the error set. */
static int wait_for_answer(int answer, int cancel, struct error **error)
{
    struct pollfd watched[] = { { .fd = answer, .events = POLLIN },
                                { .fd = cancel, .events = POLLIN } };
    int ready;
    do
        ready = poll(watched, 2, ANSWER_TIMEOUT_MS);
    while (ready < 0 && errno == EINTR);
    if (ready < 0) return error_set_errno(error, errno, "wait for " BROKER_NAME);
    if (watched[1].revents) return error_set(error, ERROR_CANCELLED, "cancelled");
    if (ready == 0) return error_set(error, ERROR_UNREACHABLE, BROKER_NAME " does not answer");
    return 0;
}

static int read_text(int answer, int cancel, struct buffer *ret, struct error **error)
{
    for (;;) {
        if (wait_for_answer(answer, cancel, error) < 0) return -1;
        if (buffer_reserve(ret, 4096) < 0) return error_set_memory(error);
        ssize_t count = recv(answer, ret->data + ret->length, 4096, 0);
        if (count < 0 && errno == EINTR) continue;
        if (count < 0) return error_set_errno(error, errno, "read from " BROKER_NAME);
        if (count == 0) return 0;
        ret->length += (size_t)count;
        if (ret->length > BROKER_ANSWER_MAX)
            return error_set(error, ERROR_INVALID, "the answer of " BROKER_NAME " is too long");
    }
}

static int send_request(const struct broker *broker, enum broker_verb verb, const char *text,
                        int answer, struct error **error)
{
    char request[BROKER_REQUEST_MAX];
    size_t length = strlen(text);
    if (length > sizeof request - 1)
        return error_set(error, ERROR_INVALID, "a request to " BROKER_NAME " is too long");
    request[0] = (char)verb;
    memcpy(request + 1, text, length);
    if (descriptor_message_send(broker->socket, request, 1 + length, answer) == 0) return 0;
    return error_set_errno(error, errno, BROKER_NAME " has ended");
}

static int send_tree(int to, const struct kernel_tree *tree, struct error **error)
{
    static const char end = TREE_END;
    int result = 0;
    for (uint32_t i = 0; i <= tree->device_count && result == 0; i++) {
        int descriptor = i == 0 ? tree->metadata : tree->devices[i - 1];
        char item = descriptor >= 0 ? TREE_FILE : TREE_DEVICE_MOUNT;
        result = descriptor_message_send(to, &item, 1, descriptor);
    }
    if (result == 0) result = descriptor_message_send(to, &end, 1, -1);
    /* Who has refused already says so in the answer. */
    if (result == 0 || errno == EPIPE || errno == ECONNRESET) return 0;
    return error_set_errno(error, errno, "send files to " BROKER_NAME);
}

/* With a tree, if it is not NULL. The answer's text goes to `ret`, its descriptor (or -1) to
 * `ret_descriptor`. */
static int ask(const struct broker *broker, enum broker_verb verb, const char *text,
               const struct kernel_tree *tree, int cancel, struct buffer *ret, int *ret_descriptor,
               struct error **error)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        return error_set_errno(error, errno, "make a socket");
    cleanup_close int ours = pair[0];
    cleanup_close int theirs = pair[1];
    cleanup_close int received = -1;
    unsigned char status;
    if (send_request(broker, verb, text, theirs, error) < 0) return -1;
    close(take_descriptor(&theirs));
    if (tree && send_tree(ours, tree, error) < 0) return -1;
    if (wait_for_answer(ours, cancel, error) < 0) return -1;
    ssize_t count = descriptor_message_receive(ours, &status, 1, &received);
    if (count <= 0) return error_set(error, ERROR_SYSTEM, BROKER_NAME " has ended");
    if (read_text(ours, cancel, ret, error) < 0) return -1;
    if (status != ANSWER_DONE)
        return error_set(error, (enum error_kind)status, "%.*s", (int)ret->length,
                         ret->data ? (char *)ret->data : "");
    *ret_descriptor = take_descriptor(&received);
    return 0;
}

/* ---- what is asked for ---- */

static int ask_for_descriptor(const struct broker *broker, enum broker_verb verb, const char *text,
                              const struct kernel_tree *tree, struct error **error)
{
    cleanup_buffer struct buffer ignored = { 0 };
    int descriptor = -1;
    if (ask(broker, verb, text, tree, -1, &ignored, &descriptor, error) < 0) return -1;
    if (descriptor < 0) return error_set(error, ERROR_SYSTEM, BROKER_NAME " sent no descriptor");
    return descriptor;
}

static int attach(void *context, const char *source, struct error **error)
{
    return ask_for_descriptor(context, BROKER_MOUNT, source, NULL, error);
}

static int attach_devices(void *context, struct error **error)
{
    return ask_for_descriptor(context, BROKER_DEVICES, "", NULL, error);
}

static int attach_kernel(void *context, const struct kernel_tree *tree, struct error **error)
{
    return ask_for_descriptor(context, BROKER_KERNEL, tree->source, tree, error);
}

static void ask_and_tell(const struct broker *broker, enum broker_verb verb, const char *text,
                         const char *what)
{
    cleanup_buffer struct buffer ignored = { 0 };
    cleanup_close int descriptor = -1;
    cleanup_error struct error *error = NULL;
    if (ask(broker, verb, text, NULL, -1, &ignored, &descriptor, &error) < 0)
        log_warning("%s: %s", what, error_message(error));
}

static void tune(void *context, unsigned readahead)
{
    char text[16];
    snprintf(text, sizeof text, "%u", readahead);
    ask_and_tell(context, BROKER_TUNE, text, "set the mount's readahead");
}

static void detach(void *context)
{
    ask_and_tell(context, BROKER_UNMOUNT, "", "unmount");
}

const struct mounter *broker_mounter(const struct broker *broker)
{
    return &broker->mounter;
}

int broker_credentials(void *context, const struct credentials_question *question,
                       int cancel_descriptor, struct buffer *ret, struct error **error)
{
    cleanup_close int descriptor = -1;
    cleanup_free char *text = credentials_question_format(question);
    if (!text) return error_set_memory(error);
    return ask(context, BROKER_CREDENTIALS, text, NULL, cancel_descriptor, ret, &descriptor, error);
}

/* ---- start and end ---- */

/* This program once more, by another name. Nothing but the socket comes with it. */
static int start_process(pid_t *ret, char *const arguments[], int socket, struct error **error)
{
    posix_spawn_file_actions_t actions;
    int number = posix_spawn_file_actions_init(&actions);
    if (number) return error_set_errno(error, number, "start " BROKER_NAME);
    for (int i = 0; i < BROKER_SOCKET && !number; i++)
        number = posix_spawn_file_actions_addopen(&actions, i, "/dev/null", O_RDWR, 0);
    /* On to itself: takes the close-on-exec mark away in the child only. */
    if (!number) number = posix_spawn_file_actions_adddup2(&actions, socket, BROKER_SOCKET);
    if (!number) number = posix_spawn_file_actions_addclosefrom_np(&actions, BROKER_SOCKET + 1);
    if (!number) number = posix_spawn(ret, "/proc/self/exe", &actions, NULL, arguments, environ);
    posix_spawn_file_actions_destroy(&actions);
    if (!number) return 0;
    error_set_errno(error, number, "start " BROKER_NAME);
    if (number == ENOENT) error_hint(error, "sluice needs /proc and /dev/null");
    return -1;
}

int broker_start(struct broker **ret, const char *mountpoint, bool allow_suid, bool allow_devices,
                 struct error **error)
{
    int pair[2];
    char *arguments[] = { (char *)BROKER_NAME, (char *)mountpoint,
                          (char *)(allow_suid ? "suid" : "nosuid"),
                          (char *)(allow_devices ? "dev" : "nodev"), NULL };
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return error_set_errno(error, errno, "make a socket");
    cleanup_close int ours = pair[0];
    cleanup_close int theirs = pair[1];
    struct broker *broker = malloc(sizeof *broker);
    if (!broker) return error_set_memory(error);
    *broker = (struct broker){ .mounter = { attach, attach_devices, attach_kernel, tune, detach,
                                            broker } };
    if (start_process(&broker->process, arguments, theirs, error) < 0) {
        free(broker);
        return -1;
    }
    broker->socket = take_descriptor(&ours);
    *ret = broker;
    return 0;
}

void broker_free(struct broker *broker)
{
    if (!broker) return;
    close(broker->socket);
    while (waitpid(broker->process, NULL, 0) < 0 && errno == EINTR)
        continue;
    free(broker);
}
