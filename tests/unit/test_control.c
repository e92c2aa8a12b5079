#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "fuse/control.h"

/* A place for one test's socket, and the server on it. */
struct place {
    char directory[64];
    char *path;
    struct control_server *server;
    atomic_size_t status_length; /* set while the server runs */
};

static int give_status(void *context, struct buffer *ret)
{
    const struct place *place = context;
    return buffer_append_zeros(ret, place->status_length);
}

static int set_up(void **state)
{
    struct place *place = calloc(1, sizeof *place);
    if (!place) return -1;
    snprintf(place->directory, sizeof place->directory, "/tmp/sluice-control.XXXXXX");
    if (!mkdtemp(place->directory)) return -1;
    place->path = format_text("%s/socket", place->directory);
    place->status_length = 100;
    *state = place;
    return place->path ? 0 : -1;
}

static int tear_down(void **state)
{
    struct place *place = *state;
    control_server_stop(place->server);
    unlink(place->path);
    int result = rmdir(place->directory);
    free(place->path);
    free(place);
    return result;
}

static void start(struct place *place)
{
    struct error *error = NULL;
    int result = control_server_start(&place->server, place->path, give_status, place, &error);
    if (result < 0) fail_msg("%s", error_message(error));
}

static void stop(struct place *place)
{
    control_server_stop(place->server);
    place->server = NULL;
}

static void assert_answers(const struct place *place)
{
    cleanup_buffer struct buffer answer = { 0 };
    struct error *error = NULL;
    if (control_query(place->path, &answer, &error) < 0) fail_msg("%s", error_message(error));
    assert_int_equal(answer.length, place->status_length);
}

static void assert_query_fails(const struct place *place, enum error_kind kind)
{
    cleanup_buffer struct buffer answer = { 0 };
    cleanup_error struct error *error = NULL;
    assert_int_equal(control_query(place->path, &answer, &error), -1);
    assert_int_equal(error_kind_of(error), kind);
    assert_int_equal(answer.length, 0);
}

static int visit(const char *path)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    int descriptor = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(descriptor >= 0);
    assert_int_equal(connect(descriptor, (struct sockaddr *)&address, sizeof address), 0);
    return descriptor;
}

static void say(int descriptor, const char *text)
{
    assert_int_equal(send(descriptor, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

/* What comes until the server closes; fails rather than hangs if it never does. */
static size_t hear(int descriptor)
{
    char bytes[4096];
    size_t length = 0;
    for (;;) {
        struct pollfd entry = { .fd = descriptor, .events = POLLIN };
        if (poll(&entry, 1, 60000) != 1) fail_msg("the server keeps the connection");
        ssize_t count = recv(descriptor, bytes, sizeof bytes, 0);
        if (count <= 0) return length;
        length += (size_t)count;
    }
}

static void test_answers_and_removes_its_socket(void **state)
{
    struct place *place = *state;
    start(place);
    assert_answers(place);
    assert_answers(place);
    stop(place);
    assert_int_equal(access(place->path, F_OK), -1);
    assert_query_fails(place, ERROR_NOT_FOUND);
}

static void test_largest_status(void **state)
{
    struct place *place = *state;
    place->status_length = CONTROL_STATUS_MAX;
    start(place);
    assert_answers(place);
    place->status_length++;
    assert_query_fails(place, ERROR_UNREACHABLE);
    place->status_length = 1;
    assert_answers(place);
}

static void test_live_socket_is_not_taken(void **state)
{
    struct place *place = *state;
    start(place);
    struct control_server *second = NULL;
    cleanup_error struct error *error = NULL;
    assert_int_equal(control_server_start(&second, place->path, give_status, place, &error), -1);
    assert_non_null(strstr(error_message(error), "already"));
    assert_answers(place);
}

/* A socket file whose server is gone. */
static void leave_stale_socket(const struct place *place)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    snprintf(address.sun_path, sizeof address.sun_path, "%s", place->path);
    cleanup_close int descriptor = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(descriptor, (struct sockaddr *)&address, sizeof address), 0);
}

static void test_stale_socket_is_replaced(void **state)
{
    struct place *place = *state;
    leave_stale_socket(place);
    start(place);
    assert_answers(place);
}

static void test_stale_socket_is_removed_by_query(void **state)
{
    struct place *place = *state;
    leave_stale_socket(place);
    assert_true(control_wait_gone(place->path, 60000));
    assert_query_fails(place, ERROR_NOT_FOUND);
    assert_int_equal(access(place->path, F_OK), -1);
}

static void test_other_files_are_left_alone(void **state)
{
    struct place *place = *state;
    assert_int_equal(file_write_atomic(place->path, "x", 1, 0600, NULL), 0);
    cleanup_error struct error *error = NULL;
    int result = control_server_start(&place->server, place->path, give_status, place, &error);
    assert_int_equal(result, -1);
    assert_int_equal(access(place->path, F_OK), 0);
}

static void test_path_too_long(void **state)
{
    (void)state;
    char path[200];
    memset(path, 'a', sizeof path);
    memcpy(path, "/tmp/", 5);
    path[sizeof path - 1] = 0;
    cleanup_buffer struct buffer answer = { 0 };
    cleanup_error struct error *error = NULL;
    assert_int_equal(control_query(path, &answer, &error), -1);
    assert_int_equal(error_kind_of(error), ERROR_INVALID);
}

static void *stop_later(void *context)
{
    stop(context);
    return NULL;
}

static void test_wait_gone(void **state)
{
    struct place *place = *state;
    assert_true(control_wait_gone(place->path, 60000));
    start(place);
    assert_false(control_wait_gone(place->path, 10));
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, stop_later, place), 0);
    assert_true(control_wait_gone(place->path, 60000));
    pthread_join(thread, NULL);
}

static void test_hostile_questions(void **state)
{
    struct place *place = *state;
    start(place);
    static const char *const questions[] = {
        "\n", "stat\n", "STATUS\n", "status \n", "waitstatus\n",
    };
    for (size_t i = 0; i < sizeof questions / sizeof questions[0]; i++) {
        cleanup_close int visitor = visit(place->path);
        say(visitor, questions[i]);
        assert_int_equal(hear(visitor), 0);
    }
    char endless[100];
    memset(endless, 'a', sizeof endless - 1);
    endless[sizeof endless - 1] = 0;
    cleanup_close int talker = visit(place->path);
    say(talker, endless);
    assert_int_equal(hear(talker), 0);

    cleanup_close int pieces = visit(place->path);
    say(pieces, "sta");
    assert_answers(place);
    say(pieces, "tus\nmore");
    assert_int_equal(hear(pieces), place->status_length);
}

/* One never asks, one never listens to a status that fits into no socket's buffer: others are
 * served meanwhile, and both are sent away. */
static void test_hostile_silence(void **state)
{
    struct place *place = *state;
    place->status_length = CONTROL_STATUS_MAX;
    start(place);
    cleanup_close int deaf = visit(place->path);
    say(deaf, "status\n");
    assert_answers(place);
    cleanup_close int mute = visit(place->path);
    assert_answers(place);
    /* The time of the one who came first is over no later. */
    assert_int_equal(hear(mute), 0);
    assert_true(hear(deaf) < CONTROL_STATUS_MAX);
    assert_answers(place);
}

static void test_crowd_makes_room(void **state)
{
    struct place *place = *state;
    start(place);
    int crowd[200];
    for (size_t i = 0; i < 200; i++) {
        crowd[i] = visit(place->path);
        if (i % 2) say(crowd[i], "wait\n");
    }
    assert_answers(place);
    stop(place);
    for (size_t i = 0; i < 200; i++) {
        assert_int_equal(hear(crowd[i]), 0);
        close(crowd[i]);
    }
}

/* Runs `check` as an ordinary user; it returns the number of the line that is wrong, or 0. */
static void assert_as_nobody(int (*check)(const struct place *place), const struct place *place)
{
    if (geteuid() != 0) skip();
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        if (setresgid(65534, 65534, 65534) < 0 || setresuid(65534, 65534, 65534) < 0) _exit(255);
        _exit(check(place));
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status)) fail_msg("wrong in step %d", WEXITSTATUS(status));
}

static int query_is_refused(const struct place *place)
{
    struct buffer answer = { 0 };
    if (control_query(place->path, &answer, NULL) == 0) return 1;
    return answer.length ? 2 : 0;
}

static void test_other_users_are_refused(void **state)
{
    struct place *place = *state;
    start(place);
    assert_int_equal(chmod(place->directory, 0755), 0);
    assert_int_equal(chmod(place->path, 0666), 0);
    assert_as_nobody(query_is_refused, place);
    assert_answers(place);
}

static void count_socket(void *context, const char *socket_path)
{
    (void)socket_path;
    ++*(int *)context;
}

/* The run directory is private, and socket names depend on the mount point alone. */
static int run_directory_is_right(const struct place *place)
{
    struct stat status;
    unsetenv("XDG_RUNTIME_DIR");
    if (control_run_directory(NULL)) return 1;
    setenv("XDG_RUNTIME_DIR", place->directory, 1);
    cleanup_free char *directory = control_run_directory(NULL);
    if (!directory || stat(directory, &status) < 0 || (status.st_mode & 07777) != 0700) return 2;

    cleanup_free char *first = control_socket_path("/mnt/a", NULL);
    cleanup_free char *same = control_socket_path("/mnt/a/", NULL);
    cleanup_free char *other = control_socket_path("/mnt/b", NULL);
    if (!first || !same || !other || strcmp(first, same) != 0 || strcmp(first, other) == 0)
        return 3;
    if (control_socket_path("mnt/a", NULL)) return 4;

    struct control_server *server;
    int count = 0;
    cleanup_free char *stranger = format_text("%s/%s", directory, "README");
    if (control_server_start(&server, first, give_status, (void *)place, NULL) < 0) return 5;
    if (file_write_atomic(stranger, "", 0, 0600, NULL) < 0) return 6;
    if (control_list(count_socket, &count, NULL) < 0 || count != 1) return 7;
    control_server_stop(server);
    if (control_list(count_socket, &count, NULL) < 0 || count != 1) return 8;
    unlink(stranger);

    chmod(directory, 0755);
    if (control_socket_path("/mnt/a", NULL)) return 9;
    return rmdir(directory) == 0 ? 0 : 10;
}

static void test_run_directory(void **state)
{
    struct place *place = *state;
    assert_int_equal(chown(place->directory, geteuid() == 0 ? 65534 : geteuid(), (gid_t)-1), 0);
    assert_as_nobody(run_directory_is_right, place);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_answers_and_removes_its_socket),
        TEST(test_largest_status),
        TEST(test_live_socket_is_not_taken),
        TEST(test_stale_socket_is_replaced),
        TEST(test_stale_socket_is_removed_by_query),
        TEST(test_other_files_are_left_alone),
        TEST(test_path_too_long),
        TEST(test_wait_gone),
        TEST(test_hostile_questions),
        TEST(test_hostile_silence),
        TEST(test_crowd_makes_room),
        TEST(test_other_users_are_refused),
        TEST(test_run_directory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
