#include "node/record_file.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/thread.h"
#include "fuse/recorder.h"
#include "index/file_places.h"
#include "node/profile_part.h"

#define WRITE_SECONDS 10

struct record_file {
    char *path;
    const struct node_image *node;
    struct profile_layer *layers;
    struct recorder *recorder;
    ssize_t written; /* touches that the file has; -1: there is no file yet */
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool ending;
    pthread_t thread;
};

/* ---- touches become a profile ---- */

static void free_places(struct file_place *places, size_t count)
{
    for (size_t i = 0; places && i < count; i++)
        free(places[i].path);
    free(places);
}

static int add_touches(struct profile_writer *writer, const struct recorded_touch *touches,
                       const struct file_place *places, size_t count, struct error **error)
{
    for (size_t i = 0; i < count; i++)
        if (profile_writer_add(writer, touches[i].layer, touches[i].chunk, touches[i].milliseconds,
                               places[i].path, error) < 0)
            return -1;
    return 0;
}

static int encode(struct record_file *record, const struct recorded_touch *touches, size_t count,
                  struct buffer *ret, struct error **error)
{
    struct profile_writer *writer;
    struct file_place *places = calloc(count + 1, sizeof *places);
    if (!places) return error_set_memory(error);
    for (size_t i = 0; i < count; i++)
        places[i] = (struct file_place){ .layer = touches[i].layer, .offset = touches[i].offset };
    int result = file_places_name(&record->node->metadata, places, count, error);
    if (result == 0)
        result =
            profile_writer_new(&writer, record->layers, record->node->artifact.layer_count, error);
    if (result == 0) {
        result = add_touches(writer, touches, places, count, error);
        if (result == 0) result = profile_writer_encode(writer, ret, error);
        profile_writer_free(writer);
    }
    free_places(places, count);
    return result;
}

static int write_file(struct record_file *record, struct error **error)
{
    cleanup_free struct recorded_touch *touches = NULL;
    cleanup_buffer struct buffer bytes = { 0 };
    ssize_t count = recorder_touches(record->recorder, &touches);
    if (count < 0) return error_set_memory(error);
    if (count == record->written) return 0;
    if (encode(record, touches, (size_t)count, &bytes, error) < 0 ||
        file_write_atomic(record->path, bytes.data, bytes.length, 0644, error) < 0)
        return error_prefix(error, "record of what was read");
    record->written = count;
    return 0;
}

/* ---- when ---- */

static void write_or_warn(struct record_file *record)
{
    struct error *error = NULL;
    if (write_file(record, &error) == 0) return;
    log_warning("%s", error_message(error));
    error_free(error);
}

static void *write_now_and_then(void *argument)
{
    struct record_file *record = argument;
    pthread_mutex_lock(&record->lock);
    while (!record->ending) {
        clock_wait(&record->wake, &record->lock, clock_ms() + WRITE_SECONDS * 1000);
        if (record->ending) break;
        pthread_mutex_unlock(&record->lock);
        write_or_warn(record);
        pthread_mutex_lock(&record->lock);
    }
    pthread_mutex_unlock(&record->lock);
    return NULL;
}

static void record_file_free(struct record_file *record)
{
    recorder_free(record->recorder);
    pthread_cond_destroy(&record->wake);
    pthread_mutex_destroy(&record->lock);
    free(record->layers);
    free(record->path);
    free(record);
}

int record_file_start(struct record_file **ret, const char *path, const struct node_image *node,
                      struct data_path *data_path, struct layer_device *const *devices,
                      struct error **error)
{
    struct record_file *record = calloc(1, sizeof *record);
    if (!record) return error_set_memory(error);
    pthread_mutex_init(&record->lock, NULL);
    clock_condition_init(&record->wake);
    record->node = node;
    record->written = -1;
    record->path = strdup(path);
    record->layers = profile_layers_of(&node->artifact, node->tables);
    int result = record->path && record->layers ? 0 : error_set_memory(error);
    if (result == 0)
        result =
            recorder_new(&record->recorder, data_path, devices, node->artifact.layer_count, error);
    /* What cannot be written is better known now than at the end. */
    if (result == 0) result = write_file(record, error);
    if (result == 0)
        result = thread_start(&record->thread, "sluice-record", write_now_and_then, record, error);
    if (result < 0) {
        record_file_free(record);
        return -1;
    }
    *ret = record;
    return 0;
}

void record_file_end(struct record_file *record)
{
    if (!record) return;
    pthread_mutex_lock(&record->lock);
    record->ending = true;
    pthread_cond_signal(&record->wake);
    pthread_mutex_unlock(&record->lock);
    pthread_join(record->thread, NULL);
    write_or_warn(record);
    record_file_free(record);
}
