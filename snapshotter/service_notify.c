#include "snapshotter/service_notify.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/log.h"

/* The first descriptor that a service manager passes on. */
#define FIRST_KEPT 3

/* Its length, 0 where nobody asked. */
static socklen_t manager_address(struct sockaddr_un *ret)
{
    const char *path = getenv("NOTIFY_SOCKET");
    size_t length = path ? strlen(path) : 0;
    *ret = (struct sockaddr_un){ .sun_family = AF_UNIX };
    /* '@' stands for the NUL of an abstract address. */
    if (length < 2 || length >= sizeof ret->sun_path || (path[0] != '/' && path[0] != '@'))
        return 0;
    memcpy(ret->sun_path, path, length);
    if (path[0] == '@') ret->sun_path[0] = 0;
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length);
}

static void attach(struct msghdr *message, void *room, size_t size, int descriptor)
{
    message->msg_control = room;
    message->msg_controllen = size;
    struct cmsghdr *control = CMSG_FIRSTHDR(message);
    control->cmsg_level = SOL_SOCKET;
    control->cmsg_type = SCM_RIGHTS;
    control->cmsg_len = CMSG_LEN(sizeof descriptor);
    memcpy(CMSG_DATA(control), &descriptor, sizeof descriptor);
}

/* With `descriptor`, unless that is -1. */
static bool tell(const char *state, int descriptor)
{
    struct sockaddr_un address;
    socklen_t size = manager_address(&address);
    if (!size) return false;
    struct iovec text = { (void *)state, strlen(state) };
    struct msghdr message = {
        .msg_name = &address, .msg_namelen = size, .msg_iov = &text, .msg_iovlen = 1
    };
    _Alignas(struct cmsghdr) char room[CMSG_SPACE(sizeof descriptor)] = { 0 };
    if (descriptor >= 0) attach(&message, room, sizeof room, descriptor);
    cleanup_close int link = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (link >= 0 && sendmsg(link, &message, MSG_NOSIGNAL) >= 0) return true;
    log_warning("tell the service manager '%s': %s", state, strerror(errno));
    return false;
}

void service_notify(const char *state)
{
    tell(state, -1);
}

bool service_keep(const char *name, int descriptor)
{
    cleanup_free char *state = format_text("FDSTORE=1\nFDNAME=%s", name);
    return state && tell(state, descriptor);
}

/* ---- what was kept ---- */

/* How many there are for this very process. */
static long kept_count(void)
{
    const char *process = getenv("LISTEN_PID"), *count = getenv("LISTEN_FDS");
    if (!process || !count || strtol(process, NULL, 10) != getpid()) return 0;
    return strtol(count, NULL, 10);
}

static void drop(int descriptor, const char *name)
{
    cleanup_free char *state = format_text("FDSTOREREMOVE=1\nFDNAME=%s", name);
    close(descriptor);
    if (state && *name) tell(state, -1);
}

int service_kept(const char *name)
{
    int found = -1;
    const char *listed = getenv("LISTEN_FDNAMES");
    long count = kept_count();
    cleanup_free char *names = strdup(listed ? listed : "");
    char *rest = names;
    for (int i = FIRST_KEPT; i - FIRST_KEPT < count && fcntl(i, F_SETFD, FD_CLOEXEC) == 0; i++) {
        const char *each = rest ? strsep(&rest, ":") : NULL;
        if (found < 0 && name && each && strcmp(each, name) == 0)
            found = i;
        else
            drop(i, each ? each : "");
    }
    unsetenv("LISTEN_PID");
    unsetenv("LISTEN_FDS");
    unsetenv("LISTEN_FDNAMES");
    return found;
}
