/* The WWW-Authenticate header: real ones, and hostile ones. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "fetcher/challenge-internal.h"

static void assert_text(const char *text, const char *expected)
{
    if (expected)
        assert_string_equal(text, expected);
    else
        assert_null(text);
}

static void test_what_registries_send(void **state)
{
    static const struct {
        const char *value, *scheme, *realm, *service, *scope;
    } cases[] = {
        { "Bearer realm=\"https://auth.docker.io/token\",service=\"registry.docker.io\","
          "scope=\"repository:library/python:pull\"",
          "Bearer", "https://auth.docker.io/token", "registry.docker.io",
          "repository:library/python:pull" },
        { "bearer realm=\"https://x/t\"", "Bearer", "https://x/t", NULL, NULL },
        { "Basic realm=\"Registry Realm\"", "Basic", "Registry Realm", NULL, NULL },
        { "Basic", "Basic", NULL, NULL, NULL },
        { "Basic realm=x, Bearer realm=\"y\",service=z", "Bearer", "y", "z", NULL },
        { "Bearer realm=\"y\",service=z, Basic realm=x", "Basic", "x", NULL, NULL },
        { "Negotiate, Basic realm=x", "Basic", "x", NULL, NULL },
        { "Negotiate YWJj==, Basic realm=x", "Basic", "x", NULL, NULL },
        { " ,, Basic  realm = x , charset=\"UTF-8\"", "Basic", "x", NULL, NULL },
        { "Bearer realm=\"a\\\"b,c=\\\\d\",scope=\"p:q:pull,push\"", "Bearer", "a\"b,c=\\d", NULL,
          "p:q:pull,push" },
        { "Bearer realm=first,realm=second", "Bearer", "first", NULL, NULL },
        { "Bearer REALM=x", "Bearer", "x", NULL, NULL },
        { "Bearer realm=", "Bearer", NULL, NULL, NULL }, /* as RFC 9110 has it, a token68 */
        { "Bearer error=\"insufficient_scope\",realm=x", "Bearer", "x", NULL, NULL },
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct challenge challenge;
        if (!challenge_find(cases[i].value, cases[i].scheme, &challenge))
            fail_msg("no challenge in: %s", cases[i].value);
        assert_text(challenge.realm, cases[i].realm);
        assert_text(challenge.service, cases[i].service);
        assert_text(challenge.scope, cases[i].scope);
        challenge_free(&challenge);
    }
}

static void test_what_holds_no_challenge(void **state)
{
    static const char *const values[] = {
        "",
        ",",
        "Basic realm=x",
        "Bearerx realm=x",
        "Bearer realm=\"x",
        "Bearer realm=\"x\\",
        "Bearer a=b,realm=",
        "Bearer realm=\"a\"b",
        "Bearer realm=\"a\" service=b",
        "Bearer =x",
        "Bearer\x01realm=x",
        "\"Bearer\" realm=x",
    };
    (void)state;
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        struct challenge challenge;
        if (challenge_find(values[i], "Bearer", &challenge))
            fail_msg("a challenge in: %s", values[i]);
        assert_null(challenge.realm);
    }
}

/* Every prefix of, and every single change to, a valid value ends, without a
 * read outside (the sanitizer watches). */
static void test_damaged_values(void **state)
{
    static const char valid[] =
        "Negotiate a==, Bearer realm=\"h\\\"x\",service=\"s\",scope=\"a b\"";
    static const char bytes[] = "\"\\=, \t\x01\xff"
                                "a";
    (void)state;
    for (size_t i = 0; i < sizeof valid; i++) {
        struct challenge challenge;
        char *copy = strndup(valid, i);
        challenge_find(copy, "Bearer", &challenge);
        challenge_free(&challenge);
        free(copy);
        for (size_t j = 0; j < sizeof bytes - 1 && i < sizeof valid - 1; j++) {
            copy = strdup(valid);
            copy[i] = bytes[j];
            challenge_find(copy, "Bearer", &challenge);
            challenge_free(&challenge);
            free(copy);
        }
    }
}

static void test_a_value_without_end(void **state)
{
    struct challenge challenge;
    char *value = malloc(1 << 20);
    (void)state;
    memset(value, 'a', 1 << 20);
    memcpy(value, "Bearer realm=", 13);
    value[(1 << 20) - 1] = '\0';
    assert_false(challenge_find(value, "Bearer", &challenge));
    free(value);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_registries_send),
        cmocka_unit_test(test_what_holds_no_challenge),
        cmocka_unit_test(test_damaged_values),
        cmocka_unit_test(test_a_value_without_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
