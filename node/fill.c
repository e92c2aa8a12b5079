#include "node/fill.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/thread.h"
#include "node/fill-internal.h"

#define TICK_MS 250u
/* In the mode `idle`: so long no reader has waited. */
#define IDLE_MS 1000u

/* Chunks that are refused one after another are the registry's failure, not theirs. */
#define REFUSALS_IN_ROW 4u
#define PAUSE_FIRST_MS  1000u
#define PAUSE_MOST_MS   300000u
/* Others may leave room. */
#define ROOM_PAUSE_MS 30000u

/* ---- names ---- */

static const char *const mode_names[] = {
    [FILL_OFF] = "off", [FILL_IDLE] = "idle", [FILL_NOW] = "now"
};

static const char *const state_names[] = {
    [FILL_WAITING] = "waiting",   [FILL_FETCHING] = "fetching", [FILL_PAUSED] = "paused",
    [FILL_NO_ROOM] = "no-room",   [FILL_CHECKING] = "checking", [FILL_COMPLETE] = "complete",
    [FILL_FALSE] = "false-index",
};

const char *fill_mode_name(enum fill_mode mode)
{
    return mode_names[mode];
}

int fill_mode_parse(enum fill_mode *ret, const char *text, struct error **error)
{
    for (unsigned i = 0; i < sizeof mode_names / sizeof *mode_names; i++) {
        if (strcmp(text, mode_names[i]) != 0) continue;
        *ret = (enum fill_mode)i;
        return 0;
    }
    return error_set(error, ERROR_INVALID, "'%s' is none of off, idle, now", text);
}

/* ---- what both threads use ---- */

void fill_wait(struct fill *fill, unsigned milliseconds)
{
    clock_wait(&fill->changed, &fill->lock, clock_ms() + milliseconds);
}

void fill_set_state(struct fill *fill, enum fill_state state, const char *reason)
{
    fill->state = state;
    free(fill->reason);
    fill->reason = reason ? strdup(reason) : NULL;
}

/* ---- chunks ---- */

static bool is_absent(const struct fill *fill, size_t layer, uint32_t chunk)
{
    return layer_cache_generation(layer_device_cache(fill->options.devices[layer]), chunk) == 0;
}

/* chunk_supply's next: the absent chunks, layer after layer, in the blobs' order. */
static bool name_chunk(void *context, struct layer_device **ret_device, uint32_t *ret_chunk)
{
    struct fill *fill = context;
    const struct fill_options *options = &fill->options;
    bool found = false;
    pthread_mutex_lock(&fill->lock);
    while (fill->open && !found && fill->layer < fill->layer_count) {
        const struct chunk_table *table = options->node->tables[fill->layer];
        uint32_t chunk = fill->chunk++;
        if (chunk >= table->chunk_count) {
            fill->layer++;
            fill->chunk = 0;
        } else if (is_absent(fill, fill->layer, chunk)) {
            *ret_device = options->devices[fill->layer];
            *ret_chunk = chunk;
            fill->out += chunk_length(table, chunk);
            found = true;
        }
    }
    pthread_mutex_unlock(&fill->lock);
    return found;
}

/* With the lock. */
static void pause_fill(struct fill *fill, enum fill_state state, unsigned milliseconds,
                       const char *reason)
{
    fill->open = false;
    fill->paused_to = clock_ms() + milliseconds;
    fill_set_state(fill, state, reason);
}

static void pause_longer(struct fill *fill)
{
    pause_fill(fill, FILL_PAUSED, fill->pause_ms, "chunks could not be had; see the newest error");
    fill->pause_ms = fill->pause_ms < PAUSE_MOST_MS / 2 ? 2 * fill->pause_ms : PAUSE_MOST_MS;
    fill->refusals = 0;
}

static void take_result(struct fill *fill, int result)
{
    if (result == 0) {
        fill->refusals = 0;
        fill->pause_ms = PAUSE_FIRST_MS;
        return;
    }
    fill->again = true;
    if (result == -ENOSPC || result == -EDQUOT)
        pause_fill(fill, FILL_NO_ROOM, ROOM_PAUSE_MS, "the cache's disk is full");
    else if (result != -EBUSY && result != -ECANCELED && ++fill->refusals >= REFUSALS_IN_ROW)
        pause_longer(fill);
}

static size_t layer_of(const struct fill *fill, const struct layer_device *device)
{
    size_t layer = 0;
    while (layer + 1 < fill->layer_count && fill->options.devices[layer] != device)
        layer++;
    return layer;
}

/* chunk_supply's done. */
static void chunk_came_back(void *context, struct layer_device *device, uint32_t chunk, int result)
{
    struct fill *fill = context;
    pthread_mutex_lock(&fill->lock);
    fill->out -= chunk_length(fill->options.node->tables[layer_of(fill, device)], chunk);
    take_result(fill, result);
    pthread_mutex_unlock(&fill->lock);
}

/* ---- when ---- */

struct measured {
    uint64_t bytes_left;
    uint64_t room; /* bytes that can be stored without evicting any */
    bool *complete;
};

/* Without the lock, because the data path may be waiting for it. */
static void measure(const struct fill *fill, struct measured *ret)
{
    ret->bytes_left = 0;
    ret->room = cache_room_left(fill->options.cache);
    for (size_t i = 0; i < fill->layer_count; i++) {
        uint32_t chunks;
        uint64_t bytes;
        const struct chunk_table *table = fill->options.node->tables[i];
        layer_device_presence(fill->options.devices[i], &chunks, &bytes);
        ret->bytes_left += table->stream_length - bytes;
        ret->complete[i] = chunks == table->chunk_count;
    }
}

/* All below with the lock. */

static void note_measured(struct fill *fill, const struct measured *measured)
{
    fill->bytes_left = measured->bytes_left;
    for (size_t i = 0; i < fill->layer_count; i++) {
        if (measured->complete[i] && !fill->complete[i]) pthread_cond_broadcast(&fill->changed);
        fill->complete[i] = measured->complete[i];
        if (!fill->complete[i]) fill->checked[i] = false;
    }
}

/* Fill evicts nothing: what does not fit as a whole is left to readers. */
static bool has_room(const struct fill *fill, uint64_t room)
{
    return fill->bytes_left <= fill->out || room >= fill->bytes_left - fill->out;
}

static void refuse_room(struct fill *fill)
{
    char text[160];
    snprintf(text, sizeof text,
             "the rest of the image, %llu bytes, does not fit into the cache without evicting",
             (unsigned long long)fill->bytes_left);
    if (fill->state != FILL_NO_ROOM)
        log_warning("fill: %s; what is read is still fetched and stored", text);
    pause_fill(fill, FILL_NO_ROOM, ROOM_PAUSE_MS, text);
}

/* What was refused is named again once all others were. False: not now. */
static bool begin_pass(struct fill *fill)
{
    if (fill->layer < fill->layer_count) return true;
    if (fill->out > 0) return false;
    bool again = fill->again;
    fill->layer = 0;
    fill->chunk = 0;
    fill->again = false;
    if (again) pause_longer(fill);
    return !again;
}

static void decide(struct fill *fill, uint64_t room)
{
    const struct fill_options *options = &fill->options;
    fill->open = false;
    if (fill->found_false) return;
    if (fill->bytes_left == 0) {
        if (fill->state != FILL_COMPLETE) fill_set_state(fill, FILL_CHECKING, NULL);
    } else if (clock_ms() < fill->paused_to) {
        return;
    } else if (!has_room(fill, room)) {
        refuse_room(fill);
    } else if (options->mode == FILL_IDLE && data_path_idle_ms(options->path) < IDLE_MS) {
        fill_set_state(fill, FILL_WAITING, NULL);
    } else if (begin_pass(fill)) {
        fill_set_state(fill, FILL_FETCHING, NULL);
        fill->open = true;
    }
}

static void *pace(void *argument)
{
    struct fill *fill = argument;
    struct measured measured = { .complete = fill->measured };
    pthread_mutex_lock(&fill->lock);
    while (!atomic_load(&fill->ending)) {
        pthread_mutex_unlock(&fill->lock);
        measure(fill, &measured);
        pthread_mutex_lock(&fill->lock);
        note_measured(fill, &measured);
        decide(fill, measured.room);
        bool open = fill->open;
        pthread_mutex_unlock(&fill->lock);
        if (open) data_path_wake(fill->options.path);
        pthread_mutex_lock(&fill->lock);
        if (!atomic_load(&fill->ending)) fill_wait(fill, TICK_MS);
    }
    pthread_mutex_unlock(&fill->lock);
    return NULL;
}

/* ---- start and end ---- */

static struct fill *fill_new(const struct fill_options *options)
{
    struct fill *fill = calloc(1, sizeof *fill);
    if (!fill) return NULL;
    fill->options = *options;
    fill->layer_count = options->node->artifact.layer_count;
    fill->pause_ms = PAUSE_FIRST_MS;
    pthread_mutex_init(&fill->lock, NULL);
    clock_condition_init(&fill->changed);
    fill->complete = calloc(fill->layer_count + 1, sizeof *fill->complete);
    fill->checked = calloc(fill->layer_count + 1, sizeof *fill->checked);
    fill->measured = calloc(fill->layer_count + 1, sizeof *fill->measured);
    if (fill->complete && fill->checked && fill->measured) return fill;
    fill_stop(fill);
    return NULL;
}

static int start(struct fill *fill, struct error **error)
{
    const struct chunk_supply supply = { .next = name_chunk,
                                         .done = chunk_came_back,
                                         .context = fill };
    data_path_set_fill_rate(fill->options.path, fill->options.bytes_per_second);
    if (data_path_add_supply(fill->options.path, SUPPLY_FILL, &supply, &fill->supply, error) < 0 ||
        thread_start(&fill->thread, "sluice-fill", pace, fill, error) < 0)
        return -1;
    fill->thread_runs = true;
    if (thread_start(&fill->checker, "sluice-check", fill_check_run, fill, error) < 0) return -1;
    fill->checker_runs = true;
    return 0;
}

int fill_start(struct fill **ret, const struct fill_options *options, struct error **error)
{
    struct fill *fill = fill_new(options);
    if (!fill) return error_set_memory(error);
    if (start(fill, error) < 0) {
        fill_stop(fill);
        return -1;
    }
    *ret = fill;
    return 0;
}

void fill_stop(struct fill *fill)
{
    if (!fill) return;
    pthread_mutex_lock(&fill->lock);
    atomic_store(&fill->ending, true);
    fill->open = false;
    pthread_cond_broadcast(&fill->changed);
    pthread_mutex_unlock(&fill->lock);
    data_path_remove_supply(fill->options.path, fill->supply);
    if (fill->thread_runs) pthread_join(fill->thread, NULL);
    if (fill->checker_runs) pthread_join(fill->checker, NULL);
    pthread_cond_destroy(&fill->changed);
    pthread_mutex_destroy(&fill->lock);
    free(fill->reason);
    free(fill->complete);
    free(fill->checked);
    free(fill->measured);
    free(fill);
}

json_t *fill_status(struct fill *fill)
{
    if (!fill) return json_pack("{s:s}", "mode", mode_names[FILL_OFF]);
    pthread_mutex_lock(&fill->lock);
    json_int_t checked = 0;
    for (size_t i = 0; i < fill->layer_count; i++)
        checked += fill->checked[i];
    json_t *status =
        json_pack("{s:s, s:s, s:I, s:I, s:b, s:I, s:o}", "mode", mode_names[fill->options.mode],
                  "state", state_names[fill->state], "bytes_left", (json_int_t)fill->bytes_left,
                  "layers_verified", checked, "tree_verified", (int)fill->tree_checked, "rate",
                  (json_int_t)fill->options.bytes_per_second, "reason",
                  fill->reason ? json_any_text(fill->reason) : json_null());
    pthread_mutex_unlock(&fill->lock);
    return status;
}
