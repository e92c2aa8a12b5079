/*
 * Fed: what a name meant, and how somebody changed its file in the cache.
 *
 * Holds: the name then means what it meant, or nothing is known of it.
 */
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cache/cache.h"
#include "tests/fuzz/fuzz.h"

#define NAME "image registry.example.com/a:latest linux/amd64"

static char directory[] = "/tmp/sluice-fuzz-XXXXXX";
static struct cache *cache;

static void remove_all(void)
{
    char command[100];
    cache_free(cache);
    snprintf(command, sizeof command, "rm -rf '%s'", directory);
    (void)!system(command); // NOLINT(concurrency-mt-unsafe)
}

static void open_cache(void)
{
    struct error *error = NULL;
    EXPECT(mkdtemp(directory));
    EXPECT_SUCCESS(cache_open(&cache, directory, &error));
    EXPECT(atexit(remove_all) == 0);
}

/* The only file there is. */
static int open_record(void)
{
    char path[100];
    snprintf(path, sizeof path, "%s/names", directory);
    DIR *listing = opendir(path);
    EXPECT(listing);
    struct dirent *entry;
    int found = -1;
    while ((entry = readdir(listing)))
        if (entry->d_name[0] != '.') found = openat(dirfd(listing), entry->d_name, O_RDWR);
    closedir(listing);
    return found;
}

/* Bytes here and there, or all of them, or another length. */
static void damage(const uint8_t *data, size_t length)
{
    int descriptor = open_record();
    EXPECT(descriptor >= 0);
    while (length > 0) {
        uint8_t how = (uint8_t)take_number(&data, &length, 1);
        off_t place = (off_t)take_number(&data, &length, 1);
        size_t count = how % 64;
        if (count > length) count = length;
        if (how >= 192)
            EXPECT(ftruncate(descriptor, place) == 0);
        else
            EXPECT(pwrite(descriptor, data, count, place) == (ssize_t)count);
        data += count;
        length -= count;
    }
    close(descriptor);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
    if (!cache) open_cache();
    struct error *error = NULL;
    struct buffer found = { 0 };
    size_t meaning = (size_t)take_number(&data, &length, 1);
    if (meaning > length) meaning = length;
    EXPECT_SUCCESS(cache_remember(cache, NAME, data, meaning, &error));
    damage(data + meaning, length - meaning);
    if (cache_recall(cache, NAME, 1000, &found, &error) == 0)
        EXPECT(found.length == meaning && (meaning == 0 || memcmp(found.data, data, meaning) == 0));
    else
        expect_error(error);
    error_free(error);
    buffer_free(&found);
    return 0;
}
