/* Requests of containerd's snapshots service: what newer versions of it say. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "github.com/containerd/containerd/api/services/snapshots/v1/snapshots.pb-c.h"
#include "snapshotter/snapshots_message-internal.h"

#define PARENT 5

/* "refused", or what is field 5 of the request. */
static char *parent_of(const char *bytes, size_t length)
{
    struct error *error = NULL;
    ProtobufCMessage *request =
        request_read(&containerd__services__snapshots__v1__commit_snapshot_request__descriptor,
                     (const uint8_t *)bytes, length, &error);
    char *parent = request ? newer_text(request, PARENT, &error) : NULL;
    request_free(request);
    if (!parent) assert_int_equal(error_kind_of(error), ERROR_INVALID);
    error_free(error);
    return parent ? parent : strdup("refused");
}

static void a_parent_arrives(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t length;
        const char *parent;
    } cases[] = {
        { "\x12\x01n\x1a\x01k", 6, "" },
        { "\x12\x01n\x1a\x01k\x2a\x03"
          "p/1",
          11, "p/1" },
        { "\x2a\x01"
          "a\x2a\x02"
          "bc\x32\x01x",
          10, "bc" },
        { "\x2a\x00", 2, "" },
        { "\x28\x07", 2, "" }, /* a number */
        { "\x2a\x03"
          "a\0b",
          5, "refused" },
        { "\x2a\x05"
          "ab",
          4, "refused" }, /* longer than the request */
        { "\x2a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 11, "refused" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *parent = parent_of(cases[i].bytes, cases[i].length);
        assert_string_equal(parent, cases[i].parent);
        free(parent);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_parent_arrives),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
