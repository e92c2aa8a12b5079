/*
 * Questions among the processes of a node.
 *
 * A question is one message of text on a socket that both ends have (SOCK_SEQPACKET), with a stream
 * socket for the answer: so answers come in any order, and who closes that socket has given up. An
 * answer is one byte, 0 or the kind of an error, then text until the end; with the byte comes a
 * descriptor, if there is one.
 */
#ifndef SLUICE_NODE_QUESTION_H
#define SLUICE_NODE_QUESTION_H

#include <stddef.h>
#include <sys/types.h>

#include "base/buffer.h"
#include "base/error.h"

#define QUESTION_LENGTH_MAX 16384u
#define ANSWER_LENGTH_MAX   (64u << 20)

/* ---- who asks ---- */

struct question_peer {
    int socket;
    const char *name; /* for errors */
};

/* Sends a question. The socket for its answer, or -1; ERROR_UNREACHABLE when the peer has so many
 * to read that there has been no room for ten seconds. */
int question_send(const struct question_peer *peer, const void *text, size_t length,
                  struct error **error);
/* Waits for the answer at `from`: its text goes to `ret`, its descriptor (or -1) to
 * `ret_descriptor`. An answer that is an error is that error, with its text in `ret`, too.
 * ERROR_CANCELLED once `cancel` (or -1)
 * is readable; ERROR_UNREACHABLE when no byte comes for `timeout_ms`. */
int question_wait(const struct question_peer *peer, int from, int cancel, int timeout_ms,
                  struct buffer *ret, int *ret_descriptor, struct error **error);
/* Both, for an answer without a descriptor. */
int question_ask(const struct question_peer *peer, const void *text, size_t length, int timeout_ms,
                 struct buffer *ret, struct error **error);

/* ---- who answers ---- */

/* The next question as text with a NUL behind it: its length, 0 at the end, or -1 with errno.
 * `text` has room for QUESTION_LENGTH_MAX + 1 bytes. *ret_to is the socket for the answer, or -1.
 */
ssize_t question_receive(int socket, char *text, int *ret_to);
/* `error` or `text` may be NULL, `descriptor` -1. -1: nobody listens any more. SIGPIPE must be
 * ignored. */
int question_answer(int to, const struct error *error, const struct buffer *text, int descriptor);

#endif
