#include "fetcher/credential_search-internal.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "fetcher/credentials-internal.h"
#include "fetcher/login-internal.h"

struct credential_search {
    struct login *login;
    void (*searched)(struct login *login);
    struct transfer_thread *transfer;
    struct transfer_task task;
    pthread_t thread;
    bool joined;
    int cancel; /* eventfd */
    struct credentials found;
};

static void release(struct credential_search *search)
{
    if (search->cancel >= 0) close(search->cancel);
    credentials_free(&search->found);
    free(search);
}

static void join(struct credential_search *search)
{
    if (!search->joined) pthread_join(search->thread, NULL);
    search->joined = true;
}

static void tell(const struct login *login)
{
    const struct credentials *found = &login->credentials;
    const char *host = login->host->name;
    if (found->problem) log_warning("credentials for %s: %s", host, found->problem);
    if (!credentials_are_known(found))
        log_info("there are no credentials for %s", host);
    else
        log_info("there are credentials for %s, of '%s'", host,
                 found->user ? found->user : "a token");
}

/* Back on the transfer thread. */
static void deliver(struct transfer_task *task)
{
    struct credential_search *search = container_of(task, struct credential_search, task);
    struct login *login = search->login;
    void (*searched)(struct login *) = search->searched;
    join(search);
    credentials_free(&login->credentials);
    login->credentials = search->found;
    search->found = (struct credentials){ 0 };
    login->searched = clock_ms();
    login->search = NULL;
    tell(login);
    release(search);
    searched(login);
}

static void *run(void *argument)
{
    struct credential_search *search = argument;
    const struct login *login = search->login;
    const struct registry_client *client = login->host->client;
    struct credentials_question question = { .registry = login->host->name,
                                             .repository = login->repository,
                                             .refused =
                                                 login->was_refused ? &login->refused : NULL };
    if (client->credentials)
        credentials_ask(client->credentials, client->credentials_context, &question, search->cancel,
                        &search->found);
    else
        credentials_search(question.registry, search->cancel, &search->found);
    transfer_post(search->transfer, &search->task);
    return NULL;
}

/* The transfer thread has all signals blocked, and so has what it starts. */
int credential_search_start(struct login *login, void (*searched)(struct login *login),
                            struct error **error)
{
    struct credential_search *search = calloc(1, sizeof *search);
    if (!search) return error_set_memory(error);
    search->login = login;
    search->searched = searched;
    search->transfer = login->host->client->thread;
    search->task.run = deliver;
    search->cancel = eventfd(0, EFD_CLOEXEC);
    int failure = search->cancel < 0 ? errno : 0;
    if (!failure) failure = pthread_create(&search->thread, NULL, run, search);
    if (failure) {
        release(search);
        return error_set_errno(error, failure, "search for credentials");
    }
    login->search = search;
    return 0;
}

void credential_search_stop(struct credential_search *search)
{
    eventfd_write(search->cancel, 1);
    join(search);
}
