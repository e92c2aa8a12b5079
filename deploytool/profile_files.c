#include "deploytool/profile_files.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/json.h"
#include "deploytool/command.h"

uint64_t profile_stream_bytes(const struct profile *profile, struct chunk_table *const *tables)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < profile->entry_count; i++) {
        const struct profile_entry *entry = &profile->entries[i];
        for (uint32_t k = 0; k < entry->count; k++)
            bytes += chunk_length(tables[entry->layer], entry->first + k);
    }
    return bytes;
}

/* What lies between a checkpoint and the next is counted with the chunk that starts there. */
static uint64_t entry_blob_bytes(const struct profile_entry *entry, const struct chunk_table *table)
{
    uint32_t behind = entry->first + entry->count;
    uint64_t end =
        behind < table->chunk_count ? table->chunks[behind].blob_offset : table->blob_length;
    return end - table->chunks[entry->first].blob_offset;
}

uint64_t profile_blob_bytes(const struct profile *profile, struct chunk_table *const *tables)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < profile->entry_count; i++)
        bytes += entry_blob_bytes(&profile->entries[i], tables[profile->entries[i].layer]);
    return bytes;
}

/* One number for each path, in fresh memory; NULL: out of memory. */
static uint64_t *bytes_of_paths(const struct profile *profile, struct chunk_table *const *tables)
{
    uint64_t *bytes = calloc(profile->path_count + 1, sizeof *bytes);
    for (size_t i = 0; bytes && i < profile->entry_count; i++) {
        const struct profile_entry *entry = &profile->entries[i];
        if (entry->path != PROFILE_NO_PATH)
            bytes[entry->path] += entry_blob_bytes(entry, tables[entry->layer]);
    }
    return bytes;
}

json_t *profile_files_json(const struct profile *profile, struct chunk_table *const *tables)
{
    json_t *list = json_array();
    cleanup_free uint64_t *bytes = bytes_of_paths(profile, tables);
    for (size_t i = 0; bytes && i < profile->path_count; i++)
        json_array_append_new(list,
                              json_pack("{s:o, s:I}", "path", json_any_text(profile->paths[i]),
                                        "blob_bytes", (json_int_t)bytes[i]));
    return list;
}

/* Names come from an image: nothing in them reaches the terminal as a command. */
static void print_name(const char *name)
{
    for (; *name; name++)
        putchar((unsigned char)*name < ' ' || *name == 0x7f ? '?' : *name);
    putchar('\n');
}

void profile_files_print(const struct profile *profile, struct chunk_table *const *tables)
{
    char size[SIZE_TEXT_SIZE];
    cleanup_free uint64_t *bytes = bytes_of_paths(profile, tables);
    for (size_t i = 0; bytes && i < profile->path_count; i++) {
        printf("    %9s  ", format_size(bytes[i], size));
        print_name(profile->paths[i]);
    }
}
