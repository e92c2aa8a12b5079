/* Stored credentials: docker's config.json and the helper programs it names. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "fetcher/credential_helper-internal.h"
#include "fetcher/credentials-internal.h"
#include "fetcher/docker_config-internal.h"

static char directory[] = "/tmp/sluice-test-XXXXXX";
static int never; /* a descriptor that does not become readable */

static char *in_directory(const char *name)
{
    return format_text("%s/%s", directory, name);
}

static void write_text(const char *name, const char *text, mode_t mode)
{
    char *path = in_directory(name);
    assert_int_equal(file_write_atomic(path, text, strlen(text), mode, NULL), 0);
    free(path);
}

static void write_helper(const char *name, const char *script)
{
    char *file = format_text("docker-credential-%s", name);
    char *text = format_text("#!/bin/sh\n%s\n", script);
    write_text(file, text, 0755);
    free(file);
    free(text);
}

static int set_up(void **state)
{
    (void)state;
    if (!mkdtemp(directory)) return -1;
    never = eventfd(0, EFD_CLOEXEC);
    char *path = format_text("%s:%s", directory, getenv("PATH"));
    setenv("PATH", path, 1);
    setenv("DOCKER_CONFIG", directory, 1);
    setenv("XDG_RUNTIME_DIR", directory, 1);
    free(path);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    close(never);
    char *command = format_text("rm -rf '%s'", directory);
    int status = system(command);
    free(command);
    return status;
}

static void assert_password(const char *registry, const char *user, const char *password)
{
    struct credentials found;
    credentials_search(registry, never, &found);
    if (!user) {
        assert_false(credentials_are_known(&found));
    } else {
        if (!found.user) fail_msg("%s: nothing found: %s", registry, found.problem);
        assert_string_equal(found.user, user);
        assert_string_equal(found.password, password);
    }
    credentials_free(&found);
}

static void test_auths(void **state)
{
    (void)state;
    write_text("config.json",
               "{\"auths\":{"
               "\"https://index.docker.io/v1/\":{\"auth\":\"aHViOnNlY3JldA==\"},"
               "\"localhost:5000\":{\"auth\":\"dXNlcjpwYXNzOndvcmQ=\"},"
               "\"https://old.example.com/v1/\":{\"username\":\"u\",\"password\":\"p\"},"
               "\"example.com/team\":{\"auth\":\"dXNlcjpwYXNzOndvcmQ=\"},"
               "\"empty.example.com\":{},"
               "\"odd.example.com\":[1],"
               "\"bad.example.com\":{\"auth\":\"!!!!\"},"
               "\"lone.example.com\":{\"auth\":\"dXNlcg==\"},"
               "\"token.example.com\":{\"auth\":\"dTo=\",\"identitytoken\":\"refresh\"}}}",
               0600);
    assert_password("docker.io", "hub", "secret");
    assert_password("localhost:5000", "user", "pass:word");
    assert_password("old.example.com", "u", "p");
    assert_password("example.com", NULL, NULL);
    assert_password("localhost", NULL, NULL);
    assert_password("empty.example.com", NULL, NULL);
    assert_password("odd.example.com", NULL, NULL);
    assert_password("bad.example.com", NULL, NULL);
    assert_password("lone.example.com", NULL, NULL);
    assert_password("unknown.example.com", NULL, NULL);
    struct credentials found;
    credentials_search("token.example.com", never, &found);
    assert_string_equal(found.identity_token, "refresh");
    assert_null(found.password);
    credentials_free(&found);
    write_text("config.json",
               "{\"auths\":{\"https://registry-1.docker.io/v2/\":{\"auth\":\"aHViOnNlY3JldA==\"}}}",
               0600);
    assert_password("docker.io", "hub", "secret");
}

static void test_malformed_files(void **state)
{
    static const char *const texts[] = {
        "",
        "{",
        "[]",
        "null",
        "{\"auths\":\"secret\"}",
        "{\"auths\":{\"a.b\":\"secret\"}}",
        "{\"credHelpers\":7,\"credsStore\":[\"secret\"]}",
        "{\"auths\":{\"a.b\":{\"auth\":secret",
    };
    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct credentials found;
        write_text("config.json", texts[i], 0600);
        credentials_search("a.b", never, &found);
        assert_false(credentials_are_known(&found));
        /* Not even the parser's words may show what the file holds. */
        if (found.problem) assert_null(strstr(found.problem, "secret"));
        credentials_free(&found);
    }
}

/* Nobody writes into it, and nobody waits. */
static void test_pipe_instead_of_a_file(void **state)
{
    struct credentials found;
    (void)state;
    char *path = in_directory("config.json");
    unlink(path);
    assert_int_equal(mkfifo(path, 0600), 0);
    credentials_search("a.b", never, &found);
    assert_false(credentials_are_known(&found));
    assert_non_null(strstr(found.problem, "is no plain file"));
    credentials_free(&found);
    unlink(path);
    free(path);
}

static void test_no_file(void **state)
{
    struct credentials found;
    (void)state;
    char *path = in_directory("config.json");
    unlink(path);
    free(path);
    credentials_search("a.b", never, &found);
    assert_false(credentials_are_known(&found));
    assert_null(found.problem);
    credentials_free(&found);
}

static void test_helpers(void **state)
{
    (void)state;
    /* The helper answers with what it was asked, so that the question is tested, too. */
    write_helper("echo", "read -r server; [ \"$1\" = get ] && "
                         "printf '{\"ServerURL\":\"x\",\"Username\":\"echo\",\"Secret\":\"%s\"}' "
                         "\"$server\"");
    write_helper("stdin", "server=$(cat /dev/stdin); "
                          "printf '{\"Username\":\"stdin\",\"Secret\":\"%s\"}' \"$server\"");
    write_helper("token", "printf '{\"Username\":\"<token>\",\"Secret\":\"refresh\"}'");
    write_helper("none", "echo 'credentials not found in native keychain'; exit 1");
    write_text("config.json",
               "{\"credsStore\":\"echo\",\"credHelpers\":{\"own.example.com\":\"stdin\","
               "\"none.example.com\":\"none\",\"token.example.com\":\"token\"},"
               "\"auths\":{\"none.example.com\":{\"auth\":\"dXNlcjpwYXNzOndvcmQ=\"}}}",
               0600);
    assert_password("any.example.com:5000", "echo", "any.example.com:5000");
    assert_password("docker.io", "echo", "https://index.docker.io/v1/");
    assert_password("own.example.com", "stdin", "own.example.com");
    assert_password("none.example.com", "user", "pass:word");
    struct credentials found;
    credentials_search("token.example.com", never, &found);
    assert_string_equal(found.identity_token, "refresh");
    credentials_free(&found);
}

static void test_helpers_that_fail(void **state)
{
    static const struct {
        const char *name, *script;
        enum error_kind kind;
    } helpers[] = {
        { "fails", "echo my-secret; exit 3", ERROR_DENIED },
        { "silent", "exit 0", ERROR_INVALID },
        { "garbage", "echo '{\"Username\": \"my-secret'", ERROR_INVALID },
        { "half", "echo '{\"Username\": \"my-secret\"}'", ERROR_INVALID },
        { "endless", "exec yes my-secret", ERROR_INVALID },
        { "../evil", NULL, ERROR_INVALID },
        { "/bin/sh", NULL, ERROR_INVALID },
        { "", NULL, ERROR_INVALID },
        { "missing", NULL, ERROR_SYSTEM },
    };
    (void)state;
    for (size_t i = 0; i < sizeof helpers / sizeof *helpers; i++) {
        struct credentials found;
        struct error *error = NULL;
        if (helpers[i].script) write_helper(helpers[i].name, helpers[i].script);
        int result = credential_helper_get(helpers[i].name, "server", never, 20000, &found, &error);
        assert_int_equal(result, -1);
        assert_int_equal(error_kind_of(error), helpers[i].kind);
        assert_null(strstr(error_message(error), "my-secret"));
        error_free(error);
    }
}

/* Without the bounds these would last for an hour. */
static void test_helpers_that_hang(void **state)
{
    struct credentials found;
    struct error *error = NULL;
    (void)state;
    write_helper("hangs", "sleep 3600");
    write_helper("closes", "exec >&-; sleep 3600");
    assert_int_equal(credential_helper_get("hangs", "s", never, 300, &found, &error), -1);
    assert_int_equal(error_kind_of(error), ERROR_UNREACHABLE);
    error_free(error);
    error = NULL;
    assert_int_equal(credential_helper_get("closes", "s", never, 300, &found, &error), -1);
    error_free(error);
    error = NULL;
    int cancelled = eventfd(1, EFD_CLOEXEC);
    assert_int_equal(credential_helper_get("hangs", "s", cancelled, 3600000, &found, &error), -1);
    assert_int_equal(error_kind_of(error), ERROR_CANCELLED);
    error_free(error);
    close(cancelled);
}

/* What a helper has started may go on, with the helper's output still open: an agent does. */
static void test_helper_that_leaves_something_behind(void **state)
{
    struct credentials found;
    (void)state;
    write_helper("leaves", "printf '{\"Username\":\"u\",\"Secret\":\"s\"}'\n"
                           "sleep 3600 & echo $! > \"$DOCKER_CONFIG/left\"");
    assert_int_equal(credential_helper_get("leaves", "s", never, 3600000, &found, NULL), 1);
    assert_string_equal(found.user, "u");
    credentials_free(&found);
    char *path = in_directory("left");
    struct buffer pid = { 0 };
    assert_int_equal(file_read(path, 100, &pid, NULL), 0);
    assert_int_equal(buffer_append_u8(&pid, 0), 0);
    assert_int_equal(kill((pid_t)strtol((char *)pid.data, NULL, 10), SIGKILL), 0);
    buffer_free(&pid);
    free(path);
}

/* podman, buildah and skopeo have files of their own; docker's counts first. */
static void test_podman_files(void **state)
{
    (void)state;
    write_text("config.json", "{\"auths\":{\"both.example.com\":{\"auth\":\"ZG9ja2VyOng=\"}}}",
               0600);
    write_text("auth.json",
               "{\"auths\":{\"both.example.com\":{\"auth\":\"cG9kbWFuOnk=\"},"
               "\"own.example.com\":{\"auth\":\"cG9kbWFuOnk=\"},"
               "\"docker.io\":{\"auth\":\"cG9kbWFuOnk=\"},"
               "\"space.example.com/name\":{\"auth\":\"cG9kbWFuOnk=\"}}}",
               0600);
    char *named = in_directory("auth.json");
    setenv("REGISTRY_AUTH_FILE", named, 1);
    assert_password("both.example.com", "docker", "x");
    assert_password("own.example.com", "podman", "y");
    assert_password("docker.io", "podman", "y");
    assert_password("space.example.com", NULL, NULL);
    unsetenv("REGISTRY_AUTH_FILE");
    assert_password("own.example.com", NULL, NULL);
    char *containers = in_directory("containers"), *moved = in_directory("containers/auth.json");
    assert_int_equal(mkdir(containers, 0700), 0);
    assert_int_equal(rename(named, moved), 0);
    setenv("XDG_RUNTIME_DIR", directory, 1);
    assert_password("own.example.com", "podman", "y");
    /* A file that is broken hides nothing of the other. */
    write_text("config.json", "{", 0600);
    assert_password("own.example.com", "podman", "y");
    unlink(moved);
    free(named);
    free(containers);
    free(moved);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_auths),
        cmocka_unit_test(test_malformed_files),
        cmocka_unit_test(test_pipe_instead_of_a_file),
        cmocka_unit_test(test_no_file),
        cmocka_unit_test(test_helpers),
        cmocka_unit_test(test_helpers_that_fail),
        cmocka_unit_test(test_helpers_that_hang),
        cmocka_unit_test(test_helper_that_leaves_something_behind),
        cmocka_unit_test(test_podman_files),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
