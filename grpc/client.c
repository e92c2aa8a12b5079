#include "grpc/client-internal.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "grpc/wire-internal.h"

enum { IDLE_LIMIT = 8 };

struct grpc_client {
    char *path;
    pthread_mutex_t lock;
    struct grpc_line *idle[IDLE_LIMIT]; /* under `lock`; the last one was used last */
    unsigned idle_count;
};

int grpc_client_new(struct grpc_client **ret, const char *socket_path, struct error **error)
{
    struct grpc_client *client = calloc(1, sizeof *client);
    char *path = strdup(socket_path);
    if (!client || !path) {
        free(client);
        free(path);
        return error_set_memory(error);
    }
    client->path = path;
    pthread_mutex_init(&client->lock, NULL);
    *ret = client;
    return 0;
}

void grpc_client_free(struct grpc_client *client)
{
    if (!client) return;
    for (unsigned i = 0; i < client->idle_count; i++)
        grpc_line_close(client->idle[i]);
    pthread_mutex_destroy(&client->lock);
    free(client->path);
    free(client);
}

static struct grpc_line *take_idle(struct grpc_client *client)
{
    for (;;) {
        pthread_mutex_lock(&client->lock);
        struct grpc_line *line = client->idle_count > 0 ? client->idle[--client->idle_count] : NULL;
        pthread_mutex_unlock(&client->lock);
        if (!line || grpc_line_is_usable(line)) return line;
        grpc_line_close(line);
    }
}

static void give_back(struct grpc_client *client, struct grpc_line *line)
{
    bool kept = false;
    if (grpc_line_is_usable(line)) {
        pthread_mutex_lock(&client->lock);
        kept = client->idle_count < IDLE_LIMIT;
        if (kept) client->idle[client->idle_count++] = line;
        pthread_mutex_unlock(&client->lock);
    }
    if (!kept) grpc_line_close(line);
}

int grpc_client_call(struct grpc_client *client, const struct grpc_request *request,
                     struct grpc_answer *ret, struct error **error)
{
    uint64_t now = clock_ms();
    uint64_t deadline =
        request->timeout_ms < UINT64_MAX - now ? now + request->timeout_ms : UINT64_MAX;
    *ret = (struct grpc_answer){ 0 };
    /* A server that is being stopped refuses what its successor may take. */
    for (int attempt = 0;; attempt++) {
        struct error *reason = NULL;
        bool refused;
        struct grpc_line *line = attempt == 0 ? take_idle(client) : NULL;
        if (!line && grpc_line_open(&line, client->path, deadline, error) < 0) return -1;
        int result = grpc_line_call(line, request, deadline, ret, &refused, &reason);
        give_back(client, line);
        if (result == 0) return 0;
        if (!refused || attempt > 0) return error_move(error, reason);
        error_free(reason);
    }
}

void grpc_answer_free(struct grpc_answer *answer)
{
    free(answer->text);
    buffer_free(&answer->message);
    *answer = (struct grpc_answer){ 0 };
}
