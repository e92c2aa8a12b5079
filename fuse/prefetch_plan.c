#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "fuse/layer_device-internal.h"
#include "fuse/prefetch-internal.h"
#include "fuse/range_request-internal.h"

/* The longest that a chunk which is needed at once waits behind neighbours that are not. */
#define PIECE_BLOB_BYTES (2u << 20)
/* Chunks between two of the profile are fetched, too, rather than with another request; all of them
 * together are at most one part in so many. Where each range is a request and a round trip a few
 * milliseconds, this halves the requests. */
#define GAPS_SHARE 12u
/* Of windows much less is needed, so more may be fetched in vain. */
#define WINDOW_GAP_BYTES   (64u << 10)
#define WINDOW_RANGE_BYTES (512u << 10)

#define NOT_NAMED UINT32_MAX

/* For each chunk of a layer: where in the profile it is named. */
struct order {
    uint32_t **positions;
    size_t layer_count;
};

struct gap {
    uint64_t bytes;
    uint32_t layer, first, count;
};

static uint64_t blob_end(const struct chunk_table *table, uint32_t chunk)
{
    return chunk + 1 < table->chunk_count ? table->chunks[chunk + 1].blob_offset
                                          : table->blob_length;
}

static uint64_t blob_bytes(const struct chunk_table *table, uint32_t first, uint32_t last)
{
    return blob_end(table, last) - table->chunks[first].blob_offset;
}

/* ---- the order of the chunks ---- */

static void order_free(struct order *order)
{
    for (size_t i = 0; order->positions && i < order->layer_count; i++)
        free(order->positions[i]);
    free(order->positions);
}

static int order_make(struct order *ret, struct layer_device *const *devices,
                      const struct profile *profile)
{
    for (size_t i = 0; i < profile->entry_count; i++)
        if (profile->entries[i].layer >= ret->layer_count)
            ret->layer_count = profile->entries[i].layer + (size_t)1;
    ret->positions = calloc(ret->layer_count + 1, sizeof *ret->positions);
    if (!ret->positions) return -1;
    for (size_t i = 0; i < profile->entry_count; i++) {
        const struct profile_entry *entry = &profile->entries[i];
        size_t size = sizeof(uint32_t) * devices[entry->layer]->table->chunk_count;
        uint32_t **positions = &ret->positions[entry->layer];
        if (!*positions) {
            *positions = malloc(size);
            if (!*positions) return -1;
            memset(*positions, 0xff, size); /* NOT_NAMED */
        }
        for (uint32_t k = 0; k < entry->count; k++)
            (*positions)[entry->first + k] = (uint32_t)i;
    }
    return 0;
}

/* ---- gaps ---- */

static int compare_gaps(const void *left, const void *right)
{
    const struct gap *a = left, *b = right;
    if (a->bytes != b->bytes) return a->bytes < b->bytes ? -1 : 1;
    if (a->layer != b->layer) return a->layer < b->layer ? -1 : 1;
    return a->first < b->first ? -1 : a->first > b->first;
}

/* Notes the gaps of a layer, of which there are fewer than chunks that are named; adds up what is
 * named. */
static size_t find_gaps(const struct order *order, uint32_t layer, const struct chunk_table *table,
                        struct gap *ret, uint64_t *ret_bytes)
{
    const uint32_t *positions = order->positions[layer];
    uint32_t behind = 0; /* the last that was named */
    size_t count = 0;
    for (uint32_t i = 0; positions && i < table->chunk_count; i++) {
        if (positions[i] == NOT_NAMED) continue;
        *ret_bytes += blob_bytes(table, i, i);
        if (behind > 0 && i > behind)
            ret[count++] =
                (struct gap){ blob_bytes(table, behind, i - 1), layer, behind, i - behind };
        behind = i + 1;
    }
    return count;
}

/* The smallest ones first. What is in a gap is wanted as soon as what is in front of it. */
static int fill_gaps(struct order *order, struct layer_device *const *devices,
                     const struct profile *profile)
{
    size_t count = 0;
    uint64_t bytes = 0, left;
    cleanup_free struct gap *gaps = calloc(profile->entry_count + 1, sizeof *gaps);
    if (!gaps) return -1;
    for (size_t i = 0; i < order->layer_count; i++)
        count += find_gaps(order, (uint32_t)i, devices[i]->table, gaps + count, &bytes);
    qsort(gaps, count, sizeof *gaps, compare_gaps);
    left = bytes / GAPS_SHARE;
    for (size_t i = 0; i < count && gaps[i].bytes <= left; i++) {
        uint32_t *positions = order->positions[gaps[i].layer];
        left -= gaps[i].bytes;
        for (uint32_t k = 0; k < gaps[i].count; k++)
            positions[gaps[i].first + k] = positions[gaps[i].first - 1];
    }
    return 0;
}

/* ---- pieces ---- */

struct placed_piece {
    struct prefetch_piece piece;
    uint32_t position; /* of its first chunk to be needed */
};

static int compare_placed(const void *left, const void *right)
{
    const struct placed_piece *a = left, *b = right;
    if (a->position != b->position) return a->position < b->position ? -1 : 1;
    if (a->piece.layer != b->piece.layer) return a->piece.layer < b->piece.layer ? -1 : 1;
    return a->piece.first < b->piece.first ? -1 : a->piece.first > b->piece.first;
}

static size_t cut_layer(const struct order *order, uint32_t layer, const struct chunk_table *table,
                        struct placed_piece *ret)
{
    const uint32_t *positions = order->positions[layer];
    struct placed_piece *last = NULL;
    size_t count = 0;
    for (uint32_t i = 0; positions && i < table->chunk_count; i++) {
        if (positions[i] == NOT_NAMED) continue;
        if (last && last->piece.first + last->piece.count == i &&
            blob_bytes(table, last->piece.first, i) <= PIECE_BLOB_BYTES) {
            last->piece.count++;
            if (positions[i] < last->position) last->position = positions[i];
            continue;
        }
        last = &ret[count++];
        *last = (struct placed_piece){ { layer, i, 1, NO_WINDOWS }, positions[i] };
    }
    return count;
}

static size_t count_named(const struct order *order, struct layer_device *const *devices)
{
    size_t count = 0;
    for (size_t layer = 0; layer < order->layer_count; layer++)
        for (uint32_t i = 0; order->positions[layer] && i < devices[layer]->table->chunk_count; i++)
            count += order->positions[layer][i] != NOT_NAMED;
    return count;
}

static int cut(struct prefetch_plan *plan, const struct order *order,
               struct layer_device *const *devices)
{
    size_t most = count_named(order, devices), count = 0;
    cleanup_free struct placed_piece *placed = calloc(most + 1, sizeof *placed);
    if (!placed) return -1;
    for (size_t i = 0; i < order->layer_count; i++)
        count += cut_layer(order, (uint32_t)i, devices[i]->table, placed + count);
    qsort(placed, count, sizeof *placed, compare_placed);
    plan->pieces = calloc(count + 1, sizeof *plan->pieces);
    if (!plan->pieces) return -1;
    for (size_t i = 0; i < count; i++)
        plan->pieces[i] = placed[i].piece;
    plan->piece_count = count;
    return 0;
}

/* ---- windows ---- */

/* The group that holds the window for the piece's first chunk; false: it needs none. */
static bool group_of(const struct prefetch_piece *piece, struct layer_device *const *devices,
                     uint32_t *ret)
{
    const struct layer_device *device = devices[piece->layer];
    const struct chunk *chunk = &device->table->chunks[piece->first];
    if (chunk->start != CHUNK_WINDOW) return false;
    bool present = true;
    for (uint32_t i = 0; present && i < piece->count; i++)
        present = layer_cache_generation(device->cache, piece->first + i) != 0;
    *ret = chunk->window / WINDOWS_PER_GROUP;
    return !present;
}

static uint64_t group_end(const struct chunk_table *table, uint32_t group)
{
    return table->groups[group].offset + table->groups[group].length;
}

struct needed_group {
    uint32_t layer, group;
    size_t piece; /* that needs it */
};

static int compare_groups(const void *left, const void *right)
{
    const struct needed_group *a = left, *b = right;
    if (a->layer != b->layer) return a->layer < b->layer ? -1 : 1;
    if (a->group != b->group) return a->group < b->group ? -1 : 1;
    return a->piece < b->piece ? -1 : a->piece > b->piece;
}

static bool joins(const struct window_range *range, const struct layer_device *device,
                  uint32_t group)
{
    const struct chunk_table *table = device->table;
    if (range->device != device) return false;
    uint64_t start = table->groups[range->first].offset;
    uint64_t end = group_end(table, range->first + range->count - 1);
    return table->groups[group].offset <= end + WINDOW_GAP_BYTES &&
           group_end(table, group) - start <= WINDOW_RANGE_BYTES;
}

static void join(struct prefetch_plan *plan, struct layer_device *const *devices,
                 const struct needed_group *needed, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        struct layer_device *device = devices[needed[i].layer];
        struct window_range *last = plan->range_count ? &plan->ranges[plan->range_count - 1] : NULL;
        if (last && joins(last, device, needed[i].group)) {
            last->count = needed[i].group - last->first + 1;
        } else {
            last = &plan->ranges[plan->range_count++];
            *last = (struct window_range){ .device = device, .first = needed[i].group, .count = 1 };
        }
        plan->pieces[needed[i].piece].windows = (uint32_t)(last - plan->ranges);
    }
}

/* Ranges were made in the order of the blobs; they are fetched in that of the pieces. */
static int sort_ranges(struct prefetch_plan *plan)
{
    struct window_range *sorted = calloc(plan->range_count + 1, sizeof *sorted);
    cleanup_free uint32_t *places = malloc((plan->range_count + 1) * sizeof *places);
    uint32_t count = 0;
    if (!sorted || !places) {
        free(sorted);
        return -1;
    }
    memset(places, 0xff, plan->range_count * sizeof *places); /* NO_WINDOWS: no place yet */
    for (size_t i = 0; i < plan->piece_count; i++) {
        uint32_t range = plan->pieces[i].windows;
        if (range == NO_WINDOWS) continue;
        if (places[range] == NO_WINDOWS) {
            places[range] = count;
            sorted[count++] = plan->ranges[range];
        }
        plan->pieces[i].windows = places[range];
    }
    free(plan->ranges);
    plan->ranges = sorted;
    return 0;
}

static int plan_windows(struct prefetch_plan *plan, struct layer_device *const *devices)
{
    size_t count = 0;
    cleanup_free struct needed_group *needed = calloc(plan->piece_count + 1, sizeof *needed);
    plan->ranges = calloc(plan->piece_count + 1, sizeof *plan->ranges);
    if (!needed || !plan->ranges) return -1;
    for (size_t i = 0; i < plan->piece_count; i++) {
        uint32_t group;
        if (!group_of(&plan->pieces[i], devices, &group)) continue;
        needed[count++] = (struct needed_group){ plan->pieces[i].layer, group, i };
    }
    qsort(needed, count, sizeof *needed, compare_groups);
    join(plan, devices, needed, count);
    return sort_ranges(plan);
}

int prefetch_plan_make(struct prefetch_plan *ret, const struct data_path *path,
                       struct layer_device *const *devices, const struct profile *profile,
                       struct error **error)
{
    struct order order = { 0 };
    *ret = (struct prefetch_plan){ 0 };
    int result = order_make(&order, devices, profile);
    if (result == 0 && range_batch_max(path) == 1) result = fill_gaps(&order, devices, profile);
    if (result == 0) result = cut(ret, &order, devices);
    if (result == 0) result = plan_windows(ret, devices);
    order_free(&order);
    if (result == 0) return 0;
    prefetch_plan_free(ret);
    return error_set_memory(error);
}

void prefetch_plan_free(struct prefetch_plan *plan)
{
    free(plan->pieces);
    free(plan->ranges);
    *plan = (struct prefetch_plan){ 0 };
}
