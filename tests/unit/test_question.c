/* Questions among processes: what either end can do to the other. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/descriptor_message.h"
#include "node/broker-internal.h"
#include "node/question.h"

struct fixture {
    int asker, answerer;
    struct question_peer peer;
};

static int set_up(void **state)
{
    struct fixture *fixture = calloc(1, sizeof *fixture);
    int pair[2];
    signal(SIGPIPE, SIG_IGN);
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    fixture->asker = pair[0];
    fixture->answerer = pair[1];
    fixture->peer = (struct question_peer){ pair[0], "the other" };
    *state = fixture;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *fixture = *state;
    close(fixture->asker);
    if (fixture->answerer >= 0) close(fixture->answerer);
    free(fixture);
    return 0;
}

/* Asks, and takes the question at the other end: the socket for the answer. */
static int ask(const struct fixture *fixture, int *ret_to)
{
    char text[QUESTION_LENGTH_MAX + 1];
    int from = question_send(&fixture->peer, "what", 4, NULL);
    assert_true(from >= 0);
    assert_int_equal(question_receive(fixture->answerer, text, ret_to), 4);
    assert_string_equal(text, "what");
    assert_true(*ret_to >= 0);
    return from;
}

static void expect_error(const struct fixture *fixture, int from, int cancel, int timeout_ms,
                         enum error_kind kind, const char *words)
{
    struct buffer text = { 0 };
    struct error *error = NULL;
    int descriptor = -1;
    assert_int_equal(
        question_wait(&fixture->peer, from, cancel, timeout_ms, &text, &descriptor, &error), -1);
    assert_int_equal(error_kind_of(error), kind);
    assert_non_null(strstr(error_message(error), words));
    assert_int_equal(descriptor, -1);
    error_free(error);
    buffer_free(&text);
    close(from);
}

static void an_answer_brings_text_and_a_descriptor(void **state)
{
    const struct fixture *fixture = *state;
    struct buffer text = { 0 }, said = { .data = (uint8_t *)"this", .length = 4 };
    int to, descriptor = -1, sent = eventfd(7, EFD_CLOEXEC);
    uint64_t value;
    int from = ask(fixture, &to);
    assert_int_equal(question_answer(to, NULL, &said, sent), 0);
    close(to);
    close(sent);
    assert_int_equal(question_wait(&fixture->peer, from, -1, 5000, &text, &descriptor, NULL), 0);
    assert_int_equal(text.length, 4);
    assert_memory_equal(text.data, "this", 4);
    assert_int_equal(read(descriptor, &value, sizeof value), sizeof value);
    assert_int_equal(value, 7);
    close(descriptor);
    close(from);
    buffer_free(&text);
}

static void answers_come_in_any_order(void **state)
{
    const struct fixture *fixture = *state;
    int to[8], from[8];
    for (unsigned i = 0; i < 8; i++)
        from[i] = ask(fixture, &to[i]);
    for (unsigned i = 8; i-- > 0;) {
        struct buffer text = { 0 };
        char letter = (char)('a' + i);
        struct buffer said = { .data = (uint8_t *)&letter, .length = 1 };
        int ignored;
        assert_int_equal(question_answer(to[i], NULL, &said, -1), 0);
        close(to[i]);
        assert_int_equal(question_wait(&fixture->peer, from[i], -1, 5000, &text, &ignored, NULL),
                         0);
        assert_int_equal(text.data[0], letter);
        buffer_free(&text);
        close(from[i]);
    }
}

static void an_error_is_the_other_ends(void **state)
{
    const struct fixture *fixture = *state;
    struct error *error = NULL;
    int to, from = ask(fixture, &to);
    error_set(&error, ERROR_DENIED, "not you");
    question_answer(to, error, NULL, -1);
    close(to);
    error_free(error);
    expect_error(fixture, from, -1, 5000, ERROR_DENIED, "not you");
}

static void kinds_that_are_none_are_errors_all_the_same(void **state)
{
    const struct fixture *fixture = *state;
    for (unsigned status = ERROR_PRECONDITION + 1; status < 256; status += 13) {
        unsigned char byte = (unsigned char)status;
        int to, from = ask(fixture, &to);
        assert_int_equal(descriptor_message_send(to, &byte, 1, -1), 0);
        assert_int_equal(write(to, "odd", 3), 3);
        close(to);
        expect_error(fixture, from, -1, 5000, ERROR_SYSTEM, "odd");
    }
}

static void who_closes_the_socket_has_ended(void **state)
{
    const struct fixture *fixture = *state;
    int to, from = ask(fixture, &to);
    close(to);
    expect_error(fixture, from, -1, 5000, ERROR_SYSTEM, "has ended");
}

static void a_question_to_nobody_fails(void **state)
{
    struct fixture *fixture = *state;
    struct error *error = NULL;
    close(fixture->answerer);
    fixture->answerer = -1;
    assert_int_equal(question_send(&fixture->peer, "what", 4, &error), -1);
    assert_non_null(strstr(error_message(error), "the other has ended"));
    error_free(error);
}

static void what_nobody_has_taken_is_answered_by_the_end(void **state)
{
    struct fixture *fixture = *state;
    int from = question_send(&fixture->peer, "what", 4, NULL);
    assert_true(from >= 0);
    close(fixture->answerer);
    fixture->answerer = -1;
    expect_error(fixture, from, -1, 5000, ERROR_SYSTEM, "has ended");
}

/* Which is taken for the end of the socket. */
static void an_empty_message_leaves_no_descriptors(void **state)
{
    (void)state;
    int sockets[2], pipes[2], got[DESCRIPTORS_MAX];
    size_t count;
    char byte;
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets), 0);
    assert_int_equal(pipe2(pipes, O_CLOEXEC | O_NONBLOCK), 0);
    const int sent[] = { pipes[1], pipes[1] };
    assert_int_equal(descriptors_message_send(sockets[0], "", 0, sent, 2), 0);
    assert_int_equal(descriptor_message_send(sockets[0], "", 0, pipes[1]), 0);
    close(pipes[1]);
    assert_int_equal(descriptors_message_receive(sockets[1], &byte, 1, got, &count), 0);
    assert_int_equal(count, 0);
    assert_int_equal(descriptor_message_receive(sockets[1], &byte, 1, got), 0);
    assert_int_equal(got[0], -1);
    assert_int_equal(read(pipes[0], &byte, 1), 0); /* EAGAIN while somebody has the other end */
    close(pipes[0]);
    close(sockets[0]);
    close(sockets[1]);
}

static void who_says_nothing_is_not_waited_for_for_ever(void **state)
{
    const struct fixture *fixture = *state;
    int to, from = ask(fixture, &to);
    expect_error(fixture, from, -1, 20, ERROR_UNREACHABLE, "does not answer");
    close(to);
}

static void waiting_can_be_cancelled(void **state)
{
    const struct fixture *fixture = *state;
    int to, from = ask(fixture, &to), cancel = eventfd(1, EFD_CLOEXEC);
    expect_error(fixture, from, cancel, -1, ERROR_CANCELLED, "cancelled");
    close(to);
    close(cancel);
}

static void *talk(void *argument)
{
    static const char bytes[65536];
    const unsigned char done = 0;
    int to = *(int *)argument;
    descriptor_message_send(to, &done, 1, -1);
    while (write(to, bytes, sizeof bytes) > 0)
        continue;
    close(to);
    return NULL;
}

static void an_endless_answer_is_cut_off(void **state)
{
    const struct fixture *fixture = *state;
    pthread_t thread;
    int to, from = ask(fixture, &to);
    assert_int_equal(pthread_create(&thread, NULL, talk, &to), 0);
    expect_error(fixture, from, -1, 5000, ERROR_INVALID, "too long");
    pthread_join(thread, NULL);
}

static void questions_are_bounded(void **state)
{
    const struct fixture *fixture = *state;
    static const char large[QUESTION_LENGTH_MAX + 1];
    struct error *error = NULL;
    assert_int_equal(question_send(&fixture->peer, large, sizeof large, &error), -1);
    assert_int_equal(error_kind_of(error), ERROR_INVALID);
    error_free(error);
    int from = question_send(&fixture->peer, large, sizeof large - 1, NULL), to;
    char text[QUESTION_LENGTH_MAX + 1];
    assert_int_equal(question_receive(fixture->answerer, text, &to), QUESTION_LENGTH_MAX);
    close(to);
    close(from);
}

static void requests_say_which_mount_they_are_about(void **state)
{
    static const char *const bad[] = { "",      "m",  "m ",  "mimage", "m x",   "m-1 x",
                                       "m+1 x", "m1", "m1x", "m1x ",   "m\t1 x" };
    struct broker_request request;
    (void)state;
    for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_false(broker_request_read(bad[i], &request));
    assert_true(broker_request_read("k18446744073709551615 a b", &request));
    assert_int_equal(request.verb, BROKER_KERNEL);
    assert_true(request.mount == UINT64_MAX);
    assert_string_equal(request.text, "a b");
    assert_true(broker_request_read("u0 ", &request));
    assert_string_equal(request.text, "");
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(an_answer_brings_text_and_a_descriptor),
        TEST(answers_come_in_any_order),
        TEST(an_error_is_the_other_ends),
        TEST(kinds_that_are_none_are_errors_all_the_same),
        TEST(who_closes_the_socket_has_ended),
        TEST(a_question_to_nobody_fails),
        TEST(what_nobody_has_taken_is_answered_by_the_end),
        TEST(an_empty_message_leaves_no_descriptors),
        TEST(who_says_nothing_is_not_waited_for_for_ever),
        TEST(waiting_can_be_cancelled),
        TEST(an_endless_answer_is_cut_off),
        TEST(questions_are_bounded),
        TEST(requests_say_which_mount_they_are_about),
    };
    return cmocka_run_group_tests_name("question", tests, NULL, NULL);
}
