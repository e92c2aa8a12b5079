/*
 * mutate_metadata SEED COUNT DIRECTORY: metadata images that the validator
 * accepts, for the kernel to show what it makes of them
 * (tests/e2e/test_kernel_mutants.py). NUMBER.erofs is an image, NUMBER.list what
 * our reader says of it, NUMBER.sparse the length of the sparse device, if there
 * is one, and what stands on it.
 *
 * Each is the merge of layers made at random, and then changed a few bytes at a
 * time as long as the validator accepts the change: so it ends far from what
 * any layers would give. Prints how many changes were tried and accepted.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "index/erofs_image.h"
#include "index/merge.h"
#include "tests/fuzz/layer_script.h"

#define ENTRIES_MAX 60
#define CHANGES_TRY 400
#define SUPERBLOCK  1024

/* xorshift64*: the same on every machine. */
static uint64_t random_state;

static uint32_t random_below(uint32_t limit)
{
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return (uint32_t)((random_state * 2685821657736338717ull >> 32) % limit);
}

/* ---- layers ---- */

struct layers {
    struct entry_table *tables[SCRIPT_LAYERS];
    size_t count;
};

static int merge(const struct layers *layers, struct buffer *ret)
{
    struct merge_layer merged[SCRIPT_LAYERS];
    for (size_t i = 0; i < layers->count; i++)
        merged[i] = (struct merge_layer){ layers->tables[i],
                                          SCRIPT_STREAM_LENGTH,
                                          { { (uint8_t)(i + 1) } } };
    ret->length = 0;
    return merge_layers(merged, layers->count, ret, NULL);
}

/* Takes the entries from `count` on out of the last layer again. */
static void cut_back(struct layers *layers, size_t count)
{
    struct entry_table *old = layers->tables[layers->count - 1], *new = entry_table_new();
    EXPECT(new);
    for (size_t i = 0; i < count; i++)
        EXPECT(entry_table_append(new, entry_table_get(old, i), NULL) == 0);
    entry_table_free(old);
    layers->tables[layers->count - 1] = new;
}

static void add_random_entry(struct layers *layers)
{
    uint8_t bytes[200];
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)random_below(256);
    struct script script = { bytes, sizeof bytes };
    script_add_entry(&script, layers->tables[layers->count - 1]);
}

static void random_image(struct buffer *ret)
{
    struct layers layers = { { entry_table_new() }, 1 };
    EXPECT(layers.tables[0]);
    for (unsigned entries = random_below(ENTRIES_MAX); entries > 0; entries--) {
        size_t before = entry_table_count(layers.tables[layers.count - 1]);
        add_random_entry(&layers);
        if (merge(&layers, ret) < 0) cut_back(&layers, before);
        if (layers.count < SCRIPT_LAYERS && random_below(20) == 0)
            EXPECT(layers.tables[layers.count++] = entry_table_new());
    }
    EXPECT(merge(&layers, ret) == 0);
    for (size_t i = 0; i < layers.count; i++)
        entry_table_free(layers.tables[i]);
}

/* ---- changes ---- */

static bool is_accepted(const struct buffer *bytes, struct erofs_image *ret)
{
    uint64_t lengths[SCRIPT_LAYERS];
    struct digest tag;
    if (erofs_image_open(ret, bytes->data, bytes->length, NULL) < 0) return false;
    if (ret->device_count > SCRIPT_LAYERS) return false;
    for (uint32_t i = 0; i < ret->device_count; i++)
        if (erofs_image_device(ret, i + 1, &lengths[i], &tag, NULL) < 0) return false;
    return erofs_image_validate(ret, lengths, ret->device_count, NULL) == 0;
}

static void change_some(struct buffer *bytes)
{
    for (uint32_t changes = 1 + random_below(3); changes > 0; changes--) {
        size_t place = SUPERBLOCK + random_below((uint32_t)bytes->length - SUPERBLOCK);
        /* Runs of zeros are between things, where nothing may stand. */
        if (bytes->data[place] == 0 && random_below(4)) place = place / 32 * 32 + random_below(64);
        if (place >= bytes->length) continue;
        bytes->data[place] = random_below(2)
                                 ? (uint8_t)random_below(256)
                                 : (uint8_t)(bytes->data[place] ^ 1u << random_below(8));
    }
}

struct counts {
    uint64_t tried, accepted;
};

static void change(struct buffer *bytes, struct counts *counts)
{
    struct erofs_image image;
    struct buffer changed = { 0 };
    for (unsigned tries = random_below(CHANGES_TRY); tries > 0; tries--) {
        changed.length = 0;
        EXPECT(buffer_append(&changed, bytes->data, bytes->length) == 0);
        change_some(&changed);
        if (memcmp(changed.data, bytes->data, bytes->length) == 0) continue;
        counts->tried++;
        if (!is_accepted(&changed, &image)) continue;
        counts->accepted++;
        memcpy(bytes->data, changed.data, bytes->length);
    }
    buffer_free(&changed);
}

/* ---- what our reader says: a line a name, fields between blanks, bytes in hex ---- */

static void print_hex(FILE *file, const void *data, size_t length)
{
    for (size_t i = 0; i < length; i++)
        fprintf(file, "%02x", ((const uint8_t *)data)[i]);
}

static void print_xattrs(FILE *file, const struct erofs_image *image,
                         const struct erofs_inode *inode)
{
    ssize_t length = erofs_image_listxattr(image, inode, NULL, 0);
    EXPECT(length >= 0);
    cleanup_free char *names = malloc((size_t)length + 1);
    EXPECT(names && erofs_image_listxattr(image, inode, names, (size_t)length) == length);
    fputc(' ', file);
    for (ssize_t at = 0; at < length; at += (ssize_t)strlen(names + at) + 1) {
        const void *value;
        ssize_t got = erofs_image_getxattr(image, inode, names + at, &value);
        EXPECT(got >= 0);
        if (at) fputc(',', file);
        print_hex(file, names + at, strlen(names + at));
        fputc('=', file);
        print_hex(file, value, (size_t)got);
    }
}

static void print_extents(FILE *file, const struct erofs_image *image,
                          const struct erofs_inode *inode)
{
    struct erofs_extent extent;
    const char *separator = "";
    for (uint64_t at = 0; at < inode->size; at += extent.length, separator = ",") {
        EXPECT(erofs_image_map(image, inode, at, &extent) == 0);
        fprintf(file, "%s%u:%llu:%llu", separator, extent.device,
                (unsigned long long)extent.device_offset, (unsigned long long)extent.length);
    }
}

static void print_inode(FILE *file, const struct erofs_image *image, const char *path,
                        const struct erofs_inode *inode)
{
    const char *target;
    size_t length;
    print_hex(file, path, strlen(path));
    fprintf(file, " %o %u %u %u %llu %lld %u %u %llu", inode->mode, inode->link_count, inode->uid,
            inode->gid, (unsigned long long)inode->size, (long long)inode->mtime, inode->mtime_nsec,
            inode->rdev, (unsigned long long)inode->nid);
    print_xattrs(file, image, inode);
    fputc(' ', file);
    if (S_ISLNK(inode->mode)) {
        EXPECT(erofs_image_symlink(image, inode, &target, &length) == 0);
        print_hex(file, target, length);
    } else if (S_ISREG(inode->mode)) {
        print_extents(file, image, inode);
    }
    fputc('\n', file);
}

static void print_tree(FILE *file, const struct erofs_image *image, const char *path, uint64_t nid)
{
    struct erofs_inode inode;
    struct erofs_dirent dirent;
    EXPECT(erofs_image_inode(image, nid, &inode) == 0);
    print_inode(file, image, path, &inode);
    for (uint64_t cookie = 0; S_ISDIR(inode.mode); cookie = dirent.next_cookie) {
        int status = erofs_image_readdir(image, &inode, cookie, &dirent);
        EXPECT(status >= 0);
        if (status == 0) break;
        if (dirent.name_length <= 2 && memcmp(dirent.name, "..", dirent.name_length) == 0) continue;
        cleanup_free char *child =
            format_text("%s/%.*s", path, (int)dirent.name_length, dirent.name);
        EXPECT(child);
        print_tree(file, image, child, dirent.nid);
    }
}

/* What of the layers stands on the sparse device. */
static void write_sparse_map(const char *path, const struct erofs_image *image)
{
    FILE *file = fopen(path, "we");
    EXPECT(file);
    fprintf(file, "%llu\n", (unsigned long long)image->sparse_blocks * 512);
    for (uint64_t i = 0; i < image->sparse_map.count; i++) {
        struct sparse_record record = sparse_map_get(&image->sparse_map, i);
        fprintf(file, "%llu %llu %u %llu\n", (unsigned long long)record.device_offset,
                (unsigned long long)record.length, record.layer,
                (unsigned long long)record.stream_offset);
    }
    EXPECT(fclose(file) == 0);
}

static void write_image(const char *directory, unsigned number, const struct buffer *bytes)
{
    struct erofs_image image;
    struct error *error = NULL;
    cleanup_free char *path = format_text("%s/%u.erofs", directory, number);
    cleanup_free char *list = format_text("%s/%u.list", directory, number);
    EXPECT(path && list && is_accepted(bytes, &image));
    EXPECT_SUCCESS(file_write_atomic(path, bytes->data, bytes->length, 0600, &error));
    FILE *file = fopen(list, "we");
    EXPECT(file);
    print_tree(file, &image, "", image.root_nid);
    EXPECT(fclose(file) == 0);
    cleanup_free char *map = format_text("%s/%u.sparse", directory, number);
    EXPECT(map);
    if (image.sparse_device) write_sparse_map(map, &image);
}

int main(int argc, char **argv)
{
    struct counts counts = { 0 };
    struct buffer bytes = { 0 };
    if (argc != 4) {
        fputs("usage: mutate_metadata SEED COUNT DIRECTORY\n", stderr);
        return 2;
    }
    random_state = (strtoull(argv[1], NULL, 10) + 1) * 0x9e3779b97f4a7c15ull;
    unsigned count = (unsigned)strtoul(argv[2], NULL, 10);
    for (unsigned number = 0; number < count; number++) {
        random_image(&bytes);
        change(&bytes, &counts);
        write_image(argv[3], number, &bytes);
    }
    buffer_free(&bytes);
    printf("%llu %llu\n", (unsigned long long)counts.tried, (unsigned long long)counts.accepted);
    return 0;
}
