#include "fuse/fusermount-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "base/cleanup.h"
#include "base/descriptor_message.h"
#include "base/file.h"

#define HELPER "fusermount3"
/* fusermount3(1) and its source: the number of the socket that takes the descriptor. */
#define SOCKET_VARIABLE "_FUSE_COMMFD"

/* A copy of the environment with `setting` in place of another value of it; the strings are
 * borrowed. */
static char **environment_with(char *setting, size_t name_length)
{
    size_t count = 0;
    while (environ[count])
        count++;
    char **copy = calloc(count + 2, sizeof *copy);
    if (!copy) return NULL;
    size_t kept = 0;
    for (size_t i = 0; i < count; i++)
        if (strncmp(environ[i], setting, name_length + 1) != 0) copy[kept++] = environ[i];
    copy[kept] = setting;
    return copy;
}

/* Starts the helper with its standard error at `complaints`; `socket` (or -1) stays open in it. */
static int start_helper(pid_t *ret, char *const arguments[], int socket, int complaints,
                        struct error **error)
{
    cleanup_free char *setting = format_text(SOCKET_VARIABLE "=%d", socket);
    if (!setting) return error_set_memory(error);
    cleanup_free char **environment = environment_with(setting, strlen(SOCKET_VARIABLE));
    if (!environment) return error_set_memory(error);

    posix_spawn_file_actions_t actions;
    int number = posix_spawn_file_actions_init(&actions);
    if (number) return error_set_errno(error, number, "start " HELPER);
    number = posix_spawn_file_actions_adddup2(&actions, complaints, STDERR_FILENO);
    /* On to itself: takes the close-on-exec mark away in the child only. */
    if (!number && socket >= 0) number = posix_spawn_file_actions_adddup2(&actions, socket, socket);
    if (!number) number = posix_spawnp(ret, HELPER, &actions, NULL, arguments, environment);
    posix_spawn_file_actions_destroy(&actions);
    if (!number) return 0;
    error_set_errno(error, number, "start " HELPER);
    return error_hint(error, "install the package fuse3, or run as root");
}

/* What the helper said, as one line. */
static void read_complaint(int descriptor, char *text, size_t capacity)
{
    size_t length = 0;
    for (;;) {
        char rest[256];
        ssize_t count = length + 1 < capacity
                            ? read(descriptor, text + length, capacity - 1 - length)
                            : read(descriptor, rest, sizeof rest);
        if (count < 0 && errno == EINTR) continue;
        if (count <= 0) break;
        if (length + 1 < capacity) length += (size_t)count;
    }
    text[length] = 0;
    text[strcspn(text, "\n")] = 0;
}

static int wait_for_helper(pid_t process, const char *complaint, struct error **error)
{
    int status;
    while (waitpid(process, &status, 0) < 0)
        if (errno != EINTR) return error_set_errno(error, errno, "wait for " HELPER);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return 0;
    return error_set(error, ERROR_SYSTEM, "%s",
                     complaint[0] ? complaint : HELPER " failed without a message");
}

/* The descriptor that the helper sent with a byte, or -1 if it closed the socket without. */
static int receive_descriptor(int socket)
{
    char byte;
    int descriptor;
    descriptor_message_receive(socket, &byte, 1, &descriptor);
    return descriptor;
}

/* Runs the helper to its end. With `ret_descriptor` it is given a socket to send one through. */
static int run_helper(char *const arguments[], int *ret_descriptor, struct error **error)
{
    int pair[2] = { -1, -1 };
    int complaints[2] = { -1, -1 };
    if (ret_descriptor && socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        return error_set_errno(error, errno, "make a socket for " HELPER);
    cleanup_close int ours = pair[0];
    cleanup_close int theirs = pair[1];
    if (pipe2(complaints, O_CLOEXEC) < 0)
        return error_set_errno(error, errno, "make a pipe for " HELPER);
    cleanup_close int heard = complaints[0];
    cleanup_close int said = complaints[1];

    pid_t process = -1;
    if (start_helper(&process, arguments, theirs, said, error) < 0) return -1;
    close(take_descriptor(&said));
    cleanup_close int received = -1;
    if (ret_descriptor) {
        close(take_descriptor(&theirs));
        received = receive_descriptor(ours);
    }
    char complaint[512];
    read_complaint(heard, complaint, sizeof complaint);
    if (wait_for_helper(process, complaint, error) < 0) return -1;
    if (!ret_descriptor) return 0;
    if (received < 0) return error_set(error, ERROR_SYSTEM, HELPER " sent no descriptor");
    *ret_descriptor = take_descriptor(&received);
    return 0;
}

int fusermount_attach(const char *mountpoint, const char *options, struct error **error)
{
    char *arguments[] = { HELPER, "-o", (char *)options, "--", (char *)mountpoint, NULL };
    int descriptor = -1;
    return run_helper(arguments, &descriptor, error) < 0 ? -1 : descriptor;
}

int fusermount_detach(const char *mountpoint, bool lazy, struct error **error)
{
    char *at_once[] = { HELPER, "-u", "-z", "-q", "--", (char *)mountpoint, NULL };
    char *unless_busy[] = { HELPER, "-u", "--", (char *)mountpoint, NULL };
    return run_helper(lazy ? at_once : unless_busy, NULL, error);
}
