#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/descriptor_message.h"
#include "base/file.h"
#include "base/log.h"
#include "node/broker-internal.h"
#include "node/broker.h"
#include "node/child_process.h"
#include "node/question.h"

/* Mounting and unmounting are quick; this is a bound for when something is wrong. A search for
 * credentials has a shorter one of its own. */
#define ANSWER_TIMEOUT_MS 60000

struct broker {
    struct question_peer peer;
    pid_t process; /* 0: not ours */
};

/* ---- requests ---- */

/* The socket for the answer, or -1. */
static int send_request(const struct broker *broker, enum broker_verb verb, uint64_t mount,
                        const char *text, struct error **error)
{
    cleanup_free char *request =
        format_text("%c%llu %s", (int)verb, (unsigned long long)mount, text);
    if (!request) return error_set_memory(error);
    return question_send(&broker->peer, request, strlen(request), error);
}

static int send_tree(const struct broker *broker, int to, const struct kernel_tree *tree,
                     struct error **error)
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
    return error_set_errno(error, errno, "send files to %s", broker->peer.name);
}

/* ---- what is asked for ---- */

/* With a tree, if it is not NULL. */
static int ask_for_descriptor(const struct broker_mount *mount, enum broker_verb verb,
                              const char *text, const struct kernel_tree *tree,
                              struct error **error)
{
    const struct broker *broker = mount->broker;
    cleanup_buffer struct buffer ignored = { 0 };
    int descriptor = -1;
    cleanup_close int from = send_request(broker, verb, mount->number, text, error);
    if (from < 0 || (tree && send_tree(broker, from, tree, error) < 0) ||
        question_wait(&broker->peer, from, -1, ANSWER_TIMEOUT_MS, &ignored, &descriptor, error) < 0)
        return -1;
    if (descriptor < 0)
        return error_set(error, ERROR_SYSTEM, "%s sent no descriptor", broker->peer.name);
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

static void ask_and_tell(const struct broker_mount *mount, enum broker_verb verb, const char *text,
                         const char *what)
{
    cleanup_buffer struct buffer ignored = { 0 };
    cleanup_close int descriptor = -1;
    cleanup_error struct error *error = NULL;
    cleanup_close int from = send_request(mount->broker, verb, mount->number, text, &error);
    if (from < 0 || question_wait(&mount->broker->peer, from, -1, ANSWER_TIMEOUT_MS, &ignored,
                                  &descriptor, &error) < 0)
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

void broker_mount_init(struct broker_mount *mount, const struct broker *broker, uint64_t number)
{
    *mount = (struct broker_mount){ .broker = broker, .number = number };
    mount->mounter = (struct mounter){ attach, attach_devices, attach_kernel, tune, detach, mount };
}

void broker_mount_gone(const struct broker_mount *mount)
{
    cleanup_error struct error *error = NULL;
    cleanup_close int from = send_request(mount->broker, BROKER_GONE, mount->number, "", &error);
    if (from < 0) log_warning("%s", error_message(error));
}

int broker_credentials(void *context, const struct credentials_question *question,
                       int cancel_descriptor, struct buffer *ret, struct error **error)
{
    const struct broker *broker = context;
    cleanup_close int descriptor = -1;
    cleanup_free char *text = credentials_question_format(question);
    if (!text) return error_set_memory(error);
    cleanup_close int from = send_request(broker, BROKER_CREDENTIALS, 0, text, error);
    if (from < 0) return -1;
    return question_wait(&broker->peer, from, cancel_descriptor, ANSWER_TIMEOUT_MS, ret,
                         &descriptor, error);
}

/* ---- start and end ---- */

struct broker *broker_connect(int socket, const char *name)
{
    struct broker *broker = malloc(sizeof *broker);
    if (broker) *broker = (struct broker){ .peer = { socket, name } };
    return broker;
}

int broker_start(struct broker **ret, const char *mountpoint, bool allow_suid, bool allow_devices,
                 struct error **error)
{
    int pair[2];
    char *const arguments[] = { (char *)BROKER_NAME, (char *)mountpoint,
                                (char *)(allow_suid ? "suid" : "nosuid"),
                                (char *)(allow_devices ? "dev" : "nodev"), NULL };
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return error_set_errno(error, errno, "make a socket");
    cleanup_close int ours = pair[0];
    cleanup_close int theirs = pair[1];
    struct child_process child = { .arguments = arguments, .sockets = &theirs, .socket_count = 1 };
    struct broker *broker = broker_connect(-1, BROKER_NAME);
    if (!broker) return error_set_memory(error);
    if (child_process_start(&broker->process, &child, error) < 0) {
        free(broker);
        return -1;
    }
    broker->peer.socket = take_descriptor(&ours);
    *ret = broker;
    return 0;
}

void broker_free(struct broker *broker)
{
    if (!broker) return;
    close(broker->peer.socket);
    while (broker->process && waitpid(broker->process, NULL, 0) < 0 && errno == EINTR)
        continue;
    free(broker);
}
