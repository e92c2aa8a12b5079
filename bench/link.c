// link: a TCP proxy that makes the loopback as slow as a network.
//
// A direction is a wire: bytes go onto it one after another, whatever connection they are of, at
// the bandwidth, and come out after half the round trip. So what is read at time t leaves at max(t,
// when the wire is free) + length / bandwidth, and arrives a delay later; nothing waits for an
// answer, and any number of bytes is under way. What cannot be seen through a proxy is the
// handshake, so a new connection's first bytes are taken up a round trip after it was accepted.
// The slow start of real TCP and lost packets have no model here.
//
//   link --to PORT [--address ADDRESS] [--rtt-us N] [--mbit N]
//
// Prints the port it listens on; then, for each line on its input, a line of counters: connections,
// bytes towards the server, bytes towards the clients. Ends with its input.

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    SEGMENT_BYTES = 16 << 10, // what one connection puts on the wire before the next one's turn
    IN_FLIGHT = 512,          // segments of a connection that its receiver has not taken: 8 MiB
    MAX_EVENTS = 64,
};

// How far ahead the wire may be promised: the buffer before a bottleneck. Less would let it run dry
// while this process sleeps; more would let bulk delay small answers.
static const uint64_t WIRE_BUFFER_NS = 2000000;

struct segment {
    uint64_t arrives;
    uint32_t length; // 0: the end of the stream
    uint32_t written;
    char bytes[SEGMENT_BYTES];
};

// One direction of all connections.
struct wire {
    uint64_t free_at;
    uint64_t bytes;
};

// One direction of one connection: from `source` through a queue to `sink`.
struct flow {
    struct wire *wire;
    int source;
    int sink;
    bool readable;
    bool writable;
    bool ended;   // the source has
    bool flushed; // and the sink knows
    unsigned first;
    unsigned count;
    struct segment *queue[IN_FLIGHT];
};

struct connection {
    struct connection *next;
    uint64_t open_at;
    bool broken;
    struct flow up;
    struct flow down;
};

static struct {
    uint64_t delay_ns; // one way
    double ns_per_byte;
    struct sockaddr_in server;
    struct wire up;
    struct wire down;
    uint64_t accepted;
    struct connection *connections;
} state;

// What an event is about if not a connection.
static const char of_listener, of_input;

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000U + (uint64_t)now.tv_nsec;
}

static void fail(const char *what)
{
    fprintf(stderr, "link: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void *take(size_t size)
{
    void *memory = calloc(1, size);
    if (!memory) fail("memory");
    return memory;
}

// ---- connections ----

static void watch(int epoll, int fd, void *owner)
{
    struct epoll_event event = { .events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
                                 .data.ptr = owner };
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event)) fail("epoll_ctl");
}

static void no_delay(int fd)
{
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){ 1 }, sizeof(int));
}

static void start_connection(int epoll, int client)
{
    int server = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (server < 0) fail("socket");
    if (connect(server, (struct sockaddr *)&state.server, sizeof(state.server)) &&
        errno != EINPROGRESS) {
        close(server);
        close(client);
        return;
    }
    no_delay(client);
    no_delay(server);
    struct connection *new = take(sizeof(*new));
    *new = (struct connection){
        .next = state.connections,
        .open_at = now_ns() + 2 * state.delay_ns,
        .up = { .wire = &state.up, .source = client, .sink = server },
        .down = { .wire = &state.down, .source = server, .sink = client },
    };
    state.connections = new;
    state.accepted++;
    watch(epoll, client, new);
    watch(epoll, server, new);
}

static void accept_all(int epoll, int listener)
{
    int client;
    while ((client = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0)
        start_connection(epoll, client);
}

static void drop_queue(struct flow *flow)
{
    for (; flow->count; flow->count--) {
        free(flow->queue[flow->first]);
        flow->first = (flow->first + 1) % IN_FLIGHT;
    }
}

static void remove_finished(void)
{
    struct connection **place = &state.connections;
    while (*place) {
        struct connection *one = *place;
        if (!one->broken && !(one->up.flushed && one->down.flushed)) {
            place = &one->next;
            continue;
        }
        *place = one->next;
        drop_queue(&one->up);
        drop_queue(&one->down);
        close(one->up.source);
        close(one->up.sink);
        free(one);
    }
}

// ---- moving bytes ----

static bool may_read(const struct flow *flow)
{
    return flow->readable && !flow->ended && flow->count < IN_FLIGHT;
}

// One segment, or the end. False when the source has nothing now.
static bool read_segment(struct connection *connection, struct flow *flow, uint64_t now)
{
    struct segment *segment = malloc(sizeof(*segment));
    if (!segment) fail("memory");
    ssize_t length = recv(flow->source, segment->bytes, SEGMENT_BYTES, 0);
    if (length < 0) {
        free(segment);
        flow->readable = false;
        if (errno != EAGAIN && errno != EINTR && errno != ENOTCONN) connection->broken = true;
        return false;
    }
    struct wire *wire = flow->wire;
    if (wire->free_at < now) wire->free_at = now;
    wire->free_at += (uint64_t)((double)length * state.ns_per_byte);
    wire->bytes += (uint64_t)length;
    segment->length = (uint32_t)length;
    segment->written = 0;
    segment->arrives = wire->free_at + state.delay_ns;
    flow->queue[(flow->first + flow->count) % IN_FLIGHT] = segment;
    flow->count++;
    flow->ended = length == 0;
    return true;
}

// Lets another connection be the first one to read.
static void rotate(void)
{
    struct connection *first = state.connections;
    if (!first || !first->next) return;
    struct connection *last = first;
    while (last->next)
        last = last->next;
    state.connections = first->next;
    last->next = first;
    first->next = NULL;
}

// In turns, until the wires are promised or nobody has more.
static void read_all(uint64_t now)
{
    rotate();
    bool more = true;
    while (more) {
        more = false;
        for (struct connection *one = state.connections; one; one = one->next) {
            if (one->broken || one->open_at > now) continue;
            if (may_read(&one->up) && state.up.free_at < now + WIRE_BUFFER_NS)
                more |= read_segment(one, &one->up, now);
            if (may_read(&one->down) && state.down.free_at < now + WIRE_BUFFER_NS)
                more |= read_segment(one, &one->down, now);
        }
    }
}

static void deliver(struct connection *connection, struct flow *flow, uint64_t now)
{
    while (flow->count && flow->writable && flow->queue[flow->first]->arrives <= now) {
        struct segment *segment = flow->queue[flow->first];
        ssize_t sent = 0;
        if (!segment->length) {
            shutdown(flow->sink, SHUT_WR);
            flow->flushed = true;
        } else {
            sent = send(flow->sink, segment->bytes + segment->written,
                        segment->length - segment->written, MSG_NOSIGNAL);
        }
        if (sent < 0) {
            flow->writable = false;
            if (errno != EAGAIN && errno != EINTR && errno != ENOTCONN) connection->broken = true;
            return;
        }
        segment->written += (uint32_t)sent;
        if (segment->written < segment->length) continue;
        free(segment);
        flow->first = (flow->first + 1) % IN_FLIGHT;
        flow->count--;
    }
}

static void earliest(uint64_t *wake, uint64_t time)
{
    if (time < *wake) *wake = time;
}

static void wake_for(const struct connection *connection, const struct flow *flow, uint64_t now,
                     uint64_t *wake)
{
    if (flow->count && flow->writable) earliest(wake, flow->queue[flow->first]->arrives);
    if (!may_read(flow)) return;
    if (connection->open_at > now)
        earliest(wake, connection->open_at);
    else // half of the buffer, so that this process sleeps now and then
        earliest(wake, flow->wire->free_at - WIRE_BUFFER_NS / 2);
}

// When there is something to do that no event will tell.
static uint64_t next_wake(uint64_t now)
{
    uint64_t wake = UINT64_MAX;
    for (const struct connection *one = state.connections; one; one = one->next) {
        if (one->broken) continue;
        wake_for(one, &one->up, now, &wake);
        wake_for(one, &one->down, now, &wake);
    }
    return wake;
}

static void note_event(struct connection *connection, uint32_t events)
{
    // Which of the two sockets it was is not told: trying the other costs a system call.
    if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
        connection->up.readable = connection->down.readable = true;
    if (events & (EPOLLOUT | EPOLLHUP | EPOLLERR))
        connection->up.writable = connection->down.writable = true;
}

// ---- the process ----

// False at the end of the input.
static bool answer_question(void)
{
    char line[64];
    if (read(STDIN_FILENO, line, sizeof(line)) <= 0) return false;
    printf("%llu %llu %llu\n", (unsigned long long)state.accepted,
           (unsigned long long)state.up.bytes, (unsigned long long)state.down.bytes);
    fflush(stdout);
    return true;
}

static void serve(int epoll, int listener)
{
    for (;;) {
        uint64_t now = now_ns();
        read_all(now);
        for (struct connection *one = state.connections; one; one = one->next) {
            if (!one->broken) deliver(one, &one->up, now);
            if (!one->broken) deliver(one, &one->down, now);
        }
        remove_finished();

        uint64_t wake = next_wake(now);
        now = now_ns();
        uint64_t wait = wake > now ? wake - now : 0;
        struct timespec timeout = { .tv_sec = (time_t)(wait / 1000000000U),
                                    .tv_nsec = (long)(wait % 1000000000U) };
        struct epoll_event events[MAX_EVENTS];
        int count =
            epoll_pwait2(epoll, events, MAX_EVENTS, wake == UINT64_MAX ? NULL : &timeout, NULL);
        if (count < 0 && errno != EINTR) fail("epoll_pwait2");
        for (int i = 0; i < count; i++) {
            if (events[i].data.ptr == &of_listener)
                accept_all(epoll, listener);
            else if (events[i].data.ptr != &of_input)
                note_event(events[i].data.ptr, events[i].events);
            else if (!answer_question())
                return;
        }
    }
}

static int listen_on(struct in_addr address)
{
    struct sockaddr_in name = { .sin_family = AF_INET, .sin_addr = address };
    socklen_t length = sizeof(name);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&name, sizeof(name)) ||
        listen(listener, 1024) || getsockname(listener, (struct sockaddr *)&name, &length))
        fail("listen");
    printf("%d\n", ntohs(name.sin_port));
    fflush(stdout);
    return listener;
}

static unsigned long number(const char *text, unsigned long most)
{
    char *end;
    errno = 0;
    unsigned long value = strtoul(text, &end, 10);
    if (errno || *end || end == text || value > most) {
        fprintf(stderr, "link: %s is not a number up to %lu\n", text, most);
        exit(2);
    }
    return value;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        { "to", required_argument, NULL, 't' },
        { "address", required_argument, NULL, 'a' },
        { "rtt-us", required_argument, NULL, 'r' },
        { "mbit", required_argument, NULL, 'm' },
        { 0 },
    };
    struct in_addr address = { .s_addr = htonl(INADDR_LOOPBACK) };
    unsigned long port = 0, rtt_us = 5000, mbit = 1000;
    int option;
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (option == 't')
            port = number(optarg, UINT16_MAX);
        else if (option == 'r')
            rtt_us = number(optarg, 10000000);
        else if (option == 'm')
            mbit = number(optarg, 1000000);
        else if (option != 'a' || inet_pton(AF_INET, optarg, &address) != 1)
            return 2;
    }
    if (!port || !mbit) {
        fprintf(stderr, "usage: link --to PORT [--address ADDRESS] [--rtt-us N] [--mbit N]\n");
        return 2;
    }
    state.server = (struct sockaddr_in){ .sin_family = AF_INET,
                                         .sin_port = htons((uint16_t)port),
                                         .sin_addr = { htonl(INADDR_LOOPBACK) } };
    state.delay_ns = rtt_us * 1000 / 2;
    state.ns_per_byte = 8000.0 / (double)mbit;

    int epoll = epoll_create1(EPOLL_CLOEXEC);
    int listener = listen_on(address);
    if (epoll < 0) fail("epoll_create1");
    struct epoll_event knock = { .events = EPOLLIN, .data.ptr = (void *)&of_listener };
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &knock)) fail("listener");
    struct epoll_event input = { .events = EPOLLIN, .data.ptr = (void *)&of_input };
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, STDIN_FILENO, &input)) fail("standard input");
    serve(epoll, listener);
    return 0;
}
