/* The holder's loop: one thread, which answers one request after the other. */
#include "fuse/holder.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "fuse/holder-internal.h"

#define CLIENTS_MAX  64u
#define SUCCESSOR_MS 5000
/* For what a client has to take or to say at once; others, who wait for it, have more patience. */
#define CLIENT_SECONDS 3
/* Without descriptors who knocks stays in the queue. */
#define ACCEPT_PAUSE_MS 100

struct client {
    int socket;
    bool spoke;    /* has asked for something that there is */
    int64_t since; /* ms; when it did so last, or came */
};

struct holder {
    const struct holder_options *options;
    struct holder_place place;
    struct holder_entries entries;
    struct holder_message *message;
    int signals; /* signalfd */
    struct client clients[CLIENTS_MAX];
    size_t client_count;
    int64_t accept_after; /* ms */
    int64_t alone_since;  /* ms */
    bool ending;          /* as soon as nothing is held */
    bool ended;
    bool replaced; /* the socket is another holder's */
};

static int64_t now_ms(void)
{
    return (int64_t)clock_ms();
}

/* ---- answers: -1 where the client is of no use any more ---- */

static int answer(struct holder *holder, int client, const struct error *error)
{
    struct holder_message *message = holder->message;
    const char *text = error ? error_message(error) : "";
    size_t length = strlen(text);
    if (length > HOLDER_DATA_MAX) length = HOLDER_DATA_MAX;
    message->bytes[0] = error ? (uint8_t)error_kind_of(error) : HOLDER_DONE;
    memcpy(message->bytes + 1, text, length);
    message->length = 1 + length;
    message->descriptor_count = 0;
    return holder_message_send(client, message);
}

static int send_entry(struct holder *holder, int client, const struct holder_entry *entry)
{
    holder_entry_form(holder->message, entry);
    int result = holder_message_send(client, holder->message);
    holder->message->descriptor_count = 0; /* they are the entry's */
    return result;
}

static int send_all(struct holder *holder, int client)
{
    for (size_t i = 0; i < holder->entries.count; i++)
        if (send_entry(holder, client, holder->entries.entries[i]) < 0) return -1;
    return 0;
}

/* ---- requests ---- */

static int put(struct holder *holder, int client)
{
    cleanup_error struct error *error = NULL;
    struct holder_entry entry;
    if (holder_message_parse(holder->message, &entry, &error) == 0)
        holder_entries_put(&holder->entries, &entry, &error);
    holder_message_close(holder->message);
    return answer(holder, client, error);
}

/* What is about one name, which is all that the message has. */
static int get_or_drop(struct holder *holder, int client, enum holder_verb verb)
{
    cleanup_error struct error *error = NULL;
    struct holder_entry asked;
    int result = 0;
    holder_message_close(holder->message);
    if (holder_message_parse(holder->message, &asked, &error) < 0)
        return answer(holder, client, error);
    const struct holder_entry *entry = holder_entries_find(&holder->entries, asked.name);
    if (verb == HOLDER_DROP)
        holder_entries_drop(&holder->entries, asked.name);
    else if (entry)
        result = send_entry(holder, client, entry);
    else
        error_set(&error, ERROR_NOT_FOUND, "holder: '%s' is not held", asked.name);
    holder_entry_free(&asked);
    return result < 0 ? -1 : answer(holder, client, error);
}

static int list(struct holder *holder, int client)
{
    return send_all(holder, client) < 0 ? -1 : answer(holder, client, NULL);
}

static int abort_all(struct holder *holder, int client)
{
    log_warning("told to end: closing %zu that are held", holder->entries.count);
    holder_entries_clear(&holder->entries);
    holder->ended = true;
    return answer(holder, client, NULL);
}

/* A service manager takes the end of the process that it watches for the end of the service, unless
 * it was told of the next one before: that one says when it was. */
static void await_successor(int client)
{
    struct pollfd watched = { .fd = client, .events = POLLIN };
    poll(&watched, 1, SUCCESSOR_MS);
}

/* Nothing else is answered meanwhile, so nothing changes behind the other one's back. */
static int hand_over(struct holder *holder, int client)
{
    struct holder_message *message = holder->message;
    if (send_all(holder, client) < 0 ||
        holder_message_form(message, HOLDER_SOCKETS, "", NULL, 0, NULL) < 0)
        return -1;
    message->descriptors[0] = holder->place.listener;
    message->descriptors[1] = holder->place.lock;
    message->descriptor_count = 2;
    int result = holder_message_send(client, message);
    message->descriptor_count = 0;
    if (result < 0 || holder_message_receive(client, message) <= 0) return -1;
    holder_message_close(message);
    if (message->bytes[0] != HOLDER_TAKEN) return -1;
    log_info("another holder has taken over");
    await_successor(client);
    holder->ended = holder->replaced = true;
    return 0;
}

static int handle(struct holder *holder, int client)
{
    if (holder_message_receive(client, holder->message) <= 0) return -1;
    enum holder_verb verb = (enum holder_verb)holder->message->bytes[0];
    if (verb == HOLDER_PUT) return put(holder, client);
    if (verb == HOLDER_GET || verb == HOLDER_DROP) return get_or_drop(holder, client, verb);
    holder_message_close(holder->message);
    if (verb == HOLDER_LIST) return list(holder, client);
    if (verb == HOLDER_TAKE_OVER) return hand_over(holder, client);
    if (verb == HOLDER_ABORT) return abort_all(holder, client);
    return -1;
}

/* ---- clients ---- */

static bool may_connect(int client)
{
    struct ucred peer;
    socklen_t size = sizeof peer;
    if (getsockopt(client, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0) return false;
    return peer.uid == 0 || peer.uid == geteuid();
}

static void remove_client(struct holder *holder, size_t position)
{
    close(holder->clients[position].socket);
    holder->clients[position] = holder->clients[--holder->client_count];
    if (holder->client_count == 0) holder->alone_since = now_ms();
}

/* Who never said anything, else who has been silent for longest: it comes again when it wants to.
 */
static void make_room(struct holder *holder)
{
    size_t chosen = 0;
    for (size_t i = 1; i < holder->client_count; i++) {
        const struct client *best = &holder->clients[chosen], *other = &holder->clients[i];
        if (other->spoke != best->spoke ? best->spoke : other->since < best->since) chosen = i;
    }
    remove_client(holder, chosen);
}

static void accept_client(struct holder *holder)
{
    struct timeval bound = { .tv_sec = CLIENT_SECONDS };
    int socket = accept4(holder->place.listener, NULL, NULL, SOCK_CLOEXEC);
    if (socket < 0) {
        if (errno != EAGAIN && errno != ECONNABORTED && errno != EINTR)
            holder->accept_after = now_ms() + ACCEPT_PAUSE_MS;
        return;
    }
    if (!may_connect(socket)) {
        close(socket);
        return;
    }
    setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &bound, sizeof bound);
    setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &bound, sizeof bound);
    if (holder->client_count == CLIENTS_MAX) make_room(holder);
    holder->clients[holder->client_count++] =
        (struct client){ .socket = socket, .since = now_ms() };
}

/* False: it is of no use any more. */
static bool attend(struct holder *holder, struct client *client)
{
    if (handle(holder, client->socket) < 0) return false;
    client->spoke = true;
    client->since = now_ms();
    return true;
}

/* ---- the loop ---- */

static void take_signal(struct holder *holder)
{
    struct signalfd_siginfo signal;
    if (read(holder->signals, &signal, sizeof signal) != sizeof signal) return;
    if (signal.ssi_signo == SIGHUP) return;
    holder->ending = true;
    if (holder->entries.count > 0)
        log_warning("told to end, but %zu are held: goes on until they are dropped "
                    "('sluice-holder --abort' closes them)",
                    holder->entries.count);
}

static bool matters(const struct holder *holder)
{
    return holder->entries.count > 0 || holder->options->end_when_idle;
}

/* Until nobody has come for too long; -1: that is not awaited. */
static int time_left(const struct holder *holder)
{
    if (holder->client_count > 0 || !matters(holder)) return -1;
    int64_t left = holder->alone_since + (int64_t)holder->options->grace_seconds * 1000 - now_ms();
    if (left > INT32_MAX) return INT32_MAX;
    return left > 0 ? (int)left : 0;
}

/* How long poll(2) may sleep. */
static int sleep_time(const struct holder *holder, bool accepts)
{
    int left = time_left(holder);
    return accepts || (left >= 0 && left < ACCEPT_PAUSE_MS) ? left : ACCEPT_PAUSE_MS;
}

static void end_grace(struct holder *holder)
{
    if (holder->client_count > 0 || !matters(holder) || time_left(holder) > 0) return;
    if (holder->entries.count == 0) {
        holder->ended = true;
        return;
    }
    log_error("nobody has come for %u seconds: closing %zu that are held; who reads from these "
              "images gets errors",
              holder->options->grace_seconds, holder->entries.count);
    holder_entries_clear(&holder->entries);
    holder->alone_since = now_ms();
}

static void serve(struct holder *holder)
{
    struct pollfd watched[2 + CLIENTS_MAX];
    bool accepts = now_ms() >= holder->accept_after;
    watched[0] = (struct pollfd){ .fd = holder->signals, .events = POLLIN };
    watched[1] = (struct pollfd){ .fd = accepts ? holder->place.listener : -1, .events = POLLIN };
    size_t count = holder->client_count;
    for (size_t i = 0; i < count; i++)
        watched[2 + i] = (struct pollfd){ .fd = holder->clients[i].socket, .events = POLLIN };
    if (poll(watched, 2 + count, sleep_time(holder, accepts)) < 0) return;
    if (watched[0].revents) take_signal(holder);
    /* From the last on, because one that is removed makes the last one take its place. */
    for (size_t i = count; i-- > 0 && !holder->ended;)
        if (watched[2 + i].revents && !attend(holder, &holder->clients[i]))
            remove_client(holder, i);
    if (holder->ended) return;
    if (watched[1].revents) accept_client(holder);
    end_grace(holder);
    if (holder->ending && holder->entries.count == 0) holder->ended = true;
}

/* ---- start and end ---- */

static int watch_signals(struct holder *holder, struct error **error)
{
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGHUP);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    holder->signals = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
    if (holder->signals < 0) return error_set_errno(error, errno, "holder: watch signals");
    return 0;
}

static int take_place(struct holder *holder, struct error **error)
{
    const struct holder_options *options = holder->options;
    struct error *reason = NULL;
    if (!options->take_over) return holder_place_make(&holder->place, options->socket, error);
    if (holder_place_take_over(&holder->place, options->socket, &holder->entries, &reason) == 0)
        return 0;
    if (error_kind_of(reason) != ERROR_UNREACHABLE) return error_move(error, reason);
    error_free(reason);
    return holder_place_make(&holder->place, options->socket, error);
}

static void close_all(struct holder *holder)
{
    for (size_t i = 0; i < holder->client_count; i++)
        close(holder->clients[i].socket);
    holder_entries_clear(&holder->entries);
    if (holder->place.listener >= 0) {
        if (!holder->replaced) unlink(holder->options->socket);
        close(holder->place.listener);
        close(holder->place.lock);
    }
    if (holder->signals >= 0) close(holder->signals);
    free(holder->message);
}

int holder_run(const struct holder_options *options, int (*ready)(void *context), void *context,
               struct error **error)
{
    struct holder holder = { .options = options,
                             .place = { -1, -1, -1 },
                             .signals = -1,
                             .message = malloc(sizeof *holder.message) };
    int result = holder.message ? watch_signals(&holder, error) : error_set_memory(error);
    if (result == 0) result = take_place(&holder, error);
    if (result == 0 && holder.entries.count > 0)
        log_info("took over %zu that are held", holder.entries.count);
    if (result == 0 && ready(context) < 0) holder.ended = true;
    if (holder.place.before >= 0) close(holder.place.before);
    holder.alone_since = now_ms();
    while (result == 0 && !holder.ended)
        serve(&holder);
    close_all(&holder);
    return result;
}
