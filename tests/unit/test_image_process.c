/* What an image's config says of its program. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "index/image_process.h"

static void everything_is_read(void **state)
{
    (void)state;
    static const char config[] =
        "{\"config\":{\"Entrypoint\":[\"/entry\",\"-x\"],\"Cmd\":[\"serve\"],"
        "\"Env\":[\"PATH=/bin\",\"A=b c\"],\"WorkingDir\":\"/srv\",\"User\":\"app:staff\"}}";
    struct image_process process;
    assert_int_equal(image_process_parse(&process, config, strlen(config), NULL), 0);
    assert_int_equal(process.argument_count, 3);
    assert_string_equal(process.arguments[0], "/entry");
    assert_string_equal(process.arguments[2], "serve");
    assert_null(process.arguments[3]);
    assert_int_equal(process.environment_count, 2);
    assert_string_equal(process.environment[1], "A=b c");
    assert_string_equal(process.directory, "/srv");
    assert_string_equal(process.user, "app:staff");
    image_process_free(&process);
}

/* Builders write null, or nothing, for what is not set. */
static void what_is_not_said_has_a_default(void **state)
{
    (void)state;
    static const char *const configs[] = {
        "{}",
        "{\"config\":null}",
        "{\"config\":{\"Entrypoint\":null,\"Cmd\":null,\"Env\":null,\"WorkingDir\":\"\"}}",
    };
    for (size_t i = 0; i < sizeof configs / sizeof *configs; i++) {
        struct image_process process;
        assert_int_equal(image_process_parse(&process, configs[i], strlen(configs[i]), NULL), 0);
        assert_int_equal(process.argument_count, 0);
        assert_int_equal(process.environment_count, 0);
        assert_string_equal(process.directory, "/");
        assert_string_equal(process.user, "");
        image_process_free(&process);
    }
}

static void what_cannot_be_is_refused(void **state)
{
    (void)state;
    static const char *const configs[] = {
        "{\"config\":{\"Cmd\":\"sh -c x\"}}",
        "{\"config\":{\"Cmd\":[1]}}",
        "{\"config\":{\"Env\":{}}}",
        "{\"config\":{\"Entrypoint\":[\"a\",null]}}",
        "{\"config\":{\"WorkingDir\":\"rel\"}}",
        "[]",
    };
    for (size_t i = 0; i < sizeof configs / sizeof *configs; i++) {
        struct image_process process;
        struct error *error = NULL;
        assert_int_equal(image_process_parse(&process, configs[i], strlen(configs[i]), &error), -1);
        assert_non_null(strstr(error_message(error), "image config"));
        error_free(error);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(everything_is_read),
        cmocka_unit_test(what_is_not_said_has_a_default),
        cmocka_unit_test(what_cannot_be_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
