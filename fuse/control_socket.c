/* Where control sockets are, and whether one is alive. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/digest.h"
#include "base/file.h"
#include "base/log.h"
#include "fuse/control-internal.h"

/* Half of a SHA-256 in hex: enough that two mount points never meet, and short, because a
 * socket's path has at most 107 characters (unix(7)). */
#define NAME_HEX    32
#define NAME_SUFFIX ".sock"

int64_t control_now(void)
{
    return (int64_t)clock_ms();
}

static char *run_directory_name(struct error **error)
{
    char *name = NULL;
    const char *parent = getenv("XDG_RUNTIME_DIR");
    if (geteuid() == 0) {
        name = strdup("/run/sluice");
    } else if (parent && parent[0] == '/') {
        name = format_text("%s/sluice", parent);
    } else {
        error_set(error, ERROR_INVALID, "there is no run directory: XDG_RUNTIME_DIR is not set");
        error_hint(error, "set it to a directory of your own, such as /run/user/%u", geteuid());
        return NULL;
    }
    if (!name) error_set_memory(error);
    return name;
}

/* Who can write here can pose as a server. */
static int check_directory(const char *path, struct error **error)
{
    struct stat status;
    if (lstat(path, &status) < 0) return error_set_errno(error, errno, "run directory '%s'", path);
    if (!S_ISDIR(status.st_mode))
        return error_set(error, ERROR_INVALID, "run directory '%s' is not a directory", path);
    if (status.st_uid == geteuid() && (status.st_mode & 077) == 0) return 0;
    error_set(error, ERROR_DENIED, "run directory '%s' is open to others (owner %u, mode %03o)",
              path, status.st_uid, status.st_mode & 0777);
    return error_hint(error, "remove it, or give it to you alone: chmod 700 '%s'", path);
}

char *control_run_directory(struct error **error)
{
    cleanup_free char *name = run_directory_name(error);
    if (!name) return NULL;
    if (mkdir(name, 0700) < 0 && errno != EEXIST) {
        error_set_errno(error, errno, "make run directory '%s'", name);
        return NULL;
    }
    if (check_directory(name, error) < 0) return NULL;
    return take_pointer(&name);
}

char *control_socket_path(const char *mountpoint, struct error **error)
{
    size_t length = strlen(mountpoint);
    while (length > 1 && mountpoint[length - 1] == '/')
        length--;
    if (mountpoint[0] != '/') {
        error_set(error, ERROR_INVALID, "mount point '%s' is not an absolute path", mountpoint);
        return NULL;
    }
    cleanup_free char *directory = control_run_directory(error);
    if (!directory) return NULL;
    struct digest digest;
    char hex[DIGEST_HEX_SIZE];
    digest_of(mountpoint, length, &digest);
    digest_format_hex(&digest, hex);
    cleanup_free char *path = format_text("%s/%.*s" NAME_SUFFIX, directory, NAME_HEX, hex);
    if (!path) {
        error_set_memory(error);
        return NULL;
    }
    struct sockaddr_un address;
    if (control_address(path, &address, error) < 0) return NULL;
    return take_pointer(&path);
}

char *control_log_path(const char *socket_path, struct error **error)
{
    size_t length = strlen(socket_path) - strlen(NAME_SUFFIX);
    char *path = format_text("%.*s.log", (int)length, socket_path);
    if (!path) error_set_memory(error);
    return path;
}

static bool is_socket_name(const char *name)
{
    return strlen(name) == NAME_HEX + strlen(NAME_SUFFIX) &&
           strspn(name, "0123456789abcdef") == NAME_HEX &&
           strcmp(name + NAME_HEX, NAME_SUFFIX) == 0;
}

int control_list(void (*each)(void *context, const char *socket_path), void *context,
                 struct error **error)
{
    cleanup_free char *directory = control_run_directory(error);
    if (!directory) return -1;
    DIR *listing = opendir(directory);
    if (!listing) return error_set_errno(error, errno, "list '%s'", directory);
    int result = 0;
    const struct dirent *entry;
    while (!result && (entry = readdir(listing))) {
        if (!is_socket_name(entry->d_name)) continue;
        cleanup_free char *path = format_text("%s/%s", directory, entry->d_name);
        if (path)
            each(context, path);
        else
            result = error_set_memory(error);
    }
    closedir(listing);
    return result;
}

int control_address(const char *socket_path, struct sockaddr_un *ret, struct error **error)
{
    *ret = (struct sockaddr_un){ .sun_family = AF_UNIX };
    size_t length = strlen(socket_path);
    if (length < sizeof ret->sun_path) {
        memcpy(ret->sun_path, socket_path, length);
        return 0;
    }
    error_set(error, ERROR_INVALID, "socket path '%s' is longer than %zu characters", socket_path,
              sizeof ret->sun_path - 1);
    return error_hint(error, "set XDG_RUNTIME_DIR to a shorter path");
}

int control_connect(const char *socket_path, enum control_liveness *ret, int *ret_socket,
                    struct error **error)
{
    struct sockaddr_un address;
    if (ret_socket) *ret_socket = -1;
    if (control_address(socket_path, &address, error) < 0) return -1;
    cleanup_close int descriptor = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (descriptor < 0) return error_set_errno(error, errno, "make a socket");
    *ret = CONTROL_LIVE;
    if (connect(descriptor, (const struct sockaddr *)&address, sizeof address) == 0) {
        if (ret_socket) *ret_socket = take_descriptor(&descriptor);
        return 0;
    }
    if (errno == EAGAIN) return 0;
    int number = errno;
    /* Other kinds of files refuse connections too, and must not be taken for stale sockets. */
    struct stat status;
    if (number == ECONNREFUSED && lstat(socket_path, &status) == 0 && !S_ISSOCK(status.st_mode))
        return error_set(error, ERROR_INVALID, "'%s' is not a socket", socket_path);
    if (number != ENOENT && number != ENOTDIR && number != ECONNREFUSED)
        return error_set_errno(error, number, "connect to '%s'", socket_path);
    *ret = number == ECONNREFUSED ? CONTROL_STALE : CONTROL_ABSENT;
    return 0;
}

int control_lock(const char *socket_path, struct error **error)
{
    cleanup_free char *copy = strdup(socket_path);
    if (!copy) return error_set_memory(error);
    const char *directory = dirname(copy);
    cleanup_close int descriptor = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (descriptor < 0) return error_set_errno(error, errno, "open '%s'", directory);
    int64_t deadline = control_now() + CONTROL_TIMEOUT_MS;
    while (flock(descriptor, LOCK_EX | LOCK_NB) < 0) {
        if (errno != EWOULDBLOCK && errno != EINTR)
            return error_set_errno(error, errno, "lock '%s'", directory);
        if (control_now() >= deadline)
            return error_set(error, ERROR_UNREACHABLE,
                             "lock '%s': another sluice does not let go of it", directory);
        nanosleep(&(struct timespec){ .tv_nsec = 2000000 }, NULL);
    }
    return take_descriptor(&descriptor);
}

void control_remove_stale(const char *socket_path)
{
    cleanup_error struct error *error = NULL;
    cleanup_close int lock = control_lock(socket_path, &error);
    if (lock < 0) {
        log_debug("%s", error_message(error));
        return;
    }
    enum control_liveness liveness = CONTROL_ABSENT;
    if (control_connect(socket_path, &liveness, NULL, &error) == 0 && liveness == CONTROL_STALE)
        unlink(socket_path);
}

bool control_is_live(const char *socket_path)
{
    enum control_liveness liveness = CONTROL_ABSENT;
    return control_connect(socket_path, &liveness, NULL, NULL) == 0 && liveness == CONTROL_LIVE;
}

void control_clean(const char *socket_path)
{
    control_remove_stale(socket_path);
    cleanup_free char *log = control_log_path(socket_path, NULL);
    if (log && !control_is_live(socket_path)) unlink(log);
}
