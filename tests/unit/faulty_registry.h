/* tests/fakes/registry_faults.py, what it has logged, and ranges fetched from it. */
#ifndef SLUICE_TESTS_FAULTY_REGISTRY_H
#define SLUICE_TESTS_FAULTY_REGISTRY_H

#include <pthread.h>
#include <stdarg.h>

#include "base/log.h"
#include "fetcher/registry.h"
#include "registry_server.h"

#define BLOB 300000u

static char directory[] = "/tmp/sluice-test-XXXXXX";
static struct server server;
static char registry[32], secure[32], mirror[32];
static char *log_path;
static uint8_t *blob;
static struct digest blob_digest;
static struct registry_client *client;

static char *in_directory(const char *name)
{
    return format_text("%s/%s", directory, name);
}

/* How many lines of the servers' log hold both texts. */
static unsigned logged(const char *one, const char *other)
{
    struct buffer text = { 0 };
    unsigned count = 0;
    assert_int_equal(file_read(log_path, 64 << 20, &text, NULL), 0);
    assert_int_equal(buffer_append_u8(&text, 0), 0);
    char *rest = NULL;
    for (char *line = strtok_r((char *)text.data, "\n", &rest); line;
         line = strtok_r(NULL, "\n", &rest))
        if (strstr(line, one) && strstr(line, other)) count++;
    buffer_free(&text);
    return count;
}

static struct repository repository(const char *name)
{
    return (struct repository){ registry, name };
}

/* --- ranges, made to wait for */

struct waiting {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    unsigned left;
};

struct fetched {
    struct waiting *waiting;
    struct buffer body;
    struct error *error;
    bool done;
};

static void on_done(void *context, struct buffer *body, struct error *error)
{
    struct fetched *fetched = context;
    pthread_mutex_lock(&fetched->waiting->lock);
    assert_false(fetched->done);
    fetched->done = true;
    fetched->error = error;
    if (body) {
        fetched->body = *body;
        *body = (struct buffer){ 0 };
    }
    fetched->waiting->left--;
    pthread_cond_signal(&fetched->waiting->changed);
    pthread_mutex_unlock(&fetched->waiting->lock);
}

static void wait_for_all(struct waiting *waiting)
{
    pthread_mutex_lock(&waiting->lock);
    while (waiting->left > 0)
        pthread_cond_wait(&waiting->changed, &waiting->lock);
    pthread_mutex_unlock(&waiting->lock);
}

/* 0 with the right bytes, or -1 with the error. */
static int fetch_in_time(const char *name, uint64_t offset, size_t length, struct range_time time,
                         struct error **error)
{
    struct waiting waiting = { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 1 };
    struct fetched fetched = { .waiting = &waiting };
    struct repository from = repository(name);
    registry_fetch_range(client, &from, &blob_digest, offset, length, time, on_done, &fetched);
    wait_for_all(&waiting);
    if (fetched.error) return error_move(error, fetched.error);
    assert_int_equal(fetched.body.length, length);
    assert_memory_equal(fetched.body.data, blob + offset, length);
    buffer_free(&fetched.body);
    return 0;
}

static int fetch(const char *name, uint64_t offset, size_t length, unsigned timeout_ms,
                 struct error **error)
{
    return fetch_in_time(name, offset, length, (struct range_time){ .timeout_ms = timeout_ms },
                         error);
}

static inline void assert_fetches(const char *name)
{
    struct error *error = NULL;
    if (fetch(name, 1000, 5000, 20000, &error) < 0) fail_msg("%s", error_message(error));
}

static int run(const char *format, ...)
{
    char command[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(command, sizeof command, format, arguments);
    va_end(arguments);
    return system(command);
}

/* Starts the servers; `directory` becomes docker's configuration, and programs in it are found. */
static int faulty_registry_start(void)
{
    int port, storage, token, tls, other;
    if (!mkdtemp(directory)) return -1;
    if (run("openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 "
            "-subj /CN=test -addext subjectAltName=IP:0.0.0.0 -keyout %s/key -out %s/certificate "
            "2>/dev/null",
            directory, directory) != 0)
        return -1;
    char *certificate = in_directory("certificate"), *key = in_directory("key");
    log_path = in_directory("log");
    char *arguments[] = { (char *)"/usr/bin/python3",
                          (char *)"tests/fakes/registry_faults.py",
                          log_path,
                          certificate,
                          key,
                          NULL };
    server = server_start(arguments, NULL);
    if (fscanf(server.output, "%d %d %d %d %d", &port, &storage, &token, &tls, &other) != 5)
        return -1;
    snprintf(registry, sizeof registry, "127.0.0.1:%d", port);
    snprintf(mirror, sizeof mirror, "127.0.0.1:%d", other);
    /* Not loopback by name, so it is spoken to by TLS, yet Linux connects to itself. */
    snprintf(secure, sizeof secure, "0.0.0.0:%d", tls);
    log_set_level(LOG_ERROR);
    setenv("DOCKER_CONFIG", directory, 1);
    setenv("REGISTRY_AUTH_FILE", "/dev/null/none", 1);
    setenv("SSL_CERT_FILE", certificate, 1);
    char *path = format_text("%s:%s", directory, getenv("PATH"));
    setenv("PATH", path, 1);
    free(path);
    free(certificate);
    free(key);
    blob = pattern_new(BLOB);
    digest_of(blob, BLOB, &blob_digest);
    return 0;
}

static int faulty_registry_stop(void)
{
    registry_client_free(client);
    server_stop(&server);
    free(log_path);
    free(blob);
    return run("rm -rf '%s'", directory);
}

#endif
