#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fuse/holder-internal.h"

void holder_entry_free(struct holder_entry *entry)
{
    for (size_t i = 0; i < entry->descriptor_count; i++)
        if (entry->descriptors[i] >= 0) close(entry->descriptors[i]);
    entry->descriptor_count = 0;
    buffer_free(&entry->data);
}

void holder_entries_free(struct holder_entry *entries, size_t count)
{
    for (size_t i = 0; i < count; i++)
        holder_entry_free(&entries[i]);
    free(entries);
}

void holder_entry_form(struct holder_message *ret, const struct holder_entry *entry)
{
    /* Within the limits, for it came in such a message. */
    holder_message_form(ret, HOLDER_ENTRY, entry->name, entry->data.data, entry->data.length, NULL);
    memcpy(ret->descriptors, entry->descriptors, sizeof ret->descriptors);
    ret->descriptor_count = entry->descriptor_count;
}

struct holder_entry *holder_entries_find(const struct holder_entries *entries, const char *name)
{
    for (size_t i = 0; i < entries->count; i++)
        if (strcmp(entries->entries[i]->name, name) == 0) return entries->entries[i];
    return NULL;
}

static int make_room(struct holder_entries *entries, struct error **error)
{
    if (entries->count >= HOLDER_ENTRIES_MAX)
        return error_set(error, ERROR_PRECONDITION, "holder: it holds %u already",
                         HOLDER_ENTRIES_MAX);
    if (entries->count < entries->capacity) return 0;
    size_t capacity = entries->capacity ? 2 * entries->capacity : 16;
    struct holder_entry **more =
        reallocarray(entries->entries, capacity, sizeof(struct holder_entry *));
    if (!more) return error_set_memory(error);
    entries->entries = more;
    entries->capacity = capacity;
    return 0;
}

int holder_entries_put(struct holder_entries *entries, struct holder_entry *entry,
                       struct error **error)
{
    struct holder_entry *old = holder_entries_find(entries, entry->name);
    if (old) {
        holder_entry_free(old);
        *old = *entry;
        return 0;
    }
    struct holder_entry *copy = malloc(sizeof *copy);
    if (!copy || make_room(entries, error) < 0) {
        if (!copy) error_set_memory(error);
        free(copy);
        holder_entry_free(entry);
        return -1;
    }
    *copy = *entry;
    entries->entries[entries->count++] = copy;
    return 0;
}

void holder_entries_drop(struct holder_entries *entries, const char *name)
{
    for (size_t i = 0; i < entries->count; i++) {
        struct holder_entry *entry = entries->entries[i];
        if (strcmp(entry->name, name) != 0) continue;
        holder_entry_free(entry);
        free(entry);
        entries->entries[i] = entries->entries[--entries->count];
        return;
    }
}

void holder_entries_clear(struct holder_entries *entries)
{
    for (size_t i = 0; i < entries->count; i++) {
        holder_entry_free(entries->entries[i]);
        free(entries->entries[i]);
    }
    free(entries->entries);
    *entries = (struct holder_entries){ 0 };
}
