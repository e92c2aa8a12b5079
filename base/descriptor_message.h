/* Messages on a unix socket that carry a descriptor: unix(7), SCM_RIGHTS. */
#ifndef SLUICE_BASE_DESCRIPTOR_MESSAGE_H
#define SLUICE_BASE_DESCRIPTOR_MESSAGE_H

#include <stddef.h>
#include <sys/types.h>

/* One message with a descriptor (or -1). 0, or -1 with errno; never SIGPIPE. */
int descriptor_message_send(int socket, const void *data, size_t length, int descriptor);
/* The length of the message (0: the other end is closed), or -1 with errno. *ret_descriptor is -1
 * where none came. */
ssize_t descriptor_message_receive(int socket, void *data, size_t capacity, int *ret_descriptor);

/* The same with up to DESCRIPTORS_MAX of them. */
#define DESCRIPTORS_MAX 4u
int descriptors_message_send(int socket, const void *data, size_t length, const int *descriptors,
                             size_t count);
/* A message that is longer than `capacity` is -1 with EMSGSIZE. */
ssize_t descriptors_message_receive(int socket, void *data, size_t capacity, int *ret_descriptors,
                                    size_t *ret_count);

#endif
