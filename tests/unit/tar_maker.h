/* Makes tar streams, well-formed or not, one header at a time. For tests: aborts when memory is
 * short. */
#ifndef SLUICE_TESTS_UNIT_TAR_MAKER_H
#define SLUICE_TESTS_UNIT_TAR_MAKER_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"

struct tar_member {
    const char *name, *link;
    char type;
    uint32_t mode, uid, gid;
    uint64_t mtime;
    const char *data; /* text, or NULL */
    const char *prefix;
    uint32_t major, minor;
    bool v7; /* no magic: the oldest form */
};

static inline void tar_field(uint8_t *field, size_t length, const char *text)
{
    size_t used = strlen(text);
    memcpy(field, text, used < length ? used : length);
}

static inline void tar_octal(uint8_t *field, size_t length, uint64_t value)
{
    char text[24];
    snprintf(text, sizeof text, "%0*llo", (int)length - 1, (unsigned long long)value);
    tar_field(field, length, text);
}

static inline void tar_seal(uint8_t block[512])
{
    uint32_t sum = 0;
    memset(block + 148, ' ', 8);
    for (size_t i = 0; i < 512; i++)
        sum += block[i];
    char text[8];
    snprintf(text, sizeof text, "%06o", sum & 0777777);
    memcpy(block + 148, text, 7);
}

static inline void tar_block(uint8_t block[512], const struct tar_member *member, uint64_t size)
{
    memset(block, 0, 512);
    tar_field(block, 100, member->name);
    tar_octal(block + 100, 8, member->mode);
    tar_octal(block + 108, 8, member->uid);
    tar_octal(block + 116, 8, member->gid);
    tar_octal(block + 124, 12, size);
    tar_octal(block + 136, 12, member->mtime);
    block[156] = (uint8_t)member->type;
    if (member->link) tar_field(block + 157, 100, member->link);
    if (!member->v7) {
        memcpy(block + 257,
               "ustar\0"
               "00",
               8);
        tar_octal(block + 329, 8, member->major);
        tar_octal(block + 337, 8, member->minor);
        if (member->prefix) tar_field(block + 345, 155, member->prefix);
    }
    tar_seal(block);
}

static inline void tar_append(struct buffer *tar, const void *data, size_t length)
{
    if (buffer_append(tar, data, length) < 0) abort();
}

static inline void tar_data(struct buffer *tar, const void *data, size_t length)
{
    tar_append(tar, data, length);
    if (buffer_append_zeros(tar, (512 - length % 512) % 512) < 0) abort();
}

static inline void tar_add(struct buffer *tar, struct tar_member member)
{
    uint8_t block[512];
    size_t size = member.data ? strlen(member.data) : 0;
    tar_block(block, &member, size);
    tar_append(tar, block, sizeof block);
    if (size) tar_data(tar, member.data, size);
}

static inline void tar_file(struct buffer *tar, const char *name, const char *data)
{
    tar_add(tar, (struct tar_member){ .name = name, .type = '0', .mode = 0644, .data = data });
}

static inline void tar_directory(struct buffer *tar, const char *name, uint32_t mode)
{
    tar_add(tar, (struct tar_member){ .name = name, .type = '5', .mode = mode });
}

static inline void tar_link(struct buffer *tar, char type, const char *name, const char *target)
{
    tar_add(tar, (struct tar_member){ .name = name, .type = type, .mode = 0777, .link = target });
}

/* A header of `type` whose data is `text`, which may hold NULs. */
static inline void tar_meta(struct buffer *tar, char type, const void *text, size_t length)
{
    uint8_t block[512];
    struct tar_member member = { .name = "meta", .type = type };
    tar_block(block, &member, length);
    tar_append(tar, block, sizeof block);
    tar_data(tar, text, length);
}

static inline void tar_pax_record(struct buffer *records, const char *key, const void *value,
                                  size_t value_length)
{
    size_t rest = strlen(key) + value_length + 3, length = rest, before = 0;
    while (length != before) { /* the length counts its own digits */
        before = length;
        length = rest + (size_t)snprintf(NULL, 0, "%zu", before);
    }
    char start[300];
    snprintf(start, sizeof start, "%zu %s=", length, key);
    tar_append(records, start, strlen(start));
    tar_append(records, value, value_length);
    tar_append(records, "\n", 1);
}

/* A PAX header with one record. */
static inline void tar_pax(struct buffer *tar, char type, const char *key, const void *value,
                           size_t value_length)
{
    struct buffer record = { 0 };
    tar_pax_record(&record, key, value, value_length);
    tar_meta(tar, type, record.data, record.length);
    buffer_free(&record);
}

static inline void tar_pax_text(struct buffer *tar, const char *key, const char *value)
{
    tar_pax(tar, 'x', key, value, strlen(value));
}

static inline void tar_end(struct buffer *tar)
{
    if (buffer_append_zeros(tar, 1024) < 0) abort();
}

#endif
