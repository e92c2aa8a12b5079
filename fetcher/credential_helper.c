#include "fetcher/credential_helper-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/wait.h>

#include "base/buffer.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "fetcher/clock-internal.h"

#define OUTPUT_LIMIT (64u << 10)

struct helper {
    pid_t pid;
    int output; /* the helper's standard output */
    int watch;  /* readable when it has ended; -1: the kernel cannot tell */
    int cancel_descriptor;
    uint64_t deadline;
};

/* The name comes from a file and becomes a program name. */
static bool name_is_plain(const char *name)
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyz"
                                  "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    size_t length = strnlen(name, 100);
    return length > 0 && length < 100 && strspn(name, allowed) == length;
}

static int spawn_with(const char *program, int input, int output,
                      posix_spawn_file_actions_t *actions, posix_spawnattr_t *attributes,
                      pid_t *ret)
{
    char *arguments[] = { (char *)program, (char *)"get", NULL };
    sigset_t none, defaults;
    sigemptyset(&none);
    sigemptyset(&defaults);
    sigaddset(&defaults, SIGPIPE);
    /* A group of its own, so that what the helper starts can be ended with it. */
    posix_spawnattr_setflags(attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK |
                                             POSIX_SPAWN_SETSIGDEF);
    posix_spawnattr_setsigmask(attributes, &none);
    posix_spawnattr_setsigdefault(attributes, &defaults);
    int failure = posix_spawn_file_actions_adddup2(actions, input, STDIN_FILENO);
    if (!failure) failure = posix_spawn_file_actions_adddup2(actions, output, STDOUT_FILENO);
    if (!failure)
        failure =
            posix_spawn_file_actions_addopen(actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
    /* libcurl's sockets are not close-on-exec. */
    if (!failure) failure = posix_spawn_file_actions_addclosefrom_np(actions, 3);
    return failure ? failure : posix_spawnp(ret, program, actions, attributes, arguments, environ);
}

/* 0 or an errno. */
static int spawn(const char *program, int input, int output, pid_t *ret)
{
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    int failure = posix_spawn_file_actions_init(&actions);
    if (failure) return failure;
    failure = posix_spawnattr_init(&attributes);
    if (!failure) {
        failure = spawn_with(program, input, output, &actions, &attributes, ret);
        posix_spawnattr_destroy(&attributes);
    }
    posix_spawn_file_actions_destroy(&actions);
    return failure;
}

enum heard {
    HEARD_OUTPUT = 1, /* or its end */
    HEARD_EXIT = 2,   /* the helper has ended */
};

/* Waits for something of `wanted` (enum heard). What there is, or -1 with the error set. */
static int listen_for(const struct helper *helper, unsigned wanted, struct error **error)
{
    for (;;) {
        uint64_t now = clock_ms();
        if (now >= helper->deadline)
            return error_set(error, ERROR_UNREACHABLE, "it did not finish in time");
        struct pollfd watched[] = {
            { .fd = wanted & HEARD_OUTPUT ? helper->output : -1, .events = POLLIN },
            { .fd = wanted & HEARD_EXIT ? helper->watch : -1, .events = POLLIN },
            { .fd = helper->cancel_descriptor, .events = POLLIN }
        };
        int ready = poll(watched, 3, (int)(helper->deadline - now));
        if (ready < 0 && errno != EINTR) return error_set_errno(error, errno, "poll");
        if (ready <= 0) continue;
        if (watched[2].revents) return error_set(error, ERROR_CANCELLED, "cancelled");
        return (watched[0].revents ? HEARD_OUTPUT : 0) | (watched[1].revents ? HEARD_EXIT : 0);
    }
}

/* The helper's output, until it closes it or has ended: what it has started may keep it open. */
static int read_output(const struct helper *helper, struct buffer *ret, struct error **error)
{
    for (;;) {
        int heard = listen_for(helper, HEARD_OUTPUT | HEARD_EXIT, error);
        if (heard < 0) return -1;
        if (!(heard & HEARD_OUTPUT)) return 0;
        if (buffer_reserve(ret, 4096) < 0) return error_set_memory(error);
        ssize_t count = read(helper->output, ret->data + ret->length, 4096);
        if (count < 0 && errno == EINTR) continue;
        if (count < 0) return error_set_errno(error, errno, "read from it");
        if (count == 0) return 0;
        ret->length += (size_t)count;
        if (ret->length > OUTPUT_LIMIT)
            return error_set(error, ERROR_INVALID, "it wrote more than %u bytes", OUTPUT_LIMIT);
    }
}

/* The helper's exit status in `ret`; -1 where it cannot be known. */
static int wait_for_exit(struct helper *helper, int *ret, struct error **error)
{
    *ret = -1;
    if (helper->watch < 0) return 0;
    if (listen_for(helper, HEARD_EXIT, error) < 0) return -1;
    int status;
    if (waitpid(helper->pid, &status, 0) == helper->pid) *ret = status;
    helper->pid = -1;
    return 0;
}

static int parse_answer(const struct buffer *output, struct credentials *ret, struct error **error)
{
    json_t *root = json_loadb((const char *)output->data, output->length, 0, NULL);
    const char *user = json_string_value(json_object_get(root, "Username"));
    const char *secret = json_string_value(json_object_get(root, "Secret"));
    int result = 1;
    if (!user || !secret) {
        result = error_set(error, ERROR_INVALID, "its answer is not what a helper answers");
    } else if (!*secret) {
        result = 0;
    } else if (strcmp(user, "<token>") == 0) {
        ret->identity_token = strdup(secret);
        if (!ret->identity_token) result = error_set_memory(error);
    } else {
        ret->user = strdup(user);
        ret->password = strdup(secret);
        if (!ret->user || !ret->password) result = error_set_memory(error);
    }
    json_decref(root);
    return result;
}

static int listen_to(struct helper *helper, struct credentials *ret, struct error **error)
{
    struct buffer output = { 0 };
    int status, result;
    if (read_output(helper, &output, error) < 0 || wait_for_exit(helper, &status, error) < 0)
        result = -1;
    else if (status == 0 || (status == -1 && output.length > 0 && output.data[0] == '{'))
        result = parse_answer(&output, ret, error);
    else if (output.length > 0 && memmem(output.data, output.length, "not found", 9))
        result = 0; /* the helpers' common text is "credentials not found in native keychain" */
    else
        result = error_set(error, ERROR_DENIED, "it failed");
    if (output.data) explicit_bzero(output.data, output.capacity);
    buffer_free(&output);
    return result;
}

/* Ends what is left of the helper; its exit status no longer matters. */
static void end(const struct helper *helper)
{
    if (helper->pid <= 0) return;
    kill(-helper->pid, SIGKILL);
    kill(helper->pid, SIGKILL);
    while (waitpid(helper->pid, NULL, 0) < 0 && errno == EINTR)
        ;
}

/* A pipe's reading end that holds `text`. Written before anybody reads, it can
 * neither block (a pipe holds at least a page) nor raise SIGPIPE. */
static int pipe_holding(const char *text)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0) return -1;
    int failed = write_fully(ends[1], text, strnlen(text, 4096));
    close(ends[1]);
    if (!failed) return ends[0];
    close(ends[0]);
    return -1;
}

static int run(struct helper *helper, const char *program, const char *server,
               struct credentials *ret, struct error **error)
{
    cleanup_close int input = pipe_holding(server);
    int ends[2];
    if (input < 0 || pipe2(ends, O_CLOEXEC) < 0)
        return error_set_errno(error, errno, "make a pipe");
    helper->output = ends[0];
    int failure = spawn(program, input, ends[1], &helper->pid);
    close(ends[1]);
    if (failure) {
        helper->pid = -1;
        return error_set_errno(error, failure, "run it");
    }
    helper->watch = pidfd_open(helper->pid, 0);
    return listen_to(helper, ret, error);
}

int credential_helper_get(const char *name, const char *server, int cancel_descriptor,
                          unsigned timeout_ms, struct credentials *ret, struct error **error)
{
    *ret = (struct credentials){ 0 };
    if (!name_is_plain(name))
        return error_set(error, ERROR_INVALID, "'%.100s' is not the name of a credential helper",
                         name);
    cleanup_free char *program = format_text("docker-credential-%s", name);
    if (!program) return error_set_memory(error);
    struct helper helper = { .pid = -1,
                             .output = -1,
                             .watch = -1,
                             .cancel_descriptor = cancel_descriptor,
                             .deadline = clock_ms() + timeout_ms };
    int result = run(&helper, program, server, ret, error);
    end(&helper);
    if (helper.output >= 0) close(helper.output);
    if (helper.watch >= 0) close(helper.watch);
    if (result <= 0) credentials_free(ret);
    if (result < 0) error_prefix(error, "'%s'", program);
    return result;
}
