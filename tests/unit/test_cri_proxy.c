/* kubelet's calls on their way to containerd, and the secrets that come with a pull. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/log.h"
#include "credentials/cri_proxy.h"
#include "credentials/pull_request.h"
#include "grpc/client.h"
#include "grpc/server.h"

#define V1    "/runtime.v1.ImageService/PullImage"
#define ALPHA "/runtime.v1alpha2.ImageService/PullImage"

static char directory[] = "/tmp/sluice-test-XXXXXX";
static char *containerd_socket, *proxy_socket;
static struct grpc_server *containerd;
static struct credential_store *store;
static struct cri_proxy *proxy;
static struct grpc_client *kubelet;
static atomic_bool refuses; /* containerd, every pull */
static char *seen;          /* who the store knew while containerd pulled */

/* ---- messages ---- */

static void add_field(struct buffer *message, unsigned number, const void *data, size_t length)
{
    assert_int_equal(buffer_append_varint(message, number << 3 | 2), 0);
    assert_int_equal(buffer_append_varint(message, length), 0);
    assert_int_equal(buffer_append(message, data, length), 0);
}

/* `auth`: a text for each field of AuthConfig, from 1 on; NULL: not there. */
static struct buffer pull_of(const char *image, const char *const auth[7])
{
    struct buffer message = { 0 }, inner = { 0 }, secret = { 0 };
    add_field(&inner, 1, image, strlen(image));
    add_field(&inner, 18, "handler", 7);
    add_field(&message, 1, inner.data, inner.length);
    for (unsigned i = 1; i < 7; i++)
        if (auth && auth[i]) add_field(&secret, i, auth[i], strlen(auth[i]));
    if (auth) add_field(&message, 2, secret.data, secret.length);
    add_field(&message, 3, "sandbox", 7);
    buffer_free(&inner);
    buffer_free(&secret);
    return message;
}

#define AUTH(...)          \
    (const char *const[7]) \
    {                      \
        __VA_ARGS__        \
    }

static void assert_read(const char *const auth[7], int expected, const struct credentials *wanted)
{
    struct buffer message = pull_of("registry.test:5000/a:tag", auth);
    struct pull_request pull;
    struct digest found, other;
    assert_int_equal(pull_request_read(&pull, &message, NULL), expected);
    if (expected > 0) {
        assert_string_equal(pull.image, "registry.test:5000/a:tag");
        assert_int_equal(credentials_fingerprint(&pull.credentials, &found), 0);
        assert_int_equal(credentials_fingerprint(wanted, &other), 0);
        assert_true(digest_equal(&found, &other));
        pull_request_free(&pull);
    }
    buffer_free(&message);
}

static void test_what_a_pull_says(void **state)
{
    (void)state;
    static char user[] = "user", password[] = "pass:word", nothing[] = "", token[] = "the-token";
    const struct credentials plain = { .user = user, .password = password };
    const struct credentials half = { .user = user, .password = nothing };
    const struct credentials identity = { .identity_token = token };
    const struct credentials bearer = { .registry_token = token };
    assert_read(AUTH([1] = user, [2] = password), 1, &plain);
    assert_read(AUTH([1] = user), 1, &half);
    assert_read(AUTH([1] = user, [2] = password, [3] = "x", [5] = token), 1, &plain);
    assert_read(AUTH([3] = "dXNlcjpwYXNzOndvcmQ="), 1, &plain);
    assert_read(AUTH([5] = token), 1, &identity);
    assert_read(AUTH([6] = token), 1, &bearer);
    assert_read(AUTH([1] = user, [2] = password, [4] = "registry.test:5000"), 1, &plain);
    assert_read(AUTH([1] = user, [2] = password, [4] = "https://registry.test:5000/v2/"), 1,
                &plain);
    assert_read(AUTH([1] = user, [2] = password, [4] = "https://other.test"), 0, NULL);
    assert_read(AUTH([2] = password), 0, NULL);
    assert_read(NULL, 0, NULL);
    assert_read(AUTH([3] = "no base64"), -1, NULL);
    assert_read(AUTH([6] = "a\r\nX-Injected: b"), -1, NULL);
}

static void test_malformed_pulls(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t length;
    } messages[] = {
        { "\x0a\x7f", 2 }, /* more than there is */
        { "\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 11 },
        { "\x12\x03\x0a\x05u", 5 }, /* within a message */
        { "\x0b", 1 },              /* a group */
        { "\x02\x00", 2 },          /* a field without a number */
        { "\x80", 1 },
        { "\x12\x06\x0a\x01u\x12\x01\0", 8 }, /* a zero byte */
    };
    for (size_t i = 0; i < sizeof messages / sizeof *messages; i++) {
        struct buffer message = { 0 };
        struct pull_request pull;
        assert_int_equal(buffer_append(&message, messages[i].bytes, messages[i].length), 0);
        if (pull_request_read(&pull, &message, NULL) >= 0) fail_msg("message %zu", i);
        buffer_free(&message);
    }
}

/* ---- the proxy ---- */

/* Who is known for the repository; "" where nobody is. Fresh memory. */
static char *known_user(const char *repository)
{
    struct credentials_question question = { "registry.test", repository, NULL };
    struct buffer text = { 0 };
    struct credentials found;
    assert_int_equal(credential_store_find(store, &question, -1, &text, NULL), 0);
    assert_int_equal(credentials_read(&text, &found, NULL), 0);
    char *user = strdup(found.user ? found.user : "");
    credentials_free(&found);
    secret_buffer_free(&text);
    return user;
}

static void assert_known(const char *repository, const char *expected)
{
    char *user = known_user(repository);
    assert_string_equal(user, expected);
    free(user);
}

static void on_pull(struct grpc_call *call, void *context)
{
    (void)context;
    const char *path = grpc_call_path(call);
    free(seen);
    seen = known_user("a");
    if (!refuses) grpc_call_send(call, path, strlen(path));
    grpc_call_end(call, refuses ? GRPC_PERMISSION_DENIED : GRPC_OK, refuses ? "no access" : NULL);
}

static void echo(struct grpc_call *call, void *context)
{
    (void)context;
    const struct buffer *request = grpc_call_request(call);
    const char *color = grpc_metadata_find(grpc_call_metadata(call), "color");
    if (color)
        grpc_call_send(call, color, strlen(color));
    else
        grpc_call_send(call, request->data, request->length);
    grpc_call_end(call, GRPC_OK, NULL);
}

static const struct grpc_method methods[] = { { V1, on_pull, NULL },
                                              { ALPHA, on_pull, NULL },
                                              { NULL, echo, NULL } };

static void start_containerd(void)
{
    assert_int_equal(grpc_server_start(&containerd, containerd_socket, methods, 3, NULL), 0);
}

static void call(const char *path, const struct buffer *message, enum grpc_status status,
                 const char *expected)
{
    struct grpc_metadatum colors[] = { { (char *)"color", (char *)"blue" } };
    struct grpc_metadata metadata = { .entries = colors, .count = message ? 0 : 1 };
    const struct grpc_request request = { .path = path,
                                          .message = message ? message->data : NULL,
                                          .length = message ? message->length : 0,
                                          .metadata = &metadata,
                                          .timeout_ms = 20000 };
    struct grpc_answer answer;
    struct error *error = NULL;
    if (grpc_client_call(kubelet, &request, &answer, &error) < 0)
        fail_msg("%s", error_message(error));
    assert_int_equal(answer.status, status);
    if (status == GRPC_OK) {
        assert_int_equal(answer.message.length, strlen(expected));
        assert_memory_equal(answer.message.data, expected, strlen(expected));
    } else if (!strstr(answer.text, expected)) {
        fail_msg("no '%s' in '%s'", expected, answer.text);
    }
    grpc_answer_free(&answer);
}

static void pull(const char *path, const char *user, enum grpc_status status, const char *expected)
{
    struct buffer message = pull_of("registry.test/a:1", AUTH([1] = user, [2] = "secret"));
    call(path, &message, status, expected);
    buffer_free(&message);
}

static void test_calls_are_passed_on(void **state)
{
    (void)state;
    struct buffer message = { 0 };
    assert_int_equal(buffer_append(&message, "anything", 8), 0);
    call("/runtime.v1.ImageService/ListImages", &message, GRPC_OK, "anything");
    call("/some.later.v2.Service/Method", &message, GRPC_OK, "anything");
    call("/runtime.v1.ImageService/ListImages", NULL, GRPC_OK, "blue");
    /* What cannot be read is containerd's to judge. */
    call(V1, &message, GRPC_OK, V1);
    buffer_free(&message);
}

static void test_pulls_leave_credentials(void **state)
{
    (void)state;
    pull(V1, "first", GRPC_OK, V1);
    assert_string_equal(seen, "first");
    assert_known("a", "first");
    assert_known("b", "");
    pull(ALPHA, "second", GRPC_OK, ALPHA);
    assert_known("a", "second");
}

/* Who pulls with wrong secrets spoils nothing for those who have the right ones. */
static void test_pulls_that_fail(void **state)
{
    (void)state;
    pull(V1, "right", GRPC_OK, V1);
    refuses = true;
    pull(V1, "wrong", GRPC_PERMISSION_DENIED, "no access");
    assert_string_equal(seen, "wrong");
    assert_known("a", "right");
    pull(V1, "right", GRPC_PERMISSION_DENIED, "no access");
    refuses = false;
    assert_known("a", "right");
}

static void test_containerd_that_restarts(void **state)
{
    (void)state;
    grpc_server_stop(containerd);
    containerd = NULL;
    pull(V1, "first", GRPC_UNAVAILABLE, containerd_socket);
    assert_known("a", "");
    start_containerd();
    pull(V1, "first", GRPC_OK, V1);
    assert_known("a", "first");
}

static int set_up(void **state)
{
    (void)state;
    if (!mkdtemp(directory)) return -1;
    setenv("DOCKER_CONFIG", directory, 1);
    setenv("REGISTRY_AUTH_FILE", "/dev/null/none", 1);
    log_set_level(LOG_ERROR);
    containerd_socket = format_text("%s/containerd", directory);
    proxy_socket = format_text("%s/proxy", directory);
    return 0;
}

static int start_all(void **state)
{
    (void)state;
    start_containerd();
    store = credential_store_new(NULL, NULL);
    assert_int_equal(cri_proxy_start(&proxy, proxy_socket, containerd_socket, store, NULL), 0);
    return grpc_client_new(&kubelet, proxy_socket, NULL);
}

static int stop_all(void **state)
{
    (void)state;
    grpc_client_free(kubelet);
    cri_proxy_stop(proxy);
    grpc_server_stop(containerd);
    credential_store_free(store);
    free(seen);
    seen = NULL;
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    free(containerd_socket);
    free(proxy_socket);
    return rmdir(directory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_a_pull_says),
        cmocka_unit_test(test_malformed_pulls),
        cmocka_unit_test_setup_teardown(test_calls_are_passed_on, start_all, stop_all),
        cmocka_unit_test_setup_teardown(test_pulls_leave_credentials, start_all, stop_all),
        cmocka_unit_test_setup_teardown(test_pulls_that_fail, start_all, stop_all),
        cmocka_unit_test_setup_teardown(test_containerd_that_restarts, start_all, stop_all),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
