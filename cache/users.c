/*
 * What each server says of itself: a file in users/ that it keeps locked while
 * it lives, with the blobs and names that its mount needs. A file without a lock was left
 * by a server that died.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/json.h"
#include "cache/cache-internal.h"

/* A mount has at most a table for each of 512 layers, and a handful of other blobs. */
#define RECORD_LENGTH_MAX (256u << 10)
#define NEEDED_MAX        2048u

/* ---- writing one's own ---- */

struct cache_user {
    struct cache *cache;
    int record; /* the file, locked; or -1 */
    char name[CACHE_TEMPORARY_NAME_SIZE];
    struct digest *needed;
    size_t needed_count;
};

static void user_free(struct cache_user *user)
{
    if (user->record >= 0) {
        unlinkat(user->cache->users, user->name, 0);
        close(user->record);
    }
    free(user->needed);
    free(user);
}

static struct cache_user *user_new(struct cache *cache, const struct cache_use *use)
{
    struct cache_user *user = calloc(1, sizeof *user);
    if (!user) return NULL;
    user->cache = cache;
    user->record = -1;
    user->needed = calloc(use->needed_count + 1, sizeof *user->needed);
    if (!user->needed) {
        user_free(user);
        return NULL;
    }
    user->needed_count = use->needed_count;
    if (use->needed_count > 0)
        memcpy(user->needed, use->needed, use->needed_count * sizeof *user->needed);
    return user;
}

static json_t *record_of(const struct cache_use *use, struct cache_limits limits)
{
    json_t *needed = json_array();
    char text[DIGEST_TEXT_SIZE];
    for (size_t i = 0; i < use->needed_count; i++)
        json_array_append_new(needed, json_string(digest_format(&use->needed[i], text)));
    json_t *record = json_pack("{s:I, s:s, s:I, s:I, s:o}", "pid", (json_int_t)getpid(), "image",
                               use->image, "size", (json_int_t)limits.size, "reserve",
                               (json_int_t)limits.reserve, "needed", needed);
    /* A path that is no UTF-8 has no place in JSON. */
    json_t *mountpoint = json_string(use->mountpoint);
    if (record && mountpoint) json_object_set_new(record, "mountpoint", mountpoint);
    return record;
}

/* Locked from the start, as files of temporary/ are. -1 with errno. */
static int place_record(struct cache_user *user, const char *text)
{
    const struct cache *cache = user->cache;
    char name[CACHE_TEMPORARY_NAME_SIZE];
    cleanup_close int descriptor = cache_open_temporary(user->cache, name);
    if (descriptor < 0) return -1;
    if (write_fully(descriptor, text, strlen(text)) == 0 &&
        cache_place_temporary(cache, name, cache->users, name) == 0) {
        memcpy(user->name, name, sizeof name);
        user->record = take_descriptor(&descriptor);
        return 0;
    }
    int number = errno;
    unlinkat(cache->temporary, name, 0);
    errno = number;
    return -1;
}

int cache_declare_use(struct cache *cache, const struct cache_use *use, struct cache_user **user,
                      struct error **error)
{
    cleanup_json json_t *record = record_of(use, cache_get_limits(cache));
    cleanup_free char *text = record ? json_dumps(record, JSON_COMPACT) : NULL;
    struct cache_user *made = text ? user_new(cache, use) : NULL;
    if (!made) return error_set_memory(error);
    if (place_record(made, text) < 0) {
        error_set_errno(error, errno, "note the mount in cache directory '%s'", cache->directory);
        user_free(made);
        return -1;
    }
    if (*user) user_free(*user);
    *user = made;
    return 0;
}

/* They were read once, when the mount began, but used all the time: chunks are of no use without
 * their table, and must not outlast it. */
static void touch_needed(const struct cache_user *user)
{
    const struct cache *cache = user->cache;
    const struct timespec times[2] = { { .tv_nsec = UTIME_OMIT }, { .tv_nsec = UTIME_NOW } };
    char name[DIGEST_HEX_SIZE];
    for (size_t i = 0; i < user->needed_count; i++) {
        digest_format_hex(&user->needed[i], name);
        utimensat(cache->blobs, name, times, AT_SYMLINK_NOFOLLOW);
        utimensat(cache->names, name, times, AT_SYMLINK_NOFOLLOW);
    }
}

void cache_end_use(struct cache_user *user)
{
    if (!user) return;
    touch_needed(user);
    user_free(user);
}

/* ---- reading those of all ---- */

struct reading {
    cache_user_seen *seen;
    void *context;
};

static uint64_t size_of(const json_t *record, const char *field)
{
    json_int_t value = json_integer_value(json_object_get(record, field));
    return value > 0 ? (uint64_t)value : 0;
}

/* Hostile bytes: what is not understood counts for nothing. */
static void read_record(const struct reading *reading, const struct buffer *text)
{
    cleanup_json json_t *record = json_read_object(text->data, text->length, "a record", NULL);
    if (!record) return;
    const json_t *needed = json_object_get(record, "needed");
    size_t count = json_array_size(needed), known = 0;
    if (count > NEEDED_MAX) return;
    cleanup_free struct digest *digests = calloc(count + 1, sizeof *digests);
    if (!digests) return;
    for (size_t i = 0; i < count; i++) {
        const char *digest = json_string_value(json_array_get(needed, i));
        if (digest && digest_parse(&digests[known], digest, NULL) == 0) known++;
    }
    const char *image = json_optional_text(record, "image");
    const char *mountpoint = json_optional_text(record, "mountpoint");
    const struct cache_use use = { .pid = json_integer_value(json_object_get(record, "pid")),
                                   .image = image ? image : "",
                                   .mountpoint = mountpoint ? mountpoint : "",
                                   .limits = { size_of(record, "size"),
                                               size_of(record, "reserve") },
                                   .needed = digests,
                                   .needed_count = known };
    reading->seen(reading->context, &use);
}

static void look_at_record(void *context, int directory, const char *name)
{
    const struct reading *reading = context;
    struct stat status;
    cleanup_buffer struct buffer text = { 0 };
    cleanup_close int descriptor = cache_open_file(directory, name, O_RDONLY, &status);
    if (descriptor < 0) return;
    if (!file_is_locked(descriptor, 0, 0)) {
        unlinkat(directory, name, 0);
        return;
    }
    if (cache_read_file(directory, name, "a mount's record", RECORD_LENGTH_MAX, &text, NULL) == 0)
        read_record(reading, &text);
}

void cache_each_user(struct cache *cache, cache_user_seen *seen, void *context)
{
    struct reading reading = { seen, context };
    cache_each_entry(cache->users, look_at_record, &reading);
}

/* ---- the blobs in use ---- */

static void add_blobs(void *context, const struct cache_use *use)
{
    struct used_blobs *used = context;
    if (use->needed_count == 0) return;
    struct digest *digests =
        reallocarray(used->digests, used->count + use->needed_count, sizeof *digests);
    if (!digests) {
        used->unknown = true;
        return;
    }
    memcpy(digests + used->count, use->needed, use->needed_count * sizeof *digests);
    used->digests = digests;
    used->count += use->needed_count;
}

void used_blobs_read(struct cache *cache, struct used_blobs *ret)
{
    *ret = (struct used_blobs){ 0 };
    cache_each_user(cache, add_blobs, ret);
    digests_sort(ret->digests, ret->count);
}

bool used_blobs_have(const struct used_blobs *used, const struct digest *digest)
{
    return used->unknown || digests_have(used->digests, used->count, digest);
}

void used_blobs_free(struct used_blobs *used)
{
    free(used->digests);
    *used = (struct used_blobs){ 0 };
}
