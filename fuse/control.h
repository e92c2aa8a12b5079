/*
 * How `sluice status` and `sluice umount` find a running server: a unix socket
 * per mount in the run directory (/run/sluice for root, else
 * $XDG_RUNTIME_DIR/sluice), named after the mount point. A client sends one
 * line, "status" or "wait". With "status" it gets one JSON text and the
 * connection is closed; with "wait" it is closed when the server ends.
 * Only root and the server's own user are answered.
 */
#ifndef SLUICE_FUSE_CONTROL_H
#define SLUICE_FUSE_CONTROL_H

#include <stdbool.h>

#include "base/buffer.h"
#include "base/error.h"

/* No status is longer; a longer one is not sent, and not read. (A layer takes 400 bytes, and a node
 * may have a thousand images.) */
#define CONTROL_STATUS_MAX (16u << 20)

/* The run directory in fresh memory, made (0700) if missing; NULL: error is set (also when it
 * belongs to, or can be used by, somebody else). */
char *control_run_directory(struct error **error);
/* Socket path for an absolute mount point (trailing slashes do not count), in fresh memory. NULL:
 * error is set. */
char *control_socket_path(const char *mountpoint, struct error **error);

/* The file beside the socket that a server in the background writes its log to, in fresh memory. */
char *control_log_path(const char *socket_path, struct error **error);

struct control_server;
/* Appends the status as JSON to `ret`; 0, or -1 if there is none now. Runs on the server's own
 * thread. */
typedef int control_status(void *context, struct buffer *ret);
/* Listens with a thread of its own. A stale socket (nobody listening) is replaced; a live one is
 * an error: this mount point is served already. */
int control_server_start(struct control_server **ret, const char *socket_path,
                         control_status *status, void *context, struct error **error);
/* Removes the socket, ends the thread and lets go those who wait. NULL is allowed. */
void control_server_stop(struct control_server *server);

/* Asks one server. ERROR_NOT_FOUND: nobody listens there (a stale socket is removed);
 * ERROR_UNREACHABLE: it does not answer in time. */
int control_query(const char *socket_path, struct buffer *ret_json, struct error **error);
/* Waits until the server behind the socket has ended; false after `timeout_ms`. At once when there
 * is none. */
bool control_wait_gone(const char *socket_path, unsigned timeout_ms);
/* Whether somebody listens there; false also where that cannot be found out. */
bool control_is_live(const char *socket_path);
/* Removes what a server that was killed has left behind: socket and log. */
void control_clean(const char *socket_path);
/* Calls `each` for every socket in the run directory, live or stale, in no order. */
int control_list(void (*each)(void *context, const char *socket_path), void *context,
                 struct error **error);

#endif
