#include <stdlib.h>
#include <string.h>

#include "fetcher/client-internal.h"
#include "fetcher/host-internal.h"
#include "fetcher/request-internal.h"

#define DEFAULT_CONNECTIONS     8
#define DEFAULT_ATTEMPTS        4
#define DEFAULT_CONNECT_SECONDS 5
#define DEFAULT_STALL_SECONDS   15
#define DEFAULT_MIRROR_SECONDS  5
#define DEFAULT_ASIDE_SECONDS   30

static unsigned or_default(unsigned value, unsigned otherwise)
{
    return value ? value : otherwise;
}

/* The variables that curl and Go programs (docker, containerd, skopeo) obey. */
static char *from_environment(const char *name)
{
    const char *value = getenv(name);
    return value && *value ? strdup(value) : NULL;
}

static void release(struct registry_client *client)
{
    registries_free(client);
    hosts_directories_free(client->hosts_directories);
    redirects_free(&client->redirects);
    free(client->settings.certificate_file);
    free(client->settings.certificate_directory);
    pthread_cond_destroy(&client->left);
    pthread_mutex_destroy(&client->lock);
    free(client);
}

struct registry_client *registry_client_new(const struct registry_options *options,
                                            struct error **error)
{
    static const struct registry_options defaults;
    struct registry_client *client = calloc(1, sizeof *client);
    if (!client) {
        error_set_memory(error);
        return NULL;
    }
    if (!options) options = &defaults;
    TAILQ_INIT(&client->requests);
    TAILQ_INIT(&client->registries);
    pthread_mutex_init(&client->lock, NULL);
    pthread_cond_init(&client->left, NULL);
    client->plain_http = options->plain_http;
    client->credentials = options->credentials;
    client->credentials_context = options->credentials_context;
    client->attempts = or_default(options->attempts, DEFAULT_ATTEMPTS);
    client->settings.connect_seconds =
        or_default(options->connect_seconds, DEFAULT_CONNECT_SECONDS);
    client->settings.stall_seconds = or_default(options->stall_seconds, DEFAULT_STALL_SECONDS);
    client->settings.certificate_file = from_environment("SSL_CERT_FILE");
    client->settings.certificate_directory = from_environment("SSL_CERT_DIR");
    client->hosts_directories = options->hosts_directory
                                    ? hosts_one_directory(options->hosts_directory, error)
                                    : hosts_default_directories(error);
    client->mirror_seconds = or_default(options->mirror_seconds, DEFAULT_MIRROR_SECONDS);
    client->aside_seconds = or_default(options->aside_seconds, DEFAULT_ASIDE_SECONDS);
    if (!client->hosts_directories) {
        release(client);
        return NULL;
    }
    client->thread = transfer_thread_new(or_default(options->connections, DEFAULT_CONNECTIONS),
                                         exchange_finished, error);
    if (client->thread) return client;
    release(client);
    return NULL;
}

struct stop {
    struct transfer_task task;
    struct registry_client *client;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool done;
};

/* On the transfer thread. A callback may begin new requests: those end at once. */
static void stop_everything(struct transfer_task *task)
{
    struct stop *stop = container_of(task, struct stop, task);
    struct registry_client *client = stop->client;
    struct request *request;
    client->stopped = true;
    while ((request = TAILQ_FIRST(&client->requests)))
        request_cancel(request);
    registries_stop(client);
    pthread_mutex_lock(&stop->lock);
    stop->done = true;
    pthread_cond_signal(&stop->changed);
    pthread_mutex_unlock(&stop->lock);
}

static void stop_and_wait(struct registry_client *client)
{
    struct stop stop = { .task.run = stop_everything,
                         .client = client,
                         .lock = PTHREAD_MUTEX_INITIALIZER,
                         .changed = PTHREAD_COND_INITIALIZER };
    transfer_post(client->thread, &stop.task);
    pthread_mutex_lock(&stop.lock);
    while (!stop.done)
        pthread_cond_wait(&stop.changed, &stop.lock);
    pthread_mutex_unlock(&stop.lock);
}

void registry_client_free(struct registry_client *client)
{
    if (!client) return;
    stop_and_wait(client);
    pthread_mutex_lock(&client->lock);
    while (client->calls > 0)
        pthread_cond_wait(&client->left, &client->lock);
    pthread_mutex_unlock(&client->lock);
    transfer_thread_free(client->thread);
    release(client);
}

void client_enter(struct registry_client *client)
{
    pthread_mutex_lock(&client->lock);
    client->calls++;
    pthread_mutex_unlock(&client->lock);
}

void client_leave(struct registry_client *client)
{
    pthread_mutex_lock(&client->lock);
    if (--client->calls == 0) pthread_cond_signal(&client->left);
    pthread_mutex_unlock(&client->lock);
}

void registry_client_statistics(struct registry_client *client, struct registry_statistics *ret)
{
    ret->requests = atomic_load(&client->sent);
    ret->bytes_received = atomic_load(&client->bytes_received);
    ret->retries = atomic_load(&client->retries);
}
