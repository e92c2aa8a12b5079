#include "snapshotter/labels.h"

#include <stdlib.h>
#include <string.h>

/* The position of `key`, or where it belongs; `found` says which. */
static size_t place_of(const struct labels *labels, const char *key, int *found)
{
    size_t low = 0, high = labels->count;
    *found = 0;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(labels->entries[middle].key, key);
        if (order == 0) {
            *found = 1;
            return middle;
        }
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

const char *labels_get(const struct labels *labels, const char *key)
{
    int found;
    size_t place = place_of(labels, key, &found);
    return found ? labels->entries[place].value : NULL;
}

static void take_away(struct labels *labels, size_t place)
{
    struct label *entry = &labels->entries[place];
    free(entry->key);
    free(entry->value);
    labels->count--;
    memmove(entry, entry + 1, (labels->count - place) * sizeof *entry);
}

static int put_in(struct labels *labels, size_t place, const char *key, char *value)
{
    struct label *entries = realloc(labels->entries, (labels->count + 1) * sizeof *entries);
    if (!entries) return -1;
    labels->entries = entries;
    char *name = strdup(key);
    if (!name) return -1;
    memmove(entries + place + 1, entries + place, (labels->count - place) * sizeof *entries);
    entries[place] = (struct label){ name, value };
    labels->count++;
    return 0;
}

int labels_set(struct labels *labels, const char *key, const char *value, struct error **error)
{
    int found;
    size_t place = place_of(labels, key, &found);
    if (!*key) return error_set(error, ERROR_INVALID, "a label without a name");
    if (!*value) {
        if (found) take_away(labels, place);
        return 0;
    }
    if (!found && labels->count == LABELS_MAX)
        return error_set(error, ERROR_INVALID, "more than %d labels", LABELS_MAX);
    char *copy = strdup(value);
    if (!copy) return error_set_memory(error);
    if (found) {
        free(labels->entries[place].value);
        labels->entries[place].value = copy;
        return 0;
    }
    if (put_in(labels, place, key, copy) < 0) {
        free(copy);
        return error_set_memory(error);
    }
    return 0;
}

int labels_copy(struct labels *ret, const struct labels *labels, struct error **error)
{
    *ret = (struct labels){ 0 };
    for (size_t i = 0; i < labels->count; i++) {
        if (labels_set(ret, labels->entries[i].key, labels->entries[i].value, error) < 0) {
            labels_free(ret);
            return -1;
        }
    }
    return 0;
}

void labels_free(struct labels *labels)
{
    for (size_t i = 0; i < labels->count; i++) {
        free(labels->entries[i].key);
        free(labels->entries[i].value);
    }
    free(labels->entries);
    *labels = (struct labels){ 0 };
}
