/* Where a node's credentials come from: pulls, kubelet's providers, docker's configuration. */
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/duration.h"
#include "base/file.h"
#include "base/log.h"
#include "credentials/image_pattern.h"
#include "credentials/provider.h"
#include "credentials/store.h"

static char directory[] = "/tmp/sluice-test-XXXXXX";
static int never; /* a descriptor that does not become readable */

static void write_text(const char *name, const char *text, mode_t mode)
{
    char *path = format_text("%s/%s", directory, name);
    assert_int_equal(file_write_atomic(path, text, strlen(text), mode, NULL), 0);
    free(path);
}

/* A program of that name, and a configuration that knows it alone, for registry.test. */
static void write_provider(const char *name, const char *script)
{
    char *text = format_text("#!/bin/sh\n%s\n", script);
    char *config = format_text("# as kubelet has it\n"
                               "apiVersion: kubelet.config.k8s.io/v1\n"
                               "kind: CredentialProviderConfig\n"
                               "providers:\n"
                               "  - name: %s\n"
                               "    apiVersion: credentialprovider.kubelet.k8s.io/v1\n"
                               "    matchImages: ['registry.test', \"*.registry.test:5000/a\"]\n"
                               "    defaultCacheDuration: \"1h\"\n"
                               "    args: [get, credentials]\n"
                               "    env:\n"
                               "      - name: DIRECTORY\n"
                               "        value: %s\n",
                               name, directory);
    write_text(name, text, 0755);
    write_text("providers.yaml", config, 0644);
    free(text);
    free(config);
}

/* An answer with the user and the password of $user; each run leaves a line in "runs". */
#define ANSWER(key, more)                                                                       \
    "echo run >> $DIRECTORY/runs; cat > $DIRECTORY/question; user=$(cat $DIRECTORY/user)\n"     \
    "printf '{\"kind\":\"CredentialProviderResponse\","                                         \
    "\"apiVersion\":\"credentialprovider.kubelet.k8s.io/v1\",\"cacheKeyType\":\"" key "\"" more \
    ",\"auth\":{\"registry.test\":{\"username\":\"%s\",\"password\":\"secret\"}}}' \"$user\""

static unsigned runs(void)
{
    struct buffer text = { 0 };
    char *path = format_text("%s/runs", directory);
    unsigned lines = 0;
    if (file_read(path, 1 << 20, &text, NULL) == 0)
        for (size_t i = 0; i < text.length; i++)
            lines += text.data[i] == '\n';
    unlink(path);
    free(path);
    buffer_free(&text);
    return lines;
}

static struct credential_store *new_store(uint64_t keep_ms, bool with_providers)
{
    char *config = format_text("%s/providers.yaml", directory);
    struct credential_store_options options = { .keep_ms = keep_ms,
                                                .provider_config = with_providers ? config : NULL,
                                                .provider_directory = directory };
    struct error *error = NULL;
    struct credential_store *store = credential_store_new(&options, &error);
    if (!store) fail_msg("%s", error_message(error));
    free(config);
    return store;
}

/* Who is found for the repository; "" where nobody is. Fresh memory. */
static char *find(struct credential_store *store, const char *registry, const char *repository,
                  const struct credentials *refused)
{
    struct buffer text = { 0 };
    struct credentials found;
    struct digest fingerprint;
    if (refused) assert_int_equal(credentials_fingerprint(refused, &fingerprint), 0);
    struct credentials_question question = { registry, repository, refused ? &fingerprint : NULL };
    assert_int_equal(credential_store_find(store, &question, never, &text, NULL), 0);
    assert_int_equal(credentials_read(&text, &found, NULL), 0);
    if (found.user) assert_string_equal(found.password, "secret");
    if (found.problem) assert_null(strstr(found.problem, "secret"));
    char *user = strdup(found.user ? found.user : "");
    credentials_free(&found);
    secret_buffer_free(&text);
    return user;
}

static void assert_found(struct credential_store *store, const char *registry,
                         const char *repository, const struct credentials *refused,
                         const char *expected)
{
    char *user = find(store, registry, repository, refused);
    assert_string_equal(user, expected);
    free(user);
}

static struct credentials of(const char *user)
{
    return (struct credentials){ .user = (char *)user, .password = (char *)"secret" };
}

static int set_up(void **state)
{
    (void)state;
    if (!mkdtemp(directory)) return -1;
    never = eventfd(0, EFD_CLOEXEC);
    setenv("DOCKER_CONFIG", directory, 1);
    setenv("REGISTRY_AUTH_FILE", "/dev/null/none", 1);
    log_set_level(LOG_ERROR);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    char *command = format_text("rm -rf '%s'", directory);
    int result = system(command);
    free(command);
    close(never);
    return result;
}

static int without_docker(void **state)
{
    (void)state;
    write_text("config.json", "{}", 0600);
    runs();
    return 0;
}

/* ---- texts ---- */

static void test_patterns(void **state)
{
    (void)state;
    static const struct {
        const char *pattern, *image;
        bool matches;
    } cases[] = {
        { "registry.io", "registry.io/a/b", true },
        { "registry.io", "other.io/a", false },
        { "Registry.IO", "registry.io/a", true },
        { "https://registry.io/v2/", "registry.io/a", true },
        { "*.azurecr.io", "my.azurecr.io/a", true },
        { "*.io", "a.k8s.io/a", false },
        { "*.*.registry.io", "a.b.registry.io/x", true },
        { "k8s.*.io", "k8s.gcr.io/x", true },
        { "k8s.*", "k8s.io/x", true },
        { "app*.k8s.io", "app1.k8s.io/x", true },
        { "app*.k8s.io", "ap.k8s.io/x", false },
        { "*a*b*.io", "xxaxxbxx.io/x", true },
        { "*.dkr.ecr.*.amazonaws.com", "1.dkr.ecr.eu-west-1.amazonaws.com/x", true },
        { "registry.io:8080/path", "registry.io:8080/path/a", true },
        { "registry.io:8080/path", "registry.io:8080/other", false },
        { "registry.io", "registry.io:8080/a", false },
        { "registry.io:8080", "registry.io/a", false },
        { "*.registry.io:80*", "a.registry.io:8080/a", false },
        { "[::1]:5000", "[::1]:5000/a", true },
        { "[::1]", "[::1]:5000/a", false },
        { "", "registry.io/a", false },
        { "*", "registry.io/a", false },
        { "*", "localhost/a", true },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (image_pattern_matches(cases[i].pattern, cases[i].image) != cases[i].matches)
            fail_msg("'%s' and '%s'", cases[i].pattern, cases[i].image);
    /* One that would take for ever if every star were tried everywhere. */
    char *stars = format_text("%0*d", 2000, 0), *text = format_text("%0*d/a", 2000, 0);
    for (size_t i = 0; i < 2000; i++)
        stars[i] = i % 2 ? 'x' : '*';
    memset(text, 'x', 2000);
    text[1999] = 'y';
    assert_false(image_pattern_matches(stars, text));
    free(stars);
    free(text);
}

static void test_durations(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        uint64_t milliseconds;
    } good[] = { { "0", 0 },
                 { "0s", 0 },
                 { "12h", 43200000 },
                 { "1h30m", 5400000 },
                 { "1.5s", 1500 },
                 { "250ms", 250 },
                 { "999999999999h", UINT64_C(366) * 86400000 } };
    static const char *const bad[] = { "", "12", "-1s", "1d", "h", ".s", "1h 2m", "1e3s" };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        uint64_t found = 1;
        assert_int_equal(duration_parse(good[i].text, &found, NULL), 0);
        assert_int_equal(found, good[i].milliseconds);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        uint64_t found;
        if (duration_parse(bad[i], &found, NULL) == 0) fail_msg("'%s'", bad[i]);
    }
}

static void assert_refused(const char *text)
{
    struct credential_providers providers;
    struct error *error = NULL;
    char *path = format_text("%s/malformed", directory);
    write_text("malformed", text, 0644);
    if (credential_providers_read(&providers, path, directory, &error) == 0) fail_msg("%s", text);
    assert_non_null(strstr(error_message(error), path));
    error_free(error);
    free(path);
}

static void test_malformed_configurations(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "",
        "a: [b",
        "- a",
        "kind: Other\nproviders: []",
        "kind: CredentialProviderConfig",
        "{\"kind\": \"CredentialProviderConfig\", \"providers\": [{}]}",
        "kind: CredentialProviderConfig\nproviders: &a [*a]",
        "kind: CredentialProviderConfig\nkind: CredentialProviderConfig\nproviders: []",
        "kind: CredentialProviderConfig\nproviders: []\n---\nkind: more",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        assert_refused(texts[i]);
    static const char *const names[] = { "../sh", "missing" };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char *text = format_text("kind: CredentialProviderConfig\n"
                                 "providers: [{name: %s, matchImages: [a],"
                                 " defaultCacheDuration: 1h,"
                                 " apiVersion: credentialprovider.kubelet.k8s.io/v1}]",
                                 names[i]);
        assert_refused(text);
        free(text);
    }
    char *deep = format_text("kind: %0*d", 5000, 0);
    memset(deep + 6, '[', 5000);
    assert_refused(deep);
    free(deep);
}

/* ---- what came with pulls ---- */

static void test_pulls(void **state)
{
    (void)state;
    struct credential_store *store = new_store(0, false);
    struct credentials one = of("one"), two = of("two"), three = of("three");
    assert_found(store, "docker.io", "library/python", NULL, "");
    assert_int_equal(credential_store_put(store, "python:3", &one, NULL), 1);
    assert_int_equal(credential_store_put(store, "python:3.12", &one, NULL), 0);
    assert_found(store, "docker.io", "library/python", NULL, "one");
    assert_found(store, "docker.io", "library/perl", NULL, "");
    assert_found(store, "registry.test", "library/python", NULL, "");
    /* A newer pull's come first; the older are still there when these are refused. */
    assert_int_equal(credential_store_put(store, "python", &two, NULL), 1);
    assert_int_equal(credential_store_put(store, "python", &three, NULL), 1);
    assert_found(store, "docker.io", "library/python", NULL, "three");
    assert_found(store, "docker.io", "library/python", &three, "two");
    assert_found(store, "docker.io", "library/python", &two, "one");
    assert_found(store, "docker.io", "library/python", NULL, "one");
    /* Where all were refused, each is tried again, in turn. */
    assert_found(store, "docker.io", "library/python", &one, "three");
    assert_found(store, "docker.io", "library/python", &three, "two");
    assert_int_equal(credential_store_put(store, "python", &two, NULL), 0);
    assert_found(store, "docker.io", "library/python", NULL, "two");
    credential_store_drop(store, "python:any", &two);
    credential_store_drop(store, "python:any", &one);
    assert_found(store, "docker.io", "library/python", NULL, "three");
    assert_int_equal(credential_store_put(store, "no name!", &one, NULL), -1);
    credential_store_free(store);
}

static void test_docker_comes_before_what_was_refused(void **state)
{
    (void)state;
    struct credential_store *store = new_store(0, false);
    struct credentials one = of("one"), docker = of("docker");
    assert_int_equal(credential_store_put(store, "registry.test/a", &one, NULL), 1);
    write_text("config.json", "{\"auths\":{\"registry.test\":{\"auth\":\"ZG9ja2VyOnNlY3JldA==\"}}}",
               0600);
    assert_found(store, "registry.test", "a", NULL, "one");
    assert_found(store, "registry.test", "a", &one, "docker");
    assert_found(store, "registry.test", "a", NULL, "docker");
    assert_found(store, "registry.test", "a", &docker, "one");
    assert_found(store, "registry.test", "b", &docker, "docker");
    credential_store_free(store);
}

static void test_pulls_are_forgotten(void **state)
{
    (void)state;
    struct credential_store *store = new_store(1, false);
    struct credentials one = of("one");
    assert_int_equal(credential_store_put(store, "registry.test/a", &one, NULL), 1);
    usleep(5000);
    assert_found(store, "registry.test", "a", NULL, "");
    credential_store_free(store);
    store = new_store(0, false);
    for (unsigned i = 0; i < 1100; i++) {
        char *image = format_text("registry.test/number%u", i);
        assert_int_equal(credential_store_put(store, image, &one, NULL), 1);
        assert_found(store, "registry.test", "number0", NULL, "one");
        free(image);
    }
    assert_found(store, "registry.test", "number1", NULL, "");
    assert_found(store, "registry.test", "number1099", NULL, "one");
    credential_store_free(store);
}

/* ---- providers ---- */

static void test_provider(void **state)
{
    (void)state;
    write_provider("plugin", "[ \"$1 $2\" = 'get credentials' ] || exit 1\n" ANSWER("Image", ""));
    write_text("user", "first", 0644);
    struct credential_store *store = new_store(0, true);
    assert_found(store, "registry.test", "a", NULL, "first");
    struct buffer question = { 0 };
    char *path = format_text("%s/question", directory);
    assert_int_equal(file_read(path, 4096, &question, NULL), 0);
    assert_int_equal(buffer_append_u8(&question, 0), 0);
    assert_string_equal((char *)question.data,
                        "{\"apiVersion\":\"credentialprovider.kubelet.k8s.io/v1\","
                        "\"kind\":\"CredentialProviderRequest\",\"image\":\"registry.test/a\"}");
    buffer_free(&question);
    free(path);
    /* The answer holds for this image and for an hour. */
    assert_found(store, "registry.test", "a", NULL, "first");
    assert_int_equal(runs(), 1);
    assert_found(store, "registry.test", "b", NULL, "first");
    assert_int_equal(runs(), 1);
    assert_found(store, "other.test", "a", NULL, "");
    assert_int_equal(runs(), 0);
    credential_store_free(store);
}

static void test_what_answers_hold_for(void **state)
{
    (void)state;
    write_text("user", "first", 0644);
    write_provider("plugin", ANSWER("Registry", ""));
    struct credential_store *store = new_store(0, true);
    assert_found(store, "registry.test", "a", NULL, "first");
    assert_found(store, "registry.test", "b/c", NULL, "first");
    assert_int_equal(runs(), 1);
    credential_store_free(store);
    write_provider("plugin", ANSWER("Global", ""));
    store = new_store(0, true);
    assert_found(store, "registry.test", "a", NULL, "first");
    assert_found(store, "one.registry.test:5000", "a", NULL, "");
    assert_int_equal(runs(), 1);
    credential_store_free(store);
    write_provider("plugin", ANSWER("Global", ",\"cacheDuration\":\"0s\""));
    store = new_store(0, true);
    assert_found(store, "registry.test", "a", NULL, "first");
    assert_found(store, "registry.test", "a", NULL, "first");
    assert_int_equal(runs(), 2);
    credential_store_free(store);
}

/* A provider's new answer counts although the old one had time left. */
static void test_refused_answers_are_asked_for_anew(void **state)
{
    (void)state;
    struct credentials first = of("first"), second = of("second");
    write_text("user", "first", 0644);
    write_provider("plugin", ANSWER("Global", ""));
    struct credential_store *store = new_store(0, true);
    assert_found(store, "registry.test", "a", NULL, "first");
    write_text("user", "second", 0644);
    assert_found(store, "registry.test", "a", NULL, "first");
    assert_found(store, "registry.test", "a", &first, "second");
    assert_int_equal(runs(), 2);
    /* Who insists is not asked all the time, but again. */
    assert_found(store, "registry.test", "a", &second, "second");
    write_text("user", "third", 0644);
    unsigned tries = 0;
    char *user = find(store, "registry.test", "a", &second);
    while (strcmp(user, "second") == 0 && tries++ < 200) {
        free(user);
        usleep(100000);
        user = find(store, "registry.test", "a", &second);
    }
    assert_string_equal(user, "third");
    assert_int_equal(runs(), 2);
    free(user);
    credential_store_free(store);
}

static void *find_first(void *store)
{
    assert_found(store, "registry.test", "a", NULL, "first");
    return NULL;
}

static void test_one_run_for_many(void **state)
{
    (void)state;
    pthread_t threads[8];
    write_text("user", "first", 0644);
    write_provider("plugin", "sleep 0.2\n" ANSWER("Image", ""));
    struct credential_store *store = new_store(0, true);
    for (size_t i = 0; i < 8; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, find_first, store), 0);
    for (size_t i = 0; i < 8; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(runs(), 1);
    credential_store_free(store);
}

static void test_providers_that_fail(void **state)
{
    (void)state;
    static const char *const scripts[] = {
        "exit 1",
        "kill -SEGV $$",
        "printf 'secret {'",
        "printf '{\"kind\":\"secret\"}'",
        "head -c 5000000 /dev/zero",
        "printf '{\"kind\":\"CredentialProviderResponse\",\"apiVersion\":\"secret\"}'",
        ANSWER("secret", ""),
        ANSWER("Global", ",\"cacheDuration\":\"secret\""),
        "printf '[%.0s' $(seq 10000)",
    };
    for (size_t i = 0; i < sizeof scripts / sizeof *scripts; i++) {
        write_provider("plugin", scripts[i]);
        struct credential_store *store = new_store(0, true);
        struct credentials_question question = { "registry.test", "a", NULL };
        for (unsigned again = 0; again < 2; again++) {
            struct buffer text = { 0 };
            struct credentials found;
            assert_int_equal(credential_store_find(store, &question, never, &text, NULL), 0);
            assert_int_equal(credentials_read(&text, &found, NULL), 0);
            assert_false(credentials_are_known(&found));
            assert_non_null(found.problem);
            assert_non_null(strstr(found.problem, "credential provider 'plugin'"));
            assert_null(strstr(found.problem, "secret"));
            credentials_free(&found);
            secret_buffer_free(&text);
        }
        assert_true(runs() <= 1);
        credential_store_free(store);
    }
}

static void test_provider_that_hangs(void **state)
{
    (void)state;
    int cancelled = eventfd(1, EFD_CLOEXEC);
    write_provider("plugin", "sleep 3600");
    struct credential_store *store = new_store(0, true);
    struct credentials_question question = { "registry.test", "a", NULL };
    struct buffer text = { 0 };
    assert_int_equal(credential_store_find(store, &question, cancelled, &text, NULL), 0);
    secret_buffer_free(&text);
    credential_store_free(store);
    close(cancelled);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_patterns),
        cmocka_unit_test(test_durations),
        cmocka_unit_test(test_malformed_configurations),
        cmocka_unit_test_setup(test_pulls, without_docker),
        cmocka_unit_test_setup(test_docker_comes_before_what_was_refused, without_docker),
        cmocka_unit_test_setup(test_pulls_are_forgotten, without_docker),
        cmocka_unit_test_setup(test_provider, without_docker),
        cmocka_unit_test_setup(test_what_answers_hold_for, without_docker),
        cmocka_unit_test_setup(test_refused_answers_are_asked_for_anew, without_docker),
        cmocka_unit_test_setup(test_one_run_for_many, without_docker),
        cmocka_unit_test_setup(test_providers_that_fail, without_docker),
        cmocka_unit_test_setup(test_provider_that_hangs, without_docker),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
