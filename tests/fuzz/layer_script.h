/*
 * Layers made of any bytes: entries of all types under few names, so that they
 * meet. Every string of bytes is such a script.
 */
#ifndef SLUICE_TESTS_FUZZ_LAYER_SCRIPT_H
#define SLUICE_TESTS_FUZZ_LAYER_SCRIPT_H

#include "index/entry_table.h"
#include "tests/fuzz/fuzz.h"

#define SCRIPT_LAYERS        4
#define SCRIPT_STREAM_LENGTH (1ull << 40)

struct script {
    const uint8_t *data;
    size_t length;
};

/* Few; among them the longest, one that is no UTF-8, and those that sort before ".". */
#define SCRIPT_FIFTY_ONE "0123456789abcdefghijklmnopqrstuvwxyz-0123456789abcd"
static const char *const script_names[] = {
    "a",
    "b",
    "c",
    "-",
    "\xff",
    "!",
    "link",
    ".wh",
    "e\xcc\x81",
    "dir",
    "...",
    SCRIPT_FIFTY_ONE,
    SCRIPT_FIFTY_ONE SCRIPT_FIFTY_ONE SCRIPT_FIFTY_ONE SCRIPT_FIFTY_ONE SCRIPT_FIFTY_ONE,
};

/* The kernel looks into these, so they must be right. Access control list: version 2, then tag,
 * permissions and id of owner, group and others. Capabilities: revision 2, then bits. */
static const uint8_t script_acl[] = {
    2,    0,    0,    0, /**/
    1,    0,    6,    0,    0xff, 0xff, 0xff, 0xff, 4,    0,    4,    0,
    0xff, 0xff, 0xff, 0xff, 32,   0,    4,    0,    0xff, 0xff, 0xff, 0xff,
};
static const uint8_t script_capability[20] = { 1, 0, 0, 2 };

static inline uint8_t script_byte(struct script *script)
{
    return (uint8_t)take_number(&script->data, &script->length, 1);
}

static inline void script_path(struct script *script, char *ret)
{
    unsigned shape = script_byte(script), count = sizeof script_names / sizeof *script_names;
    size_t used = 0;
    for (unsigned depth = 1 + shape % 3; depth > 0; depth--) {
        const char *component = script_names[script_byte(script) % count];
        used += (size_t)sprintf(ret + used, "%s%s", used ? "/" : "", component);
    }
}

static inline void script_target(struct script *script, char ret[4096])
{
    unsigned shape = script_byte(script);
    if (shape < 160) {
        size_t used = 0;
        if (shape % 4 == 1) used = (size_t)sprintf(ret, "/");
        if (shape % 4 == 2) used = (size_t)sprintf(ret, "../");
        if (shape % 4 == 3) used = (size_t)sprintf(ret, "./..//");
        script_path(script, ret + used);
        return;
    }
    size_t length = 1 + take_number(&script->data, &script->length, 2) % 4095;
    memset(ret, 'x', length);
    ret[length] = 0;
}

static inline size_t script_xattrs(struct script *script, struct entry_xattr xattrs[4])
{
    static const char *const names[] = { "security.capability",
                                         "security.selinux",
                                         "system.posix_acl_access",
                                         "system.posix_acl_default",
                                         "trusted.x",
                                         "user.a",
                                         "user.b",
                                         "user.long" };
    static uint8_t values[65535];
    unsigned shape = script_byte(script);
    size_t count = shape >= 240 ? 4 : shape >= 200 ? 1 : 0, name = 0;
    for (size_t i = 0; i < count; i++) {
        name += script_byte(script) % 2;
        size_t length = script_byte(script);
        if (length > 250) length = (size_t)take_number(&script->data, &script->length, 2);
        xattrs[i] = (struct entry_xattr){ names[name], values, (uint32_t)length };
        if (name == 0)
            xattrs[i] =
                (struct entry_xattr){ names[name], script_capability, sizeof script_capability };
        if (strncmp(names[name++], "system.", 7) == 0) {
            xattrs[i].value = script_acl;
            xattrs[i].value_length = sizeof script_acl;
        }
    }
    return count;
}

/* A directory of several blocks. */
static inline void script_add_many(struct script *script, struct entry_table *table)
{
    char directory[1024], path[1100];
    script_path(script, directory);
    for (unsigned count = script_byte(script) % 80; count > 0; count--) {
        struct entry entry = { .type = ENTRY_FIFO, .path = path, .mode = count };
        snprintf(path, sizeof path, "%s/%.*s%u", directory, (int)count % 40, SCRIPT_FIFTY_ONE,
                 count);
        (void)entry_table_append(table, &entry, NULL);
    }
}

/* Some of a file's bytes; the rest is a hole. */
static inline uint32_t script_segments(struct script *script, struct entry_segment segments[4],
                                       uint64_t *ret_size)
{
    unsigned shape = script_byte(script);
    uint64_t at = 0;
    uint32_t count = shape % 5;
    for (uint32_t i = 0; i < count; i++) {
        at += take_number(&script->data, &script->length, 1 + shape / 5 % 4) + (i > 0);
        segments[i].offset = at;
        segments[i].length = 1 + take_number(&script->data, &script->length, 1 + shape / 20 % 4);
        at += segments[i].length;
    }
    *ret_size = at + script_byte(script);
    return count;
}

static inline void script_add_entry(struct script *script, struct entry_table *table)
{
    char path[1024], target[4096];
    struct entry_xattr xattrs[4];
    struct entry_segment segments[4];
    struct error *error = NULL;
    unsigned type = script_byte(script);
    struct entry entry = { .type = 1 + type % 9, .path = path, .target = target };
    if (type > 250) {
        script_add_many(script, table);
        return;
    }
    script_path(script, path);
    if (entry.type == ENTRY_SYMLINK) script_target(script, target);
    if (entry.type == ENTRY_HARDLINK) script_path(script, target);
    if ((entry.type == ENTRY_DIRECTORY || entry.type == ENTRY_OPAQUE) && script_byte(script) > 200)
        path[0] = 0;
    entry.mode = script_byte(script) * 16u;
    entry.uid = script_byte(script);
    if (entry.uid > 200) entry.uid = (uint32_t)take_number(&script->data, &script->length, 4);
    if (entry.uid % 8 == 1) entry.mtime = (int64_t)take_number(&script->data, &script->length, 8);
    if (entry.type == ENTRY_REGULAR) {
        unsigned digits = script_byte(script) % 6;
        entry.size = take_number(&script->data, &script->length, digits) % SCRIPT_STREAM_LENGTH;
        entry.data_offset = take_number(&script->data, &script->length, 3) * 512;
        entry.sparse = script_byte(script) > 200;
        entry.segments = segments;
        if (entry.sparse) entry.segment_count = script_segments(script, segments, &entry.size);
    }
    entry.device_major = script_byte(script);
    entry.device_minor = entry.device_major * 4097u;
    entry.xattr_count = (uint32_t)script_xattrs(script, xattrs);
    entry.xattrs = xattrs;
    if (entry_table_append(table, &entry, &error) < 0) expect_error(error);
    error_free(error);
}

#endif
