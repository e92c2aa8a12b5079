/* The holder as a process, and what it promises to those who have something held. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "fuse/holder.h"
#include "node/held_text-internal.h"
#include "tests/unit/temporary_directory.h"

#define HOLDERS_MAX 64

static char *directory, socket_path[300];
static pid_t holders[HOLDERS_MAX];
static unsigned holder_count;

/* ---- processes ---- */

struct start {
    int told; /* written to once clients can connect */
};

static int tell(void *context)
{
    const struct start *start = context;
    return write(start->told, "", 1) == 1 ? 0 : -1;
}

/* A child that holds; returns once it can be reached, or has failed. */
static pid_t start_holder(bool take_over, unsigned grace)
{
    int ends[2];
    char byte;
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct start start = { ends[1] };
        struct error *error = NULL;
        struct holder_options options = { .socket = socket_path,
                                          .grace_seconds = grace,
                                          .take_over = take_over,
                                          .end_when_idle = true };
        int result = holder_run(&options, tell, &start, &error);
        error_free(error);
        _exit(result < 0);
    }
    close(ends[1]);
    ssize_t got = read(ends[0], &byte, 1);
    close(ends[0]);
    holders[holder_count++] = child;
    return got == 1 ? child : -1;
}

static int end_of(pid_t child)
{
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    for (unsigned i = 0; i < holder_count; i++)
        if (holders[i] == child) holders[i] = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static int set_up(void **state)
{
    (void)state;
    holder_count = 0;
    directory = temporary_directory_make();
    snprintf(socket_path, sizeof socket_path, "%s/run/holder.sock", directory);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    for (unsigned i = 0; i < holder_count; i++) {
        if (holders[i] <= 0) continue;
        kill(holders[i], SIGKILL);
        waitpid(holders[i], NULL, 0);
    }
    temporary_directory_remove(directory);
    return 0;
}

/* ---- what is held ---- */

static struct holder_client *connected(void)
{
    struct error *error = NULL;
    struct holder_client *client;
    if (holder_connect(&client, socket_path, &error) < 0) fail_msg("%s", error_message(error));
    return client;
}

#define must(call)                                            \
    do {                                                      \
        struct error *error = NULL;                           \
        if ((call) < 0) fail_msg("%s", error_message(error)); \
    } while (0)

/* A pipe of which the holder has the reading end; the writing end. */
static int put_pipe(struct holder_client *client, const char *name, const char *data)
{
    int ends[2];
    assert_int_equal(pipe2(ends, O_CLOEXEC | O_NONBLOCK), 0);
    must(holder_put(client, name, data, strlen(data), ends, 1, &error));
    close(ends[0]);
    return ends[1];
}

static bool is_open(int writer)
{
    struct pollfd entry = { .fd = writer, .events = 0 };
    poll(&entry, 1, 0);
    return !(entry.revents & POLLERR);
}

static void check_held(struct holder_client *client, const char *name, const char *data, int writer)
{
    struct holder_entry entry;
    char byte = 0;
    must(holder_get(client, name, &entry, &error));
    assert_string_equal(entry.name, name);
    assert_int_equal(entry.data.length, strlen(data));
    assert_memory_equal(entry.data.data, data, strlen(data));
    assert_int_equal(entry.descriptor_count, 1);
    assert_int_equal(write(writer, "x", 1), 1);
    assert_int_equal(read(entry.descriptors[0], &byte, 1), 1);
    assert_int_equal(byte, 'x');
    holder_entry_free(&entry);
}

static void check_missing(struct holder_client *client, const char *name)
{
    cleanup_error struct error *error = NULL;
    struct holder_entry entry;
    assert_int_equal(holder_get(client, name, &entry, &error), -1);
    assert_int_equal(error_kind_of(error), ERROR_NOT_FOUND);
}

static void test_holds(void **state)
{
    (void)state;
    start_holder(false, 60);
    struct holder_client *client = connected();
    check_missing(client, "a");
    int first = put_pipe(client, "a", "first");
    int other = put_pipe(client, "b", "");
    check_held(client, "a", "first", first);
    holder_disconnect(client);

    client = connected();
    check_held(client, "a", "first", first);
    check_held(client, "b", "", other);
    /* What is replaced is closed. */
    int second = put_pipe(client, "a", "second");
    assert_false(is_open(first));
    check_held(client, "a", "second", second);
    must(holder_drop(client, "a", &error));
    must(holder_drop(client, "a", &error));
    assert_false(is_open(second));
    check_missing(client, "a");
    assert_true(is_open(other));
    holder_disconnect(client);
    close(first);
    close(second);
    close(other);
}

/* What is known of an image with hundreds of layers is longer than what the holder takes. */
static void test_long_texts(void **state)
{
    (void)state;
    static const size_t lengths[] = { 1, HOLDER_DATA_MAX, HOLDER_DATA_MAX + 1, HELD_TEXT_MAX };
    start_holder(false, 60);
    struct holder_client *client = connected();
    char *text = malloc(HELD_TEXT_MAX + 2);
    int ends[2];
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        struct holder_entry entry;
        char byte = 0;
        memset(text, 'a' + (int)i, lengths[i]);
        text[lengths[i]] = 0;
        must(held_text_put(client, "a", text, ends, 1, &error));
        must(holder_get(client, "a", &entry, &error));
        must(held_text_take(&entry, &error));
        assert_int_equal(entry.data.length, lengths[i]);
        assert_memory_equal(entry.data.data, text, lengths[i]);
        assert_int_equal(entry.descriptor_count, 1);
        assert_int_equal(write(ends[1], "x", 1), 1);
        assert_int_equal(read(entry.descriptors[0], &byte, 1), 1);
        holder_entry_free(&entry);
    }
    memset(text, 'z', HELD_TEXT_MAX + 1);
    text[HELD_TEXT_MAX + 1] = 0;
    cleanup_error struct error *error = NULL;
    assert_int_equal(held_text_put(client, "a", text, ends, 1, &error), -1);
    free(text);
    close(ends[0]);
    close(ends[1]);
    holder_disconnect(client);
}

static void test_limits(void **state)
{
    (void)state;
    start_holder(false, 60);
    struct holder_client *client = connected();
    cleanup_free char *much = calloc(1, HOLDER_DATA_MAX + 1);
    char name[HOLDER_NAME_MAX + 2];
    memset(name, 'n', sizeof name);
    name[HOLDER_NAME_MAX + 1] = 0;
    assert_int_equal(holder_put(client, "much", much, HOLDER_DATA_MAX + 1, NULL, 0, NULL), -1);
    assert_int_equal(holder_put(client, name, "", 0, NULL, 0, NULL), -1);
    assert_int_equal(holder_put(client, "", "", 0, NULL, 0, NULL), -1);
    int many[HOLDER_DESCRIPTORS_MAX + 1] = { 0, 0, 0, 0, 0 };
    assert_int_equal(holder_put(client, "many", "", 0, many, HOLDER_DESCRIPTORS_MAX + 1, NULL), -1);
    must(holder_put(client, "many", much, HOLDER_DATA_MAX, many, HOLDER_DESCRIPTORS_MAX, &error));
    struct holder_entry *entries;
    size_t count;
    must(holder_list(client, &entries, &count, &error));
    assert_int_equal(count, 1);
    assert_int_equal(entries[0].data.length, HOLDER_DATA_MAX);
    assert_int_equal(entries[0].descriptor_count, HOLDER_DESCRIPTORS_MAX);
    holder_entries_free(entries, count);
    holder_disconnect(client);
}

static int connect_raw(void)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    int raw = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    assert_true(strlen(socket_path) < sizeof address.sun_path);
    memcpy(address.sun_path, socket_path, strlen(socket_path));
    assert_int_equal(connect(raw, (const struct sockaddr *)&address, sizeof address), 0);
    return raw;
}

/* Whatever comes: the one who says it is cut off, and others are served. */
static void test_nonsense(void **state)
{
    (void)state;
    static const char *const messages[] = {
        "", "p", "p\xff", "p\xffname", "x\x01n", "e\x01n", "k"
    };
    start_holder(false, 60);
    struct holder_client *client = connected();
    int writer = put_pipe(client, "a", "data");
    for (size_t i = 0; i < sizeof messages / sizeof *messages; i++) {
        cleanup_close int raw = connect_raw();
        send(raw, messages[i], strlen(messages[i]), MSG_NOSIGNAL);
        check_held(client, "a", "data", writer);
    }
    holder_disconnect(client);
    close(writer);
}

static rlim_t limit_descriptors(pid_t process, rlim_t limit)
{
    struct rlimit before, now;
    assert_int_equal(prlimit(process, RLIMIT_NOFILE, NULL, &before), 0);
    now = before;
    now.rlim_cur = limit;
    assert_int_equal(prlimit(process, RLIMIT_NOFILE, &now, NULL), 0);
    return before.rlim_cur;
}

/* More than it has places for: who has something held does not notice, and others get in. */
static void test_crowd(void **state)
{
    (void)state;
    int silent[100];
    start_holder(false, 60);
    struct holder_client *client = connected();
    int connection = holder_client_descriptor(client);
    int writer = put_pipe(client, "a", "data");
    for (size_t i = 0; i < sizeof silent / sizeof *silent; i++)
        silent[i] = connect_raw();
    struct holder_client *other = connected();
    check_held(other, "a", "data", writer);
    struct pollfd first = { .fd = connection, .events = POLLIN };
    assert_int_equal(poll(&first, 1, 0), 0);
    check_held(client, "a", "data", writer);
    for (size_t i = 0; i < sizeof silent / sizeof *silent; i++)
        close(silent[i]);
    holder_disconnect(other);
    holder_disconnect(client);
    close(writer);
}

static uint64_t processor_ns(pid_t process)
{
    clockid_t clock;
    struct timespec used;
    assert_int_equal(clock_getcpuclockid(process, &clock), 0);
    assert_int_equal(clock_gettime(clock, &used), 0);
    return (uint64_t)used.tv_sec * 1000000000 + (uint64_t)used.tv_nsec;
}

/* Who cannot be let in waits, and is no reason to spin. */
static void test_no_descriptors_left(void **state)
{
    (void)state;
    pid_t holder = start_holder(false, 60);
    struct holder_client *client = connected();
    int writer = put_pipe(client, "a", "data");
    rlim_t limit = limit_descriptors(holder, 3);
    int waiting = connect_raw();
    uint64_t used = processor_ns(holder);
    usleep(300000);
    assert_in_range(processor_ns(holder) - used, 0, 100000000);
    check_held(client, "a", "data", writer);
    limit_descriptors(holder, limit);
    struct holder_client *other = connected();
    check_held(other, "a", "data", writer);
    close(waiting);
    holder_disconnect(other);
    holder_disconnect(client);
    close(writer);
}

/* What is at the place but no socket is somebody else's file. */
static void test_place_of_a_file(void **state)
{
    (void)state;
    struct stat status;
    pid_t holder = start_holder(false, 1);
    assert_int_equal(end_of(holder), 0);
    char *slash = strrchr(socket_path, '/');
    *slash = 0;
    assert_int_equal(stat(socket_path, &status), 0);
    assert_int_equal(status.st_mode & 0777, 0700);
    *slash = '/';
    int file = open(socket_path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_true(file >= 0);
    close(file);
    assert_int_equal(start_holder(false, 60), -1);
    assert_int_equal(lstat(socket_path, &status), 0);
    assert_true(S_ISREG(status.st_mode));
}

static void test_grace(void **state)
{
    (void)state;
    pid_t holder = start_holder(false, 1);
    struct holder_client *client = connected();
    int writer = put_pipe(client, "a", "data");
    /* As long as somebody is connected, however long that takes. */
    usleep(1500000);
    assert_true(is_open(writer));
    holder_disconnect(client);
    struct pollfd entry = { .fd = writer };
    assert_int_equal(poll(&entry, 1, 20000), 1);
    assert_false(is_open(writer));
    close(writer);
    assert_int_equal(end_of(holder), 0);
}

static void test_signals(void **state)
{
    (void)state;
    pid_t holder = start_holder(false, 60);
    struct holder_client *client = connected();
    int writer = put_pipe(client, "a", "data");
    kill(holder, SIGHUP);
    kill(holder, SIGTERM);
    check_held(client, "a", "data", writer);
    assert_int_equal(waitpid(holder, NULL, WNOHANG), 0);
    must(holder_drop(client, "a", &error));
    assert_int_equal(end_of(holder), 0);
    holder_disconnect(client);
    close(writer);
}

static void test_abort(void **state)
{
    (void)state;
    pid_t holder = start_holder(false, 60);
    struct holder_client *client = connected();
    int writer = put_pipe(client, "a", "data");
    must(holder_abort(client, &error));
    assert_int_equal(end_of(holder), 0);
    assert_false(is_open(writer));
    assert_int_equal(access(socket_path, F_OK), -1);
    holder_disconnect(client);
    close(writer);
}

static void test_only_one(void **state)
{
    (void)state;
    pid_t first = start_holder(false, 60);
    assert_true(first > 0);
    assert_int_equal(start_holder(false, 60), -1);
    kill(first, SIGKILL);
    end_of(first);
    /* The socket that it has left is in nobody's way. */
    assert_true(start_holder(false, 60) > 0);
    struct holder_client *client = connected();
    check_missing(client, "a");
    holder_disconnect(client);
}

static void test_nobody_to_take_over_from(void **state)
{
    (void)state;
    assert_true(start_holder(true, 60) > 0);
    struct holder_client *client = connected();
    check_missing(client, "a");
    holder_disconnect(client);
}

/* ---- taking over ---- */

/* Shared with the process that is busy: one that forks should have no second thread. */
struct busy {
    atomic_bool stop;
    atomic_uint failures, rounds;
};

static void keep_busy(struct busy *busy)
{
    struct holder_client *client = connected();
    for (unsigned i = 0; !atomic_load(&busy->stop); i++) {
        char name[32];
        struct holder_entry entry;
        snprintf(name, sizeof name, "busy-%u", i % 50);
        if (holder_put(client, name, &i, sizeof i, NULL, 0, NULL) < 0 ||
            holder_get(client, name, &entry, NULL) < 0) {
            atomic_fetch_add(&busy->failures, 1);
            continue;
        }
        if (entry.data.length != sizeof i || memcmp(entry.data.data, &i, sizeof i) != 0)
            atomic_fetch_add(&busy->failures, 1);
        holder_entry_free(&entry);
        atomic_fetch_add(&busy->rounds, 1);
    }
    holder_disconnect(client);
}

static pid_t start_busy(struct busy *busy)
{
    pid_t child = fork();
    assert_true(child >= 0);
    if (child > 0) return child;
    keep_busy(busy);
    _exit(0);
}

static void test_take_over(void **state)
{
    (void)state;
    pid_t before = start_holder(false, 60);
    struct holder_client *own = connected();
    struct busy *busy =
        mmap(NULL, sizeof *busy, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(busy, MAP_FAILED);
    int writer = put_pipe(own, "kept", "data");
    pid_t other = start_busy(busy);
    for (unsigned i = 0; i < 20; i++) {
        unsigned rounds = atomic_load(&busy->rounds);
        pid_t next = start_holder(true, 60);
        assert_true(next > 0);
        assert_int_equal(end_of(before), 0);
        before = next;
        while (atomic_load(&busy->rounds) < rounds + 20)
            usleep(1000);
        struct holder_client *client = connected();
        check_held(client, "kept", "data", writer);
        holder_disconnect(client);
    }
    atomic_store(&busy->stop, true);
    assert_int_equal(end_of(other), 0);
    assert_int_equal(atomic_load(&busy->failures), 0);
    munmap(busy, sizeof *busy);
    holder_disconnect(own);
    close(writer);
}

/* One that asks for everything and then dies does not hold. */
static void test_taker_that_dies(void **state)
{
    (void)state;
    start_holder(false, 60);
    struct holder_client *client = connected();
    int writer = put_pipe(client, "a", "data");
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        int raw = connect_raw();
        send(raw, "t\0", 2, MSG_NOSIGNAL);
        _exit(0);
    }
    waitpid(child, NULL, 0);
    check_held(client, "a", "data", writer);
    assert_true(start_holder(true, 60) > 0);
    check_held(client, "a", "data", writer);
    holder_disconnect(client);
    close(writer);
}

#define held_test(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

int main(void)
{
    signal(SIGPIPE, SIG_IGN);
    log_set_level(LOG_ERROR);
    const struct CMUnitTest tests[] = {
        held_test(test_holds),
        held_test(test_limits),
        held_test(test_long_texts),
        held_test(test_nonsense),
        held_test(test_grace),
        held_test(test_signals),
        held_test(test_abort),
        held_test(test_only_one),
        held_test(test_nobody_to_take_over_from),
        held_test(test_take_over),
        held_test(test_taker_that_dies),
        held_test(test_crowd),
        held_test(test_no_descriptors_left),
        held_test(test_place_of_a_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
