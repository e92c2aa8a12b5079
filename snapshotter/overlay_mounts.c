#include "snapshotter/overlay_mounts-internal.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/cleanup.h"
#include "base/file.h"

static void entry_free(struct mount_entry *entry)
{
    for (size_t i = 0; i < entry->option_count; i++)
        free(entry->options[i]);
    free(entry->options);
    free(entry->type);
    free(entry->source);
    free(entry->target);
}

void mount_list_free(struct mount_list *list)
{
    for (size_t i = 0; i < list->count; i++)
        entry_free(&list->entries[i]);
    free(list->entries);
    *list = (struct mount_list){ 0 };
}

/* Takes `option`; NULL is out of memory, as a return of -1. */
static int add_option(struct mount_entry *entry, char *option)
{
    char **options =
        option ? realloc(entry->options, (entry->option_count + 1) * sizeof *options) : NULL;
    if (!options) {
        free(option);
        return -1;
    }
    entry->options = options;
    options[entry->option_count++] = option;
    return 0;
}

static int add_mapping(struct mount_entry *entry, const char *name, const char *mapping)
{
    return mapping ? add_option(entry, format_text("%s=%s", name, mapping)) : 0;
}

static int add_mappings(struct mount_entry *entry, const struct overlay_parts *parts)
{
    if (add_mapping(entry, "uidmap", parts->uid_mapping) < 0) return -1;
    return add_mapping(entry, "gidmap", parts->gid_mapping);
}

static int fill_bind(struct mount_entry *entry, const struct overlay_parts *parts,
                     const char *source, bool writable)
{
    entry->type = strdup("bind");
    entry->source = strdup(source);
    entry->target = strdup("");
    if (!entry->type || !entry->source || !entry->target || add_mappings(entry, parts) < 0)
        return -1;
    if (add_option(entry, strdup(writable ? "rw" : "ro")) < 0) return -1;
    return add_option(entry, strdup("rbind"));
}

static char *lower_option(const struct overlay_parts *parts)
{
    cleanup_buffer struct buffer text = { 0 };
    for (size_t i = 0; i < parts->lower_count; i++) {
        const char *before = i ? ":" : "lowerdir=";
        if (buffer_append(&text, before, strlen(before)) < 0 ||
            buffer_append(&text, parts->lowers[i], strlen(parts->lowers[i])) < 0)
            return NULL;
    }
    if (buffer_append_u8(&text, 0) < 0) return NULL;
    return (char *)take_pointer(&text.data);
}

/* Attributes in "user." where the daemon is root of a user namespace only: the kernel refuses it
 * "trusted." ones. */
static bool in_user_namespace(void)
{
    uint64_t inside, outside, count;
    FILE *map = fopen("/proc/self/uid_map", "re");
    if (!map) return false;
    /* NOLINTNEXTLINE(cert-err34-c): the kernel writes numbers */
    int fields = fscanf(map, "%lu %lu %lu", &inside, &outside, &count);
    fclose(map);
    return fields == 3 && !(inside == 0 && outside == 0 && count == UINT32_MAX);
}

static bool has_option(const struct overlay_parts *parts, const char *name)
{
    size_t length = strlen(name);
    for (size_t i = 0; i < parts->option_count; i++) {
        const char *option = parts->options[i];
        if (strncmp(option, name, length) == 0 && (!option[length] || option[length] == '='))
            return true;
    }
    return false;
}

/* An index would bind an upper directory to its lowers for ever, and they may move. */
static int add_defaults(struct mount_entry *entry, const struct overlay_parts *parts)
{
    if (!has_option(parts, "userxattr") && in_user_namespace() &&
        add_option(entry, strdup("userxattr")) < 0)
        return -1;
    if (!has_option(parts, "index") && access("/sys/module/overlay/parameters/index", F_OK) == 0)
        return add_option(entry, strdup("index=off"));
    return 0;
}

static int fill_overlay(struct mount_entry *entry, const struct overlay_parts *parts)
{
    entry->type = strdup("overlay");
    entry->source = strdup("overlay");
    entry->target = strdup("");
    if (!entry->type || !entry->source || !entry->target || add_mappings(entry, parts) < 0)
        return -1;
    if (parts->kind == SNAPSHOT_ACTIVE &&
        (add_option(entry, format_text("workdir=%s", parts->work)) < 0 ||
         add_option(entry, format_text("upperdir=%s", parts->upper)) < 0))
        return -1;
    if (add_option(entry, lower_option(parts)) < 0) return -1;
    for (size_t i = 0; i < parts->option_count; i++)
        if (add_option(entry, strdup(parts->options[i])) < 0) return -1;
    return add_defaults(entry, parts);
}

static int fill(struct mount_entry *entry, const struct overlay_parts *parts)
{
    bool writable = parts->kind == SNAPSHOT_ACTIVE;
    if (!parts->lower_count) return fill_bind(entry, parts, parts->upper, writable);
    if (parts->lower_count == 1 && !writable)
        return fill_bind(entry, parts, parts->lowers[0], false);
    return fill_overlay(entry, parts);
}

int overlay_mounts(const struct overlay_parts *parts, struct mount_list *ret, struct error **error)
{
    struct mount_list list = { calloc(1, sizeof *list.entries), 1 };
    if (!list.entries) return error_set_memory(error);
    if (fill(&list.entries[0], parts) < 0) {
        mount_list_free(&list);
        return error_set_memory(error);
    }
    *ret = list;
    return 0;
}
