/* A client of the registry with faults (faulty_registry.h), and claims about what it answers. */
#ifndef SLUICE_TESTS_UNIT_REGISTRY_REQUESTS_H
#define SLUICE_TESTS_UNIT_REGISTRY_REQUESTS_H

#include "late_answers.h"

#include "faulty_registry.h"

static struct digest manifest_digest; /* of what the fake has under "tag" */

/* No error may show what is secret in these tests. */
static inline void assert_error(struct error *error, enum error_kind kind, const char *part)
{
    assert_non_null(error);
    const char *message = error_message(error);
    if (error_kind_of(error) != kind) fail_msg("kind %d: %s", error_kind_of(error), message);
    if (!strstr(message, part)) fail_msg("no '%s' in: %s", part, message);
    assert_null(strstr(message, "pass:word"));
    assert_null(strstr(message, "dXNlcjpwYXNzOndvcmQ"));
    assert_null(strstr(message, "signature"));
    assert_null(strstr(message, "issued-"));
    assert_null(strstr(message, "the identity"));
    error_free(error);
}

static inline void assert_fetch_fails(const char *name, enum error_kind kind, const char *part)
{
    struct error *error = NULL;
    assert_int_equal(fetch(name, 1000, 5000, 60000, &error), -1);
    assert_error(error, kind, part);
}

static inline int get_manifest(const char *name, const char *target, struct error **error)
{
    struct registry_manifest manifest;
    struct repository from = repository(name);
    if (registry_get_manifest(client, &from, target, &manifest, error) < 0) return -1;
    assert_string_equal(manifest.media_type, "application/vnd.oci.image.manifest.v1+json");
    assert_true(digest_equal(&manifest.digest, &manifest_digest));
    registry_manifest_free(&manifest);
    return 0;
}

static inline void assert_manifest_fails(const char *name, const char *target, enum error_kind kind,
                                         const char *part)
{
    struct error *error = NULL;
    assert_int_equal(get_manifest(name, target, &error), -1);
    assert_error(error, kind, part);
}

static inline void write_config(const char *text)
{
    char *path = in_directory("config.json");
    assert_int_equal(file_write_atomic(path, text, strlen(text), 0600, NULL), 0);
    free(path);
}

static inline void log_in(const char *with)
{
    char *text = format_text("{\"auths\":{\"%s\":%s,\"%s\":%s}}", registry, with, secure, with);
    write_config(text);
    free(text);
}

#define USER     "{\"auth\":\"dXNlcjpwYXNzOndvcmQ=\"}"
#define WRONG    "{\"auth\":\"d3Jvbmc6cGFzcw==\"}"
#define IDENTITY "{\"identitytoken\":\"the identity\"}"

/* For each test: a client that has asked nothing yet, and no stored credentials. */
static inline int fresh_client(void **state)
{
    (void)state;
    struct registry_options options = { .attempts = 3, .stall_seconds = 3, .connections = 4 };
    registry_client_free(client);
    write_config("{}");
    client = registry_client_new(&options, NULL);
    if (client) wait_for_late_answers(client);
    return client ? 0 : -1;
}

static inline int registry_requests_set_up(void **state)
{
    static const char manifest[] = "{\"schemaVersion\": 2, \"mediaType\": "
                                   "\"application/vnd.oci.image.manifest.v1+json\", "
                                   "\"layers\": []}";
    if (faulty_registry_start() < 0) return -1;
    digest_of(manifest, sizeof manifest - 1, &manifest_digest);
    return fresh_client(state);
}

static inline int registry_requests_tear_down(void **state)
{
    (void)state;
    return faulty_registry_stop();
}

#define fresh(test) cmocka_unit_test_setup(test, fresh_client)

#endif
