/*
 * How reads are answered: from one device or several, at once or later, well or
 * not. The image is made up here (one file, of any layout), and so are the
 * devices; both stand in for the files of the same functions.
 */
#include <fcntl.h>
#include <stdatomic.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "tests/unit/mounted_rootfs.h"

#define ROOT_NID  40
#define FILE_NID  50
#define FILE_SIZE (8u * 1048576 + 100)

/* ---- the image: "file" in the root ---- */

/* Changed while it is served. */
static struct erofs_extent (*_Atomic layout)(uint64_t offset);
static _Atomic int map_failure; /* a negative errno */

int erofs_image_device(const struct erofs_image *image, uint32_t device, uint64_t *ret_length,
                       struct digest *ret_tag, struct error **error)
{
    (void)image, (void)device, (void)error;
    memset(ret_tag, 0, sizeof *ret_tag);
    *ret_length = FILE_SIZE;
    return 0;
}

int erofs_image_inode(const struct erofs_image *image, uint64_t nid, struct erofs_inode *ret)
{
    (void)image;
    *ret = (struct erofs_inode){ .nid = nid, .link_count = 1, .mode = S_IFREG | 0644 };
    if (nid == ROOT_NID) ret->mode = S_IFDIR | 0755;
    if (nid == FILE_NID) ret->size = FILE_SIZE;
    return nid == ROOT_NID || nid == FILE_NID ? 0 : -EIO;
}

int erofs_image_lookup(const struct erofs_image *image, const struct erofs_inode *directory,
                       const char *name, size_t length, uint64_t *ret_nid)
{
    (void)image, (void)directory;
    if (length != 4 || memcmp(name, "file", 4) != 0) return -ENOENT;
    *ret_nid = FILE_NID;
    return 0;
}

int erofs_image_readdir(const struct erofs_image *image, const struct erofs_inode *directory,
                        uint64_t cookie, struct erofs_dirent *ret)
{
    (void)image, (void)directory, (void)cookie, (void)ret;
    return 0;
}

int erofs_image_symlink(const struct erofs_image *image, const struct erofs_inode *inode,
                        const char **ret_target, size_t *ret_length)
{
    (void)image, (void)inode, (void)ret_target, (void)ret_length;
    return -EINVAL;
}

int erofs_image_map(const struct erofs_image *image, const struct erofs_inode *inode,
                    uint64_t offset, struct erofs_extent *ret)
{
    (void)image;
    *ret = atomic_load(&layout)(offset);
    if (ret->length > inode->size - offset) ret->length = inode->size - offset;
    return map_failure;
}

uint64_t erofs_image_stored_bytes(const struct erofs_image *image, const struct erofs_inode *inode)
{
    (void)image;
    return inode->size;
}

ssize_t erofs_image_getxattr(const struct erofs_image *image, const struct erofs_inode *inode,
                             const char *name, const void **ret_value)
{
    (void)image, (void)inode, (void)name, (void)ret_value;
    return -ENODATA;
}

ssize_t erofs_image_listxattr(const struct erofs_image *image, const struct erofs_inode *inode,
                              char *names, size_t capacity)
{
    (void)image, (void)inode, (void)names, (void)capacity;
    return 0;
}

static struct erofs_extent one_extent(uint64_t offset)
{
    return (struct erofs_extent){ 1, offset + 512, FILE_SIZE };
}

/* 8 KiB on device 1, 8 KiB of nothing, 8 KiB on device 2, ... in steps that no page border knows.
 */
static struct erofs_extent striped(uint64_t offset)
{
    static const uint32_t devices[] = { 1, 0, 2 };
    uint64_t stripe = offset / 8704, left = 8704 - offset % 8704;
    return (struct erofs_extent){ devices[stripe % 3], offset + 1024, left };
}

/* What belongs together, in pieces of a block. */
static struct erofs_extent shattered(uint64_t offset)
{
    return (struct erofs_extent){ 1, offset, 512 - offset % 512 };
}

static struct erofs_extent only_hole(uint64_t offset)
{
    (void)offset;
    return (struct erofs_extent){ 0, 0, FILE_SIZE };
}

/* Bytes of one run of device 1, every other one a hole: as a sparse file has them. */
static struct erofs_extent sprinkled(uint64_t offset)
{
    return (struct erofs_extent){ offset % 2 ? 0 : 1, offset / 2, 1 };
}

/* 100,000 bytes of data after every 100,000 of nothing, and a hole from 7,000,000 on. */
static struct erofs_extent sparse(uint64_t offset)
{
    uint64_t part = offset / 100000, left = 100000 - offset % 100000;
    if (part >= 70) return (struct erofs_extent){ 0, 0, FILE_SIZE };
    if (part % 2 == 0) return (struct erofs_extent){ 0, 0, left };
    return (struct erofs_extent){ 1, part / 2 * 100000 + offset % 100000, left };
}

/* What a hostile image could say. */
static struct erofs_extent no_such_device(uint64_t offset)
{
    return (struct erofs_extent){ 3, offset, FILE_SIZE };
}

static struct erofs_extent no_progress(uint64_t offset)
{
    return (struct erofs_extent){ 1, offset, 0 };
}

/* ---- devices ---- */

enum answer { AT_ONCE, LATER, NEVER, FAILING, SHORT };

struct parked {
    struct layer_device *device;
    uint64_t offset;
    size_t length;
    device_read_done *done;
    void *context;
    struct parked *next;
};

struct layer_device {
    uint8_t number;
    enum answer answer;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct parked *parked;
    size_t reads, parked_count;
    size_t longest;
    bool closed;
    pthread_t thread; /* LATER */
};

static struct layer_device devices[2];

static uint8_t device_byte(uint8_t device, uint64_t offset)
{
    return (uint8_t)(device * UINT64_C(101) + offset * 7 + (offset >> 12));
}

static void answer_read(struct layer_device *device, uint64_t offset, size_t length,
                        device_read_done *done, void *context)
{
    cleanup_free uint8_t *data = malloc(length);
    if (!data) abort();
    for (size_t i = 0; i < length; i++)
        data[i] = device_byte(device->number, offset + i);
    done(context, data, (ssize_t)length);
}

static void park(struct layer_device *device, uint64_t offset, size_t length,
                 device_read_done *done, void *context)
{
    struct parked *parked = malloc(sizeof *parked);
    if (!parked) abort();
    pthread_mutex_lock(&device->lock);
    if (device->closed) abort();
    *parked = (struct parked){ device, offset, length, done, context, device->parked };
    device->parked = parked;
    device->parked_count++;
    pthread_cond_broadcast(&device->changed);
    pthread_mutex_unlock(&device->lock);
}

void layer_device_read(struct layer_device *device, struct device_reader *reader, uint64_t offset,
                       size_t length, device_read_done *done, void *context)
{
    (void)reader;
    pthread_mutex_lock(&device->lock);
    device->reads++;
    if (length > device->longest) device->longest = length;
    pthread_mutex_unlock(&device->lock);
    switch (device->answer) {
    case AT_ONCE:
        answer_read(device, offset, length, done, context);
        break;
    case LATER:
    case NEVER:
        park(device, offset, length, done, context);
        break;
    case FAILING:
        done(context, NULL, -EIO);
        break;
    case SHORT:
        done(context, "", length > 1 ? 1 : 0);
        break;
    }
}

/* Answers what is parked, the newest first, until the device is closed. */
static void *answer_later(void *context)
{
    struct layer_device *device = context;
    pthread_mutex_lock(&device->lock);
    while (!device->closed || device->parked) {
        struct parked *parked = device->parked;
        if (!parked) {
            pthread_cond_wait(&device->changed, &device->lock);
            continue;
        }
        device->parked = parked->next;
        pthread_mutex_unlock(&device->lock);
        answer_read(device, parked->offset, parked->length, parked->done, parked->context);
        free(parked);
        pthread_mutex_lock(&device->lock);
    }
    pthread_mutex_unlock(&device->lock);
    return NULL;
}

static void open_device(struct layer_device *device, uint8_t number, enum answer answer)
{
    memset(device, 0, sizeof *device);
    device->number = number;
    device->answer = answer;
    pthread_mutex_init(&device->lock, NULL);
    pthread_cond_init(&device->changed, NULL);
    if (answer == LATER)
        assert_int_equal(pthread_create(&device->thread, NULL, answer_later, device), 0);
}

/* As layer_device_close(): what is parked ends with EIO; what comes now is a mistake. */
static void close_device(struct layer_device *device)
{
    pthread_mutex_lock(&device->lock);
    device->closed = true;
    pthread_cond_broadcast(&device->changed);
    pthread_mutex_unlock(&device->lock);
    if (device->answer == LATER) pthread_join(device->thread, NULL);
    while (device->parked) {
        struct parked *parked = device->parked;
        device->parked = parked->next;
        parked->done(parked->context, NULL, -EIO);
        free(parked);
    }
    pthread_mutex_destroy(&device->lock);
    pthread_cond_destroy(&device->changed);
}

/* ---- */

static struct mounted mounted;
static struct erofs_image image = { .root_nid = ROOT_NID, .inode_count = 2, .device_count = 2 };

static void mount_file(struct erofs_extent (*extents)(uint64_t offset), enum answer answer)
{
    need_fuse();
    layout = extents;
    map_failure = 0;
    open_device(&devices[0], 1, answer);
    open_device(&devices[1], 2, answer);
    mounted_start(&mounted, &image, (struct layer_device *[]){ &devices[0], &devices[1] }, 2);
}

/* After a failed test: parked reads must be answered first, here too. */
static int tear_down(void **state)
{
    (void)state;
    if (!mounted_now) return 0;
    rootfs_stop(mounted.rootfs);
    mounted_join(&mounted);
    close_device(&devices[0]);
    close_device(&devices[1]);
    return mounted_release(&mounted);
}

static void end_file(void)
{
    assert_int_equal(tear_down(NULL), 0);
}

static uint8_t expected_byte(uint64_t offset)
{
    struct erofs_extent extent = atomic_load(&layout)(offset);
    return extent.device ? device_byte((uint8_t)extent.device, extent.device_offset) : 0;
}

static int open_file(int flags)
{
    int file = open(mounted_path(&mounted, "file"), O_RDONLY | O_CLOEXEC | flags);
    assert_true(file >= 0);
    return file;
}

static void assert_right(const uint8_t *data, uint64_t offset, size_t length)
{
    for (size_t i = 0; i < length; i++)
        if (data[i] != expected_byte(offset + i))
            fail_msg("byte %llu is wrong", (unsigned long long)(offset + i));
}

/* Whole, then in pieces past the page cache. */
static void assert_file_right(void)
{
    cleanup_buffer struct buffer content = { 0 };
    assert_int_equal(file_read(mounted_path(&mounted, "file"), FILE_SIZE, &content, NULL), 0);
    assert_int_equal(content.length, FILE_SIZE);
    assert_right(content.data, 0, FILE_SIZE);

    cleanup_close int file = open_file(O_DIRECT);
    uint8_t *piece = aligned_alloc(4096, 2 << 20);
    assert_non_null(piece);
    for (unsigned i = 0; i < 10; i++) {
        uint64_t offset = i * UINT64_C(829440); /* no multiple of a page */
        ssize_t count = pread(file, piece, (2 << 20) - i * 512, (off_t)offset);
        assert_true(count > 0);
        assert_right(piece, offset, (size_t)count);
    }
    assert_int_equal(pread(file, piece, 4096, FILE_SIZE - 1), 1);
    assert_int_equal(pread(file, piece, 4096, FILE_SIZE), 0);
    free(piece);
}

static void test_one_extent(void **state)
{
    (void)state;
    mount_file(one_extent, AT_ONCE);
    assert_file_right();
    assert_true(devices[0].longest <= 4 << 20);
    end_file();
}

static void test_one_extent_answered_later(void **state)
{
    (void)state;
    mount_file(one_extent, LATER);
    assert_file_right();
    end_file();
}

static void test_stripes_and_holes(void **state)
{
    (void)state;
    mount_file(striped, AT_ONCE);
    assert_file_right();
    end_file();
}

static void test_stripes_and_holes_answered_later(void **state)
{
    (void)state;
    mount_file(striped, LATER);
    assert_file_right();
    end_file();
}

/* Neighbours on a device are one read of it. */
static void test_pieces_that_belong_together(void **state)
{
    (void)state;
    mount_file(shattered, AT_ONCE);
    cleanup_close int file = open_file(O_DIRECT);
    uint8_t *data = aligned_alloc(4096, 65536);
    assert_non_null(data);
    assert_int_equal(pread(file, data, 65536, 0), 65536);
    assert_right(data, 0, 65536);
    assert_int_equal(devices[0].reads, 1);
    free(data);
    end_file();
}

/* However many holes lie between: what is one piece on the device is one read of it. */
static void test_data_between_holes(void **state)
{
    (void)state;
    mount_file(sprinkled, AT_ONCE);
    cleanup_close int file = open_file(O_DIRECT);
    uint8_t *data = aligned_alloc(4096, 65536);
    assert_non_null(data);
    assert_int_equal(pread(file, data, 65536, 4096), 65536);
    assert_right(data, 4096, 65536);
    assert_int_equal(devices[0].reads, 1);
    assert_int_equal(devices[0].longest, 32768);
    free(data);
    end_file();
    mount_file(sprinkled, LATER);
    assert_file_right();
    end_file();
    mount_file(sparse, LATER);
    assert_file_right();
    end_file();
}

static void test_seeking_holes(void **state)
{
    (void)state;
    image.sparse_device = 3;
    mount_file(sparse, AT_ONCE);
    cleanup_close int file = open_file(0);
    assert_int_equal(lseek(file, 0, SEEK_DATA), 100000);
    assert_int_equal(lseek(file, 0, SEEK_HOLE), 0);
    assert_int_equal(lseek(file, 150000, SEEK_DATA), 150000);
    assert_int_equal(lseek(file, 150000, SEEK_HOLE), 200000);
    assert_int_equal(lseek(file, FILE_SIZE - 1, SEEK_HOLE), FILE_SIZE - 1);
    assert_int_equal(lseek(file, 7000000, SEEK_DATA), -1);
    assert_int_equal(errno, ENXIO);
    assert_int_equal(lseek(file, FILE_SIZE, SEEK_HOLE), -1);
    assert_int_equal(errno, ENXIO);
    end_file();
    mount_file(one_extent, AT_ONCE);
    cleanup_close int dense = open_file(0);
    assert_int_equal(lseek(dense, 5, SEEK_DATA), 5);
    assert_int_equal(lseek(dense, 5, SEEK_HOLE), FILE_SIZE);
    end_file();
    /* Where there are no sparse files, the kernel knows by itself. */
    image.sparse_device = 0;
    mount_file(one_extent, AT_ONCE);
    cleanup_close int plain = open_file(0);
    assert_int_equal(lseek(plain, 5, SEEK_HOLE), FILE_SIZE);
    assert_int_equal(lseek(plain, 5, SEEK_DATA), 5);
    end_file();
}

static void test_hole(void **state)
{
    (void)state;
    mount_file(only_hole, FAILING);
    assert_file_right();
    assert_int_equal(devices[0].reads, 0);
    end_file();
}

static void assert_read_fails(void)
{
    cleanup_close int file = open_file(O_DIRECT);
    uint8_t *data = aligned_alloc(4096, 65536);
    assert_non_null(data);
    assert_int_equal(pread(file, data, 65536, 4096), -1);
    assert_int_equal(errno, EIO);
    free(data);
}

static void test_failures(void **state)
{
    (void)state;
    static const enum answer answers[] = { FAILING, SHORT };
    for (size_t i = 0; i < 2; i++) {
        mount_file(one_extent, answers[i]);
        assert_read_fails();
        end_file();
        mount_file(striped, answers[i]);
        assert_read_fails();
        end_file();
    }
}

static void test_hostile_extents(void **state)
{
    (void)state;
    mount_file(no_such_device, AT_ONCE);
    assert_read_fails();
    layout = no_progress;
    assert_read_fails();
    layout = one_extent;
    map_failure = -EIO;
    assert_read_fails();
    map_failure = 0;
    assert_file_right();
    end_file();
}

struct reader {
    pthread_t thread;
    int file;
    off_t offset;
    ssize_t result;
};

static void *read_a_page(void *context)
{
    struct reader *reader = context;
    void *data = aligned_alloc(4096, 1 << 20);
    if (!data) abort();
    reader->result = pread(reader->file, data, 1 << 20, reader->offset);
    free(data);
    return NULL;
}

#define READERS 48

/* More readers than there are threads, none of whom gets an answer; then everything ends. More
 * than fits into the memory that gathering may use, if it is gathered. */
static void stop_under_readers(struct erofs_extent (*extents)(uint64_t offset))
{
    mount_file(extents, NEVER);
    struct reader readers[READERS];
    for (size_t i = 0; i < READERS; i++) {
        readers[i].file = open_file(O_DIRECT);
        readers[i].offset = (off_t)(i % 8) << 20;
        assert_int_equal(pthread_create(&readers[i].thread, NULL, read_a_page, &readers[i]), 0);
    }
    pthread_mutex_lock(&devices[0].lock);
    while (devices[0].parked_count < READERS / 2)
        pthread_cond_wait(&devices[0].changed, &devices[0].lock);
    pthread_mutex_unlock(&devices[0].lock);

    /* Metadata is answered all the same. */
    struct stat status;
    assert_int_equal(access(mounted_path(&mounted, "missing"), F_OK), -1);
    assert_int_equal(stat(mounted_path(&mounted, "file"), &status), 0);

    end_file();
    for (size_t i = 0; i < READERS; i++) {
        pthread_join(readers[i].thread, NULL);
        assert_int_equal(readers[i].result, -1);
        close(readers[i].file);
    }
}

static void test_stop_while_reads_are_parked(void **state)
{
    (void)state;
    stop_under_readers(one_extent);
}

static void test_stop_while_reads_are_gathered(void **state)
{
    (void)state;
    stop_under_readers(striped);
}

/* Gathers that wait for memory are started when others are done. */
static void test_many_gathers(void **state)
{
    (void)state;
    mount_file(striped, LATER);
    struct reader readers[READERS];
    for (size_t i = 0; i < READERS; i++) {
        readers[i].file = open_file(O_DIRECT);
        readers[i].offset = (off_t)(i % 8) << 20;
        assert_int_equal(pthread_create(&readers[i].thread, NULL, read_a_page, &readers[i]), 0);
    }
    for (size_t i = 0; i < READERS; i++) {
        pthread_join(readers[i].thread, NULL);
        assert_int_equal(readers[i].result, 1 << 20);
        close(readers[i].file);
    }
    end_file();
}

int main(void)
{
    /* A file system that answers nothing would keep the test for ever. */
    alarm(600);
#define TEST(name) cmocka_unit_test_teardown(name, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_one_extent),
        TEST(test_one_extent_answered_later),
        TEST(test_stripes_and_holes),
        TEST(test_stripes_and_holes_answered_later),
        TEST(test_pieces_that_belong_together),
        TEST(test_data_between_holes),
        TEST(test_seeking_holes),
        TEST(test_hole),
        TEST(test_failures),
        TEST(test_hostile_extents),
        TEST(test_stop_while_reads_are_parked),
        TEST(test_stop_while_reads_are_gathered),
        TEST(test_many_gathers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
