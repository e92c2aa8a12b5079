/* What both ends of a control socket share. */
#ifndef SLUICE_FUSE_CONTROL_INTERNAL_H
#define SLUICE_FUSE_CONTROL_INTERNAL_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/un.h>

#include "fuse/control.h"

/* For either side to say what it has to say. */
#define CONTROL_TIMEOUT_MS 5000

#define CONTROL_STATUS "status"
#define CONTROL_WAIT   "wait"

/* Milliseconds of a clock that only goes forward. */
int64_t control_now(void);

int control_address(const char *socket_path, struct sockaddr_un *ret, struct error **error);

enum control_liveness { CONTROL_LIVE, CONTROL_STALE, CONTROL_ABSENT };
/* Connects (without blocking) to see whether somebody listens. With `ret_socket`, a live
 * connection is handed out (-1 if it is live but its queue is full). */
int control_connect(const char *socket_path, enum control_liveness *ret, int *ret_socket,
                    struct error **error);

/* Between bind(2) and listen(2) a server looks stale, and of two that replace a stale socket one
 * could remove the other's: making and removing sockets goes on under a lock of their directory.
 * The descriptor that holds it, or -1. */
int control_lock(const char *socket_path, struct error **error);
/* Removes the socket if nobody listens. */
void control_remove_stale(const char *socket_path);

#endif
