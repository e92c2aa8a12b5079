#include "fuse/mount_table.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "fuse/erofs_mount.h"
#include "fuse/fuse_mount.h"

/* Fields that are separated by single spaces; returns the next one and moves on. */
static char *next_field(char **line)
{
    static char none[1];
    char *field = strsep(line, " ");
    return field ? field : none;
}

static bool is_octal(char c)
{
    return c >= '0' && c <= '7';
}

/* The kernel writes space, tab, newline and backslash as three octal digits. */
static void unescape(char *text)
{
    char *to = text;
    for (const char *from = text; *from;) {
        if (from[0] == '\\' && is_octal(from[1]) && is_octal(from[2]) && is_octal(from[3])) {
            *to++ = (char)((from[1] - '0') << 6 | (from[2] - '0') << 3 | (from[3] - '0'));
            from += 4;
        } else {
            *to++ = *from++;
        }
    }
    *to = 0;
}

struct mount_line {
    const char *path, *type, *source;
    const char *device; /* "98:0" */
};

/* "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw", which is cut into pieces. */
static void split_line(char *line, struct mount_line *ret)
{
    next_field(&line); /* mount ID */
    next_field(&line); /* parent's ID */
    ret->device = next_field(&line);
    next_field(&line); /* root within the file system */
    char *path = next_field(&line);
    while (line && strcmp(next_field(&line), "-") != 0)
        continue;
    ret->type = next_field(&line);
    char *source = next_field(&line);
    unescape(path);
    unescape(source);
    ret->path = path;
    ret->source = source;
}

/* A line at a time; `each` may be called with the path of no mount, where a line is odd. */
static int read_table(void (*each)(void *context, const struct mount_line *line), void *context,
                      struct error **error)
{
    FILE *file = fopen("/proc/self/mountinfo", "re");
    if (!file) return error_set_errno(error, errno, "open '/proc/self/mountinfo'");
    cleanup_free char *text = NULL;
    size_t capacity = 0;
    ssize_t length;
    while ((length = getline(&text, &capacity, file)) > 0) {
        struct mount_line line;
        if (text[length - 1] == '\n') text[length - 1] = 0;
        split_line(text, &line);
        each(context, &line);
    }
    int failed = ferror(file);
    fclose(file);
    if (failed) return error_set(error, ERROR_SYSTEM, "read '/proc/self/mountinfo' failed");
    return 0;
}

/* By its type, or, as any EROFS has the same one, by its source. */
static bool is_ours(const struct mount_line *line, struct our_mount *ret)
{
    size_t prefix = strlen(EROFS_MOUNT_SOURCE);
    *ret = (struct our_mount){ .path = line->path, .image = line->source };
    if (strcmp(line->type, FUSE_MOUNT_TYPE) == 0) return true;
    if (strcmp(line->type, "erofs") != 0 || strncmp(line->source, EROFS_MOUNT_SOURCE, prefix) != 0)
        return false;
    ret->image += prefix;
    ret->by_kernel = true;
    return true;
}

struct find {
    const char *path;
    bool found;
    struct mount_entry *entry;
};

/* Mounts are listed in the order they were made: the last one hides the others. */
static void compare_path(void *context, const struct mount_line *line)
{
    struct find *find = context;
    struct mount_entry entry = { 0 };
    char *minor;
    if (strcmp(line->path, find->path) != 0) return;
    entry.device_major = (unsigned)strtoul(line->device, &minor, 10);
    if (*minor != ':') return;
    entry.device_minor = (unsigned)strtoul(minor + 1, NULL, 10);
    struct our_mount mount;
    entry.ours = is_ours(line, &mount);
    entry.by_kernel = mount.by_kernel;
    *find->entry = entry;
    find->found = true;
}

int mount_table_find(const char *path, bool *ret_found, struct mount_entry *ret,
                     struct error **error)
{
    struct find find = { .path = path, .entry = ret };
    int result = read_table(compare_path, &find, error);
    *ret_found = find.found;
    return result;
}

struct each {
    mount_seen *seen;
    void *context;
};

static void show_ours(void *context, const struct mount_line *line)
{
    const struct each *each = context;
    struct our_mount mount;
    if (is_ours(line, &mount)) each->seen(each->context, &mount);
}

int mount_table_each(mount_seen *seen, void *context, struct error **error)
{
    struct each each = { seen, context };
    return read_table(show_ours, &each, error);
}
