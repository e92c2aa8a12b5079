#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "grpc/client.h"
#include "tests/unit/grpc_place.h"

enum { CALL_MS = 20000 };

static struct grpc_client *make_client(const struct grpc_place *place)
{
    struct grpc_client *client = NULL;
    struct error *error = NULL;
    if (grpc_client_new(&client, place->path, &error) < 0) fail_msg("%s", error_message(error));
    return client;
}

static struct grpc_answer ask(struct grpc_client *client, const char *path, const void *message,
                              size_t length)
{
    const struct grpc_request request = {
        .path = path, .message = message, .length = length, .timeout_ms = CALL_MS
    };
    struct grpc_answer answer;
    struct error *error = NULL;
    if (grpc_client_call(client, &request, &answer, &error) < 0)
        fail_msg("%s", error_message(error));
    return answer;
}

static void expect_status(struct grpc_client *client, const char *path, const void *message,
                          size_t length, enum grpc_status status, const char *text)
{
    struct grpc_answer answer = ask(client, path, message, length);
    assert_int_equal(answer.status, status);
    if (text)
        assert_string_equal(answer.text, text);
    else
        assert_null(answer.text);
    assert_int_equal(answer.message.length, 0);
    grpc_answer_free(&answer);
}

static void expect_failure(struct grpc_client *client, const struct grpc_request *request,
                           enum error_kind kind)
{
    struct grpc_answer answer;
    struct error *error = NULL;
    assert_int_equal(grpc_client_call(client, request, &answer, &error), -1);
    assert_int_equal(error_kind_of(error), kind);
    error_free(error);
}

static void expect_echo(struct grpc_client *client, size_t length)
{
    uint8_t *message = malloc(length + 1);
    assert_non_null(message);
    for (size_t i = 0; i < length; i++)
        message[i] = (uint8_t)(i * 7);
    struct grpc_answer answer = ask(client, "/test.Test/Echo", message, length);
    assert_int_equal(answer.status, GRPC_OK);
    assert_int_equal(answer.message.length, length);
    if (length) assert_memory_equal(answer.message.data, message, length);
    grpc_answer_free(&answer);
    free(message);
}

static void messages_of_every_size(void **state)
{
    static const size_t sizes[] = { 0, 1, 16383, 65535, 65536, 300000, GRPC_MESSAGE_LIMIT };
    struct grpc_client *client = make_client(*state);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        expect_echo(client, sizes[i]);
    uint8_t *large = calloc(1, GRPC_MESSAGE_LIMIT + 1);
    expect_status(client, "/test.Test/Echo", large, GRPC_MESSAGE_LIMIT + 1, GRPC_RESOURCE_EXHAUSTED,
                  "the message has more than 4 MiB");
    expect_echo(client, 5);
    free(large);
    grpc_client_free(client);
}

static void errors_have_status_and_text(void **state)
{
    static const char text[] = "snapshot \"\xc3\xa4 %41\" does not exist: not found";
    struct grpc_client *client = make_client(*state);
    expect_status(client, "/test.Test/Fail", text, strlen(text), GRPC_NOT_FOUND, text);
    expect_status(client, "/test.Test/Fail", "", 0, GRPC_NOT_FOUND, NULL);
    expect_status(client, "/test.Test/Nothing", "", 0, GRPC_UNIMPLEMENTED,
                  "there is no such method");
    expect_status(client, "/test.Test/Forget", "", 0, GRPC_INTERNAL, "the call was not answered");
    grpc_client_free(client);
}

static void handlers_see_metadata_and_deadline(void **state)
{
    struct grpc_place *place = *state;
    struct grpc_client *client = make_client(place);
    struct grpc_metadata metadata = { 0 };
    assert_int_equal(
        grpc_metadata_add(&metadata, (const uint8_t *)"color", 5, (const uint8_t *)"blue", 4), 0);
    struct grpc_request request = { .path = "/test.Test/Left",
                                    .metadata = &metadata,
                                    .timeout_ms = CALL_MS };
    struct grpc_answer answer;
    assert_int_equal(grpc_client_call(client, &request, &answer, NULL), 0);
    assert_int_equal(answer.message.length, 4);
    assert_memory_equal(answer.message.data, "blue", 4);
    assert_in_range(atomic_load(&place->left), 1, CALL_MS);
    grpc_answer_free(&answer);
    request.timeout_ms = UINT64_MAX;
    assert_int_equal(grpc_client_call(client, &request, &answer, NULL), 0);
    assert_true(atomic_load(&place->left) == UINT64_MAX);
    grpc_answer_free(&answer);
    grpc_metadata_free(&metadata);
    grpc_client_free(client);
}

static bool is_begun(void *context)
{
    struct grpc_place *place = context;
    return atomic_load(&place->begun) > 0;
}

static void who_gives_up_ends_the_handler(void **state)
{
    struct grpc_place *place = *state;
    struct grpc_client *client = make_client(place);
    const struct grpc_request cancelled = {
        .path = "/test.Test/Wait", .timeout_ms = UINT64_MAX, .cancelled = is_begun, .context = place
    };
    expect_failure(client, &cancelled, ERROR_CANCELLED);
    expect_count(&place->running, 0);
    const struct grpc_request late = { .path = "/test.Test/Wait", .timeout_ms = 50 };
    struct grpc_answer answer;
    struct error *error = NULL;
    /* Either end may see the deadline first. */
    if (grpc_client_call(client, &late, &answer, &error) == 0)
        assert_true(answer.status == GRPC_ABORTED || answer.status == GRPC_DEADLINE_EXCEEDED);
    else
        assert_int_equal(error_kind_of(error), ERROR_UNREACHABLE);
    grpc_answer_free(&answer);
    error_free(error);
    expect_count(&place->running, 0);
    expect_echo(client, 5);
    grpc_client_free(client);
}

struct asker {
    struct grpc_client *client;
    pthread_t thread;
    size_t length;
};

static void *ask_often(void *argument)
{
    const struct asker *asker = argument;
    for (size_t i = 0; i < 20; i++)
        expect_echo(asker->client, asker->length + i);
    return NULL;
}

static void more_callers_than_workers(void **state)
{
    enum { ASKER_COUNT = 100 };
    struct grpc_client *client = make_client(*state);
    struct asker askers[ASKER_COUNT];
    for (size_t i = 0; i < ASKER_COUNT; i++) {
        askers[i] = (struct asker){ .client = client, .length = i * 500 };
        assert_int_equal(pthread_create(&askers[i].thread, NULL, ask_often, &askers[i]), 0);
    }
    for (size_t i = 0; i < ASKER_COUNT; i++)
        pthread_join(askers[i].thread, NULL);
    grpc_client_free(client);
}

static void connections_are_made_anew(void **state)
{
    struct grpc_place *place = *state;
    struct grpc_client *client = make_client(place);
    expect_echo(client, 5);
    place_stop(place);
    const struct grpc_request request = { .path = "/test.Test/Echo", .timeout_ms = CALL_MS };
    expect_failure(client, &request, ERROR_UNREACHABLE);
    place_start(place);
    expect_echo(client, 5);
    grpc_client_free(client);
}

static void *wait_for_stop(void *argument)
{
    struct grpc_client *client = argument;
    expect_status(client, "/test.Test/Wait", "", 0, GRPC_ABORTED, "waited");
    return NULL;
}

static void a_stop_lets_handlers_answer(void **state)
{
    struct grpc_place *place = *state;
    struct grpc_client *client = make_client(place);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, wait_for_stop, client), 0);
    expect_count(&place->begun, 1);
    place_stop(place);
    pthread_join(thread, NULL);
    assert_int_equal(access(place->path, F_OK), -1);
    grpc_client_free(client);
}

static void expect_no_start(const struct grpc_place *place)
{
    struct grpc_server *second;
    struct error *error = NULL;
    assert_int_equal(grpc_server_start(&second, place->path, place->methods, 6, &error), -1);
    assert_int_equal(error_kind_of(error), ERROR_EXISTS);
    error_free(error);
}

static void only_dead_sockets_are_replaced(void **state)
{
    struct grpc_place *place = *state;
    struct stat status;
    assert_int_equal(stat(place->path, &status), 0);
    assert_int_equal(status.st_mode & 0777, 0600);
    expect_no_start(place);
    struct grpc_client *client = make_client(place);
    expect_echo(client, 5);
    place_stop(place);

    int file = open(place->path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    assert_true(file >= 0);
    close(file);
    expect_no_start(place);
    assert_int_equal(unlink(place->path), 0);

    struct sockaddr_un address = { .sun_family = AF_UNIX };
    snprintf(address.sun_path, sizeof address.sun_path, "%s", place->path);
    int dead = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(dead, (struct sockaddr *)&address, sizeof address), 0);
    close(dead);
    place_start(place);
    expect_echo(client, 5);
    grpc_client_free(client);

    /* Somebody else's socket of the same name is left alone. */
    assert_int_equal(unlink(place->path), 0);
    int other = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(other, (struct sockaddr *)&address, sizeof address), 0);
    place_stop(place);
    assert_int_equal(unlink(place->path), 0);
    close(other);
}

/* Who connects while there is no server waits for the next one. */
static void a_socket_that_is_kept(void **state)
{
    struct grpc_place *place = *state;
    struct grpc_client *client = make_client(place);
    expect_echo(client, 5);
    int kept = dup(grpc_server_listener(place->server));
    grpc_server_leave_socket(place->server);
    place_stop(place);

    struct sockaddr_un address = { .sun_family = AF_UNIX };
    snprintf(address.sun_path, sizeof address.sun_path, "%s", place->path);
    int waiting = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(waiting, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(
        grpc_server_start_on(&place->server, kept, place->path, place->methods, 6, NULL), 0);
    char byte; /* of its settings */
    assert_int_equal(read(waiting, &byte, 1), 1);
    close(waiting);
    expect_echo(client, 5);
    grpc_client_free(client);
    place_stop(place);
    assert_int_equal(unlink(place->path), 0);
}

/* ---- the client against what is no proper server ---- */

struct liar {
    int listener;
    pthread_t thread;
    const void *says;
    size_t length;
};

static void *lie(void *argument)
{
    const struct liar *liar = argument;
    char bytes[1000];
    int descriptor = accept4(liar->listener, NULL, NULL, SOCK_CLOEXEC);
    ssize_t got = recv(descriptor, bytes, sizeof bytes, 0);
    if (got > 0) send(descriptor, liar->says, liar->length, MSG_NOSIGNAL);
    shutdown(descriptor, SHUT_WR);
    while (recv(descriptor, bytes, sizeof bytes, 0) > 0) {
    }
    close(descriptor);
    return NULL;
}

static void expect_lie_is_seen(struct grpc_place *place, const void *says, size_t length)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    struct liar liar = { .says = says, .length = length };
    snprintf(address.sun_path, sizeof address.sun_path, "%s", place->path);
    liar.listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(liar.listener, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(liar.listener, 1), 0);
    assert_int_equal(pthread_create(&liar.thread, NULL, lie, &liar), 0);
    struct grpc_client *client = make_client(place);
    const struct grpc_request request = { .path = "/test.Test/Echo", .timeout_ms = CALL_MS };
    expect_failure(client, &request, ERROR_UNREACHABLE);
    pthread_join(liar.thread, NULL);
    close(liar.listener);
    unlink(place->path);
    grpc_client_free(client);
}

static void a_client_survives_liars(void **state)
{
    static const char http[] = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    /* SETTINGS; HEADERS of stream 1 with ":status: 200" alone, the last of the stream. */
    static const uint8_t no_status[] = {
        0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 1, 1, 5, 0, 0, 0, 1, 0x88
    };
    /* SETTINGS; DATA of a stream that nobody opened. */
    static const uint8_t no_stream[] = {
        0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 9, 'x'
    };
    struct grpc_place *place = *state;
    place_stop(place);
    expect_lie_is_seen(place, http, sizeof http - 1);
    expect_lie_is_seen(place, no_status, sizeof no_status);
    expect_lie_is_seen(place, no_stream, sizeof no_stream);
    expect_lie_is_seen(place, "", 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, place_set_up, place_tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(messages_of_every_size),
        TEST(errors_have_status_and_text),
        TEST(handlers_see_metadata_and_deadline),
        TEST(who_gives_up_ends_the_handler),
        TEST(more_callers_than_workers),
        TEST(connections_are_made_anew),
        TEST(a_stop_lets_handlers_answer),
        TEST(only_dead_sockets_are_replaced),
        TEST(a_socket_that_is_kept),
        TEST(a_client_survives_liars),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
