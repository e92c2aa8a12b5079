#include "index/member_order.h"

#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"

/* ---- paths, sorted ---- */

struct place {
    const char *path;
    enum entry_type type;
    size_t position; /* of the member */
};

struct places {
    struct place *places;
    size_t count;
};

static int compare_places(const void *left, const void *right)
{
    return strcmp(((const struct place *)left)->path, ((const struct place *)right)->path);
}

static void places_sort(struct places *places)
{
    if (places->count) qsort(places->places, places->count, sizeof *places->places, compare_places);
}

static const struct place *places_find(const struct places *places, const char *path)
{
    struct place wanted = { .path = path };
    if (places->count == 0) return NULL;
    return bsearch(&wanted, places->places, places->count, sizeof wanted, compare_places);
}

static inline void cleanup_places_function(struct places *places)
{
    free(places->places);
}
#define cleanup_places __attribute__((cleanup(cleanup_places_function)))

/* All paths but those of opaque markers, which stand beside the directory's own. */
static int collect_own(struct places *ret, const struct layer_members *members,
                       struct error **error)
{
    ret->places = calloc(members->count + 1, sizeof *ret->places);
    if (!ret->places) return error_set_memory(error);
    for (size_t i = 0; i < members->count; i++) {
        const struct entry *entry = members->members[i].entry;
        if (entry->type != ENTRY_OPAQUE)
            ret->places[ret->count++] = (struct place){ entry->path, entry->type, i };
    }
    places_sort(ret);
    return 0;
}

static int collect_links(struct places *ret, const struct entry_table *const *tables, size_t count,
                         struct error **error)
{
    for (unsigned round = 0; round < 2; round++) { /* counts, then collects */
        size_t found = 0;
        for (size_t i = 0; i < count; i++)
            for (size_t k = 0; k < entry_table_count(tables[i]); k++) {
                const struct entry *entry = entry_table_get(tables[i], k);
                if (entry->type != ENTRY_SYMLINK) continue;
                if (ret->places)
                    ret->places[found] = (struct place){ .path = entry->path, .type = entry->type };
                found++;
            }
        ret->count = found;
        if (ret->places) break;
        ret->places = calloc(found + 1, sizeof *ret->places);
        if (!ret->places) return error_set_memory(error);
    }
    places_sort(ret);
    return 0;
}

/* ---- may anything be moved? ---- */

static bool has_doubles(const struct places *own)
{
    for (size_t i = 1; i < own->count; i++)
        if (compare_places(&own->places[i - 1], &own->places[i]) == 0) return true;
    return false;
}

/* Whether all that is above `path` is what a directory is, as far as anybody says. */
static bool lies_in_directories(const char *path, const struct places *own,
                                const struct places *links)
{
    cleanup_free char *above = strdup(path);
    if (!above) return false;
    for (char *end = strrchr(above, '/'); end; end = strrchr(above, '/')) {
        *end = '\0';
        const struct place *place = places_find(own, above);
        if ((place && place->type != ENTRY_DIRECTORY) || places_find(links, above)) return false;
    }
    return true;
}

static bool link_follows_target(const struct entry *entry, size_t position,
                                const struct places *own)
{
    const struct place *target = places_find(own, entry->target);
    return target && target->position < position && target->type != ENTRY_DIRECTORY &&
           target->type != ENTRY_WHITEOUT;
}

static bool may_be_moved(const struct layer_members *members, const struct places *own,
                         const struct places *links)
{
    if (has_doubles(own)) return false;
    for (size_t i = 0; i < members->count; i++) {
        const struct entry *entry = members->members[i].entry;
        if (!lies_in_directories(entry->path, own, links)) return false;
        if (entry->type == ENTRY_HARDLINK && !link_follows_target(entry, i, own)) return false;
        if (entry->type != ENTRY_OPAQUE) continue;
        const struct place *marked = places_find(own, entry->path);
        if (marked && marked->type != ENTRY_DIRECTORY) return false;
    }
    return true;
}

/* ---- the order ---- */

enum member_class { NOT_A_FILE, FILE_OF_PROFILE, OTHER_FILE, LINK_TO_FILE };

struct ranked {
    enum member_class class;
    uint32_t rank;
    size_t position;
};

static int compare_ranked(const void *left_pointer, const void *right_pointer)
{
    const struct ranked *left = left_pointer, *right = right_pointer;
    if (left->class != right->class) return left->class < right->class ? -1 : 1;
    if (left->rank != right->rank) return left->rank < right->rank ? -1 : 1;
    return left->position < right->position ? -1 : left->position > right->position;
}

static struct ranked rank_member(const struct layer_members *members, const uint32_t *ranks,
                                 size_t position)
{
    const struct entry *entry = members->members[position].entry;
    struct ranked ranked = { NOT_A_FILE, 0, position };
    if (entry->type == ENTRY_HARDLINK) ranked.class = LINK_TO_FILE;
    if (entry->type == ENTRY_REGULAR) {
        ranked.class = ranks[position] == RANK_NONE ? OTHER_FILE : FILE_OF_PROFILE;
        ranked.rank = ranks[position];
    }
    return ranked;
}

static bool has_ranked_file(const struct layer_members *members, const uint32_t *ranks)
{
    bool found = false;
    for (size_t i = 0; i < members->count; i++) {
        const struct layer_member *member = &members->members[i];
        if (!member->entry || !member->place.stands_alone) return false;
        if (member->entry->type == ENTRY_REGULAR && ranks[i] != RANK_NONE) found = true;
    }
    return found;
}

int member_order(const struct layer_members *members, const uint32_t *ranks,
                 const struct entry_table *const *lower, size_t lower_count, size_t *ret,
                 bool *ret_kept, struct error **error)
{
    cleanup_places struct places own = { 0 }, links = { 0 };
    for (size_t i = 0; i < members->count; i++)
        ret[i] = i;
    *ret_kept = true;
    if (!has_ranked_file(members, ranks)) return 0;
    if (collect_own(&own, members, error) < 0 ||
        collect_links(&links, lower, lower_count, error) < 0)
        return -1;
    if (!may_be_moved(members, &own, &links)) return 0;
    cleanup_free struct ranked *ranked = calloc(members->count, sizeof *ranked);
    if (!ranked) return error_set_memory(error);
    for (size_t i = 0; i < members->count; i++)
        ranked[i] = rank_member(members, ranks, i);
    qsort(ranked, members->count, sizeof *ranked, compare_ranked);
    for (size_t i = 0; i < members->count; i++)
        ret[i] = ranked[i].position;
    *ret_kept = false;
    return 0;
}
