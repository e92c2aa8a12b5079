/* A gRPC server in a directory of its own, for one test, with methods that show what it does. */
#ifndef SLUICE_TESTS_UNIT_GRPC_PLACE_H
#define SLUICE_TESTS_UNIT_GRPC_PLACE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "grpc/server.h"

struct grpc_place {
    char directory[64];
    char *path; /* of the socket */
    struct grpc_server *server;
    struct grpc_method methods[7];
    atomic_int running; /* handlers of "/test.Test/Wait" and "Pour" that have not ended */
    atomic_int begun;   /* handlers of these that ever began */
    atomic_int filled;  /* "Fill" that have ended */
    atomic_ullong left; /* milliseconds that the last "Left" had */
};

/* Answers with its request. */
static inline void place_echo(struct grpc_call *call, void *context)
{
    (void)context;
    const struct buffer *request = grpc_call_request(call);
    grpc_call_send(call, request->data, request->length);
    grpc_call_end(call, GRPC_OK, NULL);
}

/* Fails with its request as the text. */
static inline void place_fail(struct grpc_call *call, void *context)
{
    (void)context;
    const struct buffer *request = grpc_call_request(call);
    char *text = request->length ? strndup((const char *)request->data, request->length) : NULL;
    grpc_call_end(call, GRPC_NOT_FOUND, text);
    free(text);
}

/* Until nobody waits for it. */
static inline void place_wait(struct grpc_call *call, void *context)
{
    struct grpc_place *place = context;
    atomic_fetch_add(&place->running, 1);
    atomic_fetch_add(&place->begun, 1);
    while (!grpc_call_cancelled(call))
        usleep(1000);
    atomic_fetch_sub(&place->running, 1);
    grpc_call_end(call, GRPC_ABORTED, "waited");
}

/* Messages without end. */
static inline void place_pour(struct grpc_call *call, void *context)
{
    struct grpc_place *place = context;
    static const char bytes[10000];
    atomic_fetch_add(&place->running, 1);
    atomic_fetch_add(&place->begun, 1);
    while (grpc_call_send(call, bytes, sizeof bytes) == 0) {
    }
    atomic_fetch_sub(&place->running, 1);
    grpc_call_end(call, GRPC_OK, NULL);
}

static inline void place_left(struct grpc_call *call, void *context)
{
    struct grpc_place *place = context;
    const char *value = grpc_metadata_find(grpc_call_metadata(call), "color");
    atomic_store(&place->left, grpc_call_milliseconds_left(call));
    grpc_call_send(call, value, value ? strlen(value) : 0);
    grpc_call_end(call, GRPC_OK, NULL);
}

/* As much as is taken from a call whose answer is not read. */
static inline void place_fill(struct grpc_call *call, void *context)
{
    struct grpc_place *place = context;
    static const char bytes[1 << 20];
    grpc_call_send(call, bytes, sizeof bytes);
    grpc_call_end(call, GRPC_OK, NULL);
    atomic_fetch_add(&place->filled, 1);
}

/* Forgets to answer. */
static inline void place_forget(struct grpc_call *call, void *context)
{
    (void)call;
    (void)context;
}

static inline void place_start(struct grpc_place *place)
{
    struct error *error = NULL;
    const struct grpc_method methods[7] = {
        { "/test.Test/Echo", place_echo, place }, { "/test.Test/Fail", place_fail, place },
        { "/test.Test/Wait", place_wait, place }, { "/test.Test/Pour", place_pour, place },
        { "/test.Test/Left", place_left, place }, { "/test.Test/Forget", place_forget, place },
        { "/test.Test/Fill", place_fill, place },
    };
    memcpy(place->methods, methods, sizeof methods);
    if (grpc_server_start(&place->server, place->path, place->methods, 7, &error) < 0)
        fail_msg("%s", error_message(error));
}

static inline void place_stop(struct grpc_place *place)
{
    grpc_server_stop(place->server);
    place->server = NULL;
}

static inline int place_set_up(void **state)
{
    struct grpc_place *place = calloc(1, sizeof *place);
    if (!place) return -1;
    snprintf(place->directory, sizeof place->directory, "/tmp/sluice-grpc.XXXXXX");
    if (!mkdtemp(place->directory)) return -1;
    place->path = format_text("%s/socket", place->directory);
    *state = place;
    place_start(place);
    return 0;
}

static inline int place_tear_down(void **state)
{
    struct grpc_place *place = *state;
    place_stop(place);
    int result = rmdir(place->directory);
    free(place->path);
    free(place);
    return result;
}

/* Waits at most a minute for a count. */
static inline void expect_count(atomic_int *count, int wanted)
{
    for (int i = 0; i < 60000 && atomic_load(count) != wanted; i++)
        usleep(1000);
    assert_int_equal(atomic_load(count), wanted);
}

#endif
