#include "fetcher/credential_search-internal.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/log.h"
#include "fetcher/authorization-internal.h"
#include "fetcher/clock-internal.h"

struct credential_search {
    struct registry_host *host;
    void (*searched)(struct registry_host *host);
    struct transfer_thread *transfer;
    struct transfer_task task;
    pthread_t thread;
    bool joined;
    int cancel; /* eventfd */
    char *registry;
    struct credentials found;
};

static void release(struct credential_search *search)
{
    if (search->cancel >= 0) close(search->cancel);
    free(search->registry);
    credentials_free(&search->found);
    free(search);
}

static void join(struct credential_search *search)
{
    if (!search->joined) pthread_join(search->thread, NULL);
    search->joined = true;
}

/* Back on the transfer thread. */
static void deliver(struct transfer_task *task)
{
    struct credential_search *search = container_of(task, struct credential_search, task);
    struct registry_host *host = search->host;
    void (*searched)(struct registry_host *) = search->searched;
    join(search);
    credentials_free(&host->credentials);
    host->credentials = search->found;
    search->found = (struct credentials){ 0 };
    host->searched = clock_ms();
    host->search = NULL;
    if (host->credentials.problem)
        log_warning("credentials for %s: %s", host->name, host->credentials.problem);
    if (!credentials_are_known(&host->credentials))
        log_info("there are no credentials for %s", host->name);
    else
        log_info("there are credentials for %s, of '%s'", host->name,
                 host->credentials.user ? host->credentials.user : "a token");
    release(search);
    searched(host);
}

static void *run(void *argument)
{
    struct credential_search *search = argument;
    const struct registry_client *client = search->host->client;
    if (client->credentials)
        credentials_ask(client->credentials, client->credentials_context, search->registry,
                        search->cancel, &search->found);
    else
        credentials_search(search->registry, search->cancel, &search->found);
    transfer_post(search->transfer, &search->task);
    return NULL;
}

/* The transfer thread has all signals blocked, and so has what it starts. */
int credential_search_start(struct registry_host *host,
                            void (*searched)(struct registry_host *host), struct error **error)
{
    struct credential_search *search = calloc(1, sizeof *search);
    if (!search) return error_set_memory(error);
    search->host = host;
    search->searched = searched;
    search->transfer = host->client->thread;
    search->task.run = deliver;
    search->registry = strdup(host->name);
    search->cancel = eventfd(0, EFD_CLOEXEC);
    int failure = !search->registry || search->cancel < 0 ? ENOMEM : 0;
    if (!failure) failure = pthread_create(&search->thread, NULL, run, search);
    if (failure) {
        release(search);
        return error_set_errno(error, failure, "search for credentials");
    }
    host->search = search;
    return 0;
}

void credential_search_stop(struct credential_search *search)
{
    eventfd_write(search->cancel, 1);
    join(search);
}
