/* A buffer that each thread keeps for its answers, so that a hit allocates nothing; as long as
 * threads are few. A server of many images has hundreds. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>

#include "fuse/thread_buffer-internal.h"

#define KEPT_BYTES_MAX (12u << 20)

struct thread_buffer {
    size_t capacity;
    uint8_t data[];
};

static pthread_key_t buffer_key;
static pthread_once_t buffer_once = PTHREAD_ONCE_INIT;
static bool buffer_key_made;
static atomic_size_t kept_bytes; /* of all threads */

static void drop(void *argument)
{
    struct thread_buffer *buffer = argument;
    atomic_fetch_sub(&kept_bytes, buffer->capacity);
    free(buffer);
}

static void make_buffer_key(void)
{
    buffer_key_made = pthread_key_create(&buffer_key, drop) == 0;
}

/* False: there is no room for it. */
static bool keep(struct thread_buffer *buffer)
{
    size_t before = atomic_fetch_add(&kept_bytes, buffer->capacity);
    if (before + buffer->capacity <= KEPT_BYTES_MAX && pthread_setspecific(buffer_key, buffer) == 0)
        return true;
    atomic_fetch_sub(&kept_bytes, buffer->capacity);
    return false;
}

uint8_t *thread_buffer_take(size_t length)
{
    pthread_once(&buffer_once, make_buffer_key);
    struct thread_buffer *buffer = buffer_key_made ? pthread_getspecific(buffer_key) : NULL;
    if (buffer) {
        pthread_setspecific(buffer_key, NULL);
        atomic_fetch_sub(&kept_bytes, buffer->capacity);
    }
    if (buffer && buffer->capacity >= length) return buffer->data;
    free(buffer);
    size_t capacity = length < (128u << 10) ? 128u << 10 : length;
    buffer = malloc(sizeof *buffer + capacity);
    if (!buffer) return NULL;
    buffer->capacity = capacity;
    return buffer->data;
}

void thread_buffer_give(uint8_t *data)
{
    if (!data) return;
    struct thread_buffer *buffer =
        (struct thread_buffer *)(void *)(data - offsetof(struct thread_buffer, data));
    /* A callback that read on this thread has put its own there. */
    if (!buffer_key_made || pthread_getspecific(buffer_key) || !keep(buffer)) free(buffer);
}
