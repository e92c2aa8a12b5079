/*
 * Processes that die, disks that forget, files that somebody changed: whatever
 * is found in the directory afterwards, what is read is the stream.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "tests/unit/cache_server.h"

#define FOREVER 1000000u

/* A process with two servers that store and evict until it is killed. */
static pid_t start_busy_process(const struct fixture *fixture)
{
    pid_t child = fork();
    assert_true(child >= 0);
    if (child > 0) return child;
    struct server servers[2];
    struct reader readers[READERS];
    registry_start(fixture);
    server_start(&servers[0], fixture, fixture->directory, QUOTA);
    server_start(&servers[1], fixture, fixture->directory, QUOTA);
    start_readers(readers, servers, 2, FOREVER);
    join_readers(readers);
    _exit(1);
}

static void kill_process(pid_t child)
{
    int status;
    assert_int_equal(kill(child, SIGKILL), 0);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static bool is_alive(pid_t child)
{
    int status;
    return waitpid(child, &status, WNOHANG) == 0;
}

/* Reads all of the stream twice; what the first pass stored the second may find evicted. */
static struct data_path_statistics read_all(const struct fixture *fixture, const char *directory)
{
    struct server server;
    struct data_path_statistics statistics;
    registry_start(fixture);
    server_start(&server, fixture, directory, QUOTA);
    expect_all(&server);
    expect_all(&server);
    data_path_statistics(server.path, &statistics);
    server_stop(&server);
    fake_stop();
    assert_int_equal(statistics.read_errors, 0);
    return statistics;
}

/* Without a power loss the disk has all that was written: what counts as stored is right, and what
 * was left behind is found. */
static void killed_at_any_moment(void **state)
{
    (void)state;
    struct fixture *fixture = fixture_new();
    uint32_t random = (uint32_t)getpid();
    print_message("seed %u\n", random);
    for (unsigned round = 0; round < 12; round++) {
        pid_t child = start_busy_process(fixture);
        wait_milliseconds(20 + next_random(&random) % 80);
        assert_true(is_alive(child));
        kill_process(child);
        if (round % 4 != 3) continue;
        assert_int_equal(read_all(fixture, fixture->directory).chunks_damaged, 0);
        assert_true(on_disk(fixture->directory) <= QUOTA + SLACK);
    }
    fixture_free(fixture);
}

/* ---- copies ---- */

static void copy_directory(const char *from, const char *to)
{
    pid_t child = fork();
    if (child == 0) {
        int null = open("/dev/null", O_WRONLY);
        dup2(null, STDERR_FILENO); /* files vanish while they are copied */
        execlp("cp", "cp", "-r", from, to, (char *)NULL);
        _exit(127);
    }
    int status;
    waitpid(child, &status, 0);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) != 127);
}

/* As a disk does that lost what was written last, or lies: pages of zeros, flipped bits. */
static void damage_file(const char *path, uint32_t *random)
{
    static const uint8_t zeros[4096];
    struct stat status;
    int file = open(path, O_RDWR);
    if (file < 0) return;
    if (fstat(file, &status) == 0 && status.st_size > 0) {
        for (unsigned i = 0; i < 20; i++) {
            off_t offset = (off_t)((uint64_t)next_random(random) % (uint64_t)status.st_size);
            uint8_t byte = 0;
            if (i % 2) {
                offset -= offset % 4096;
                size_t left = (size_t)(status.st_size - offset);
                if (pwrite(file, zeros, left < 4096 ? left : 4096, offset) < 0) abort();
            } else if (pread(file, &byte, 1, offset) == 1) {
                byte ^= (uint8_t)(1u << next_random(random) % 8);
                if (pwrite(file, &byte, 1, offset) < 0) abort();
            }
        }
    }
    close(file);
}

static void damage_states(const char *path, uint32_t *random)
{
    int file = open(path, O_RDWR);
    if (file < 0) return;
    for (unsigned i = 0; i < 100; i++) {
        uint32_t state = next_random(random) | 1;
        off_t offset = 64 + 4 * (off_t)CHUNKS + 4 * (off_t)(next_random(random) % CHUNKS);
        if (pwrite(file, &state, 4, offset) < 0) abort();
    }
    close(file);
}

static void copied_at_any_moment_and_damaged(void **state)
{
    (void)state;
    struct fixture *fixture = fixture_new();
    uint32_t random = (uint32_t)getpid();
    print_message("seed %u\n", random);
    pid_t child = start_busy_process(fixture);
    for (unsigned round = 0; round < 6; round++) {
        char *directory = temporary_directory_make(), *copy = NULL;
        wait_milliseconds(next_random(&random) % 60);
        assert_true(asprintf(&copy, "%s/copy", directory) > 0);
        copy_directory(fixture->directory, copy);
        char *data = file_of_layer(copy, "data"), *chunks = file_of_layer(copy, "chunks");
        if (round % 3 > 0) damage_file(data, &random);
        if (round % 3 == 1) damage_states(chunks, &random);
        if (round % 3 == 2) damage_file(chunks, &random);
        read_all(fixture, copy);
        free(data);
        free(chunks);
        free(copy);
        temporary_directory_remove(directory);
    }
    assert_true(is_alive(child));
    kill_process(child);
    fixture_free(fixture);
}

/* ---- what was left behind ---- */

/* Bytes that no state tells of, as after a death between writing and publishing. */
static void bytes_that_nobody_finds_are_given_back(void **state)
{
    const struct fixture *fixture = *state;
    struct server server;
    server_start(&server, fixture, fixture->directory, 0);
    char *path = file_of_layer(fixture->directory, "data");
    int file = open(path, O_WRONLY);
    for (uint64_t offset = 0; offset < 4 * QUOTA; offset += CHUNK_SIZE)
        assert_int_equal(pwrite(file, fixture->layer.stream, CHUNK_SIZE, (off_t)offset),
                         CHUNK_SIZE);
    close(file);
    free(path);
    assert_true(on_disk(fixture->directory) >= 4 * QUOTA);
    cache_set_limits(server.cache, &(struct cache_limits){ .size = QUOTA });
    while (on_disk(fixture->directory) > QUOTA)
        wait_milliseconds(1);
    expect_all(&server);
    server_stop(&server);
}

/* A process that was stopped while it evicts: nobody waits for it for long. */
static void stopped_evictor_holds_nobody_up(void **state)
{
    const struct fixture *fixture = *state;
    struct server server;
    struct flock byte = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 1 };
    char *path = NULL;
    server_start(&server, fixture, fixture->directory, QUOTA);
    assert_true(asprintf(&path, "%s/lock", fixture->directory) > 0);
    int file = open(path, O_RDWR);
    while (fcntl(file, F_OFD_SETLK, &byte) < 0)
        wait_milliseconds(1);
    expect_all(&server);
    struct data_path_statistics statistics;
    data_path_statistics(server.path, &statistics);
    assert_int_equal(statistics.read_errors, 0);
    assert_true(on_disk(fixture->directory) <= QUOTA + SLACK);
    close(file);
    server_stop(&server);
    free(path);
}

/* The directory is taken away under a server. */
static void directory_that_vanishes_costs_no_read(void **state)
{
    const struct fixture *fixture = *state;
    struct server server;
    server_start(&server, fixture, fixture->directory, 0);
    struct asked *asked = ask(server.device, 0, 40 * CHUNK_SIZE);
    expect_bytes_of(asked, fixture->layer.stream, STREAM, 0, 40 * CHUNK_SIZE);
    pid_t child = fork();
    if (child == 0) {
        execlp("rm", "rm", "-rf", fixture->directory, (char *)NULL);
        _exit(127);
    }
    int status;
    waitpid(child, &status, 0);
    expect_all(&server);
    struct data_path_statistics statistics;
    data_path_statistics(server.path, &statistics);
    assert_int_equal(statistics.read_errors, 0);
    assert_int_equal(statistics.chunks_damaged, 0);
    assert_true(statistics.store_errors > 0);
    server_stop(&server);
}

static void chunks_file_cut_off_under_a_server_costs_no_read(void **state)
{
    const struct fixture *fixture = *state;
    struct server server;
    server_start(&server, fixture, fixture->directory, 0);
    struct asked *asked = ask(server.device, 0, 40 * CHUNK_SIZE);
    expect_bytes_of(asked, fixture->layer.stream, STREAM, 0, 40 * CHUNK_SIZE);
    char *path = file_of_layer(fixture->directory, "chunks");
    assert_int_equal(truncate(path, 0), 0);
    free(path);
    expect_all(&server);
    expect_all(&server);
    server_stop(&server);
    server_start(&server, fixture, fixture->directory, 0);
    expect_all(&server);
    server_stop(&server);
}

/* ---- blobs and names ---- */

static void what_a_mount_needs_is_not_evicted(void **state)
{
    const struct fixture *fixture = *state;
    struct cache *mine = NULL, *other = NULL;
    struct digest blobs[8], name;
    struct buffer found = { 0 };
    uint64_t freed;
    assert_int_equal(cache_open(&mine, fixture->directory, NULL), 0);
    assert_int_equal(cache_open(&other, fixture->directory, NULL), 0);
    for (unsigned i = 0; i < 8; i++) {
        digest_of(fixture->layer.stream + i, 100000, &blobs[i]);
        assert_int_equal(cache_put_blob(mine, &blobs[i], fixture->layer.stream + i, 100000, NULL),
                         0);
    }
    digest_of("a name", 6, &name);
    assert_int_equal(cache_remember(mine, "a name", "{}", 2, NULL), 0);
    assert_int_equal(cache_remember(mine, "another", "{}", 2, NULL), 0);
    const struct digest needed[3] = { blobs[0], blobs[5], name };
    struct cache_user *user = NULL;
    const struct cache_use use = {
        .image = "image", .mountpoint = "/mnt", .needed = needed, .needed_count = 3
    };
    assert_int_equal(cache_declare_use(mine, &use, &user, NULL), 0);

    assert_int_equal(cache_prune(other, 0, &freed, NULL), 0);
    assert_true(freed >= 600000);
    for (unsigned i = 0; i < 8; i++)
        assert_int_equal(cache_get_blob(other, &blobs[i], 100000, &found, NULL),
                         i == 0 || i == 5 ? 0 : -1);
    assert_int_equal(cache_recall(other, "a name", 10, &found, NULL), 0);
    assert_int_equal(cache_recall(other, "another", 10, &found, NULL), -1);

    cache_end_use(user);
    cache_free(mine);
    assert_int_equal(cache_prune(other, 0, &freed, NULL), 0);
    assert_int_equal(cache_get_blob(other, &blobs[0], 100000, &found, NULL), -1);
    cache_free(other);
    buffer_free(&found);
}

static void set_age(const struct fixture *fixture, const struct digest *blob, time_t seconds)
{
    char name[DIGEST_HEX_SIZE];
    const struct timespec then = { .tv_sec = time(NULL) - seconds };
    char *path = format_text("%s/blobs/%s", fixture->directory, digest_format_hex(blob, name));
    assert_int_equal(utimensat(AT_FDCWD, path, (const struct timespec[2]){ then, then }, 0), 0);
    free(path);
}

/* It was read an hour ago, when the mount began, and of use until the mount has ended. */
static void what_a_mount_needed_was_used_until_its_end(void **state)
{
    const struct fixture *fixture = *state;
    struct cache *mine, *other;
    struct digest blobs[4];
    struct buffer found = { 0 };
    uint64_t freed;
    assert_int_equal(cache_open(&mine, fixture->directory, NULL), 0);
    assert_int_equal(cache_open(&other, fixture->directory, NULL), 0);
    for (unsigned i = 0; i < 4; i++) {
        digest_of(fixture->layer.stream + i, 100000, &blobs[i]);
        assert_int_equal(cache_put_blob(mine, &blobs[i], fixture->layer.stream + i, 100000, NULL),
                         0);
        set_age(fixture, &blobs[i], i == 0 ? 3600 : 600);
    }
    struct cache_user *user = NULL;
    const struct cache_use use = {
        .image = "image", .mountpoint = "/mnt", .needed = blobs, .needed_count = 1
    };
    assert_int_equal(cache_declare_use(mine, &use, &user, NULL), 0);
    cache_end_use(user);
    cache_free(mine);
    assert_int_equal(cache_prune(other, 250000, &freed, NULL), 0);
    assert_true(freed >= 100000);
    assert_int_equal(cache_get_blob(other, &blobs[0], 100000, &found, NULL), 0);
    cache_free(other);
    buffer_free(&found);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(killed_at_any_moment),
        cmocka_unit_test(copied_at_any_moment_and_damaged),
        cmocka_unit_test_setup_teardown(bytes_that_nobody_finds_are_given_back, set_up, tear_down),
        cmocka_unit_test_setup_teardown(stopped_evictor_holds_nobody_up, set_up, tear_down),
        cmocka_unit_test_setup_teardown(directory_that_vanishes_costs_no_read, set_up, tear_down),
        cmocka_unit_test_setup_teardown(chunks_file_cut_off_under_a_server_costs_no_read, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(what_a_mount_needs_is_not_evicted, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_a_mount_needed_was_used_until_its_end, set_up,
                                        tear_down),
    };
    log_set_level(LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
