/* A FUSE file system that is served by a thread of the test itself. */
#ifndef SLUICE_TESTS_MOUNTED_ROOTFS_H
#define SLUICE_TESTS_MOUNTED_ROOTFS_H

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "fuse/rootfs.h"

struct mounted {
    char directory[64];
    struct rootfs *rootfs;
    pthread_t thread;
    sem_t changed; /* ready, or ended before that */
    bool joined;
    bool is_ready;
    int result;
    struct error *error;
};

/* The one that is mounted now. In static memory of the test: after a failed assertion, its function
 * is left while the server runs on. */
static struct mounted *mounted_now;

/* A machine without FUSE can still run the other tests; one that checks changes must not. */
static inline void need_fuse(void)
{
    if (geteuid() == 0 && access("/dev/fuse", R_OK | W_OK) == 0) return;
    const char *ci = getenv("CI");
    if (ci && strcmp(ci, "true") == 0) fail_msg("needs root and /dev/fuse");
    print_message("skipped: needs root and /dev/fuse\n");
    skip();
}

static inline void mounted_is_ready(void *context)
{
    struct mounted *mounted = context;
    mounted->is_ready = true;
    sem_post(&mounted->changed);
}

static inline void *mounted_serve(void *context)
{
    struct mounted *mounted = context;
    mounted->result = rootfs_serve(mounted->rootfs, mounted_is_ready, mounted, &mounted->error);
    sem_post(&mounted->changed);
    return NULL;
}

static inline void mounted_start(struct mounted *mounted, const struct erofs_image *image,
                                 struct layer_device *const *devices, uint32_t device_count)
{
    memset(mounted, 0, sizeof *mounted);
    mounted_now = mounted;
    snprintf(mounted->directory, sizeof mounted->directory, "/tmp/sluice-rootfs.XXXXXX");
    assert_non_null(mkdtemp(mounted->directory));
    assert_int_equal(sem_init(&mounted->changed, 0, 0), 0);
    struct rootfs_options options = { .mountpoint = mounted->directory,
                                      .source = "localhost:5000/a, b\\c:tag" };
    if (rootfs_mount(&mounted->rootfs, image, devices, device_count, &options, &mounted->error) < 0)
        fail_msg("%s", error_message(mounted->error));
    assert_int_equal(pthread_create(&mounted->thread, NULL, mounted_serve, mounted), 0);
    while (sem_wait(&mounted->changed) < 0)
        continue;
    if (!mounted->is_ready) fail_msg("%s", error_message(mounted->error));
}

/* Waits until rootfs_serve() has returned without an error. */
static inline void mounted_join(struct mounted *mounted)
{
    if (mounted->joined) return;
    pthread_join(mounted->thread, NULL);
    mounted->joined = true;
    if (mounted->result < 0) fail_msg("%s", error_message(mounted->error));
}

static inline int mounted_release(struct mounted *mounted)
{
    mounted_now = NULL;
    if (mounted->rootfs) {
        rootfs_stop(mounted->rootfs);
        if (!mounted->joined) pthread_join(mounted->thread, NULL);
        rootfs_free(mounted->rootfs);
    }
    sem_destroy(&mounted->changed);
    return rmdir(mounted->directory);
}

static inline void mounted_end(struct mounted *mounted)
{
    rootfs_stop(mounted->rootfs);
    mounted_join(mounted);
    assert_int_equal(mounted_release(mounted), 0);
}

/* Leaves nothing mounted behind a test that failed. */
static inline int mounted_tear_down(void **state)
{
    (void)state;
    return mounted_now ? mounted_release(mounted_now) : 0;
}

/* A name inside it; a few stay valid at a time. */
static inline const char *mounted_path(const struct mounted *mounted, const char *name)
{
    static char paths[8][512];
    static unsigned next;
    char *path = paths[next++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", mounted->directory, name);
    return path;
}

#endif
