#include "index/layer_touches.h"

#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "index/member_order.h"

/* Ranks of what was not named come behind all others. */
#define UNNAMED_RANKS (RANK_NONE / 2)

struct finding {
    struct layer_touches *found;
    const struct layer_members *members;
    bool *meant; /* the members that were read themselves, and not only lay in a chunk */
    uint32_t next_named, next_unnamed; /* ranks */
};

void layer_touches_free(struct layer_touches *touches)
{
    free(touches->touches);
    free(touches->ranks);
    *touches = (struct layer_touches){ 0 };
}

static int add_touch(struct layer_touches *touches, struct touch touch, struct error **error)
{
    if (touches->count == touches->capacity) {
        size_t capacity = touches->capacity ? 2 * touches->capacity : 256;
        struct touch *grown = realloc(touches->touches, capacity * sizeof *grown);
        if (!grown) return error_set_memory(error);
        touches->touches = grown;
        touches->capacity = capacity;
    }
    touches->touches[touches->count++] = touch;
    return 0;
}

/* The first member that ends behind byte `at`, or their number. */
static size_t first_behind(const struct layer_members *members, uint64_t at)
{
    size_t low = 0, high = members->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (layer_member_end(members, middle) <= at)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static void rank(struct finding *finding, const struct touch *touch)
{
    uint32_t *rank = &finding->found->ranks[touch->member];
    if (touch->named && *rank >= UNNAMED_RANKS && finding->next_named < UNNAMED_RANKS)
        *rank = finding->next_named++;
    if (!touch->named && *rank == RANK_NONE && finding->next_unnamed < RANK_NONE)
        *rank = finding->next_unnamed++;
}

/* The chunk of bytes [start, end) was fetched because of `path` (or NULL). */
static int touch_members(struct finding *finding, uint64_t start, uint64_t end, const char *path,
                         uint32_t entry_number, struct error **error)
{
    const struct layer_members *members = finding->members;
    for (size_t i = first_behind(members, start); i < members->count; i++) {
        const struct layer_member *member = &members->members[i];
        uint64_t member_start = member->place.start, member_end = layer_member_end(members, i);
        if (member_start >= end) break;
        if (!member->entry || member->entry->type != ENTRY_REGULAR) continue;
        uint64_t from = start > member_start ? start : member_start;
        uint64_t to = end < member_end ? end : member_end;
        struct touch touch = { .member = i,
                               .offset = from - member_start,
                               .length = to - from,
                               .entry = entry_number,
                               .named = path && strcmp(member->entry->path, path) == 0 };
        if (touch.named || touch.length == end - start) finding->meant[i] = true;
        if (add_touch(finding->found, touch, error) < 0) return -1;
    }
    return 0;
}

static int touch_chunks(struct finding *finding, const struct chunk_table *table,
                        const struct profile *profile, uint32_t entry_number, struct error **error)
{
    const struct profile_entry *entry = &profile->entries[entry_number];
    const char *path = entry->path == PROFILE_NO_PATH ? NULL : profile->paths[entry->path];
    for (uint32_t i = entry->first; i < entry->first + entry->count; i++) {
        uint64_t start = table->chunks[i].stream_offset;
        if (touch_members(finding, start, start + chunk_length(table, i), path, entry_number,
                          error) < 0)
            return -1;
    }
    return 0;
}

/* Leaves out large files of which the profile only has the first or the last bytes, in a chunk that
 * was read because of another file; others it would name, or have a chunk of them alone. */
static void drop_chance(struct finding *finding)
{
    struct layer_touches *found = finding->found;
    size_t kept = 0;
    for (size_t i = 0; i < found->count; i++) {
        const struct touch *touch = &found->touches[i];
        const struct tar_place *place = &finding->members->members[touch->member].place;
        if (finding->meant[touch->member] || place->data_end - place->data < CHUNK_TARGET_LEAST)
            found->touches[kept++] = *touch;
    }
    found->count = kept;
}

static int find(struct finding *finding, const struct chunk_table *table,
                const struct profile *profile, uint32_t layer, struct error **error)
{
    for (size_t i = 0; i < profile->entry_count; i++)
        if (profile->entries[i].layer == layer &&
            touch_chunks(finding, table, profile, (uint32_t)i, error) < 0)
            return -1;
    drop_chance(finding);
    for (size_t i = 0; i < finding->members->count; i++)
        finding->found->ranks[i] = RANK_NONE;
    for (size_t i = 0; i < finding->found->count; i++)
        rank(finding, &finding->found->touches[i]);
    return 0;
}

int layer_touches_find(struct layer_touches *ret, const struct layer_members *members,
                       const struct chunk_table *table, const struct profile *profile,
                       uint32_t layer, struct error **error)
{
    cleanup_free bool *meant = calloc(members->count + 1, sizeof *meant);
    *ret = (struct layer_touches){ .ranks = malloc((members->count + 1) * sizeof *ret->ranks) };
    struct finding finding = { ret, members, meant, 0, UNNAMED_RANKS };
    if (!meant || !ret->ranks) error_set_memory(error);
    if (meant && ret->ranks && find(&finding, table, profile, layer, error) == 0) return 0;
    layer_touches_free(ret);
    return -1;
}
