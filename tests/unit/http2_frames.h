/* HTTP/2 frames by hand (RFC 9113), also those that no proper client sends. */
#ifndef SLUICE_TESTS_UNIT_HTTP2_FRAMES_H
#define SLUICE_TESTS_UNIT_HTTP2_FRAMES_H

#include <nghttp2/nghttp2.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/buffer.h"

enum {
    DATA = 0,
    HEADERS = 1,
    RST_STREAM = 3,
    SETTINGS = 4,
    PING = 6,
    GOAWAY = 7,
    CONTINUATION = 9
};
enum { END_STREAM = 1, END_HEADERS = 4, ACK = 1 };

static const uint8_t http2_greeting[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0";
enum { HTTP2_GREETING_LENGTH = 33 };

static inline void put_frame(struct buffer *to, uint8_t type, uint8_t flags, uint32_t stream,
                             const void *payload, uint32_t length)
{
    const uint8_t head[9] = { (uint8_t)(length >> 16),
                              (uint8_t)(length >> 8),
                              (uint8_t)length,
                              type,
                              flags,
                              (uint8_t)(stream >> 24),
                              (uint8_t)(stream >> 16),
                              (uint8_t)(stream >> 8),
                              (uint8_t)stream };
    buffer_append(to, head, sizeof head);
    if (length) buffer_append(to, payload, length);
}

/* A literal of less than 127 bytes for name and value each (RFC 7541, 6.2.2). */
static inline void put_header(struct buffer *to, const char *name, const char *value)
{
    buffer_append_u8(to, 0);
    buffer_append_u8(to, (uint8_t)strlen(name));
    buffer_append(to, name, strlen(name));
    buffer_append_u8(to, (uint8_t)strlen(value));
    buffer_append(to, value, strlen(value));
}

/* The headers of a call, without their frame. */
static inline void put_call_headers(struct buffer *to, const char *path)
{
    put_header(to, ":method", "POST");
    put_header(to, ":scheme", "http");
    put_header(to, ":path", path);
    put_header(to, ":authority", "/run/some/socket");
    put_header(to, "content-type", "application/grpc");
    put_header(to, "te", "trailers");
}

/* A call as it should be. */
static inline void put_call(struct buffer *to, uint32_t stream, const char *path, const void *data,
                            uint32_t length)
{
    struct buffer headers = { 0 };
    put_call_headers(&headers, path);
    put_frame(to, HEADERS, END_HEADERS, stream, headers.data, (uint32_t)headers.length);
    put_frame(to, DATA, END_STREAM, stream, data, length);
    buffer_free(&headers);
}

/* A client that reads when it is told to. */
struct http2_peer {
    int descriptor;
    nghttp2_hd_inflater *inflater;
};

static inline struct http2_peer http2_connect(const char *path)
{
    struct http2_peer peer;
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    peer.descriptor = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(peer.descriptor, (struct sockaddr *)&address, sizeof address) < 0 ||
        nghttp2_hd_inflate_new(&peer.inflater) != 0)
        abort();
    return peer;
}

static inline void http2_close(struct http2_peer *peer)
{
    close(peer->descriptor);
    nghttp2_hd_inflate_del(peer->inflater);
}

/* Sends and frees it; what the server does not take any more is dropped. */
static inline void http2_send(const struct http2_peer *peer, struct buffer *bytes)
{
    size_t sent = 0;
    while (sent < bytes->length) {
        ssize_t count =
            send(peer->descriptor, bytes->data + sent, bytes->length - sent, MSG_NOSIGNAL);
        if (count <= 0) break;
        sent += (size_t)count;
    }
    buffer_free(bytes);
}

static inline bool http2_receive(const struct http2_peer *peer, void *data, size_t length)
{
    uint8_t *bytes = data;
    while (length > 0) {
        struct pollfd input = { .fd = peer->descriptor, .events = POLLIN };
        if (poll(&input, 1, 10000) <= 0) return false;
        ssize_t count = recv(peer->descriptor, bytes, length, 0);
        if (count <= 0) return false;
        bytes += count;
        length -= (size_t)count;
    }
    return true;
}

/* The last of an answer: -1 where the connection ends before. */
struct http2_end {
    int http_status, grpc_status; /* -1: not told */
    size_t bytes;                 /* of its DATA */
    int reset;                    /* the code of RST_STREAM, or -1 */
};

static inline void read_headers(struct http2_peer *peer, uint8_t *data, size_t length,
                                struct http2_end *end)
{
    while (length > 0) {
        nghttp2_nv header;
        int flags = 0;
        ssize_t taken = nghttp2_hd_inflate_hd2(peer->inflater, &header, &flags, data, length, 1);
        if (taken < 0) abort();
        data += taken;
        length -= (size_t)taken;
        if (!(flags & NGHTTP2_HD_INFLATE_EMIT)) break;
        char value[64] = "";
        if (header.valuelen < sizeof value) memcpy(value, header.value, header.valuelen);
        if (header.namelen == 7 && memcmp(header.name, ":status", 7) == 0)
            end->http_status = (int)strtol(value, NULL, 10);
        if (header.namelen == 11 && memcmp(header.name, "grpc-status", 11) == 0)
            end->grpc_status = (int)strtol(value, NULL, 10);
    }
    nghttp2_hd_inflate_end_headers(peer->inflater);
}

/* Reads until the stream ends; false: the connection did before. */
static inline bool http2_read_end(struct http2_peer *peer, uint32_t stream, struct http2_end *ret)
{
    static uint8_t payload[1 << 14];
    uint8_t head[9];
    *ret = (struct http2_end){ -1, -1, 0, -1 };
    while (http2_receive(peer, head, sizeof head)) {
        uint32_t length = (uint32_t)head[0] << 16 | (uint32_t)head[1] << 8 | head[2];
        uint32_t of = (uint32_t)(head[5] & 0x7f) << 24 | (uint32_t)head[6] << 16 |
                      (uint32_t)head[7] << 8 | head[8];
        struct http2_end other;
        if (length > sizeof payload || !http2_receive(peer, payload, length)) return false;
        if (head[3] == HEADERS) read_headers(peer, payload, length, of == stream ? ret : &other);
        if (of != stream) continue;
        if (head[3] == DATA) ret->bytes += length;
        if (head[3] == RST_STREAM) ret->reset = payload[3];
        if (head[3] == RST_STREAM || (head[3] <= HEADERS && (head[4] & END_STREAM))) return true;
    }
    return false;
}

#endif
