/* Blobs as streams from a registry with faults (tests/fakes/registry_faults.py). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "registry_requests.h"

#define LARGE 6000000u

static uint8_t *large;
static struct digest large_digest;

static ssize_t read_stream(const char *name, size_t step, unsigned pause_us, struct error **error)
{
    struct repository from = repository(name);
    struct blob_stream *stream;
    uint8_t *bytes = malloc(LARGE);
    size_t position = 0;
    ssize_t count = 0;
    assert_int_equal(registry_open_blob(client, &from, &large_digest, LARGE, &stream, NULL), 0);
    while (position < LARGE) {
        size_t wanted = LARGE - position < step ? LARGE - position : step;
        count = blob_stream_read(stream, bytes + position, wanted, error);
        if (count <= 0) break;
        position += (size_t)count;
        if (pause_us) usleep(pause_us);
    }
    if (count > 0) {
        count = blob_stream_read(stream, bytes, 1, error);
        assert_int_equal(count, 0);
        assert_memory_equal(bytes, large, LARGE);
    }
    blob_stream_close(stream);
    free(bytes);
    return count < 0 ? -1 : (ssize_t)position;
}

static void test_streams(void **state)
{
    struct error *error = NULL;
    (void)state;
    assert_int_equal(read_stream("good/a", 70000, 0, NULL), LARGE);
    assert_int_equal(read_stream("good/a", 300000, 10000, NULL), LARGE);
    /* More interruptions than one request has attempts, but each time it gets further. */
    assert_int_equal(read_stream("truncate-often/a", 70000, 0, NULL), LARGE);
    assert_true(logged("/v2/truncate-often/a/", "range=bytes=") >= 5);
    /* Tokens end in the middle. */
    assert_int_equal(read_stream("token-truncate/a", 70000, 0, NULL), LARGE);
    assert_true(logged("token GET", "token-truncate") >= 2);
    assert_int_equal(read_stream("reset/a", 70000, 0, &error), -1);
    assert_error(error, ERROR_UNREACHABLE, "read blob");
    error = NULL;
    assert_int_equal(read_stream("forbidden/a", 70000, 0, &error), -1);
    assert_error(error, ERROR_DENIED, "read blob");
    error = NULL;
    assert_int_equal(read_stream("short-whole/a", 70000, 0, &error), -1);
    assert_error(error, ERROR_INVALID, "instead of");
}

static void test_streams_that_are_left(void **state)
{
    struct repository from = repository("good/a");
    struct blob_stream *streams[3];
    uint8_t byte;
    (void)state;
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(registry_open_blob(client, &from, &large_digest, LARGE, &streams[i], NULL),
                         0);
    assert_int_equal(blob_stream_read(streams[0], &byte, 1, NULL), 1);
    assert_int_equal(byte, large[0]);
    blob_stream_close(streams[0]);
    blob_stream_close(streams[1]);
    /* The last one outlives the client: it has what was in its buffer, then an error. */
    registry_client_free(client);
    client = NULL;
    ssize_t count;
    struct error *error = NULL;
    while ((count = blob_stream_read(streams[2], &byte, 1, &error)) > 0)
        ;
    assert_int_equal(count, -1);
    assert_error(error, ERROR_CANCELLED, "cancelled");
    blob_stream_close(streams[2]);
    blob_stream_close(NULL);
    struct blob_stream *empty;
    assert_int_equal(fresh_client(state), 0);
    assert_int_equal(registry_open_blob(client, &from, &large_digest, 0, &empty, NULL), 0);
    assert_int_equal(blob_stream_read(empty, &byte, 1, NULL), 0);
    blob_stream_close(empty);
}

static int set_up(void **state)
{
    large = pattern_new(LARGE);
    digest_of(large, LARGE, &large_digest);
    return registry_requests_set_up(state);
}

static int tear_down(void **state)
{
    free(large);
    return registry_requests_tear_down(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        fresh(test_streams),
        fresh(test_streams_that_are_left),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
