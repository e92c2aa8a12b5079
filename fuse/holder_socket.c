/*
 * The place that clients know: a socket, and a lock beside it, which says that somebody holds.
 * Both go from holder to holder as descriptors, so there is no moment without a listener.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "fuse/holder-internal.h"

#define BACKLOG 64

static int take_lock(const char *path, struct error **error)
{
    cleanup_free char *name = format_text("%s.lock", path);
    if (!name) return error_set_memory(error);
    cleanup_close int lock = open(name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (lock < 0) return error_set_errno(error, errno, "holder: open '%s'", name);
    if (flock(lock, LOCK_EX | LOCK_NB) == 0) return take_descriptor(&lock);
    if (errno != EWOULDBLOCK) return error_set_errno(error, errno, "holder: lock '%s'", name);
    error_set(error, ERROR_EXISTS, "holder: another one holds at '%s'", path);
    return error_hint(error, "--take-over replaces it");
}

static int make_directory(const char *path, struct error **error)
{
    const char *slash = strrchr(path, '/');
    if (!slash || slash == path) return 0;
    cleanup_free char *directory = strndup(path, (size_t)(slash - path));
    if (!directory) return error_set_memory(error);
    return directory_make(directory, 0700, error);
}

static int listen_at(const char *path, struct error **error)
{
    struct sockaddr_un address;
    if (holder_address(&address, path, error) < 0) return -1;
    cleanup_close int listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (listener < 0) return error_set_errno(error, errno, "holder: make a socket");
    /* Left by one that has ended, as the lock says. */
    struct stat status;
    if (lstat(path, &status) == 0 && !S_ISSOCK(status.st_mode))
        return error_set(error, ERROR_INVALID, "holder: '%s' is there, and is no socket", path);
    unlink(path);
    mode_t before = umask(0177);
    int result = bind(listener, (const struct sockaddr *)&address, sizeof address);
    int number = errno;
    umask(before);
    if (result < 0) return error_set_errno(error, number, "holder: listen at '%s'", path);
    if (listen(listener, BACKLOG) < 0)
        return error_set_errno(error, errno, "holder: listen at '%s'", path);
    return take_descriptor(&listener);
}

int holder_place_make(struct holder_place *ret, const char *path, struct error **error)
{
    if (make_directory(path, error) < 0) return -1;
    cleanup_close int lock = take_lock(path, error);
    if (lock < 0) return -1;
    int listener = listen_at(path, error);
    if (listener < 0) return -1;
    *ret = (struct holder_place){ listener, take_descriptor(&lock), -1 };
    return 0;
}

/* ---- taking over ---- */

/* 1: an entry was taken, 0: the place has come. */
static int receive_held(int connection, struct holder_message *message, struct holder_place *ret,
                        struct holder_entries *entries, struct error **error)
{
    struct holder_entry entry;
    int result = holder_message_receive(connection, message);
    if (result < 0) return error_set_errno(error, errno, "holder: take over");
    if (result == 0)
        return error_set(error, ERROR_UNREACHABLE, "holder: the one before has ended meanwhile");
    if (message->bytes[0] == HOLDER_SOCKETS && message->descriptor_count == 2) {
        *ret = (struct holder_place){ message->descriptors[0], message->descriptors[1], -1 };
        return 0;
    }
    if (message->bytes[0] != HOLDER_ENTRY) {
        holder_message_close(message);
        return holder_answer_error(message, error);
    }
    if (holder_message_parse(message, &entry, error) < 0) {
        holder_message_close(message);
        return -1;
    }
    return holder_entries_put(entries, &entry, error) < 0 ? -1 : 1;
}

static int take_everything(int connection, struct holder_message *message, struct holder_place *ret,
                           struct holder_entries *entries, struct error **error)
{
    if (holder_message_form(message, HOLDER_TAKE_OVER, "", NULL, 0, error) < 0) return -1;
    if (holder_message_send(connection, message) < 0)
        return error_set_errno(error, errno, "holder: take over");
    int result;
    do
        result = receive_held(connection, message, ret, entries, error);
    while (result > 0);
    if (result < 0) return -1;
    if (holder_message_form(message, HOLDER_TAKEN, "", NULL, 0, error) == 0 &&
        holder_message_send(connection, message) == 0)
        return 0;
    close(ret->listener);
    close(ret->lock);
    return error_set_errno(error, errno, "holder: take over");
}

int holder_place_take_over(struct holder_place *ret, const char *path,
                           struct holder_entries *entries, struct error **error)
{
    cleanup_close int connection = holder_socket_connect(path, error);
    if (connection < 0) return -1;
    cleanup_free struct holder_message *message = malloc(sizeof *message);
    if (!message) return error_set_memory(error);
    if (take_everything(connection, message, ret, entries, error) == 0) {
        ret->before = take_descriptor(&connection);
        return 0;
    }
    holder_entries_clear(entries);
    return -1;
}
