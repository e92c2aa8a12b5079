/* Image names: what is accepted, what it means, and what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "fetcher/reference.h"

#define HEX    "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define DIGEST "sha256:" HEX

static void test_names_and_their_meaning(void **state)
{
    static const struct {
        const char *text, *full, *target;
    } names[] = {
        { "python", "docker.io/library/python:latest", "latest" },
        { "python:3.12", "docker.io/library/python:3.12", "3.12" },
        { "docker.io/python", "docker.io/library/python:latest", "latest" },
        { "index.docker.io/a/b", "docker.io/a/b:latest", "latest" },
        { "team/app", "docker.io/team/app:latest", "latest" },
        { "localhost/app", "localhost/app:latest", "latest" },
        { "localhost:5000/app:1", "localhost:5000/app:1", "1" },
        { "[::1]:5000/app:1", "[::1]:5000/app:1", "1" },
        { "quay.io/a/b/c__d-e.f", "quay.io/a/b/c__d-e.f:latest", "latest" },
        { "foo@" DIGEST, "docker.io/library/foo@" DIGEST, DIGEST },
        { "foo:1@" DIGEST, "docker.io/library/foo:1@" DIGEST, DIGEST },
        { "r.example.com/x:_t.a-g", "r.example.com/x:_t.a-g", "_t.a-g" },
    };
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct image_reference reference;
        assert_int_equal(image_reference_parse(&reference, names[i].text, NULL), 0);
        char *full = image_reference_format(&reference);
        assert_string_equal(full, names[i].full);
        assert_string_equal(image_reference_target(&reference), names[i].target);
        free(full);
        image_reference_free(&reference);
    }
}

static void test_what_is_refused(void **state)
{
    static const struct {
        const char *text, *part;
    } names[] = {
        { "", "repository" },
        { "/app", "repository" },
        { "App", "repository" },
        { "a//b", "repository" },
        { "a/", "repository" },
        { "a..b", "repository" },
        { "a-", "repository" },
        { "-a", "repository" },
        { "a/../b", "repository" },
        { "a b", "repository" },
        { "a?x=1", "repository" },
        { "a:", "tag" },
        { "a:-x", "tag" },
        { "a:b/c", "registry" },
        { "a:x y", "tag" },
        { "localhost:0/a", "registry" },
        { "localhost:65536/a", "registry" },
        { "localhost:x/a", "registry" },
        { "-x.example.com/a", "registry" },
        { "a..b/c", "registry" },
        { "[::1/a", "registry" },
        { "[zz]:1/a", "registry" },
        { "user@host.example/a", "digest" },
        { "a@sha256:abc", "digest" },
        { "https://quay.io/a", "scheme" },
    };
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct image_reference reference;
        struct error *error = NULL;
        if (image_reference_parse(&reference, names[i].text, &error) == 0)
            fail_msg("'%s' was accepted", names[i].text);
        assert_int_equal(error_kind_of(error), ERROR_INVALID);
        if (!strstr(error_message(error), names[i].part))
            fail_msg("'%s': %s", names[i].text, error_message(error));
        error_free(error);
    }
}

static void test_lengths_are_bounded(void **state)
{
    struct image_reference reference;
    char text[4096];
    (void)state;
    memset(text, 'a', sizeof text);
    text[sizeof text - 1] = '\0';
    assert_int_equal(image_reference_parse(&reference, text, NULL), -1);
    text[300] = '\0';
    assert_int_equal(image_reference_parse(&reference, text, NULL), -1);
    memcpy(text, "a:", 2);
    text[2 + 129] = '\0';
    assert_int_equal(image_reference_parse(&reference, text, NULL), -1);
    text[2 + 128] = '\0';
    assert_int_equal(image_reference_parse(&reference, text, NULL), 0);
    image_reference_free(&reference);
}

static void test_an_unsupported_digest_is_told_apart(void **state)
{
    struct image_reference reference;
    struct error *error = NULL;
    (void)state;
    assert_int_equal(image_reference_parse(&reference, "a@sha512:" HEX HEX, &error), -1);
    assert_int_equal(error_kind_of(error), ERROR_UNSUPPORTED);
    error_free(error);
}

static void test_loopback(void **state)
{
    static const char *const yes[] = { "localhost",      "localhost:5000", "a.localhost:1",
                                       "127.0.0.1:5000", "127.1.2.3",      "[::1]:5000",
                                       "[::1]",          "LOCALHOST" };
    static const char *const no[] = { "docker.io",
                                      "localhost.example.com",
                                      "notlocalhost",
                                      "127.0.0.1.example.com",
                                      "128.0.0.1",
                                      "0.0.0.0:1",
                                      "[::2]",
                                      "[::1].example.com",
                                      "",
                                      "[" };
    (void)state;
    for (size_t i = 0; i < sizeof yes / sizeof *yes; i++)
        assert_true(registry_is_loopback(yes[i]));
    for (size_t i = 0; i < sizeof no / sizeof *no; i++)
        assert_false(registry_is_loopback(no[i]));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names_and_their_meaning),
        cmocka_unit_test(test_what_is_refused),
        cmocka_unit_test(test_lengths_are_bounded),
        cmocka_unit_test(test_an_unsupported_digest_is_told_apart),
        cmocka_unit_test(test_loopback),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
