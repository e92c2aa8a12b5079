/*
 * The 512-byte header block: POSIX.1-2017, pax, "ustar Interchange Format";
 * GNU tar manual, "Basic Tar Format".
 */
#include <string.h>

#include "index/tar-internal.h"

/* Fields not used here are skipped. */
#define NAME_OFFSET     0
#define NAME_LENGTH     100
#define MODE_OFFSET     100
#define UID_OFFSET      108
#define GID_OFFSET      116
#define SIZE_OFFSET     124
#define MTIME_OFFSET    136
#define CHECKSUM_OFFSET 148
#define TYPE_OFFSET     156
#define LINK_OFFSET     157
#define MAGIC_OFFSET    257
#define MAJOR_OFFSET    329
#define MINOR_OFFSET    337
#define PREFIX_OFFSET   345

int tar_number(const uint8_t *field, size_t length, int64_t *ret)
{
    if (field[0] & 0x80) {
        bool negative = field[0] & 0x40;
        uint64_t value = negative ? UINT64_MAX : 0;
        for (size_t i = 0; i < length; i++) {
            uint8_t byte = i > 0 ? field[i] : negative ? field[i] : field[i] & 0x7f;
            if (value >> 55 != (negative ? 0x1ff : 0)) return -1; /* would lose bits or the sign */
            value = value << 8 | byte;
        }
        *ret = (int64_t)value;
        return 0;
    }
    size_t start = 0, end = length;
    while (start < end && (field[start] == ' ' || field[start] == 0))
        start++;
    while (end > start && (field[end - 1] == ' ' || field[end - 1] == 0))
        end--;
    uint64_t value = 0;
    for (; start < end && field[start] != 0; start++) {
        if (field[start] < '0' || field[start] > '7') return -1;
        value = value << 3 | (uint64_t)(field[start] - '0'); /* 12 digits at most: 36 bits */
    }
    *ret = (int64_t)value;
    return 0;
}

int tar_decimal(const char **text, uint64_t *ret)
{
    const char *digit = *text;
    uint64_t value = 0;
    for (; *digit >= '0' && *digit <= '9'; digit++)
        if (__builtin_mul_overflow(value, 10, &value) ||
            __builtin_add_overflow(value, (uint64_t)(*digit - '0'), &value))
            return -1;
    if (digit == *text) return -1;
    *text = digit;
    *ret = value;
    return 0;
}

int tar_size(const uint8_t *field, uint64_t *ret, struct error **error)
{
    int64_t size;
    if (tar_number(field, 12, &size) < 0 || size < 0)
        return error_set(error, ERROR_INVALID, "its size is out of range");
    *ret = (uint64_t)size;
    return 0;
}

bool tar_block_is_zero(const uint8_t *block)
{
    return block[0] == 0 && memcmp(block, block + 1, TAR_BLOCK - 1) == 0;
}

bool tar_block_is_gnu(const uint8_t *block)
{
    return memcmp(block + MAGIC_OFFSET, "ustar  ", 8) == 0;
}

int tar_check_checksum(const uint8_t *block)
{
    int64_t written;
    uint32_t unsigned_sum = 0;
    int32_t signed_sum = 0; /* what some old writers made */
    for (size_t i = 0; i < TAR_BLOCK; i++) {
        uint8_t byte = i >= CHECKSUM_OFFSET && i < CHECKSUM_OFFSET + 8 ? ' ' : block[i];
        unsigned_sum += byte;
        signed_sum += (int8_t)byte;
    }
    if (tar_number(block + CHECKSUM_OFFSET, 8, &written) < 0) return -1;
    return written == unsigned_sum || written == signed_sum ? 0 : -1;
}

static void copy_field(char *to, const uint8_t *field, size_t length)
{
    size_t used = strnlen((const char *)field, length);
    memcpy(to, field, used);
    to[used] = 0;
}

/* "prefix/name" in ustar; star gives the last 24 bytes of the prefix to times; GNU has none. */
static void read_name(const uint8_t *block, char name[300])
{
    size_t prefix_length = 0;
    if (memcmp(block + MAGIC_OFFSET, "ustar\0", 6) == 0) {
        bool star = memcmp(block + 508, "tar\0", 4) == 0;
        prefix_length = strnlen((const char *)block + PREFIX_OFFSET, star ? 131 : 155);
    }
    if (prefix_length) {
        memcpy(name, block + PREFIX_OFFSET, prefix_length);
        name[prefix_length++] = '/';
    }
    copy_field(name + prefix_length, block + NAME_OFFSET, NAME_LENGTH);
}

int tar_header_start(struct tar_header *header, const uint8_t *block, struct error **error)
{
    *header = (struct tar_header){ .type = (char)block[TYPE_OFFSET] };
    read_name(block, header->block_name);
    copy_field(header->block_link, block + LINK_OFFSET, NAME_LENGTH);
    header->name = header->block_name;
    header->link = header->block_link;
    return tar_size(block + SIZE_OFFSET, &header->size, error);
}

static int read_u32(const uint8_t *field, const char *what, uint32_t *ret, struct error **error)
{
    int64_t value;
    if (tar_number(field, 8, &value) < 0 || value < 0 || value > UINT32_MAX)
        return error_set(error, ERROR_INVALID, "its %s is out of range", what);
    *ret = (uint32_t)value;
    return 0;
}

int tar_header_read(struct tar_header *header, const uint8_t *block, struct error **error)
{
    int64_t mode;
    if (tar_number(block + MODE_OFFSET, 8, &mode) < 0)
        return error_set(error, ERROR_INVALID, "its mode is malformed");
    header->mode = (uint32_t)mode & 07777; /* old writers add the file type */
    if (read_u32(block + UID_OFFSET, "user id", &header->uid, error) < 0) return -1;
    if (read_u32(block + GID_OFFSET, "group id", &header->gid, error) < 0) return -1;
    if (tar_number(block + MTIME_OFFSET, 12, &header->mtime) < 0)
        return error_set(error, ERROR_INVALID, "its time is malformed");
    if ((header->type == '3' || header->type == '4') &&
        memcmp(block + MAGIC_OFFSET, "ustar", 5) == 0) {
        if (read_u32(block + MAJOR_OFFSET, "device number", &header->device_major, error) < 0)
            return -1;
        if (read_u32(block + MINOR_OFFSET, "device number", &header->device_minor, error) < 0)
            return -1;
    }
    return 0;
}
