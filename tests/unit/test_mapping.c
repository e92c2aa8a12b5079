/* Mappings whose file is cut off under them: damaged and alive, and only they. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/mapping.h"

#define PAGES 8u

static size_t page_size(void)
{
    return (size_t)sysconf(_SC_PAGESIZE);
}

/* An unnamed file of PAGES pages, each full of its number from 1. */
static int make_file(void)
{
    char path[] = "/tmp/sluice-unit-mapping-XXXXXX";
    int file = mkstemp(path);
    assert_true(file >= 0);
    unlink(path);
    char *page = malloc(page_size());
    assert_non_null(page);
    for (unsigned i = 0; i < PAGES; i++) {
        memset(page, (int)i + 1, page_size());
        assert_int_equal(write(file, page, page_size()), (ssize_t)page_size());
    }
    free(page);
    return file;
}

static struct mapping *map_file(int file, enum mapping_access access)
{
    struct mapping *mapping = NULL;
    assert_int_equal(mapping_new(&mapping, file, PAGES * page_size(), access, NULL), 0);
    return mapping;
}

/* The compiler must not know what it reads. */
static uint8_t byte_at(const struct mapping *mapping, size_t offset)
{
    return ((const volatile uint8_t *)mapping_data(mapping))[offset];
}

static void test_bytes_of_the_file(void **state)
{
    (void)state;
    int file = make_file();
    struct mapping *mapping = map_file(file, MAPPING_READ_ONLY);
    close(file);
    assert_int_equal(mapping_length(mapping), PAGES * page_size());
    for (unsigned i = 0; i < PAGES; i++)
        assert_int_equal(byte_at(mapping, i * page_size() + 17), i + 1);
    assert_false(mapping_is_damaged(mapping));
    mapping_free(mapping);
}

static void test_only_the_mapped_file_is_kept(void **state)
{
    (void)state;
    int file = make_file(), other = make_file(), same = dup(file);
    struct mapping *mapping = map_file(file, MAPPING_READ_ONLY);
    assert_int_equal(mapping_file(mapping), -1);
    mapping_keep_file(mapping, other);
    assert_int_equal(mapping_file(mapping), -1);
    mapping_keep_file(mapping, same);
    assert_int_equal(mapping_file(mapping), same);
    mapping_free(mapping);
    assert_int_equal(fcntl(other, F_GETFD), -1);
    assert_int_equal(fcntl(same, F_GETFD), -1);
    close(file);
}

static void test_cut_off_file_damages_its_mapping_only(void **state)
{
    (void)state;
    int file = make_file(), other_file = make_file();
    struct mapping *mapping = map_file(file, MAPPING_READ_ONLY);
    struct mapping *other = map_file(other_file, MAPPING_READ_ONLY);
    assert_int_equal(ftruncate(file, (off_t)page_size()), 0);
    assert_int_equal(byte_at(mapping, 0), 1);
    assert_false(mapping_is_damaged(mapping));
    assert_int_equal(byte_at(mapping, 5 * page_size()), 0);
    assert_true(mapping_is_damaged(mapping));
    /* All of it, so that nobody reads half the truth. */
    assert_int_equal(byte_at(mapping, 0), 0);
    assert_int_equal(byte_at(other, 5 * page_size()), 6);
    assert_false(mapping_is_damaged(other));
    mapping_free(mapping);
    mapping_free(other);
    close(file);
    close(other_file);
}

static void test_place_of_a_damaged_mapping_is_used_again(void **state)
{
    (void)state;
    for (unsigned round = 0; round < 3; round++) {
        int file = make_file();
        struct mapping *mapping = map_file(file, MAPPING_READ_ONLY);
        assert_false(mapping_is_damaged(mapping));
        assert_int_equal(byte_at(mapping, 2 * page_size()), 3);
        assert_int_equal(ftruncate(file, 0), 0);
        assert_int_equal(byte_at(mapping, 2 * page_size()), 0);
        assert_true(mapping_is_damaged(mapping));
        mapping_free(mapping);
        close(file);
    }
}

static void test_written_bytes_are_shared(void **state)
{
    (void)state;
    int file = make_file();
    struct mapping *one = map_file(file, MAPPING_READ_WRITE);
    struct mapping *two = map_file(file, MAPPING_READ_WRITE);
    ((volatile uint8_t *)mapping_data(one))[page_size()] = 99;
    assert_int_equal(byte_at(two, page_size()), 99);
    assert_int_equal(ftruncate(file, 0), 0);
    ((volatile uint8_t *)mapping_data(one))[page_size()] = 7;
    assert_int_equal(byte_at(one, page_size()), 7);
    assert_true(mapping_is_damaged(one));
    mapping_free(one);
    mapping_free(two);
    close(file);
}

static void test_file_that_is_shorter_from_the_beginning(void **state)
{
    (void)state;
    int file = make_file();
    assert_int_equal(ftruncate(file, 10), 0);
    struct mapping *mapping = map_file(file, MAPPING_READ_ONLY);
    assert_int_equal(byte_at(mapping, 9), 1);
    assert_int_equal(byte_at(mapping, page_size()), 0);
    assert_true(mapping_is_damaged(mapping));
    mapping_free(mapping);
    close(file);
}

/* Ends with what the child died of. */
static int signal_of(void (*work)(void))
{
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        signal(SIGBUS, SIG_DFL);
        work();
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

static void touch_other_memory(void)
{
    int file = make_file();
    map_file(file, MAPPING_READ_ONLY);
    volatile uint8_t *foreign = mmap(NULL, page_size(), PROT_READ, MAP_SHARED, file, 0);
    if (foreign == MAP_FAILED || ftruncate(file, 0) < 0) _exit(1);
    (void)foreign[0];
}

static void send_to_self(void)
{
    int file = make_file();
    map_file(file, MAPPING_READ_ONLY);
    kill(getpid(), SIGBUS);
}

static void test_other_bus_errors_end_the_process(void **state)
{
    (void)state;
    assert_int_equal(signal_of(touch_other_memory), SIGBUS);
    assert_int_equal(signal_of(send_to_self), SIGBUS);
}

static atomic_bool stop_changing;

static void *change_places(void *context)
{
    int file = *(int *)context;
    while (!atomic_load(&stop_changing)) {
        struct mapping *mapping = NULL;
        if (mapping_new(&mapping, file, page_size(), MAPPING_READ_ONLY, NULL) < 0) abort();
        if (byte_at(mapping, 0) != 1 || mapping_is_damaged(mapping)) abort();
        mapping_free(mapping);
    }
    return NULL;
}

static void test_damage_while_others_come_and_go(void **state)
{
    (void)state;
    int steady = make_file();
    pthread_t threads[2];
    atomic_store(&stop_changing, false);
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, change_places, &steady), 0);
    for (unsigned i = 0; i < 500; i++) {
        int file = make_file();
        struct mapping *mapping = map_file(file, MAPPING_READ_ONLY);
        assert_int_equal(byte_at(mapping, 0), 1);
        assert_int_equal(ftruncate(file, 0), 0);
        assert_int_equal(byte_at(mapping, page_size()), 0);
        assert_true(mapping_is_damaged(mapping));
        mapping_free(mapping);
        close(file);
    }
    atomic_store(&stop_changing, true);
    for (unsigned i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    close(steady);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bytes_of_the_file),
        cmocka_unit_test(test_only_the_mapped_file_is_kept),
        cmocka_unit_test(test_cut_off_file_damages_its_mapping_only),
        cmocka_unit_test(test_place_of_a_damaged_mapping_is_used_again),
        cmocka_unit_test(test_written_bytes_are_shared),
        cmocka_unit_test(test_file_that_is_shorter_from_the_beginning),
        cmocka_unit_test(test_other_bus_errors_end_the_process),
        cmocka_unit_test(test_damage_while_others_come_and_go),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
