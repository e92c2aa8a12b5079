/* Several hosts for one registry, well and ill (tests/fakes/registry_faults.py). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "late_answers.h"

#include "faulty_registry.h"

#define NOT_SOON 3600u

/* The client of one test: its hosts.toml names mirrors with these faults, then what `more` says. */
static void use_mirrors(const char *faults, const char *capabilities, const char *more,
                        unsigned aside_seconds)
{
    struct buffer text = { 0 };
    char *copy = strdup(faults), *rest = NULL;
    buffer_append(&text, more, strlen(more));
    for (char *fault = strtok_r(copy, " ", &rest); fault; fault = strtok_r(NULL, " ", &rest)) {
        char *host = strcmp(fault, "nobody") == 0 ? format_text("[host.\"http://127.0.0.1:1\"]\n")
                                                  : format_text("[host.\"http://%s/at/%s\"]\n%s\n",
                                                                mirror, fault, capabilities);
        buffer_append(&text, host, strlen(host));
        free(host);
    }
    free(copy);
    char *place = format_text("%s/certs.d/%s", directory, registry);
    char *path = format_text("%s/hosts.toml", place);
    assert_int_equal(directory_make(place, 0755, NULL), 0);
    assert_int_equal(file_write_atomic(path, text.data, text.length, 0644, NULL), 0);
    buffer_free(&text);
    free(path);
    free(place);
    char *root = in_directory("certs.d");
    struct registry_options options = { .hosts_directory = root,
                                        .attempts = 2,
                                        .mirror_seconds = 1,
                                        .stall_seconds = 3,
                                        .aside_seconds = aside_seconds };
    registry_client_free(client);
    client = registry_client_new(&options, NULL);
    assert_non_null(client);
    wait_for_late_answers(client);
    free(root);
}

/* How often mirror and registry were asked for anything of `name`. */
static void assert_asked(const char *name, unsigned mirror_times, unsigned registry_times)
{
    char *part = format_text("/v2/%s/", name);
    assert_int_equal(logged("mirror ", part), mirror_times);
    assert_int_equal(logged("registry ", part), registry_times);
    free(part);
}

static void test_mirror_first(void **state)
{
    (void)state;
    use_mirrors("good", "", "", NOT_SOON);
    assert_fetches("good/first");
    assert_asked("good/first", 1, 0);
    char *question = format_text("?ns=127.0.0.1%%3A%s ", strchr(registry, ':') + 1);
    assert_int_equal(logged("/v2/good/first/", question), 1);
    free(question);
}

/* Whatever is wrong with it: the bytes come from the next host, and others are asked first after.
 */
static void test_mirrors_that_fail(void **state)
{
    static const char *const faults[] = { "reset",         "failing", "forbidden", "wrong-range",
                                          "garbage",       "silence", "stall",     "drip",
                                          "redirect-loop", "basic" };
    (void)state;
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        char *name = format_text("good/%s", faults[i]);
        use_mirrors(faults[i], "", "", NOT_SOON);
        assert_fetches(name);
        char *part = format_text("/v2/%s/", name);
        unsigned asked = logged("mirror ", part);
        assert_true(asked > 0);
        assert_int_equal(logged("registry ", part), 1);
        assert_fetches(name);
        assert_asked(name, asked, 2);
        free(part);
        free(name);
    }
    use_mirrors("nobody good", "", "", NOT_SOON);
    assert_fetches("good/nobody");
    assert_asked("good/nobody", 1, 0);
}

static void test_mirror_that_lacks_it(void **state)
{
    (void)state;
    use_mirrors("lacks good", "", "", NOT_SOON);
    assert_fetches("good/lacks");
    assert_fetches("good/lacks");
    /* The first is not asked for the same again, but for all else, for it is not down. */
    assert_asked("good/lacks", 3, 0);
    assert_fetches("good/lacks-too");
    assert_asked("good/lacks-too", 2, 0);
}

static void test_mirror_comes_back(void **state)
{
    (void)state;
    use_mirrors("busy-once", "", "", 1);
    assert_fetches("good/back");
    assert_asked("good/back", 1, 1);
    for (unsigned i = 0; i < 100 && logged("mirror ", "/v2/good/back/") == 1; i++) {
        usleep(100000);
        assert_fetches("good/back");
    }
    unsigned asked = logged("registry ", "/v2/good/back/");
    assert_fetches("good/back");
    assert_asked("good/back", 3, asked);
}

/* What has arrived is kept: the next host is asked for the rest. */
static void test_change_in_the_middle(void **state)
{
    (void)state;
    use_mirrors("truncate-once", "", "", NOT_SOON);
    assert_fetches("good/middle");
    assert_int_equal(logged("mirror ", "/v2/good/middle/"), 1);
    assert_int_equal(logged("registry GET /v2/good/middle/", "range=bytes=2000-5999"), 1);
}

/* It would cost a whole blob for each range. */
static void test_mirror_that_ignores_ranges(void **state)
{
    struct error *error = NULL;
    (void)state;
    use_mirrors("ignores-ranges", "", "", NOT_SOON);
    assert_fetches("good/whole");
    assert_asked("good/whole", 1, 0);
    assert_int_equal(fetch("good/whole", 2u << 20, 10, 20000, &error), -1);
    assert_non_null(strstr(error_message(error), "outside the blob"));
    error_free(error);
    assert_fetches("good/whole");
    assert_asked("good/whole", 2, 2);
}

static void test_all_fail(void **state)
{
    struct error *error = NULL;
    (void)state;
    use_mirrors("failing forbidden", "", "", NOT_SOON);
    /* The registry's own word counts, and a final one ends it at once. */
    assert_int_equal(fetch("forbidden/all", 0, 10, 20000, &error), -1);
    assert_int_equal(error_kind_of(error), ERROR_DENIED);
    assert_non_null(strstr(error_message(error), "DENIED"));
    error_free(error);
    error = NULL;
    assert_asked("forbidden/all", 2, 1);
    /* Else all are asked again. */
    assert_int_equal(fetch("failing/all", 0, 10, 20000, &error), -1);
    assert_int_equal(error_kind_of(error), ERROR_UNREACHABLE);
    error_free(error);
    assert_asked("failing/all", 4, 2);
}

static int resolve(const char *name, struct error **error)
{
    struct repository from = { registry, name };
    struct digest digest;
    return registry_resolve_tag(client, &from, "tag", 0, &digest, error);
}

static void test_capabilities(void **state)
{
    struct error *error = NULL;
    (void)state;
    use_mirrors("good", "capabilities = [\"pull\"]", "", NOT_SOON);
    assert_int_equal(resolve("good/pull", NULL), 0);
    assert_asked("good/pull", 0, 1);
    assert_fetches("good/pull");
    assert_asked("good/pull", 1, 1);
    use_mirrors("good", "capabilities = [\"pull\", \"resolve\"]", "", NOT_SOON);
    assert_int_equal(resolve("good/both", NULL), 0);
    assert_asked("good/both", 1, 0);
    /* No upstream, and nobody who may say what a tag means. */
    char *server_line =
        format_text("server = \"http://%s/at/good\"\ncapabilities = [\"pull\"]\n", mirror);
    use_mirrors("", "", server_line, NOT_SOON);
    free(server_line);
    assert_int_equal(resolve("good/none", &error), -1);
    assert_non_null(strstr(error_message(error), "capabilities"));
    error_free(error);
    assert_fetches("good/none");
    assert_asked("good/none", 1, 0);
}

static void test_pushing(void **state)
{
    struct repository to = { registry, "upload-reset/mirrored" };
    (void)state;
    use_mirrors("good", "capabilities = [\"pull\", \"resolve\"]", "", NOT_SOON);
    assert_int_equal(registry_has_blob(client, &to, &blob_digest, NULL), 0);
    assert_int_equal(registry_put_blob(client, &to, &blob_digest, blob, BLOB, NULL), 0);
    assert_asked("upload-reset/mirrored", 0, logged("registry ", "upload-reset/mirrored"));
    assert_true(logged("registry PUT", "upload-reset/mirrored") > 0);
}

static void test_wrong_bytes(void **state)
{
    struct repository from = { registry, "good/wrong" };
    struct buffer body = { 0 };
    (void)state;
    /* Found here, where the whole blob is asked for ... */
    use_mirrors("flipped", "", "", NOT_SOON);
    assert_int_equal(registry_get_blob(client, &from, &blob_digest, BLOB, &body, NULL), 0);
    assert_memory_equal(body.data, blob, BLOB);
    buffer_free(&body);
    assert_asked("good/wrong", 1, 1);
    /* ... and by those who verify ranges. */
    use_mirrors("good", "", "", NOT_SOON);
    assert_fetches("good/report");
    assert_asked("good/report", 1, 0);
    registry_report_damage(client, &blob_digest, 0, 1000);
    assert_fetches("good/report");
    assert_asked("good/report", 2, 0);
    registry_report_damage(client, &blob_digest, 5999, 1);
    assert_fetches("good/report");
    assert_asked("good/report", 2, 1);
}

/* Neither the registry's password nor what the settings give for it goes to a mirror. */
static void test_credentials_of_each_host(void **state)
{
    (void)state;
    char *text = format_text("{\"auths\":{\"%s\":{\"auth\":\"dXNlcjpwYXNzOndvcmQ=\"}}}", registry);
    char *path = in_directory("config.json");
    assert_int_equal(file_write_atomic(path, text, strlen(text), 0600, NULL), 0);
    use_mirrors("basic", "", "[header]\nX-Own = \"registry only\"\n", NOT_SOON);
    assert_fetches("basic/each");
    assert_int_equal(logged("mirror ", "auth=Basic"), 0);
    assert_int_equal(logged("mirror GET", "own=registry only"), 0);
    assert_int_equal(logged("registry GET /v2/basic/each", "own=registry only"), 2);
    assert_int_equal(logged("registry GET /v2/basic/each", "auth=Basic"), 1);
    unlink(path);
    free(path);
    free(text);
}

static void test_settings_that_are_wrong(void **state)
{
    struct error *error = NULL;
    (void)state;
    use_mirrors("", "", "server = 1\n", NOT_SOON);
    assert_int_equal(fetch("good/a", 0, 10, 20000, &error), -1);
    assert_non_null(strstr(error_message(error), "hosts.toml"));
    error_free(error);
    error = NULL;
    struct registry_options options = { .hosts_directory = "/nowhere" };
    assert_null(registry_client_new(&options, &error));
    assert_non_null(strstr(error_message(error), "'/nowhere'"));
    error_free(error);
}

static int set_up(void **state)
{
    (void)state;
    return faulty_registry_start();
}

static int tear_down(void **state)
{
    (void)state;
    return faulty_registry_stop();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mirror_first),
        cmocka_unit_test(test_mirrors_that_fail),
        cmocka_unit_test(test_mirror_that_lacks_it),
        cmocka_unit_test(test_mirror_comes_back),
        cmocka_unit_test(test_change_in_the_middle),
        cmocka_unit_test(test_mirror_that_ignores_ranges),
        cmocka_unit_test(test_all_fail),
        cmocka_unit_test(test_capabilities),
        cmocka_unit_test(test_pushing),
        cmocka_unit_test(test_wrong_bytes),
        cmocka_unit_test(test_credentials_of_each_host),
        cmocka_unit_test(test_settings_that_are_wrong),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
