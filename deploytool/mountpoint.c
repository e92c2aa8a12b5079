#include "deploytool/mountpoint.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "fuse/control.h"
#include "fuse/mount_table.h"

static char *resolve(const char *path, const char *named, struct error **error)
{
    char *resolved = realpath(path, NULL);
    if (!resolved) error_set_errno(error, errno, "'%s'", named);
    return resolved;
}

char *mountpoint_path(const char *directory, struct error **error)
{
    cleanup_free char *path = strdup(directory);
    if (!path) {
        error_set_memory(error);
        return NULL;
    }
    size_t length = strlen(path);
    while (length > 1 && path[length - 1] == '/')
        path[--length] = '\0';
    char *slash = strrchr(path, '/');
    const char *name = slash ? slash + 1 : path;
    char ignored;
    bool is_link = readlink(path, &ignored, 1) >= 0;
    if (*name == '\0' || strcmp(name, ".") == 0 || strcmp(name, "..") == 0 || is_link)
        return resolve(path, directory, error);
    cleanup_free char *above =
        !slash ? strdup(".") : strndup(path, slash == path ? 1 : (size_t)(slash - path));
    cleanup_free char *parent = above ? resolve(above, directory, error) : NULL;
    if (!above) error_set_memory(error);
    if (!parent) return NULL;
    char *absolute = format_text("%s/%s", strcmp(parent, "/") == 0 ? "" : parent, name);
    if (!absolute) error_set_memory(error);
    return absolute;
}

/* lazy/NUMBER/NAME, beside image.json: snapshotter/lazy_images.h. */
bool mountpoint_is_of_sluiced(const char *path)
{
    static const char lazy[] = "/lazy";
    size_t length = strlen(path), slashes = 0;
    while (length > 0 && slashes < 2)
        slashes += path[--length] == '/';
    if (length < sizeof lazy || strncmp(path + length - strlen(lazy), lazy, strlen(lazy)) != 0)
        return false;
    cleanup_free char *record =
        format_text("%.*s/image.json", (int)(strrchr(path, '/') - path), path);
    return record && access(record, F_OK) == 0;
}

/* A FUSE mount whose server is alive and has no time for us answers statfs(2), as do those of other
 * users. For its own mounts, which only root makes, the kernel answers whether there is a server or
 * not. */
bool mountpoint_is_dead(const char *path)
{
    struct statfs ignored;
    struct mount_entry entry;
    bool found;
    cleanup_free char *socket = control_socket_path(path, NULL);
    if (!socket || control_is_live(socket)) return false;
    if (statfs(path, &ignored) < 0) return errno == ENOTCONN;
    return geteuid() == 0 && mount_table_find(path, &found, &entry, NULL) == 0 && found &&
           entry.by_kernel;
}
