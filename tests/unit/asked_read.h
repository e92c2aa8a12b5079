/* Reads of a layer device that a test can wait for. Needs <cmocka.h> before it. */
#ifndef SLUICE_TESTS_ASKED_READ_H
#define SLUICE_TESTS_ASKED_READ_H

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "fuse/layer_device.h"

struct asked {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    unsigned answers;
    ssize_t result;
    uint8_t *data;
};

static inline void note_answer(void *context, const void *data, ssize_t result)
{
    struct asked *asked = context;
    pthread_mutex_lock(&asked->lock);
    asked->answers++;
    asked->result = result;
    if (result > 0) memcpy(asked->data, data, (size_t)result);
    pthread_cond_signal(&asked->changed);
    pthread_mutex_unlock(&asked->lock);
}

static inline struct asked *asked_new(size_t length)
{
    struct asked *asked = calloc(1, sizeof *asked);
    asked->data = malloc(length + 1);
    pthread_mutex_init(&asked->lock, NULL);
    pthread_cond_init(&asked->changed, NULL);
    return asked;
}

static inline struct asked *ask(struct layer_device *device, uint64_t offset, size_t length)
{
    struct asked *asked = asked_new(length);
    layer_device_read(device, NULL, offset, length, note_answer, asked);
    return asked;
}

static inline bool is_answered(struct asked *asked)
{
    pthread_mutex_lock(&asked->lock);
    bool answered = asked->answers > 0;
    pthread_mutex_unlock(&asked->lock);
    return answered;
}

static inline ssize_t wait_answer(struct asked *asked)
{
    pthread_mutex_lock(&asked->lock);
    while (asked->answers == 0)
        pthread_cond_wait(&asked->changed, &asked->lock);
    ssize_t result = asked->result;
    pthread_mutex_unlock(&asked->lock);
    return result;
}

static inline void asked_free(struct asked *asked)
{
    assert_int_equal(asked->answers, 1);
    pthread_mutex_destroy(&asked->lock);
    pthread_cond_destroy(&asked->changed);
    free(asked->data);
    free(asked);
}

/* The read must give the stream's bytes, and zeros behind its end. */
static inline void expect_bytes_of(struct asked *asked, const uint8_t *stream,
                                   uint64_t stream_length, uint64_t offset, size_t length)
{
    assert_int_equal(wait_answer(asked), (ssize_t)length);
    for (size_t i = 0; i < length; i++) {
        uint8_t expected =
            offset < stream_length && i < stream_length - offset ? stream[offset + i] : 0;
        if (asked->data[i] != expected) fail_msg("byte %zu of the read differs", i);
    }
    asked_free(asked);
}

static inline void expect_failure(struct asked *asked)
{
    assert_int_equal(wait_answer(asked), -EIO);
    asked_free(asked);
}

#endif
