/* A buffer that each thread keeps for its answers, so that a hit allocates nothing. */
#include <stddef.h>
#include <stdlib.h>

#include "fuse/layer_device-internal.h"

struct thread_buffer {
    size_t capacity;
    uint8_t data[];
};

static pthread_key_t buffer_key;
static pthread_once_t buffer_once = PTHREAD_ONCE_INIT;
static bool buffer_key_made;

static void make_buffer_key(void)
{
    buffer_key_made = pthread_key_create(&buffer_key, free) == 0;
}

uint8_t *thread_buffer_take(size_t length)
{
    pthread_once(&buffer_once, make_buffer_key);
    struct thread_buffer *buffer = buffer_key_made ? pthread_getspecific(buffer_key) : NULL;
    if (buffer) pthread_setspecific(buffer_key, NULL);
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
    if (!buffer_key_made || pthread_getspecific(buffer_key) ||
        pthread_setspecific(buffer_key, buffer) != 0)
        free(buffer);
}
