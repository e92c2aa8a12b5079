/*
 * Whether an image is lazy. The first layer that is asked for starts a thread that has the image
 * mounted whole: that is the proof that it can be. Everybody waits for that, for as long as the
 * budget says; then the image is pulled ordinarily, and what comes too late is of use to the next
 * pull.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "snapshotter/lazy_images-internal.h"

/* Those that say "ordinary"; the oldest is forgotten. */
#define DECISIONS_MAX 1000u
/* To find and mount an image on a slow registry, after the budget is over. */
#define OPEN_MS 60000u

/* ---- the table; under the lock ---- */

static void decision_free(struct decision *decision)
{
    free(decision->name);
    free(decision->reference);
    free(decision->index);
    free(decision->reason);
    free(decision);
}

static void take_out(struct lazy_images *images, struct decision *decision)
{
    TAILQ_REMOVE(&images->decisions, decision, entry);
    images->decision_count--;
    decision_free(decision);
}

static bool may_go(const struct decision *decision)
{
    return decision->state == DECISION_ORDINARY && decision->waiting == 0;
}

static void make_room(struct lazy_images *images)
{
    struct decision *decision = TAILQ_LAST(&images->decisions, decision_list);
    while (decision && images->decision_count >= DECISIONS_MAX) {
        struct decision *newer = TAILQ_PREV(decision, decision_list, entry);
        if (may_go(decision)) take_out(images, decision);
        decision = newer;
    }
}

/* An image that a name meant stays; what the name means is asked again. */
static bool is_over(const struct lazy_images *images, const struct decision *decision)
{
    bool passes = may_go(decision) ||
                  (decision->by_name && decision->state == DECISION_LAZY && decision->waiting == 0);
    return passes && clock_ms() - decision->decided >= images->config->lazy.retry_after_ms;
}

/* One that holds, or NULL. */
static struct decision *find(struct lazy_images *images, const char *reference)
{
    struct decision *decision;
    TAILQ_FOREACH(decision, &images->decisions, entry)
    {
        if (strcmp(decision->reference, reference) == 0 && !is_over(images, decision))
            return decision;
    }
    return NULL;
}

void decision_forget(struct lazy_images *images, uint64_t image)
{
    struct decision *decision, *next;
    for (decision = TAILQ_FIRST(&images->decisions); decision; decision = next) {
        next = TAILQ_NEXT(decision, entry);
        if (decision->state != DECISION_LAZY || decision->image != image) continue;
        if (decision->waiting > 0) /* Who waits finds no such image, and the layer is pulled. */
            decision->image = 0;
        else
            take_out(images, decision);
    }
}

void decisions_free(struct lazy_images *images)
{
    struct decision *decision;
    while ((decision = TAILQ_FIRST(&images->decisions)))
        take_out(images, decision);
}

/* ---- deciding ---- */

static enum decision_kind kind_of(const struct error *error)
{
    switch (error_kind_of(error)) {
    case ERROR_NOT_FOUND:
        return DECIDED_NO_INDEX;
    case ERROR_DENIED:
        return DECIDED_DENIED;
    case ERROR_UNREACHABLE:
    case ERROR_CANCELLED:
        return DECIDED_UNREACHABLE;
    default:
        return DECIDED_OTHER;
    }
}

static void settle_ordinary(struct decision *decision, const char *reason, enum decision_kind kind)
{
    struct lazy_images *images = decision->images;
    uint64_t now = clock_ms();
    log_about(LOG_INFO, decision->name, "%s is pulled ordinarily (decided in %" PRIu64 " ms): %s",
              decision->name, now - decision->begun, reason);
    pthread_mutex_lock(&images->lock);
    decision->state = DECISION_ORDINARY;
    decision->reason = strdup(reason);
    decision->decided = now;
    images->decided[kind]++;
    pthread_cond_broadcast(&images->changed);
    pthread_mutex_unlock(&images->lock);
}

static int make_record(struct lazy_record *ret, const char *name, const char *reference,
                       struct node_image_answer *answer, struct error **error)
{
    *ret = (struct lazy_record){ .index = answer->index, .trust = answer->trust };
    if (answer->layer_count == 0 || answer->layer_count > LAZY_LAYERS_MAX)
        return error_set(error, ERROR_UNSUPPORTED, "it has %zu layers; up to %u can be lazy",
                         answer->layer_count, LAZY_LAYERS_MAX);
    ret->name = strdup(name);
    ret->reference = strdup(reference);
    ret->layers = calloc(answer->layer_count, sizeof *ret->layers);
    cleanup_free struct digest *streams = calloc(answer->layer_count, sizeof *streams);
    if (!ret->name || !ret->reference || !ret->layers || !streams) return error_set_memory(error);
    ret->layer_count = (uint32_t)answer->layer_count;
    for (size_t i = 0; i < answer->layer_count; i++) {
        ret->layers[i].blob = answer->layers[i].blob;
        streams[i] = answer->layers[i].stream;
    }
    lazy_record_chain(ret, streams);
    ret->cache_keys = take_pointer(&answer->cache_keys);
    ret->cache_key_count = answer->cache_key_count;
    digests_sort(ret->cache_keys, ret->cache_key_count);
    return 0;
}

/* Under the lock; from its end on the decision may go with the image. */
static void settle_on(struct decision *decision, struct lazy_image *image, const char *how)
{
    decision->state = DECISION_LAZY;
    decision->image = image->number;
    decision->decided = clock_ms();
    uint64_t took = decision->decided - decision->begun;
    if (!image->decision_ms && !image->users) image->decision_ms = took;
    log_about(LOG_INFO, decision->name, "%s is lazy (decided in %" PRIu64 " ms): %s%s",
              decision->name, took, how,
              decision->late ? "; too late for who has asked, but not for the next pull" : "");
    decision->images->decided[DECIDED_LAZY]++;
    pthread_cond_broadcast(&decision->images->changed);
}

/* The file first: a snapshot that refers to the image may be made as soon as it is in the table. */
static int settle_lazy(struct decision *decision, uint64_t number, const char *reference,
                       struct node_image_answer *answer, struct error **error)
{
    struct lazy_images *images = decision->images;
    struct lazy_record record;
    cleanup_free char *how =
        format_text("mounted from its index (%s) by %s (%s)", index_trust_name(answer->trust),
                    answer->front, answer->front_reason);
    cleanup_free char *path = lazy_view_record_path(images, number);
    if (!how || !path) return error_set_memory(error);
    int result = make_record(&record, decision->name, reference, answer, error);
    if (result == 0) result = lazy_record_write(&record, path, error);
    if (result == 0) {
        pthread_mutex_lock(&images->lock);
        struct lazy_image *image = lazy_image_add(images, number, &record, error);
        if (image)
            settle_on(decision, image, how);
        else
            result = -1;
        pthread_mutex_unlock(&images->lock);
    }
    if (result < 0) lazy_record_free(&record);
    return result;
}

static int open_image(struct decision *decision, uint64_t number, const char *reference,
                      struct error **error)
{
    struct lazy_images *images = decision->images;
    struct node_image_answer answer;
    struct digest index;
    struct lazy_view view = { .number = number,
                              .name = decision->name,
                              .reference = reference,
                              .least_trust = images->config->lazy.trust };
    if (decision->index && digest_parse(&index, decision->index, error) < 0)
        return error_prefix(error, "the index that the client names");
    if (decision->index) view.index = &index;
    if (lazy_view_open(images, &view, OPEN_MS, &answer, error) < 0) return -1;
    int result = settle_lazy(decision, number, reference, &answer, error);
    node_image_answer_free(&answer);
    return result;
}

/* True: an image that is there already is meant. */
static bool settle_on_known(struct decision *decision, const char *reference)
{
    struct lazy_images *images = decision->images;
    struct lazy_image *image;
    pthread_mutex_lock(&images->lock);
    TAILQ_FOREACH(image, &images->images, entry)
    {
        if (strcmp(image->record.reference, reference) == 0) break;
    }
    if (image) settle_on(decision, image, "it is mounted already");
    pthread_mutex_unlock(&images->lock);
    return image != NULL;
}

static int open_named(struct decision *decision, uint64_t number, struct error **error)
{
    struct lazy_images *images = decision->images;
    cleanup_free char *pinned = lazy_name_pin(images, decision->reference, OPEN_MS, error);
    if (!pinned) return -1;
    if (!settle_on_known(decision, pinned)) return open_image(decision, number, pinned, error);
    lazy_view_clear(images, number);
    return 0;
}

static int open_any(struct decision *decision, uint64_t number, struct error **error)
{
    return decision->by_name ? open_named(decision, number, error)
                             : open_image(decision, number, decision->reference, error);
}

static void *decide(void *argument)
{
    struct decision *decision = argument;
    struct lazy_images *images = decision->images;
    cleanup_error struct error *error = NULL;
    uint64_t number;
    if (lazy_image_number(images, &number, &error) < 0) {
        settle_ordinary(decision, error_message(error), DECIDED_OTHER);
    } else if (open_any(decision, number, &error) < 0) {
        lazy_view_clear(images, number);
        settle_ordinary(decision, error_message(error), kind_of(error));
    }
    lazy_thread_end(images);
    return NULL;
}

/* Images that were decided on so late that nobody had a use for them, and nobody came since. Under
 * the lock. */
static void sweep(struct lazy_images *images)
{
    struct decision *decision, *next;
    uint64_t now = clock_ms();
    for (decision = TAILQ_FIRST(&images->decisions); decision; decision = next) {
        next = TAILQ_NEXT(decision, entry);
        if (decision->state != DECISION_LAZY || decision->waiting > 0) continue;
        if (now - decision->decided < images->config->lazy.retry_after_ms) continue;
        struct lazy_image *image = lazy_image_find(images, decision->image);
        bool used = image && image->users;
        if (used && !decision->by_name) continue;
        if (image && !used) lazy_image_take_out(images, image);
        take_out(images, decision);
    }
}

/* Into the table; under the lock. `index` may be NULL. NULL: out of memory. */
static struct decision *put(struct lazy_images *images, const char *name, const char *reference,
                            const char *index)
{
    struct decision *decision = calloc(1, sizeof *decision);
    if (!decision) return NULL;
    decision->images = images;
    decision->begun = clock_ms();
    decision->name = strdup(name);
    decision->reference = strdup(reference);
    decision->index = index ? strdup(index) : NULL;
    if (!decision->name || !decision->reference || (index && !decision->index)) {
        decision_free(decision);
        return NULL;
    }
    TAILQ_INSERT_HEAD(&images->decisions, decision, entry);
    images->decision_count++;
    return decision;
}

void decision_restore(struct lazy_images *images, const struct lazy_image *image)
{
    struct decision *decision = put(images, image->record.name, image->record.reference, NULL);
    /* Without it the image would be mounted a second time for who pulls it again. */
    if (!decision) return;
    decision->state = DECISION_LAZY;
    decision->image = image->number;
    decision->decided = clock_ms();
}

/* Under the lock. */
static struct decision *begin(struct lazy_images *images, const struct lazy_layer *layer,
                              const char *reference, struct error **error)
{
    sweep(images);
    make_room(images);
    struct decision *decision =
        put(images, layer->image_name, reference, labels_get(layer->labels, LAZY_INDEX_LABEL));
    if (!decision) {
        error_set_memory(error);
        return NULL;
    }
    decision->by_name = !layer->has_manifest;
    if (lazy_thread_start(images, "decision", decide, decision, error) == 0) return decision;
    take_out(images, decision);
    return NULL;
}

/* Under the lock. False: the budget was over first (it is the image's, not each layer's), or
 * sluiced is being stopped. */
static bool await(struct lazy_images *images, struct decision *decision)
{
    uint64_t until = decision->begun + images->config->lazy.budget_ms;
    bool in_time = true;
    decision->waiting++;
    while (decision->state == DECISION_PENDING && !images->stopping && in_time)
        in_time = clock_wait(&images->changed, &images->lock, until);
    decision->waiting--;
    return decision->state != DECISION_PENDING;
}

/* Under the lock. Told and counted once, however many layers are asked for. */
static void note_late(struct lazy_images *images, struct decision *decision)
{
    if (decision->late) return;
    decision->late = true;
    images->decided[DECIDED_LATE]++;
    log_about(LOG_INFO, decision->name,
              "%s is pulled ordinarily: no decision within %" PRIu64 " ms (lazy.budget)",
              decision->name, images->config->lazy.budget_ms);
}

int decision_make(struct lazy_images *images, const struct lazy_layer *layer, uint64_t *ret,
                  struct error **error)
{
    cleanup_free char *reference = lazy_name_of_layer(layer, error);
    if (!reference) return -1;
    int result = 0;
    pthread_mutex_lock(&images->lock);
    struct decision *decision = find(images, reference);
    if (!decision) decision = begin(images, layer, reference, error);
    bool decided = decision && await(images, decision);
    if (!decision) {
        result = -1;
    } else if (images->stopping) {
        /* Not "ordinary": the next sluiced may well have it lazy. */
        result = error_set(error, ERROR_UNREACHABLE, "sluiced is being stopped");
    } else if (!decided) {
        note_late(images, decision);
    } else if (decision->state == DECISION_LAZY && decision->image) {
        *ret = decision->image;
        result = 1;
    }
    pthread_mutex_unlock(&images->lock);
    return result;
}

/* ---- for people ---- */

void decision_count_mismatch(struct lazy_images *images, const struct lazy_layer *layer,
                             const char *reason)
{
    char digest[DIGEST_TEXT_SIZE];
    log_about(LOG_WARNING, layer->image_name,
              "layer %s of %s is pulled ordinarily, though the image is lazy: %s",
              digest_format(&layer->layer, digest), layer->image_name, reason);
    pthread_mutex_lock(&images->lock);
    images->decided[DECIDED_MISMATCH]++;
    pthread_mutex_unlock(&images->lock);
}

static json_t *ordinary_status(const struct decision *decision, uint64_t now)
{
    return json_pack("{s:o, s:s, s:o, s:I, s:I}", "name", json_any_text(decision->name),
                     "reference", decision->reference, "reason",
                     json_any_text(decision->reason ? decision->reason : ""), "decision_ms",
                     (json_int_t)(decision->decided - decision->begun), "seconds_ago",
                     (json_int_t)((now - decision->decided) / 1000));
}

static json_t *pending_status(const struct decision *decision, uint64_t now)
{
    return json_pack("{s:o, s:s, s:I, s:b}", "name", json_any_text(decision->name), "reference",
                     decision->reference, "decision_ms", (json_int_t)(now - decision->begun),
                     "late", (int)decision->late);
}

int decision_status(struct lazy_images *images, json_t *status)
{
    static const char *const names[DECISION_KINDS] = { "lazy",        "no index", "denied",
                                                       "unreachable", "mismatch", "late",
                                                       "other" };
    json_t *counts = json_object(), *list = json_array(), *pending = json_array();
    const struct decision *decision;
    pthread_mutex_lock(&images->lock);
    for (size_t i = 0; i < DECISION_KINDS; i++)
        json_object_set_new(counts, names[i], json_integer((json_int_t)images->decided[i]));
    uint64_t now = clock_ms();
    TAILQ_FOREACH(decision, &images->decisions, entry)
    {
        if (decision->state == DECISION_ORDINARY)
            json_array_append_new(list, ordinary_status(decision, now));
        else if (decision->state == DECISION_PENDING)
            json_array_append_new(pending, pending_status(decision, now));
    }
    pthread_mutex_unlock(&images->lock);
    return json_object_set_new(status, "decisions", counts) < 0 ||
                   json_object_set_new(status, "deciding", pending) < 0 ||
                   json_object_set_new(status, "ordinary", list) < 0
               ? -1
               : 0;
}
