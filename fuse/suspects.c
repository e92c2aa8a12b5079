/*
 * Requests that may be what kills servers, one at a time: the next one's turn comes when the one
 * before has been answered, or has not killed the server in a second.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <time.h>

#include "base/thread.h"
#include "fuse/request_journal-internal.h"

#define TURN_MS 1000

struct suspect {
    STAILQ_ENTRY(suspect) next;
    uint64_t connection, unique;
    request_serve *serve;
    void *context;
    size_t length;
    _Alignas(8) uint8_t request[];
};

struct suspects {
    struct request_journal *journal;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    STAILQ_HEAD(, suspect) waiting;
    uint64_t serving; /* the connection of the one that is being given to its server */
    bool is_serving, ending, started;
    pthread_t thread;
};

static void await_turn_end(struct suspects *suspects, const struct suspect *suspect)
{
    for (int i = 0; i < TURN_MS; i++) {
        if (!request_journal_has(suspects->journal, suspect->connection, suspect->unique)) return;
        nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
    }
    request_journal_set_state(suspects->journal, suspect->connection, suspect->unique, SLOT_TRIED,
                              SLOT_SERVED);
}

static void *serve_in_turn(void *argument)
{
    struct suspects *suspects = argument;
    pthread_mutex_lock(&suspects->lock);
    while (!suspects->ending) {
        struct suspect *suspect = STAILQ_FIRST(&suspects->waiting);
        if (!suspect) {
            pthread_cond_wait(&suspects->changed, &suspects->lock);
            continue;
        }
        STAILQ_REMOVE_HEAD(&suspects->waiting, next);
        suspects->is_serving = true;
        suspects->serving = suspect->connection;
        pthread_mutex_unlock(&suspects->lock);
        request_journal_set_state(suspects->journal, suspect->connection, suspect->unique,
                                  SLOT_HELD, SLOT_TRIED);
        suspect->serve(suspect->context, suspect->request, suspect->length);
        pthread_mutex_lock(&suspects->lock);
        suspects->is_serving = false;
        pthread_cond_broadcast(&suspects->changed);
        pthread_mutex_unlock(&suspects->lock);
        await_turn_end(suspects, suspect);
        free(suspect);
        pthread_mutex_lock(&suspects->lock);
    }
    pthread_mutex_unlock(&suspects->lock);
    return NULL;
}

struct suspects *suspects_new(struct request_journal *journal)
{
    struct suspects *suspects = calloc(1, sizeof *suspects);
    if (!suspects) return NULL;
    suspects->journal = journal;
    STAILQ_INIT(&suspects->waiting);
    pthread_mutex_init(&suspects->lock, NULL);
    pthread_cond_init(&suspects->changed, NULL);
    return suspects;
}

static int start(struct suspects *suspects)
{
    if (suspects->started) return 0;
    if (thread_start(&suspects->thread, "suspects", serve_in_turn, suspects, NULL) < 0) return -1;
    suspects->started = true;
    return 0;
}

int suspects_add(struct suspects *suspects, uint64_t connection, const void *request, size_t length,
                 request_serve *serve, void *context)
{
    struct suspect *suspect = malloc(sizeof *suspect + length);
    if (!suspect) return -1;
    struct fuse_in_header header;
    memcpy(&header, request, sizeof header);
    *suspect = (struct suspect){ .connection = connection,
                                 .unique = header.unique,
                                 .serve = serve,
                                 .context = context,
                                 .length = length };
    memcpy(suspect->request, request, length);
    pthread_mutex_lock(&suspects->lock);
    int result = start(suspects);
    if (result == 0) STAILQ_INSERT_TAIL(&suspects->waiting, suspect, next);
    pthread_cond_broadcast(&suspects->changed);
    pthread_mutex_unlock(&suspects->lock);
    if (result < 0) free(suspect);
    return result;
}

void suspects_drop(struct suspects *suspects, uint64_t connection)
{
    pthread_mutex_lock(&suspects->lock);
    struct suspect *suspect = STAILQ_FIRST(&suspects->waiting);
    while (suspect) {
        struct suspect *next = STAILQ_NEXT(suspect, next);
        if (suspect->connection == connection) {
            STAILQ_REMOVE(&suspects->waiting, suspect, suspect, next);
            free(suspect);
        }
        suspect = next;
    }
    while (suspects->is_serving && suspects->serving == connection)
        pthread_cond_wait(&suspects->changed, &suspects->lock);
    pthread_mutex_unlock(&suspects->lock);
}

void suspects_free(struct suspects *suspects)
{
    if (!suspects) return;
    pthread_mutex_lock(&suspects->lock);
    suspects->ending = true;
    pthread_cond_broadcast(&suspects->changed);
    pthread_mutex_unlock(&suspects->lock);
    if (suspects->started) pthread_join(suspects->thread, NULL);
    struct suspect *suspect;
    while ((suspect = STAILQ_FIRST(&suspects->waiting))) {
        STAILQ_REMOVE_HEAD(&suspects->waiting, next);
        free(suspect);
    }
    pthread_mutex_destroy(&suspects->lock);
    pthread_cond_destroy(&suspects->changed);
    free(suspects);
}
