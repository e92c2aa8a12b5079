#include "fuse/mount_table.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"

/* Fields that are separated by single spaces; returns the next one and moves on. */
static char *next_field(char **line)
{
    char *field = strsep(line, " ");
    return field ? field : "";
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

/* "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw": true if the line is about
 * `path`. */
static bool read_line(char *line, const char *path, struct mount_entry *ret)
{
    next_field(&line); /* mount ID */
    next_field(&line); /* parent's ID */
    const char *device = next_field(&line);
    next_field(&line); /* root within the file system */
    char *mountpoint = next_field(&line);
    unescape(mountpoint);
    if (strcmp(mountpoint, path) != 0) return false;

    struct mount_entry entry = { 0 };
    char *minor;
    entry.device_major = (unsigned)strtoul(device, &minor, 10);
    if (*minor != ':') return false;
    entry.device_minor = (unsigned)strtoul(minor + 1, NULL, 10);
    while (line && strcmp(next_field(&line), "-") != 0)
        continue;
    snprintf(entry.type, sizeof entry.type, "%s", next_field(&line));
    *ret = entry;
    return true;
}

int mount_table_find(const char *path, bool *ret_found, struct mount_entry *ret,
                     struct error **error)
{
    *ret_found = false;
    FILE *file = fopen("/proc/self/mountinfo", "re");
    if (!file) return error_set_errno(error, errno, "open '/proc/self/mountinfo'");
    cleanup_free char *line = NULL;
    size_t capacity = 0;
    ssize_t length;
    /* Mounts are listed in the order they were made: the last one hides the others. */
    while ((length = getline(&line, &capacity, file)) > 0) {
        if (line[length - 1] == '\n') line[length - 1] = 0;
        if (read_line(line, path, ret)) *ret_found = true;
    }
    int failed = ferror(file);
    fclose(file);
    if (failed) return error_set(error, ERROR_SYSTEM, "read '/proc/self/mountinfo' failed");
    return 0;
}
