/* The registry client against Debian's docker-registry: push, pull, basic authentication. */
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <sys/stat.h>

#include "base/log.h"
#include "fetcher/registry.h"
#include "registry_server.h"

#define BLOB  6000000u
#define INDEX "application/vnd.oci.image.index.v1+json"

static char directory[] = "/tmp/sluice-test-XXXXXX";
static struct server open_server, closed_server;
static char open_registry[32], closed_registry[32];
static struct registry_client *client;
static uint8_t *blob;
static struct digest blob_digest;

static char *in_directory(const char *name)
{
    return format_text("%s/%s", directory, name);
}

static void write_text(const char *name, const char *text)
{
    char *path = in_directory(name);
    assert_int_equal(file_write_atomic(path, text, strlen(text), 0600, NULL), 0);
    free(path);
}

/* docker-registry chooses a free port itself, and tells it in its log. */
static int port_of(const struct server *server, const char *log)
{
    static const char before[] = "listening on 127.0.0.1:";
    int port = 0;
    for (unsigned i = 0; i < 6000 && port == 0 && waitpid(server->pid, NULL, WNOHANG) == 0; i++) {
        struct buffer text = { 0 };
        usleep(10000);
        if (file_read(log, 1 << 20, &text, NULL) == 0 && buffer_append_u8(&text, 0) == 0) {
            const char *found = strstr((char *)text.data, before);
            if (found && strchr(found, '"')) port = atoi(found + strlen(before));
        }
        buffer_free(&text);
    }
    if (port == 0) fail_msg("docker-registry did not start, see %s", log);
    return port;
}

static void start(const char *name, const char *more, struct server *server, char *registry)
{
    char *configuration = format_text("version: 0.1\nlog: {level: info}\n"
                                      "storage: {filesystem: {rootdirectory: %s/%s}}\n"
                                      "http: {addr: '127.0.0.1:0', secret: x}\n%s",
                                      directory, name, more);
    char *file = format_text("%s.yml", name), *path = in_directory(file);
    char *log = format_text("%s.log", path);
    write_text(file, configuration);
    char *arguments[] = { (char *)"/usr/bin/python3",
                          (char *)"tests/tools/without_sync.py",
                          (char *)"/usr/bin/docker-registry",
                          (char *)"serve",
                          path,
                          NULL };
    *server = server_start(arguments, log);
    snprintf(registry, 32, "localhost:%d", port_of(server, log));
    free(configuration);
    free(file);
    free(path);
    free(log);
}

static void push_and_pull(const char *registry)
{
    struct repository to = { registry, "team/app" };
    struct buffer body = { 0 };
    struct registry_manifest manifest;
    struct digest digest, resolved;
    char digest_text[DIGEST_TEXT_SIZE], blob_text[DIGEST_TEXT_SIZE];
    struct error *error = NULL;

    assert_int_equal(registry_has_blob(client, &to, &blob_digest, NULL), 0);
    if (registry_put_blob(client, &to, &blob_digest, blob, BLOB, &error) < 0)
        fail_msg("%s", error_message(error));
    assert_int_equal(registry_has_blob(client, &to, &blob_digest, NULL), 1);
    assert_int_equal(registry_get_blob(client, &to, &blob_digest, BLOB, &body, NULL), 0);
    assert_memory_equal(body.data, blob, BLOB);
    buffer_free(&body);
    digest_of("", 0, &digest);
    assert_int_equal(registry_put_blob(client, &to, &digest, "", 0, NULL), 0);
    assert_int_equal(registry_get_blob(client, &to, &digest, 0, &body, NULL), 0);
    buffer_free(&body);

    digest_format(&blob_digest, blob_text);
    char *text = format_text(
        "{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\","
        "\"config\":{\"mediaType\":\"application/vnd.oci.image.config.v1+json\","
        "\"digest\":\"%s\",\"size\":%u},\"layers\":[]}",
        blob_text, BLOB);
    digest_of(text, strlen(text), &digest);
    digest_format(&digest, digest_text);
    const char *type = "application/vnd.oci.image.manifest.v1+json";
    bool subject_known = true;
    assert_int_equal(
        registry_put_manifest(client, &to, "v1", type, text, strlen(text), &subject_known, NULL),
        0);
    assert_false(subject_known);
    assert_int_equal(
        registry_put_manifest(client, &to, digest_text, type, text, strlen(text), NULL, NULL), 0);
    assert_int_equal(registry_get_manifest(client, &to, "v1", &manifest, NULL), 0);
    assert_string_equal(manifest.media_type, type);
    assert_int_equal(manifest.body.length, strlen(text));
    assert_memory_equal(manifest.body.data, text, strlen(text));
    registry_manifest_free(&manifest);
    assert_int_equal(registry_resolve_tag(client, &to, "v1", 0, &resolved, NULL), 0);
    assert_true(digest_equal(&digest, &resolved));

    assert_int_equal(registry_put_manifest(client, &to, "v2", type, "{", 1, NULL, &error), -1);
    assert_int_equal(error_kind_of(error), ERROR_INVALID);
    error_free(error);
    error = NULL;
    assert_int_equal(registry_get_manifest(client, &to, "none", &manifest, &error), -1);
    assert_int_equal(error_kind_of(error), ERROR_NOT_FOUND);
    error_free(error);

    /* This registry has no Referrers API. */
    assert_int_equal(registry_get_referrers(client, &to, &digest, NULL, &body, NULL), 0);
    assert_int_equal(body.length, 0);
    char tag[80], hex[DIGEST_HEX_SIZE];
    snprintf(tag, sizeof tag, "sha256-%s", digest_format_hex(&digest, hex));
    const char *list = "{\"schemaVersion\":2,\"mediaType\":\"" INDEX "\",\"manifests\":[]}";
    assert_int_equal(registry_put_manifest(client, &to, tag, INDEX, list, strlen(list), NULL, NULL),
                     0);
    assert_int_equal(registry_get_referrers(client, &to, &digest, NULL, &body, NULL), 0);
    assert_int_equal(body.length, strlen(list));
    buffer_free(&body);
    free(text);
}

static void test_open_registry(void **state)
{
    (void)state;
    push_and_pull(open_registry);
}

static void test_basic_authentication(void **state)
{
    struct repository to = { closed_registry, "team/app" };
    struct error *error = NULL;
    (void)state;
    write_text("config.json", "{}");
    assert_int_equal(registry_put_blob(client, &to, &blob_digest, blob, BLOB, &error), -1);
    assert_int_equal(error_kind_of(error), ERROR_DENIED);
    assert_non_null(strstr(error_message(error), "there are no credentials for localhost:"));
    error_free(error);
    error = NULL;
    char *text = format_text("{\"auths\":{\"%s\":{\"auth\":\"bWU6d3Jvbmc=\"}}}", closed_registry);
    write_text("config.json", text);
    free(text);
    assert_int_equal(registry_put_blob(client, &to, &blob_digest, blob, BLOB, &error), -1);
    assert_int_equal(error_kind_of(error), ERROR_DENIED);
    assert_non_null(strstr(error_message(error), "refused the credentials of 'me'"));
    error_free(error);
    text = format_text("{\"auths\":{\"%s\":{\"auth\":\"bWU6bXkgc2VjcmV0\"}}}", closed_registry);
    write_text("config.json", text);
    free(text);
    push_and_pull(closed_registry);
}

struct fetched {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct buffer body;
    struct error *error;
    bool done;
};

static void on_done(void *context, struct buffer *body, struct error *error)
{
    struct fetched *fetched = context;
    pthread_mutex_lock(&fetched->lock);
    if (body) {
        fetched->body = *body;
        *body = (struct buffer){ 0 };
    }
    fetched->error = error;
    fetched->done = true;
    pthread_cond_signal(&fetched->changed);
    pthread_mutex_unlock(&fetched->lock);
}

static void test_ranges_and_streams(void **state)
{
    struct repository from = { open_registry, "team/app" };
    static const struct {
        uint64_t offset;
        size_t length;
    } ranges[] = { { 0, 1 }, { 0, BLOB }, { 1234567, 65536 }, { BLOB - 1, 1 } };
    (void)state;
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++) {
        struct fetched fetched = {
            PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, { 0 }, NULL, false
        };
        registry_fetch_range(client, &from, &blob_digest, ranges[i].offset, ranges[i].length,
                             (struct range_time){ 60000, 0 }, on_done, &fetched);
        pthread_mutex_lock(&fetched.lock);
        while (!fetched.done)
            pthread_cond_wait(&fetched.changed, &fetched.lock);
        pthread_mutex_unlock(&fetched.lock);
        assert_null(fetched.error);
        assert_int_equal(fetched.body.length, ranges[i].length);
        assert_memory_equal(fetched.body.data, blob + ranges[i].offset, ranges[i].length);
        buffer_free(&fetched.body);
    }
    struct blob_stream *stream;
    uint8_t *bytes = malloc(BLOB);
    size_t position = 0;
    assert_int_equal(registry_open_blob(client, &from, &blob_digest, BLOB, &stream, NULL), 0);
    ssize_t count;
    while ((count = blob_stream_read(stream, bytes + position, BLOB - position, NULL)) > 0)
        position += (size_t)count;
    assert_int_equal(count, 0);
    assert_int_equal(position, BLOB);
    assert_memory_equal(bytes, blob, BLOB);
    blob_stream_close(stream);
    free(bytes);
}

static int set_up(void **state)
{
    (void)state;
    if (!mkdtemp(directory)) return -1;
    log_set_level(LOG_ERROR);
    setenv("DOCKER_CONFIG", directory, 1);
    char *command =
        format_text("htpasswd -Bbn me 'my secret' > %s/htpasswd 2>/dev/null", directory);
    int status = system(command);
    free(command);
    if (status != 0) return -1;
    blob = pattern_new(BLOB);
    digest_of(blob, BLOB, &blob_digest);
    client = registry_client_new(NULL, NULL);
    char *access = format_text("auth: {htpasswd: {realm: r, path: %s/htpasswd}}\n", directory);
    start("open", "", &open_server, open_registry);
    start("closed", access, &closed_server, closed_registry);
    free(access);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    registry_client_free(client);
    server_stop(&open_server);
    server_stop(&closed_server);
    free(blob);
    char *command = format_text("rm -rf '%s'", directory);
    int status = system(command);
    free(command);
    return status;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_open_registry),
        cmocka_unit_test(test_basic_authentication),
        cmocka_unit_test(test_ranges_and_streams),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
