#include "base/program.h"
#include "base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"

#define PIECE 4096u

struct running {
    const struct program *program;
    pid_t pid;
    int output; /* its standard output */
    int watch;  /* readable when it has ended; -1: the kernel cannot tell */
    uint64_t deadline;
};

/* ---- the start ---- */

static int spawn_with(const struct program *program, int input, int output,
                      posix_spawn_file_actions_t *actions, posix_spawnattr_t *attributes,
                      pid_t *ret)
{
    char *const *environment = program->environment ? program->environment : environ;
    sigset_t none, defaults;
    sigemptyset(&none);
    sigemptyset(&defaults);
    sigaddset(&defaults, SIGPIPE);
    /* A group of its own, so that what the program starts can be ended with it. */
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
    if (failure) return failure;
    return posix_spawnp(ret, program->name, actions, attributes, program->arguments, environment);
}

/* 0 or an errno. */
static int spawn(const struct program *program, int input, int output, pid_t *ret)
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

/* A pipe's reading end that holds `text`. Written before anybody reads, it can
 * neither block (a pipe holds at least a page) nor raise SIGPIPE. */
static int pipe_holding(const char *text)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0) return -1;
    int failed = write_fully(ends[1], text, strnlen(text, PROGRAM_INPUT_MAX));
    close(ends[1]);
    if (!failed) return ends[0];
    close(ends[0]);
    return -1;
}

/* ---- the answer ---- */

enum heard {
    HEARD_OUTPUT = 1, /* or its end */
    HEARD_EXIT = 2,   /* the program has ended */
};

/* Waits for something of `wanted` (enum heard). What there is, or -1 with the error set. */
static int listen_for(const struct running *running, unsigned wanted, struct error **error)
{
    for (;;) {
        uint64_t now = clock_ms();
        if (now >= running->deadline)
            return error_set(error, ERROR_UNREACHABLE, "it did not finish in time");
        struct pollfd watched[] = {
            { .fd = wanted & HEARD_OUTPUT ? running->output : -1, .events = POLLIN },
            { .fd = wanted & HEARD_EXIT ? running->watch : -1, .events = POLLIN },
            { .fd = running->program->cancel_descriptor, .events = POLLIN }
        };
        int ready = poll(watched, 3, (int)(running->deadline - now));
        if (ready < 0 && errno != EINTR) return error_set_errno(error, errno, "poll");
        if (ready <= 0) continue;
        if (watched[2].revents) return error_set(error, ERROR_CANCELLED, "cancelled");
        return (watched[0].revents ? HEARD_OUTPUT : 0) | (watched[1].revents ? HEARD_EXIT : 0);
    }
}

/* Until it closes its output or has ended: what it has started may keep it open. */
static int read_output(const struct running *running, struct buffer *ret, struct error **error)
{
    size_t limit = running->program->output_limit;
    /* At once, because memory that grows leaves copies behind, which nobody overwrites. */
    if (buffer_reserve(ret, limit + PIECE) < 0) return error_set_memory(error);
    for (;;) {
        int heard = listen_for(running, HEARD_OUTPUT | HEARD_EXIT, error);
        if (heard < 0) return -1;
        if (!(heard & HEARD_OUTPUT)) return 0;
        if (buffer_reserve(ret, PIECE) < 0) return error_set_memory(error);
        ssize_t count = read(running->output, ret->data + ret->length, PIECE);
        if (count < 0 && errno == EINTR) continue;
        if (count < 0) return error_set_errno(error, errno, "read from it");
        if (count == 0) return 0;
        ret->length += (size_t)count;
        if (ret->length > limit)
            return error_set(error, ERROR_INVALID, "it wrote more than %zu bytes", limit);
    }
}

/* -1 in `ret` where its exit status cannot be known. */
static int wait_for_exit(struct running *running, int *ret, struct error **error)
{
    *ret = -1;
    if (running->watch < 0) return 0;
    if (listen_for(running, HEARD_EXIT, error) < 0) return -1;
    int status;
    if (waitpid(running->pid, &status, 0) == running->pid) *ret = status;
    running->pid = -1;
    return 0;
}

/* Ends what is left of it; its exit status no longer matters. */
static void end(const struct running *running)
{
    if (running->pid <= 0) return;
    kill(-running->pid, SIGKILL);
    kill(running->pid, SIGKILL);
    while (waitpid(running->pid, NULL, 0) < 0 && errno == EINTR)
        ;
}

static int start(struct running *running, struct error **error)
{
    cleanup_close int input = pipe_holding(running->program->input);
    int ends[2];
    if (input < 0 || pipe2(ends, O_CLOEXEC) < 0)
        return error_set_errno(error, errno, "make a pipe");
    running->output = ends[0];
    int failure = spawn(running->program, input, ends[1], &running->pid);
    close(ends[1]);
    if (failure) {
        running->pid = -1;
        return error_set_errno(error, failure, "run it");
    }
    running->watch = pidfd_open(running->pid, 0);
    return 0;
}

int program_run(const struct program *program, struct buffer *ret, int *ret_status,
                struct error **error)
{
    struct running running = { .program = program,
                               .pid = -1,
                               .output = -1,
                               .watch = -1,
                               .deadline = clock_ms() + program->timeout_ms };
    int result = start(&running, error);
    if (result == 0) result = read_output(&running, ret, error);
    if (result == 0) result = wait_for_exit(&running, ret_status, error);
    end(&running);
    if (running.output >= 0) close(running.output);
    if (running.watch >= 0) close(running.watch);
    return result;
}
