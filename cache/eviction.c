/*
 * What goes when there is no room: what was not used for longest, be it a chunk
 * of a layer, a blob or a name, whoever stored it. Two passes over the
 * directory: the first measures, and counts bytes by age; that tells from which
 * age on things have to go, and the second lets them go. So no list of all
 * chunks is needed, however many there are.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/log.h"
#include "cache/layer_files-internal.h"
#include "cache/room-internal.h"
#include "cache/seal-internal.h"

/* Ages in seconds: one by one at first, then in steps of a 32nd of a power of two. */
#define AGES_EXACT 64u
#define AGES       (AGES_EXACT + 26u * 32u)
/* A clock that was set back makes times in the future; what is far there is as good as unknown. */
#define FUTURE_SECONDS 3600u

/* Chunks that are locked, and punched out of the file, in one go. */
#define ROW_MAX 64u

/* On disk a chunk may share a block with each neighbour. */
#define CHUNK_SLACK 8192u
#define LAYER_SLACK ((uint64_t)1 << 20)

struct eviction {
    struct cache *cache;
    const struct eviction_goal *goal;
    struct used_blobs used;
    uint32_t now;
    bool evicts; /* the second pass */
    uint64_t measured;
    uint64_t bytes[AGES]; /* that may go, by age */
    unsigned age;         /* older ones go; of this age, as many bytes as `left` */
    uint64_t left;
    uint64_t freed;
};

/* ---- ages ---- */

static unsigned age_class(const struct eviction *eviction, uint32_t used)
{
    uint32_t age = eviction->now > used ? eviction->now - used : 0;
    if (used > eviction->now && used - eviction->now > FUTURE_SECONDS) return AGES - 1;
    if (age < AGES_EXACT) return age;
    unsigned exponent = 31 - (unsigned)__builtin_clz(age);
    return AGES_EXACT + (exponent - 6) * 32 + ((age >> (exponent - 5)) & 31);
}

/* Whether something of that age goes; counts it. */
static bool goes(struct eviction *eviction, uint32_t used, uint64_t length)
{
    unsigned age = age_class(eviction, used);
    if (!eviction->evicts) {
        eviction->bytes[age] += length;
        return false;
    }
    if (age > eviction->age) return true;
    if (age < eviction->age || eviction->left == 0) return false;
    eviction->left -= length < eviction->left ? length : eviction->left;
    return true;
}

/* From which age on things have to go so that `needed` bytes do. */
static void choose_age(struct eviction *eviction, uint64_t needed)
{
    uint64_t older = 0;
    for (unsigned age = AGES; age-- > 0; older += eviction->bytes[age]) {
        eviction->age = age;
        eviction->left = needed - older;
        if (eviction->bytes[age] >= needed - older) return;
    }
    eviction->left = UINT64_MAX; /* all of it is not enough */
}

/* ---- chunks ---- */

/* Chunks [first, end), which are at [start, stop) of the stream. */
struct row {
    uint32_t first, end;
    uint64_t start, stop;
};

static bool is_absent(const struct layer_files *files, uint32_t chunk)
{
    return layer_files_generation(files, chunk) == 0;
}

/* Takes a chunk beside the row into the hole, so that the block between them goes, too. */
static bool take_neighbour(const struct layer_files *files, uint32_t chunk)
{
    if (chunk >= files->chunk_count || !is_absent(files, chunk)) return false;
    if (!layer_files_lock_chunks(files, chunk, 1)) return false;
    if (is_absent(files, chunk)) return true;
    layer_files_unlock_chunks(files, chunk, 1);
    return false;
}

/* With the locks: readers see that the chunks are gone before their bytes are. */
static int punch(const struct layer_files *files, const struct row *row)
{
    return fallocate(files->data, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)row->start,
                     (off_t)(row->stop - row->start));
}

static void punch_with_neighbours(const struct layer_files *files, struct row row)
{
    bool before = row.first > 0 && take_neighbour(files, row.first - 1);
    bool behind = take_neighbour(files, row.end);
    if (before) row.start -= files->lengths[row.first - 1];
    if (behind) row.stop += files->lengths[row.end];
    if (punch(files, &row) < 0) log_debug("punch a hole into a layer: %s", strerror(errno));
    if (before) layer_files_unlock_chunks(files, row.first - 1, 1);
    if (behind) layer_files_unlock_chunks(files, row.end, 1);
}

/* Chunks of the row that somebody is storing stay, and all others with them: next time. */
static void evict_row(struct eviction *eviction, const struct layer_files *files,
                      const struct row *row)
{
    uint32_t count = row->end - row->first;
    if (count == 0 || !layer_files_lock_chunks(files, row->first, count)) return;
    for (uint32_t i = row->first; i < row->end; i++)
        layer_files_clear(files, i, layer_files_generation(files, i));
    punch_with_neighbours(files, *row);
    layer_files_unlock_chunks(files, row->first, count);
    eviction->freed += row->stop - row->start;
}

/* Rows of chunks that go, or in the first pass none. */
static void walk_chunks(struct eviction *eviction, const struct layer_files *files)
{
    struct row row = { 0 };
    uint64_t offset = 0;
    for (uint32_t i = 0; i < files->chunk_count; i++) {
        uint32_t length = files->lengths[i];
        bool chosen =
            !is_absent(files, i) && goes(eviction, layer_files_last_use(files, i), length);
        if (row.end > row.first && (!chosen || row.end - row.first == ROW_MAX)) {
            evict_row(eviction, files, &row);
            row.first = row.end;
        }
        if (chosen) {
            if (row.end == row.first) row = (struct row){ i, i, offset, offset };
            row.end++;
            row.stop += length;
        }
        offset += length;
    }
    evict_row(eviction, files, &row);
}

/* ---- bytes that nobody will find ---- */

/* More is on the disk than the chunks account for: a process died between writing a chunk and
 * saying so, or between taking it back and punching it out. */
static bool has_leaks(const struct layer_files *files)
{
    uint64_t stored = LAYER_SLACK;
    for (uint32_t i = 0; i < files->chunk_count; i++)
        if (!is_absent(files, i)) stored += files->lengths[i] + CHUNK_SLACK;
    return layer_files_size(files) > stored;
}

static void punch_absent_row(const struct layer_files *files, const struct row *row)
{
    uint32_t count = row->end - row->first;
    if (count == 0 || !layer_files_lock_chunks(files, row->first, count)) return;
    bool all_absent = true;
    for (uint32_t i = row->first; i < row->end; i++)
        all_absent = all_absent && is_absent(files, i);
    if (all_absent) punch(files, row);
    layer_files_unlock_chunks(files, row->first, count);
}

static void punch_leaks(const struct layer_files *files)
{
    struct row row = { 0 };
    uint64_t offset = 0;
    for (uint32_t i = 0; i < files->chunk_count; i++) {
        bool absent = is_absent(files, i);
        if (row.end > row.first && (!absent || row.end - row.first == ROW_MAX)) {
            punch_absent_row(files, &row);
            row.first = row.end;
        }
        if (absent) {
            if (row.end == row.first) row = (struct row){ i, i, offset, offset };
            row.end++;
            row.stop += files->lengths[i];
        }
        offset += files->lengths[i];
    }
    punch_absent_row(files, &row);
}

/* ---- layers ---- */

static bool is_empty(const struct layer_files *files)
{
    for (uint32_t i = 0; i < files->chunk_count; i++)
        if (!is_absent(files, i)) return false;
    return true;
}

/* Something else in a layer's place: nobody will ever use it. */
static void walk_odd_layer(struct eviction *eviction, const char *name)
{
    uint64_t size = cache_entry_size(eviction->cache->layers, name);
    if (!goes(eviction, 0, size)) {
        if (!eviction->evicts) eviction->measured += size;
        return;
    }
    if (layer_files_remove(eviction->cache, name)) eviction->freed += size;
}

/* A kernel may still read a file that was lent to it, whoever asked for that. It keeps all of a
 * file whose name is gone; a hole would be read as zeros. True: the layer goes as a whole. */
static bool goes_whole(struct eviction *eviction, const struct layer_files *files)
{
    uint32_t newest = 0;
    for (uint32_t i = 0; i < files->chunk_count; i++)
        if (layer_files_last_use(files, i) > newest) newest = layer_files_last_use(files, i);
    uint64_t size = layer_files_size(files);
    if (!goes(eviction, newest, size)) return false;
    eviction->freed += size;
    return true;
}

/* With the data file's lock, so that it is not lent now. */
static void walk_unlent_layer(struct eviction *eviction, const struct layer_files *files)
{
    if (eviction->evicts && has_leaks(files)) punch_leaks(files);
    bool spared = eviction->goal->unused_only ? layer_files_in_use(files) : layer_files_kept(files);
    if (!spared) walk_chunks(eviction, files);
}

static void walk_layer(void *context, int directory, const char *name)
{
    struct eviction *eviction = context;
    struct layer_files files;
    (void)directory;
    if (layer_files_look(eviction->cache, name, &files) < 0) {
        if (errno == ENOENT) walk_odd_layer(eviction, name);
        return;
    }
    if (!eviction->evicts) eviction->measured += layer_files_size(&files);
    bool in_use = layer_files_in_use(&files), useless = false;
    if (layer_files_lock_data(&files, true)) {
        bool lent = seal_is_lent(eviction->cache, &files);
        if (!lent) walk_unlent_layer(eviction, &files);
        if (!in_use) useless = lent ? goes_whole(eviction, &files) : is_empty(&files);
    }
    layer_files_close(&files);
    if (useless && eviction->evicts) layer_files_remove(eviction->cache, name);
}

/* ---- small files ---- */

static void weigh_small_file(struct eviction *eviction, int directory, const char *name,
                             bool spared)
{
    struct stat status;
    if (fstatat(directory, name, &status, AT_SYMLINK_NOFOLLOW) < 0) return;
    uint64_t size = (uint64_t)status.st_blocks * 512;
    if (!eviction->evicts) eviction->measured += size;
    if (spared || !goes(eviction, (uint32_t)status.st_mtime, size)) return;
    cache_remove_entry(directory, name);
    eviction->freed += size;
}

/* A blob or a name. */
static void walk_small_file(void *context, int directory, const char *name)
{
    struct eviction *eviction = context;
    struct digest digest;
    bool spared = cache_digest_of_name(name, &digest) && used_blobs_have(&eviction->used, &digest);
    weigh_small_file(eviction, directory, name, spared);
}

static void walk_temporary(void *context, int directory, const char *name)
{
    struct eviction *eviction = context;
    eviction->measured += cache_entry_size(directory, name);
}

static void walk(struct eviction *eviction)
{
    struct cache *cache = eviction->cache;
    cache_each_entry(cache->layers, walk_layer, eviction);
    cache_each_entry(cache->blobs, walk_small_file, eviction);
    cache_each_entry(cache->names, walk_small_file, eviction);
    if (!eviction->evicts) cache_each_entry(cache->temporary, walk_temporary, eviction);
}

/* ---- all of it ---- */

static uint64_t needed_for_size(const struct eviction *eviction)
{
    const struct eviction_goal *goal = eviction->goal;
    uint64_t usage = eviction->measured;
    if (usage <= goal->size_max && goal->wanted <= goal->size_max - usage) return 0;
    uint64_t after = usage + goal->wanted;
    return after > goal->size_low ? after - goal->size_low : 0;
}

static uint64_t needed_for_free_space(const struct eviction *eviction)
{
    const struct eviction_goal *goal = eviction->goal;
    struct statvfs status;
    if (fstatvfs(eviction->cache->root, &status) < 0) return 0;
    uint64_t left = (uint64_t)status.f_bavail * status.f_frsize;
    uint64_t aim = goal->free_min + goal->wanted;
    return left < aim ? aim - left : 0;
}

static void run(struct eviction *eviction)
{
    cache_clean_temporary(eviction->cache);
    used_blobs_read(eviction->cache, &eviction->used);
    walk(eviction);
    uint64_t for_size = needed_for_size(eviction), for_space = needed_for_free_space(eviction);
    uint64_t needed = for_size > for_space ? for_size : for_space;
    if (needed > 0) {
        choose_age(eviction, needed);
        eviction->evicts = true;
        walk(eviction);
    }
    used_blobs_free(&eviction->used);
}

bool eviction_run(struct cache *cache, const struct eviction_goal *goal,
                  struct eviction_result *ret)
{
    struct eviction *eviction = calloc(1, sizeof *eviction);
    *ret = (struct eviction_result){ 0 };
    if (!eviction) return false;
    eviction->cache = cache;
    eviction->goal = goal;
    eviction->now = cache_now();
    run(eviction);
    *ret = (struct eviction_result){ eviction->measured, eviction->freed };
    free(eviction);
    return true;
}
