#include "snapshotter/lazy_images.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/thread.h"
#include "snapshotter/lazy_images-internal.h"

/* To mount an image that is on the node, or to find that its registry does not answer. */
#define PATH_MS 30000u

/* ---- threads ---- */

int lazy_thread_start(struct lazy_images *images, const char *name, void *(*function)(void *),
                      void *argument, struct error **error)
{
    pthread_t thread;
    if (thread_start(&thread, name, function, argument, error) < 0) return -1;
    pthread_detach(thread);
    images->threads++;
    return 0;
}

void lazy_thread_end(struct lazy_images *images)
{
    pthread_mutex_lock(&images->lock);
    images->threads--;
    pthread_cond_broadcast(&images->changed);
    pthread_mutex_unlock(&images->lock);
}

/* ---- the table ---- */

int lazy_image_number(struct lazy_images *images, uint64_t *ret, struct error **error)
{
    pthread_mutex_lock(&images->lock);
    uint64_t number = ++images->last_number;
    pthread_mutex_unlock(&images->lock);
    cleanup_free char *directory = lazy_view_directory(images, number);
    if (!directory) return error_set_memory(error);
    if (mkdir(directory, 0700) < 0) return error_set_errno(error, errno, "make '%s'", directory);
    *ret = number;
    return 0;
}

struct lazy_image *lazy_image_find(struct lazy_images *images, uint64_t number)
{
    struct lazy_image *image;
    TAILQ_FOREACH(image, &images->images, entry)
    {
        if (image->number == number) return image;
    }
    return NULL;
}

struct lazy_image *lazy_image_add(struct lazy_images *images, uint64_t number,
                                  struct lazy_record *record, struct error **error)
{
    struct lazy_image *image = calloc(1, sizeof *image);
    if (!image) {
        error_set_memory(error);
        return NULL;
    }
    image->images = images;
    image->number = number;
    image->record = *record;
    image->references = 1;
    TAILQ_INSERT_TAIL(&images->images, image, entry);
    return image;
}

/* What it does not have, as far as there is memory: else it is left to the cache's eviction. */
static void add_keys(struct lazy_record *record, const struct digest *keys, size_t count)
{
    struct digest *all =
        reallocarray(record->cache_keys, record->cache_key_count + count, sizeof *all);
    size_t known = record->cache_key_count;
    if (!all) return;
    record->cache_keys = all;
    for (size_t i = 0; i < count; i++)
        if (!digests_have(all, known, &keys[i])) all[record->cache_key_count++] = keys[i];
    digests_sort(all, record->cache_key_count);
}

void lazy_image_add_keys(struct lazy_images *images, uint64_t number,
                         const struct node_image_answer *answer)
{
    pthread_mutex_lock(&images->lock);
    struct lazy_image *image = lazy_image_find(images, number);
    if (image && answer->cache_key_count > 0)
        add_keys(&image->record, answer->cache_keys, answer->cache_key_count);
    pthread_mutex_unlock(&images->lock);
}

static void lazy_image_free(struct lazy_image *image)
{
    lazy_record_free(&image->record);
    free(image);
}

/* Under the lock. */
static bool is_needed(const struct lazy_images *images, const struct digest *cache_key)
{
    const struct lazy_image *image;
    TAILQ_FOREACH(image, &images->images, entry)
    {
        if (digests_have(image->record.cache_keys, image->record.cache_key_count, cache_key))
            return true;
    }
    return false;
}

/* What the cache keeps for it and for no other; it is out of the table, and ends. */
static void give_back(struct lazy_images *images, struct lazy_record *record)
{
    struct digest *keys = record->cache_keys;
    size_t count = 0;
    pthread_mutex_lock(&images->lock);
    for (size_t i = 0; i < record->cache_key_count; i++)
        if (!is_needed(images, &keys[i])) keys[count++] = keys[i];
    pthread_mutex_unlock(&images->lock);
    node_client_give_back(images->node, keys, count);
}

static void *clear(void *argument)
{
    struct lazy_image *image = argument;
    struct lazy_images *images = image->images;
    log_about(LOG_INFO, image->record.name, "%s is no longer used: it is unmounted",
              image->record.name);
    lazy_view_clear(images, image->number);
    give_back(images, &image->record);
    lazy_image_free(image);
    lazy_thread_end(images);
    return NULL;
}

void lazy_image_release(struct lazy_images *images, struct lazy_image *image)
{
    cleanup_error struct error *error = NULL;
    if (--image->references > 0) return;
    if (lazy_thread_start(images, "clear", clear, image, &error) == 0) return;
    log_about(LOG_WARNING, image->record.name, "%s stays mounted until the next start: %s",
              image->record.name, error_message(error));
    lazy_image_free(image);
}

void lazy_image_unuse(struct lazy_images *images, struct lazy_image *image, unsigned user)
{
    image->users &= ~user;
    if (image->users) return;
    decision_forget(images, image->number);
    lazy_image_take_out(images, image);
}

void lazy_image_take_out(struct lazy_images *images, struct lazy_image *image)
{
    TAILQ_REMOVE(&images->images, image, entry);
    lazy_image_release(images, image);
}

/* ---- the source ---- */

/* The layers of the image up to which the client's chain ID and blob are those of the index; 0:
 * there are none. Both must be: the chain ID says what the image's author promises of the content,
 * the index what it shows. */
static uint32_t find_layer(const struct lazy_record *record, const struct lazy_layer *layer,
                           const char **ret_reason)
{
    char chain[DIGEST_TEXT_SIZE];
    for (uint32_t i = 0; i < record->layer_count; i++) {
        if (strcmp(digest_format(&record->layers[i].chain, chain), layer->chain_id) != 0) continue;
        if (digest_equal(&record->layers[i].blob, &layer->layer)) return i + 1;
        *ret_reason = "the index is of another blob";
        return 0;
    }
    *ret_reason = "the index says that the layers below have other contents than the image does";
    return 0;
}

static bool is_stopping(struct lazy_images *images)
{
    pthread_mutex_lock(&images->lock);
    bool stopping = images->stopping;
    pthread_mutex_unlock(&images->lock);
    return stopping;
}

static int want(void *context, const struct lazy_layer *layer, struct lazy_use *ret,
                struct error **error)
{
    struct lazy_images *images = context;
    const char *reason = NULL;
    uint64_t number;
    if (!images->config->lazy.enabled || !layer->image_name) return 0;
    cleanup_error struct error *why = NULL;
    int result = decision_make(images, layer, &number, &why);
    if (result < 0 && is_stopping(images)) return error_move(error, take_pointer(&why));
    if (result < 0)
        log_about(LOG_WARNING, layer->image_name, "%s is pulled ordinarily: %s", layer->image_name,
                  error_message(why));
    if (result <= 0) return 0;
    pthread_mutex_lock(&images->lock);
    const struct lazy_image *image = lazy_image_find(images, number);
    *ret = (struct lazy_use){ .image = number,
                              .layers = image ? find_layer(&image->record, layer, &reason) : 0 };
    pthread_mutex_unlock(&images->lock);
    if (reason) decision_count_mismatch(images, layer, reason);
    return ret->layers > 0;
}

static bool used(void *context, const struct lazy_use *use)
{
    struct lazy_images *images = context;
    pthread_mutex_lock(&images->lock);
    struct lazy_image *image = lazy_image_find(images, use->image);
    if (image) image->users |= LAZY_USED_BY_SNAPSHOTS;
    pthread_mutex_unlock(&images->lock);
    return image != NULL;
}

static void unused(void *context, uint64_t number)
{
    struct lazy_images *images = context;
    pthread_mutex_lock(&images->lock);
    struct lazy_image *image = lazy_image_find(images, number);
    if (image)
        lazy_image_unuse(images, image, LAZY_USED_BY_SNAPSHOTS);
    else
        decision_forget(images, number);
    pthread_mutex_unlock(&images->lock);
}

struct lazy_image *lazy_image_get(struct lazy_images *images, uint64_t number, enum error_kind kind,
                                  struct error **error)
{
    pthread_mutex_lock(&images->lock);
    struct lazy_image *image = lazy_image_find(images, number);
    if (image) image->references++;
    pthread_mutex_unlock(&images->lock);
    if (image) return image;
    error_set(error, kind, "what is known of lazy image %" PRIu64 " was lost", number);
    error_hint(error, "remove the image and pull it again");
    return NULL;
}

void lazy_image_let_go(struct lazy_images *images, struct lazy_image *image)
{
    pthread_mutex_lock(&images->lock);
    lazy_image_release(images, image);
    pthread_mutex_unlock(&images->lock);
}

static char *path(void *context, const struct lazy_use *use, struct error **error)
{
    struct lazy_images *images = context;
    char *result = NULL;
    struct lazy_image *image = lazy_image_get(images, use->image, ERROR_UNREACHABLE, error);
    if (!image) return NULL;
    struct lazy_view view = lazy_view_of(image, use->layers);
    struct error *reason = NULL;
    if (lazy_view_open(images, &view, PATH_MS, NULL, &reason) == 0) {
        result = lazy_view_path(images, &view);
        if (!result) error_set_memory(error);
    } else {
        error_set(error, ERROR_UNREACHABLE, "%s cannot be mounted now: %s", image->record.name,
                  error_message(reason));
        error_free(reason);
    }
    lazy_image_let_go(images, image);
    return result;
}

/* ---- start ---- */

static void *restore(void *argument)
{
    struct lazy_image *image = argument;
    struct lazy_images *images = image->images;
    lazy_view_restore(images, image);
    lazy_image_let_go(images, image);
    lazy_thread_end(images);
    return NULL;
}

static int load(struct lazy_images *images, uint64_t number, unsigned users, struct error **error)
{
    struct lazy_record record;
    cleanup_free char *file = lazy_view_record_path(images, number);
    cleanup_error struct error *reason = NULL;
    if (!file) return error_set_memory(error);
    if (lazy_record_read(&record, file, &reason) < 0) {
        log_error("%s; containers of this image cannot be started until it is pulled again",
                  error_message(reason));
        return 0;
    }
    pthread_mutex_lock(&images->lock);
    struct lazy_image *image = lazy_image_add(images, number, &record, error);
    int result = image ? lazy_thread_start(images, "restore", restore, image, error) : -1;
    if (image) {
        image->users = users;
        decision_restore(images, image);
        if (result == 0) image->references++;
    }
    pthread_mutex_unlock(&images->lock);
    if (!image) lazy_record_free(&record);
    return result;
}

static unsigned users_of(const struct lazy_images *images, const struct lazy_use *uses,
                         size_t count, uint64_t number)
{
    unsigned users = 0;
    for (size_t i = 0; i < count; i++)
        if (uses[i].image == number) users |= LAZY_USED_BY_SNAPSHOTS;
    for (size_t i = 0; i < images->kept_count; i++)
        if (images->kept[i] == number) users |= LAZY_USED_BY_LAYERS;
    return users;
}

/* Left by a daemon that was killed; what is used is in the table. */
static void clear_left(struct lazy_images *images, uint64_t number)
{
    struct lazy_record record;
    cleanup_free char *file = lazy_view_record_path(images, number);
    bool known = file && lazy_record_read(&record, file, NULL) == 0;
    lazy_view_clear(images, number);
    if (!known) return;
    give_back(images, &record);
    lazy_record_free(&record);
}

/* Clears what no snapshot uses, and finds the highest number. */
static int look_around(struct lazy_images *images, const struct lazy_use *uses, size_t count,
                       struct error **error)
{
    DIR *entries = opendir(images->directory);
    const struct dirent *entry;
    if (!entries) return error_set_errno(error, errno, "read '%s'", images->directory);
    while ((entry = readdir(entries))) {
        char *end;
        errno = 0;
        uint64_t number = strtoull(entry->d_name, &end, 10);
        if (errno || *end || entry->d_name[0] < '1' || entry->d_name[0] > '9') continue;
        if (number > images->last_number) images->last_number = number;
        if (!users_of(images, uses, count, number)) clear_left(images, number);
    }
    closedir(entries);
    return 0;
}

/* Once for each image. */
static int load_used(struct lazy_images *images, uint64_t number, unsigned users,
                     struct error **error)
{
    /* A number that is not to be given to another image, even if its directory was lost. */
    if (number > images->last_number) images->last_number = number;
    pthread_mutex_lock(&images->lock);
    bool seen = lazy_image_find(images, number) != NULL;
    pthread_mutex_unlock(&images->lock);
    return seen ? 0 : load(images, number, users, error);
}

static int start(void *context, const struct lazy_use *uses, size_t count, struct error **error)
{
    struct lazy_images *images = context;
    for (size_t i = 0; i < count; i++)
        if (load_used(images, uses[i].image, users_of(images, uses, count, uses[i].image), error) <
            0)
            return -1;
    for (size_t i = 0; i < images->kept_count; i++)
        if (load_used(images, images->kept[i], LAZY_USED_BY_LAYERS, error) < 0) return -1;
    return look_around(images, uses, count, error);
}

int lazy_images_keep(struct lazy_images *images, const uint64_t *numbers, size_t count,
                     struct error **error)
{
    images->kept = calloc(count + 1, sizeof *images->kept);
    if (!images->kept) return error_set_memory(error);
    if (count > 0) memcpy(images->kept, numbers, count * sizeof *numbers);
    images->kept_count = count;
    return 0;
}

/* ---- making and freeing ---- */

int lazy_images_open(struct lazy_images **ret, const char *directory, const struct config *config,
                     struct node_client *node, struct error **error)
{
    if (directory_make(directory, 0700, error) < 0) return -1;
    struct lazy_images *images = calloc(1, sizeof *images);
    if (!images) return error_set_memory(error);
    images->config = config;
    images->node = node;
    images->directory = strdup(directory);
    images->source = (struct lazy_source){ .context = images,
                                           .start = start,
                                           .want = want,
                                           .used = used,
                                           .unused = unused,
                                           .path = path };
    TAILQ_INIT(&images->images);
    TAILQ_INIT(&images->decisions);
    clock_condition_init(&images->changed);
    pthread_mutex_init(&images->lock, NULL);
    if (!images->directory) {
        lazy_images_free(images);
        return error_set_memory(error);
    }
    *ret = images;
    return 0;
}

void lazy_images_stop(struct lazy_images *images)
{
    if (!images) return;
    pthread_mutex_lock(&images->lock);
    images->stopping = true;
    pthread_cond_broadcast(&images->changed);
    pthread_mutex_unlock(&images->lock);
    node_client_cancel(images->node);
}

void lazy_images_free(struct lazy_images *images)
{
    struct lazy_image *image;
    if (!images) return;
    pthread_mutex_lock(&images->lock);
    while (images->threads > 0)
        pthread_cond_wait(&images->changed, &images->lock);
    pthread_mutex_unlock(&images->lock);
    while ((image = TAILQ_FIRST(&images->images))) {
        TAILQ_REMOVE(&images->images, image, entry);
        lazy_image_free(image);
    }
    decisions_free(images);
    pthread_cond_destroy(&images->changed);
    pthread_mutex_destroy(&images->lock);
    free(images->kept);
    free(images->directory);
    free(images);
}

const struct lazy_source *lazy_images_source(struct lazy_images *images)
{
    return &images->source;
}
