/*
 * A registry of one blob on the loopback interface: enough HTTP for ranges.
 * Counts what it is asked for, and stalls or hangs up when told to.
 */
#ifndef SLUICE_TESTS_RANGE_SERVER_H
#define SLUICE_TESTS_RANGE_SERVER_H

#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define RANGE_SERVER_CONNECTIONS 256u

struct range_server {
    const uint8_t *blob;
    size_t length;
    unsigned short port;
    _Atomic unsigned ranges; /* answered or stalled */
    _Atomic bool stalls;     /* takes requests and answers nothing */
    _Atomic int stall_next;  /* so many of the next answers stall, as long as this is not below 0 */
    size_t stall_from;       /* of those that begin at this byte of the blob or behind */
    _Atomic size_t stall_at; /* before this byte of their bodies */
    _Atomic size_t first;    /* of the newest range */
    _Atomic unsigned behind; /* how many of `ranges` begin at `stall_from` or behind */
    int listener;
    pthread_t acceptor;
    pthread_mutex_t lock;
    unsigned count;
    struct range_connection {
        struct range_server *server;
        int socket;
        pthread_t thread;
    } connections[RANGE_SERVER_CONNECTIONS];
};

static inline bool range_server_send(int socket, const void *data, size_t length)
{
    for (size_t sent = 0; sent < length;) {
        ssize_t count = send(socket, (const char *)data + sent, length - sent, MSG_NOSIGNAL);
        if (count <= 0) return false;
        sent += (size_t)count;
    }
    return true;
}

/* False: the other side has gone. */
static inline bool range_server_pause(int socket)
{
    char byte;
    if (recv(socket, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0) return false;
    usleep(2000);
    return true;
}

static inline bool range_server_stall(struct range_server *server, int socket)
{
    while (atomic_load(&server->stall_next) >= 0)
        if (!range_server_pause(socket)) return false;
    return true;
}

static inline bool range_server_answer(struct range_server *server, int socket, const char *request)
{
    const char *range = strcasestr(request, "\nrange: bytes=");
    unsigned long long first = 0, last = server->length - 1;
    char head[300];
    if (!range)
        return range_server_send(socket, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 38);
    sscanf(range + 14, "%llu-%llu", &first, &last);
    atomic_store(&server->first, (size_t)first);
    atomic_fetch_add(&server->ranges, 1);
    bool behind = first >= server->stall_from;
    if (behind) atomic_fetch_add(&server->behind, 1);
    bool stalls = behind && atomic_load(&server->stall_next) > 0 &&
                  atomic_fetch_sub(&server->stall_next, 1) > 0;
    while (server->stalls)
        if (!range_server_pause(socket)) return false;
    if (first > last || last >= server->length) return false;
    snprintf(head, sizeof head,
             "HTTP/1.1 206 Partial Content\r\nContent-Length: %llu\r\n"
             "Content-Range: bytes %llu-%llu/%zu\r\n\r\n",
             last - first + 1, first, last, server->length);
    size_t length = last - first + 1, at = stalls ? server->stall_at : 0;
    if (stalls && at == 0 && !range_server_stall(server, socket)) return false;
    return range_server_send(socket, head, strlen(head)) &&
           range_server_send(socket, server->blob + first, at) &&
           (at == 0 || range_server_stall(server, socket)) &&
           range_server_send(socket, server->blob + first + at, length - at);
}

static inline void *range_server_connection(void *argument)
{
    struct range_connection *connection = argument;
    char request[8192];
    size_t length = 0;
    for (;;) {
        ssize_t count = recv(connection->socket, request + length, sizeof request - 1 - length, 0);
        if (count <= 0) return NULL;
        length += (size_t)count;
        request[length] = '\0';
        if (!strstr(request, "\r\n\r\n")) continue;
        if (!range_server_answer(connection->server, connection->socket, request)) {
            shutdown(connection->socket, SHUT_RDWR);
            return NULL;
        }
        length = 0;
    }
}

static inline void *range_server_accept(void *argument)
{
    struct range_server *server = argument;
    for (;;) {
        int socket = accept(server->listener, NULL, NULL);
        if (socket < 0) return NULL;
        pthread_mutex_lock(&server->lock);
        struct range_connection *connection = &server->connections[server->count];
        *connection = (struct range_connection){ .server = server, .socket = socket };
        if (server->count == RANGE_SERVER_CONNECTIONS ||
            pthread_create(&connection->thread, NULL, range_server_connection, connection) != 0)
            abort();
        server->count++;
        pthread_mutex_unlock(&server->lock);
    }
}

/* Listens on `server->port`, or on a free one where that is 0. */
static inline void range_server_start(struct range_server *server)
{
    struct sockaddr_in address = { .sin_family = AF_INET,
                                   .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                                   .sin_port = htons(server->port) };
    socklen_t size = sizeof address;
    int one = 1;
    pthread_mutex_init(&server->lock, NULL);
    server->count = 0;
    server->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(server->listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(server->listener, (struct sockaddr *)&address, size) < 0 ||
        listen(server->listener, 100) < 0 ||
        getsockname(server->listener, (struct sockaddr *)&address, &size) < 0 ||
        pthread_create(&server->acceptor, NULL, range_server_accept, server) != 0)
        abort();
    server->port = ntohs(address.sin_port);
}

/* Hangs up on everybody; the port refuses connections. */
static inline void range_server_stop(struct range_server *server)
{
    shutdown(server->listener, SHUT_RDWR);
    pthread_join(server->acceptor, NULL);
    close(server->listener);
    for (unsigned i = 0; i < server->count; i++) {
        shutdown(server->connections[i].socket, SHUT_RDWR);
        pthread_join(server->connections[i].thread, NULL);
        close(server->connections[i].socket);
    }
    pthread_mutex_destroy(&server->lock);
}

#endif
