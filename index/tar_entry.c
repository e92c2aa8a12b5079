/*
 * What one header means as an entry of a layer. Where readers differ (which
 * types have data, what a name with a slash at its end is), it does as Go's
 * archive/tar, since that is what unpacks images elsewhere.
 */
#include <string.h>

#include "index/tar-internal.h"

#define PATH_BYTES_MAX 4095

/*
 * "/./a//b/" becomes "a/b". An unpacker would climb with "..", or be stopped:
 * no image needs it.
 */
static int clean_path(const char *raw, char clean[PATH_BYTES_MAX + 1], size_t *ret_length,
                      struct error **error)
{
    size_t length = 0;
    while (*raw) {
        size_t component = strcspn(raw, "/");
        bool dot = component == 1 && raw[0] == '.';
        if (component == 2 && raw[0] == '.' && raw[1] == '.')
            return error_set(error, ERROR_INVALID, "a path has a \"..\" component");
        if (component > 255)
            return error_set(error, ERROR_INVALID, "a name is longer than 255 bytes");
        if (component > 0 && !dot) {
            if (length + 1 + component > PATH_BYTES_MAX)
                return error_set(error, ERROR_INVALID, "a path is longer than 4095 bytes");
            if (length) clean[length++] = '/';
            memcpy(clean + length, raw, component);
            length += component;
        }
        raw += component;
        while (*raw == '/')
            raw++;
    }
    clean[length] = 0;
    *ret_length = length;
    return 0;
}

static int entry_type_of(char type, enum entry_type *ret, struct error **error)
{
    switch (type) {
    case '0':
    case 0:
    case '7': /* contiguous */
    case 'S':
        *ret = ENTRY_REGULAR;
        return 0;
    case '1':
        *ret = ENTRY_HARDLINK;
        return 0;
    case '2':
        *ret = ENTRY_SYMLINK;
        return 0;
    case '3':
        *ret = ENTRY_CHARACTER_DEVICE;
        return 0;
    case '4':
        *ret = ENTRY_BLOCK_DEVICE;
        return 0;
    case '5':
    case 'D': /* of GNU's incremental archives: its data lists what the directory had */
        *ret = ENTRY_DIRECTORY;
        return 0;
    case '6':
        *ret = ENTRY_FIFO;
        return 0;
    case 'M':
        return error_set(
            error, ERROR_UNSUPPORTED,
            "it goes on with a file of another volume; only whole archives can be read");
    default:
        if (type > ' ' && type <= '~')
            return error_set(error, ERROR_UNSUPPORTED, "tar entries of type '%c' are not supported",
                             type);
        return error_set(error, ERROR_UNSUPPORTED, "tar entries of type 0x%02x are not supported",
                         (uint8_t)type);
    }
}

/* Links, devices and directories may carry a size all the same. */
bool tar_type_has_data(char type)
{
    return !(type >= '1' && type <= '6');
}

bool tar_type_is_passed_over(char type)
{
    return type == 'V';
}

enum meaning { MEANS_ENTRY, MEANS_NOTHING, MEANS_WHITEOUT };

/* OCI image specification, "Layer", "Whiteouts". Turns `path` into what is hidden. */
static int read_whiteout(char *path, size_t length, enum meaning *ret, struct entry *entry,
                         struct error **error)
{
    char *base = memrchr(path, '/', length);
    *ret = MEANS_ENTRY;
    /* AUFS kept its own records in the root under such names; unpackers pass them over. */
    if (strncmp(path, ".wh..wh.", 8) == 0 && strcmp(path, ".wh..wh..opq") != 0) {
        *ret = MEANS_NOTHING;
        return 0;
    }
    char *name = base ? base + 1 : path;
    if (strncmp(name, ".wh.", 4) != 0) return 0;
    if (strncmp(name, ".wh..wh.", 8) == 0) {
        *ret = strcmp(name, ".wh..wh..opq") == 0 ? MEANS_WHITEOUT : MEANS_NOTHING;
        entry->type = ENTRY_OPAQUE;
        *(base ? base : path) = 0;
        return 0;
    }
    char *hidden = name + 4;
    /* The analyzer does not know that error_set() returns -1, and so that the path is written. */
    // NOLINTNEXTLINE(clang-analyzer-core.uninitialized.Branch)
    if (!*hidden || strcmp(hidden, ".") == 0 || strcmp(hidden, "..") == 0)
        return error_set(error, ERROR_INVALID, "the whiteout names nothing");
    *ret = MEANS_WHITEOUT;
    entry->type = ENTRY_WHITEOUT;
    memmove(name, hidden, strlen(hidden) + 1);
    return 0;
}

static int fill_entry(const struct tar_header *header, const struct sparse_segments *sparse,
                      uint64_t data_offset, struct entry *entry, struct error **error)
{
    entry->mode = header->mode;
    entry->uid = header->uid;
    entry->gid = header->gid;
    entry->mtime = header->mtime;
    entry->mtime_nsec = header->mtime_nsec;
    entry->size = header->size;
    entry->data_offset = data_offset;
    entry->device_major = header->device_major;
    entry->device_minor = header->device_minor;
    entry->xattrs = header->xattrs;
    entry->xattr_count = (uint32_t)header->xattr_count;
    if (header->sparse == TAR_NOT_SPARSE) return 0;
    if (entry->type != ENTRY_REGULAR)
        return error_set(error, ERROR_INVALID, "it has a sparse map and is no file");
    return sparse_segments_finish(sparse, header->real_size, header->size, entry, error);
}

int tar_entry_append(struct entry_table *table, const struct tar_header *header,
                     const struct sparse_segments *sparse, uint64_t data_offset,
                     struct error **error)
{
    char path[PATH_BYTES_MAX + 1], target[PATH_BYTES_MAX + 1];
    size_t length = 0, target_length = 0;
    struct entry entry = { .path = path };
    enum meaning meaning;

    if (entry_type_of(header->type, &entry.type, error) < 0) return -1;
    if (clean_path(header->name, path, &length, error) < 0) return -1;
    size_t raw_length = strlen(header->name);
    if ((header->type == '0' || header->type == 0) && raw_length > 0 &&
        header->name[raw_length - 1] == '/')
        entry.type = ENTRY_DIRECTORY; /* before ustar, directories were told so */

    if (read_whiteout(path, length, &meaning, &entry, error) < 0) return -1;
    if (meaning == MEANS_NOTHING) return 0;
    if (meaning == MEANS_ENTRY) {
        if (length == 0 && entry.type != ENTRY_DIRECTORY)
            return error_set(error, ERROR_INVALID, "it would replace the root directory");
        if (fill_entry(header, sparse, data_offset, &entry, error) < 0) return -1;
        entry.target = header->link;
        if (entry.type == ENTRY_HARDLINK) {
            if (clean_path(header->link, target, &target_length, error) < 0) return -1;
            if (target_length == 0)
                return error_set(error, ERROR_INVALID, "the hard link has no target");
            entry.target = target;
        }
    }
    return entry_table_append(table, &entry, error);
}
