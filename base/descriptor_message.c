#include "base/descriptor_message.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

union control {
    struct cmsghdr header;
    char bytes[CMSG_SPACE(DESCRIPTORS_MAX * sizeof(int))];
};

int descriptors_message_send(int socket, const void *data, size_t length, const int *descriptors,
                             size_t count)
{
    struct iovec vector = { (void *)data, length };
    struct msghdr message = { .msg_iov = &vector, .msg_iovlen = 1 };
    union control control;
    if (count > DESCRIPTORS_MAX) {
        errno = EINVAL;
        return -1;
    }
    memset(&control, 0, sizeof control);
    if (count > 0) {
        message.msg_control = control.bytes;
        message.msg_controllen = CMSG_SPACE(count * sizeof *descriptors);
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(count * sizeof *descriptors);
        memcpy(CMSG_DATA(header), descriptors, count * sizeof *descriptors);
    }
    ssize_t sent;
    do
        sent = sendmsg(socket, &message, MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    return sent < 0 ? -1 : 0;
}

/* There is room for `room` descriptors: the kernel drops others. */
static ssize_t receive(int socket, void *data, size_t capacity, int *ret_descriptors, size_t room,
                       size_t *ret_count, int *ret_flags)
{
    struct iovec vector = { data, capacity };
    union control control;
    memset(&control, 0, sizeof control);
    struct msghdr message = { .msg_iov = &vector,
                              .msg_iovlen = 1,
                              .msg_control = control.bytes,
                              .msg_controllen = CMSG_SPACE(room * sizeof *ret_descriptors) };
    *ret_count = 0;
    ssize_t count;
    do
        count = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
    while (count < 0 && errno == EINTR);
    *ret_flags = count < 0 ? 0 : message.msg_flags;
    const struct cmsghdr *header = count >= 0 ? CMSG_FIRSTHDR(&message) : NULL;
    if (header && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS &&
        header->cmsg_len >= CMSG_LEN(0)) {
        /* Alignment may leave room for more than was asked for. */
        int all[sizeof control.bytes / sizeof(int)];
        size_t got = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        memcpy(all, CMSG_DATA(header), got * sizeof(int));
        for (size_t i = room; i < got; i++)
            close(all[i]);
        *ret_count = got < room ? got : room;
        memcpy(ret_descriptors, all, *ret_count * sizeof(int));
    }
    /* Who takes an empty message for the end does not look for descriptors. */
    while (count == 0 && *ret_count > 0) {
        close(ret_descriptors[--*ret_count]);
        ret_descriptors[*ret_count] = -1;
    }
    return count;
}

ssize_t descriptors_message_receive(int socket, void *data, size_t capacity, int *ret_descriptors,
                                    size_t *ret_count)
{
    int flags;
    ssize_t count =
        receive(socket, data, capacity, ret_descriptors, DESCRIPTORS_MAX, ret_count, &flags);
    if (count < 0 || !(flags & (MSG_TRUNC | MSG_CTRUNC))) return count;
    while (*ret_count > 0)
        close(ret_descriptors[--*ret_count]);
    errno = EMSGSIZE;
    return -1;
}

int descriptor_message_send(int socket, const void *data, size_t length, int descriptor)
{
    return descriptors_message_send(socket, data, length, &descriptor, descriptor >= 0 ? 1 : 0);
}

ssize_t descriptor_message_receive(int socket, void *data, size_t capacity, int *ret_descriptor)
{
    size_t ignored;
    int flags;
    *ret_descriptor = -1;
    return receive(socket, data, capacity, ret_descriptor, 1, &ignored, &flags);
}
