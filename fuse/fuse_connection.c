/*
 * Between libfuse and the kernel. libfuse reads and writes by functions of ours, so it can be given
 * a FUSE_INIT that the kernel sent long ago to another server, and the journal sees what comes and
 * goes.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "fuse/fuse_server-internal.h"

/* <linux/fuse.h> since 7.40 */
#define NOTIFY_RESEND 7

/* libfuse knows no connection that has begun already. The kernel's numbers are small and even. */
#define MADE_UP_UNIQUE (FUSE_UNIQUE_RESEND - 2)

#define PAGE_BYTES 4096u

static _Thread_local struct server_thread *this_thread;

void fuse_connection_enter(struct server_thread *thread)
{
    if (!thread) {
        request_journal_return_area(this_thread->area);
        this_thread->area = NULL;
    } else if (thread->server->journal) {
        thread->area = request_journal_take_area(thread->server->journal, thread->server->number);
    }
    this_thread = thread;
}

/* ---- reading ---- */

struct init_request {
    struct fuse_in_header header;
    struct fuse_init_in body;
};

static ssize_t make_up_init(struct fuse_server *server, void *data, size_t length)
{
    const struct fuse_negotiated *negotiated = &server->negotiated;
    struct init_request init = {
        .header = { .len = sizeof init, .opcode = FUSE_INIT, .unique = MADE_UP_UNIQUE },
        .body = { .major = negotiated->major,
                  .minor = negotiated->minor,
                  .max_readahead = negotiated->max_readahead,
                  .flags = negotiated->flags,
                  .flags2 = negotiated->flags2 },
    };
    if (length < sizeof init) return 0;
    server->made_up_init = false;
    memcpy(data, &init, sizeof init);
    return sizeof init;
}

static void note_negotiated(struct fuse_server *server, const void *data, size_t length)
{
    struct init_request init = { 0 };
    memcpy(&init, data, length < sizeof init ? length : sizeof init);
    if (init.header.opcode != FUSE_INIT) return;
    server->init_unique = init.header.unique;
    server->negotiated =
        (struct fuse_negotiated){ init.body.major, init.body.minor, init.body.max_readahead,
                                  init.body.flags, init.body.flags2 };
}

/* The kernel fails a request with EIO whose bytes it cannot write to a server that is being killed,
 * and it cannot write to a page for which it would have to wait. */
static void touch(volatile uint8_t *data, size_t length)
{
    data[0] = 0;
    if (length > PAGE_BYTES) data[PAGE_BYTES] = 0;
}

/* What fits into the area is written there by the kernel itself. */
static ssize_t read_noted(int descriptor, void *area, uint8_t *data, size_t length)
{
    if (length <= SLOT_REQUEST_MAX) return read(descriptor, data, length);
    struct iovec vectors[] = { { area, SLOT_REQUEST_MAX },
                               { data + SLOT_REQUEST_MAX, length - SLOT_REQUEST_MAX } };
    ssize_t count = readv(descriptor, vectors, 2);
    if (count > 0) memcpy(data, area, count < SLOT_REQUEST_MAX ? (size_t)count : SLOT_REQUEST_MAX);
    return count;
}

static ssize_t read_connection(int descriptor, void *data, size_t length, void *context)
{
    struct fuse_server *server = context;
    if (server->made_up_init) return make_up_init(server, data, length);
    void *area = this_thread ? this_thread->area : NULL;
    if (length > 0) touch(data, length);
    ssize_t count =
        area ? read_noted(descriptor, area, data, length) : read(descriptor, data, length);
    /* libfuse knows one way in which a connection ends. */
    if (count < 0 && errno == ECONNABORTED) errno = ENODEV;
    if (count > 0 && !server->initialized) note_negotiated(server, data, (size_t)count);
    return count;
}

/* ---- writing ---- */

/* A reply that nobody waits for any more (its reader was killed, the mount is gone) is no error. */
static ssize_t write_reply(int descriptor, const struct iovec *vectors, int count)
{
    ssize_t written = writev(descriptor, vectors, count);
    if (written < 0 && (errno == ENODEV || errno == ECONNABORTED)) errno = ENOENT;
    return written;
}

/* libfuse cannot say that owners may be mapped. */
static ssize_t write_init_answer(const struct fuse_server *server, int descriptor,
                                 const struct iovec *vectors, int count)
{
    struct fuse_init_out answer;
    if (!fuse_negotiated_maps_owners(&server->negotiated) || count != 2 ||
        vectors[1].iov_len != sizeof answer)
        return write_reply(descriptor, vectors, count);
    memcpy(&answer, vectors[1].iov_base, sizeof answer);
    fuse_negotiated_allow_mapping(&answer);
    const struct iovec changed[] = { vectors[0], { &answer, sizeof answer } };
    return write_reply(descriptor, changed, 2);
}

static ssize_t write_connection(int descriptor, struct iovec *vectors, int count, void *context)
{
    struct fuse_server *server = context;
    struct fuse_out_header header = { 0 };
    if (count > 0 && vectors[0].iov_len >= sizeof header)
        memcpy(&header, vectors[0].iov_base, sizeof header);
    if (server->resumed && header.unique == MADE_UP_UNIQUE) return header.len;
    ssize_t written = server->init_unique && header.unique == server->init_unique
                          ? write_init_answer(server, descriptor, vectors, count)
                          : write_reply(descriptor, vectors, count);
    int saved = errno;
    if (server->journalled) request_journal_leave(server->journal, server->number, header.unique);
    errno = saved;
    return written;
}

const struct fuse_custom_io fuse_connection_io = { .read = read_connection,
                                                   .writev = write_connection };

/* ---- requests that are looked at ---- */

static void give_up(struct fuse_server *server, const struct fuse_buf *request)
{
    struct fuse_in_header in;
    struct fuse_read_in read = { 0 };
    memcpy(&in, request->mem, sizeof in);
    if (in.opcode == FUSE_READ && request->size >= sizeof in + sizeof read)
        memcpy(&read, (const uint8_t *)request->mem + sizeof in, sizeof read);
    log_error("'%s': a request (%u, of node %llu, %u bytes at %llu) was there at the deaths of too "
              "many servers: it is answered with an error",
              server->name, in.opcode, (unsigned long long)in.nodeid, read.size,
              (unsigned long long)read.offset);
    struct fuse_out_header out = { .len = sizeof out, .error = -EIO, .unique = in.unique };
    write_reply(server->connection, &(struct iovec){ &out, sizeof out }, 1);
    request_journal_leave(server->journal, server->number, in.unique);
}

/* request_serve */
static void process_held(void *context, const void *request, size_t length)
{
    struct fuse_server *server = context;
    cleanup_free void *copy = malloc(length);
    struct fuse_buf buffer = { .size = length, .mem = copy };
    if (copy) {
        memcpy(copy, request, length);
        fuse_session_process_buf(server->session, &buffer);
    } else {
        buffer.mem = (void *)request;
        give_up(server, &buffer);
    }
}

static void hold(struct fuse_server *server, const struct fuse_buf *request)
{
    if (request_journal_hold(server->journal, server->number, request->mem, request->size,
                             process_held, server) < 0)
        give_up(server, request);
}

void fuse_connection_process(struct fuse_server *server, const struct fuse_buf *request, bool again)
{
    enum request_verdict verdict = REQUEST_SERVE;
    if (server->journalled && request->size >= sizeof(struct fuse_in_header))
        verdict = request_journal_enter(server->journal, server->number, request->mem,
                                        request->size, again);
    if (this_thread && this_thread->area)
        memset(this_thread->area, 0, sizeof(struct fuse_in_header));
    switch (verdict) {
    case REQUEST_SERVE:
        fuse_session_process_buf(server->session, request);
        return;
    case REQUEST_HOLD:
        hold(server, request);
        return;
    case REQUEST_GIVE_UP:
        give_up(server, request);
        return;
    }
}

/* ---- going on ---- */

/* 1: the kernel sends again what was not answered; 0: it cannot. */
static int ask_for_resend(struct fuse_server *server, struct error **error)
{
    struct fuse_out_header notification = { .len = sizeof notification, .error = NOTIFY_RESEND };
    if (!fuse_negotiated_resends(&server->negotiated)) return 0;
    if (write(server->connection, &notification, sizeof notification) >= 0) return 1;
    if (errno == EINVAL) return 0;
    return error_set_errno(error, errno, "serve '%s': have the kernel send requests again",
                           server->name);
}

/* request_serve */
static void process_again(void *context, const void *request, size_t length)
{
    uint8_t copy[SLOT_REQUEST_MAX];
    struct fuse_buf buffer = { .size = length, .mem = copy };
    memcpy(copy, request, length);
    fuse_connection_process(context, &buffer, true);
}

int fuse_connection_resume(struct fuse_server *server, struct error **error)
{
    int result = ask_for_resend(server, error);
    if (result != 0) return result < 0 ? -1 : 0;
    if (request_journal_unanswered(server->journal, server->number, process_again, server) == 0)
        return 0;
    error_set(error, ERROR_UNSUPPORTED,
              "serve '%s': not all is known that the server before was asked", server->name);
    return error_hint(error, "from Linux 6.9 on the kernel asks again");
}
