#include <errno.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "fuse/holder-internal.h"

#define ANSWER_SECONDS 5

int holder_message_send(int socket, const struct holder_message *message)
{
    return descriptors_message_send(socket, message->bytes, message->length, message->descriptors,
                                    message->descriptor_count);
}

int holder_message_receive(int socket, struct holder_message *ret)
{
    ssize_t count = descriptors_message_receive(socket, ret->bytes, sizeof ret->bytes,
                                                ret->descriptors, &ret->descriptor_count);
    ret->length = count > 0 ? (size_t)count : 0;
    if (count <= 0) ret->descriptor_count = 0;
    return count > 0 ? 1 : (int)count;
}

void holder_message_close(struct holder_message *message)
{
    while (message->descriptor_count > 0)
        close(message->descriptors[--message->descriptor_count]);
}

int holder_message_form(struct holder_message *ret, enum holder_verb verb, const char *name,
                        const void *data, size_t length, struct error **error)
{
    size_t name_length = strlen(name);
    if (name_length > HOLDER_NAME_MAX || length > HOLDER_DATA_MAX)
        return error_set(error, ERROR_INVALID, "holder: '%s': more than can be held", name);
    ret->bytes[0] = (uint8_t)verb;
    ret->bytes[1] = (uint8_t)name_length;
    memcpy(ret->bytes + HOLDER_HEADER, name, name_length);
    if (length > 0) memcpy(ret->bytes + HOLDER_HEADER + name_length, data, length);
    ret->length = HOLDER_HEADER + name_length + length;
    ret->descriptor_count = 0;
    return 0;
}

int holder_message_parse(struct holder_message *message, struct holder_entry *ret,
                         struct error **error)
{
    *ret = (struct holder_entry){ .descriptor_count = 0 };
    size_t start = HOLDER_HEADER + (message->length > 1 ? message->bytes[1] : 0);
    if (message->length < HOLDER_HEADER || message->length < start)
        return error_set(error, ERROR_INVALID, "holder: a message that is too short");
    memcpy(ret->name, message->bytes + HOLDER_HEADER, start - HOLDER_HEADER);
    if (strlen(ret->name) != start - HOLDER_HEADER)
        return error_set(error, ERROR_INVALID, "holder: a name that is no text");
    if (buffer_append(&ret->data, message->bytes + start, message->length - start) < 0)
        return error_set_memory(error);
    ret->descriptor_count = message->descriptor_count;
    memcpy(ret->descriptors, message->descriptors, sizeof ret->descriptors);
    message->descriptor_count = 0;
    return 0;
}

int holder_address(struct sockaddr_un *ret, const char *path, struct error **error)
{
    *ret = (struct sockaddr_un){ .sun_family = AF_UNIX };
    size_t length = strlen(path);
    if (length == 0 || length >= sizeof ret->sun_path)
        return error_set(error, ERROR_INVALID, "holder: '%s' is too long for a socket", path);
    memcpy(ret->sun_path, path, length);
    return 0;
}

int holder_socket_connect(const char *path, struct error **error)
{
    struct sockaddr_un address;
    struct timeval bound = { .tv_sec = ANSWER_SECONDS };
    if (holder_address(&address, path, error) < 0) return -1;
    cleanup_close int connection = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (connection < 0) return error_set_errno(error, errno, "holder: make a socket");
    setsockopt(connection, SOL_SOCKET, SO_SNDTIMEO, &bound, sizeof bound);
    setsockopt(connection, SOL_SOCKET, SO_RCVTIMEO, &bound, sizeof bound);
    if (connect(connection, (const struct sockaddr *)&address, sizeof address) == 0)
        return take_descriptor(&connection);
    if (errno == EAGAIN)
        return error_set_errno(error, errno, "holder: wait for the one at '%s'", path);
    error_set(error, ERROR_UNREACHABLE, "holder: connect to '%s': %s", path, strerror(errno));
    return error_hint(error, "start sluice-holder");
}

int holder_answer_error(const struct holder_message *answer, struct error **error)
{
    int kind = answer->length > 0 ? answer->bytes[0] : 0;
    if (kind < ERROR_SYSTEM || kind > ERROR_PRECONDITION)
        return error_set(error, ERROR_INVALID, "holder: an answer that makes no sense");
    return error_set(error, (enum error_kind)kind, "%.*s", (int)(answer->length - 1),
                     (const char *)answer->bytes + 1);
}
